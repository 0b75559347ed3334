"""What a node is sent so that it gets to the state before a round: rounds of the ledger, or a snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from zowarmup.catchup import NOTHING, Costs
from zowarmup.engines import replica
from zowarmup.engines.wire import Piece, Position, Step
from zowarmup.ledger import Ledger, Row
from zowarmup.state import State

PIECE_BYTES = 4 * 2**20
"""Of a snapshot, in one message."""


@dataclass(frozen=True)
class Delivery:
    """What brings a node to a state.

    Args:
        steps: rounds of the ledger; none where a snapshot comes.
        snapshot: bytes of a snapshot; empty where rounds will do.
        payload_bytes: the numbers in it that a replica needs.
    """

    steps: tuple[Step, ...] = ()
    snapshot: bytes = b""
    payload_bytes: int = 0


@dataclass
class Supply:
    """Deliveries up to the last round of a ledger.

    Args:
        ledger: the record; it grows.
        model_bytes: of weights and buffers.
        least: what catching up shall cost least of.
    """

    ledger: Ledger
    model_bytes: int
    least: Literal["bytes", "work"] = "bytes"
    _costs: Costs = field(init=False, repr=False)
    _known: int = field(default=0, init=False)
    _round: int = field(default=NOTHING, init=False)
    _state: State | None = field(default=None, init=False, repr=False)
    _made: dict[int, Delivery] = field(default_factory=dict, init=False, repr=False)
    _last: Row | None = field(default=None, init=False, repr=False)
    _run: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self._costs, self._run = Costs(self.model_bytes), self.ledger.head.genesis()

    @property
    def run(self) -> bytes:
        """The run's genesis."""
        return self._run

    @property
    def round(self) -> int:
        """The round that deliveries lead to."""
        return self._round

    @property
    def link(self) -> bytes:
        """Of that round."""
        assert self._last is not None
        return self._last.chain

    def stock(self, state: State) -> None:
        """Take in the rounds that were committed since, of which the last left ``state``."""
        for row in self.ledger.rows(self._known + 1):
            entry = row.decoded()
            assert entry is not None
            self._costs.add(entry)
        self._known = self._round = self.ledger.last
        self._last, self._state, self._made = self.ledger.row(self._round), state, {}

    def delivery(self, position: Position) -> Delivery:
        """What a node is sent that holds the state of a position."""
        held = self._held(position)
        if held not in self._made:
            way = self._costs.choose(held, self._round, snapshots=(self._round,), least=self.least)
            if way.snapshot is None:
                rows = self.ledger.rows(way.first, way.last)
                steps = tuple(Step(row.phase, row.entry, row.metrics, row.state) for row in rows)
                self._made[held] = Delivery(steps=steps, payload_bytes=way.bytes)
            else:
                self._made[held] = self._snapshot(way.bytes)
        return self._made[held]

    def piece(self, snapshot: bytes, offset: int) -> Piece:
        """Part of a snapshot, from ``offset`` on."""
        assert self._last is not None
        content = snapshot[offset : offset + PIECE_BYTES]
        return Piece(
            run=self._run,
            round=self._round,
            link=self.link,
            state=self._last.state,
            offset=offset,
            total=len(snapshot),
            content=content,
        )

    def _snapshot(self, payload_bytes: int) -> Delivery:
        for made in self._made.values():
            if made.snapshot:
                return made
        assert self._state is not None
        content = replica.snapshot(self._state, self.ledger.head.table, self._run, self._round, self.link)
        return Delivery(snapshot=content, payload_bytes=payload_bytes)

    def _held(self, position: Position) -> int:
        """The round that a node holds; nothing where that is none of this ledger's."""
        if position.run != self._run or not 0 <= position.round <= self._round:
            return NOTHING
        return position.round if self.ledger.row(position.round).chain == position.link else NOTHING
