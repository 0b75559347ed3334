"""The round that is open: who was asked, what came, and when it waits for nobody any more."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from zowarmup import protocol
from zowarmup.errors import QuorumError, UsageError
from zowarmup.protocol import Report, Request

TRIES = 3
"""Times that a client is asked in one round: its node may have lost its state, or a message may be lost."""
AWAY_SECONDS = 1.0
"""A round waits at least so long for nodes that are not connected."""
_LARGE_BYTES = 2**20
"""Reports beyond this wait for their turn in a file."""
_TOLD = 3  # clients that an error names


@dataclass(frozen=True)
class Patience:
    """How long a round waits for whom.

    Args:
        deadline_seconds: for the reports of a round. Then it closes with those there are, if they are a quorum.
        quorum: the share of the asked clients without whose reports no round closes; at least one report.
        enough: the share with whose reports a round closes at once: below 1, and with a cohort that is larger by as
            much, stragglers cost nothing (over-selection).
        give_up_seconds: without a quorum after that long, the run stops; its ledger keeps every round until then.
        join_seconds: for the first nodes to come.
        poll_seconds: between two looks for messages, at least; grows eightfold while nothing comes.
    """

    deadline_seconds: float = 60.0
    quorum: float = 0.5
    enough: float = 1.0
    give_up_seconds: float = 600.0
    join_seconds: float = 600.0
    poll_seconds: float = 0.02

    def __post_init__(self) -> None:
        for name in ("deadline_seconds", "give_up_seconds", "join_seconds", "poll_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name.replace('_', '-')} is {getattr(self, name)}, expected a number > 0")
        for name in ("quorum", "enough"):
            if not 0 < getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected more than 0 and at most 1")
        if self.enough < self.quorum:
            raise UsageError(f"enough is {self.enough}, less than quorum, which is {self.quorum}")


@dataclass
class Asked:
    """A client that is asked in a round.

    Args:
        request: what it is asked.
        state: ``waiting`` to be asked; ``asked``; ``done``, its report is here; ``failed``, and why.
        tries: how often it was asked.
        since: when its node was sent something last.
        after: it is not asked again before this time.
        snapshot: what is being sent to its node in pieces; empty where nothing is.
    """

    request: Request
    state: Literal["waiting", "asked", "done", "failed"] = "waiting"
    tries: int = 0
    since: float = -math.inf
    after: float = -math.inf
    snapshot: bytes = b""
    why: str = ""
    _kept: IO[bytes] | bytes | None = field(default=None, repr=False)

    @property
    def settled(self) -> bool:
        """Nothing more is to come."""
        return self.state in ("done", "failed")

    def keep(self, report: bytes) -> None:
        """Keep the report until its turn: a large one in a file, so that memory does not grow with the cohort."""
        self.state = "done"
        if len(report) <= _LARGE_BYTES:
            self._kept = report
        else:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115
            self._kept.write(report)

    def fail(self, why: str) -> None:
        """Note that no report will come."""
        self.state, self.why = "failed", why

    def drop(self) -> None:
        """Let go of the report, where nobody took it."""
        kept, self._kept = self._kept, None
        if kept is not None and not isinstance(kept, bytes):
            kept.close()

    def take(self) -> Report | None:
        """The report, once; None where there is none."""
        kept, self._kept = self._kept, None
        if kept is not None and not isinstance(kept, bytes):
            with kept:
                kept.seek(0)
                kept = kept.read()
        report = None if kept is None else protocol.decode(kept)
        assert not isinstance(report, Request)
        return report


@dataclass
class OpenRound:
    """A round that waits for reports.

    Args:
        number: the round.
        requests: ascending by client.
        patience: how long it waits.
        since: when it began, on the caller's clock.
    """

    number: int
    requests: Sequence[Request]
    patience: Patience
    since: float
    closed: bool = field(default=False, init=False)
    asked: dict[int, Asked] = field(init=False)

    def __post_init__(self) -> None:
        self.asked = {request.client: Asked(request) for request in self.requests}

    @property
    def done(self) -> int:
        """Reports that are here."""
        return sum(each.state == "done" for each in self.asked.values())

    @property
    def missing(self) -> list[int]:
        """Clients that did not report, or not yet."""
        return [client for client, asked in self.asked.items() if asked.state != "done"]

    @property
    def awaited(self) -> list[int]:
        """Clients that may still report."""
        return [client for client, asked in self.asked.items() if not asked.settled]

    @property
    def quorum(self) -> int:
        """Reports without which it does not close."""
        return max(1, math.ceil(self.patience.quorum * len(self.asked)))

    def remaining(self, now: float) -> float:
        """Seconds that it waits at most."""
        passed = now - self.since
        ends = (self.patience.deadline_seconds, self.patience.give_up_seconds)
        return (ends[0] if self.done >= self.quorum or passed < ends[0] else ends[1]) - passed

    def close(self, now: float, away: Sequence[int]) -> bool:
        """Whether it waits for nobody any more; stays so.

        Args:
            now: on the same clock as ``since``.
            away: of the awaited clients, those whose nodes are not connected.

        Raises:
            QuorumError: it has waited for too long, and too few reports are here.
        """
        passed, awaited, done = now - self.since, self.awaited, self.done
        enough = math.ceil(self.patience.enough * len(self.asked))
        alone = len(away) == len(awaited) and passed > AWAY_SECONDS
        late = alone or passed >= self.patience.deadline_seconds
        if not awaited or done >= enough or (late and done >= self.quorum):
            self.closed = True
        elif passed >= self.patience.give_up_seconds:
            self.check()
        return self.closed

    def drop(self) -> None:
        """Let go of reports that nobody took."""
        for asked in self.asked.values():
            asked.drop()

    def check(self) -> None:
        """Refuse to close without a quorum.

        Raises:
            QuorumError: says who did not report, and why.
        """
        if not self.asked or self.done >= self.quorum:
            return
        reasons = [f"client {client}: {self.asked[client].why or 'no answer'}" for client in self.missing]
        told = "; ".join(reasons[:_TOLD]) + ("; ..." if len(reasons) > _TOLD else "")
        counts = f"{self.done} of {len(self.asked)} clients reported, the quorum is {self.quorum}"
        raise QuorumError(
            f"round {self.number}: {counts}; {told}",
            hint="the ledger has every round before; the same command goes on",
            round=self.number,
        )
