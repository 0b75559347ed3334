"""The status of a federation as a reader has it: see :class:`zowarmup.engines.board.Board`, which writes it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

FORMAT = 1
BEGUN = b'{"state": "starting"}'
"""What there is to say of a server that has not written a status yet; its page says the same."""
ENDED = frozenset({"finished", "failed", "interrupted"})
"""States after which a status changes no more."""
STALE_SECONDS = 30.0


class Counts(msgspec.Struct, frozen=True):
    """Bytes between clients and server; those of the wire are 0 where a node cannot count them."""

    payload_up: int = 0
    payload_down: int = 0
    wire_up: int = 0
    wire_down: int = 0

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Counts(*(mine + theirs for mine, theirs in pairs))


class Member(msgspec.Struct, frozen=True):
    """A client, as far as it is known."""

    node: str | None = None
    tier: str | None = None
    round: int | None = None
    """The last one that it answered."""
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    missed: int = 0
    error: str | None = None
    bytes: dict[str, Counts] = {}
    """By phase, ``"1 zeroth-order"``; ``""`` before the first round."""

    @property
    def total(self) -> Counts:
        """Over all phases."""
        return sum(self.bytes.values(), start=Counts())


class Status(msgspec.Struct, frozen=True):
    """What a board says."""

    state: str
    format: int | None = None
    round: int = 0
    rounds: int = 0
    since: datetime | None = None
    at: datetime | None = None
    phase: int | None = None
    kind: str | None = None
    cohort: int = 0
    answered: int = 0
    awaited: tuple[int, ...] = ()
    until: datetime | None = None
    drop_outs: int = 0
    late: int = 0
    turned: dict[str, str] = {}
    accuracy: float | None = None
    loss: float | None = None
    error: str | None = None
    clients: dict[int, Member] = {}


@dataclass(frozen=True)
class Look:
    """A status, when somebody looked.

    Args:
        status: what was there.
        content: the same, as it was written.
        looked_at: the time then, by the clock of whoever handed it over.
    """

    status: Status
    content: bytes
    looked_at: datetime

    @property
    def stale_seconds(self) -> float | None:
        """For how long nothing was heard, where that is too long for a federation that goes on."""
        if self.status.at is None or self.status.state in ENDED:
            return None
        age = (self.looked_at - self.status.at).total_seconds()
        return age if age > STALE_SECONDS else None


class NoStatusError(ValueError):
    """Something else than a status that this program can read.

    Args:
        message: what it is, to be put behind where it is.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class _Kind(msgspec.Struct, frozen=True):
    """What tells whether the rest can be read."""

    state: str
    format: int | None = None


def decode(content: bytes) -> Status:
    """A status, checked.

    Raises:
        NoStatusError: it is none, or of another format.

    >>> decode(BEGUN).rounds
    0
    """
    try:
        kind = msgspec.json.decode(content, type=_Kind)
        if kind.format != FORMAT and (kind.format, kind.state) != (None, "starting"):
            got = "none" if kind.format is None else kind.format
            raise NoStatusError(
                f"not a status that can be read here: format {got}, expected {FORMAT}",
                hint="both sides need the same version of zowarmup",
            )
        return msgspec.json.decode(content, type=Status)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NoStatusError(f"not a federation's status: {error}") from error
