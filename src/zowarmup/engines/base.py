"""What an engine is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from zowarmup.ledger import Ledger
from zowarmup.phases import Phase
from zowarmup.protocol import Report, Request
from zowarmup.state import State


@runtime_checkable
class Engine(Protocol):
    """Brings requests to clients and reports back."""

    def follow(self, ledger: Ledger) -> None:
        """Know the run's record: clients that are elsewhere are caught up from it. Called once, before any round."""

    def reports(self, phase: Phase, requests: Sequence[Request], state: State) -> Iterator[Report]:
        """What the asked clients report, in client order; clients that do not answer are left out."""
