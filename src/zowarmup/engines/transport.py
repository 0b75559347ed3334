"""What carries messages between a server and its nodes, as the engine sees it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Received(NamedTuple):
    """What came for a message that was sent: an answer, or the transport's word that there will be none."""

    message: str
    node: int
    content: bytes | None
    error: str = ""


@runtime_checkable
class Transport(Protocol):
    """Carries bytes to nodes and back."""

    ordered: bool
    """Whether a node takes its messages one at a time, in the order in which they were sent."""

    def nodes(self) -> Collection[int]:
        """The nodes that are connected."""

    def send(self, batch: Sequence[tuple[int, bytes]], *, seconds: float) -> Sequence[str | None]:
        """Send messages to nodes, worth answering for ``seconds``; their ids, None for one that cannot be sent."""

    def receive(self) -> Iterable[Received]:
        """What has come since; does not wait."""
