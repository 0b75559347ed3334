"""What a ledger holds: a head, and a row for each round; docs/spec/ledger.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import msgspec

from zowarmup import chain
from zowarmup.errors import LedgerError, RunError
from zowarmup.protocol import Entry, decode_entry
from zowarmup.table import Table

INITIAL = -1
"""Phase of round 0."""


@dataclass(frozen=True)
class Head:
    """What a ledger says of the run as a whole.

    Args:
        recipe: the resolved recipe, TOML.
        identity: what of it bits depend on, see :func:`zowarmup.chain.identity`.
        table: the tensor table.
        data: digest of data, partition and tiers, hex.
        facts: for people and reports.
    """

    recipe: str
    identity: bytes
    table: Table
    data: str
    facts: Mapping[str, Any] = field(default_factory=dict)

    def genesis(self) -> bytes:
        """What the link of round 0 follows from."""
        return chain.genesis(self.identity, self.table.canonical(), bytes.fromhex(self.data))


Pair = tuple[int, int]


class Metrics(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a round is recorded with; counts are sums since the run began, for the high and the low tier."""

    uplink_bytes: Pair = (0, 0)
    downlink_bytes: Pair = (0, 0)
    fedavg_bytes: Pair = (0, 0)
    forward_samples: Pair = (0, 0)
    backward_samples: Pair = (0, 0)
    turns: Pair = (0, 0)
    replayed_directions: Pair = (0, 0)
    evaluation: dict[str, float | list[float | None] | None] | None = None


class Clock(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What differs from run to run, and no link covers."""

    seconds: float
    """Since the run began, without the time between sessions."""
    peak_memory_bytes: int


class Row(NamedTuple):
    """A round in the ledger."""

    round: int
    phase: int
    entry: bytes
    """Canonical; empty for round 0."""
    metrics: bytes
    state: bytes
    """Digest of the state after the round, 32 bytes."""
    chain: bytes
    """32 bytes."""
    clock: bytes

    def decoded(self) -> Entry | None:
        """The entry; None for round 0.

        Raises:
            LedgerError: it does not decode, or is another round's.
        """
        if self.round == 0:
            return None
        try:
            entry = decode_entry(self.entry)
        except RunError as error:
            raise LedgerError(f"round {self.round}: {error.message}", round=self.round) from None
        if (entry.round, entry.phase) != (self.round, self.phase):
            where = f"round {entry.round} of phase {entry.phase}"
            raise LedgerError(
                f"round {self.round}: its entry is that of {where}, expected phase {self.phase}", round=self.round
            )
        return entry

    def digests(self) -> tuple[bytes, ...]:
        """Digests of the files of this round's snapshot: of the state, and of the moments where there are any."""
        moments = getattr(self.decoded(), "moments", "")
        return (self.state, *([bytes.fromhex(moments)] if moments else []))

    def measured(self) -> Metrics:
        """The metrics.

        Raises:
            LedgerError: they do not decode.
        """
        return cast(Metrics, self._decode(self.metrics, Metrics))

    def timed(self) -> Clock:
        """Time and memory.

        Raises:
            LedgerError: they do not decode.
        """
        return cast(Clock, self._decode(self.clock, Clock))

    def _decode(self, content: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.msgpack.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            name = kind.__name__.lower()
            raise LedgerError(f"round {self.round}: its {name} do not decode: {error}", round=self.round) from None

    def well_formed(self) -> bool:
        """Whether every column has its type and length: SQLite does not insist."""
        return (
            isinstance(self.phase, int)
            and INITIAL <= self.phase < 2**31
            and all(isinstance(value, bytes) for value in self[2:])
            and len(self.state) == len(self.chain) == 32
        )

    def follows(self, previous: bytes) -> bool:
        """Whether the link is that of this row behind ``previous``."""
        return self.chain == chain.link(previous, *self[:3], self.state, self.metrics)


class File(NamedTuple):
    """A snapshot that may be relied on."""

    digest: bytes
    """Of the state, or of the moments, that it holds."""
    file: bytes
    """blake2b-256 of the file."""
    bytes: int
