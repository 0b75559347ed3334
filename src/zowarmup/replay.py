"""States of a run, rebuilt from its ledger: a snapshot, and the entries behind it in one pass over the weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from zowarmup.catchup import CatchUp, Costs
from zowarmup.chain import shortened
from zowarmup.directions import Directions, select
from zowarmup.errors import LedgerError, ReplayMismatch
from zowarmup.ledger import Ledger, Row
from zowarmup.phases.apply import update
from zowarmup.protocol import Entry, Replacement, Update
from zowarmup.snapshots import Snapshots
from zowarmup.state import State

Rerun = Callable[[Replacement, State], State]


class Replay:
    """States of a run.

    Args:
        ledger: the record.
        snapshots: its snapshots.
        directions: the backend; the CPU's, with all its cores, where left out. All give the same bits.
        rerun: runs a first-order round again from the state before it, where there is no snapshot of it; needs the
            clients' data. Without, such a round cannot be rebuilt.
    """

    def __init__(
        self,
        ledger: Ledger,
        snapshots: Snapshots,
        *,
        directions: Directions | None = None,
        rerun: Rerun | None = None,
    ) -> None:
        self.ledger, self._snapshots, self._rerun = ledger, snapshots, rerun
        self._directions = directions or select("cpu", threads=min(16, os.cpu_count() or 1))
        self._files = ledger.files()

    def state(self, round: int) -> State:
        """The state after a round, on the CPU, with its phase state.

        Raises:
            LedgerError: there is no such round, nothing to rebuild it from, or something of that is damaged.
            ReplayMismatch: what was rebuilt has another digest than the ledger says.
        """
        target = self.ledger.row(round)
        start = self._start(round)
        state, previous = self.snapshot(self.ledger.row(start)), self.ledger.row(start).phase
        updates: list[Update] = []
        for row in self.ledger.rows(start + 1, round):
            entry = _entry(row)
            if isinstance(entry, Update):
                updates.append(entry)
            else:
                state, updates = self.step(state, *updates), []
                state = self._again(entry, state if row.phase == previous else state.begun())
            previous = row.phase
        state = self.step(state, *updates)
        check(target, state)
        return state

    def snapshot(self, row: Row) -> State:
        """The state after a round of which there is a snapshot, with its phase state.

        Raises:
            LedgerError, ReplayMismatch: it is missing, changed, or another state's.
        """
        state = self._snapshots.read(self._files[row.state])
        entry = row.decoded()
        if isinstance(entry, Update):
            return State(state.weights, state.buffers, entry.state)
        if entry is not None and entry.moments:
            moments = bytes.fromhex(entry.moments)
            if moments not in self._files:
                raise LedgerError(f"round {row.round}: there is no snapshot of its phase state", round=row.round)
            return State(state.weights, state.buffers, self._snapshots.read_moments(self._files[moments]))
        return state

    def has_snapshot(self, row: Row) -> bool:
        """Whether there is a snapshot of the state after a round."""
        return row.state in self._files

    def step(self, state: State, *entries: Update) -> State:
        """The state some zeroth-order rounds later, in one pass."""
        return update(state, *entries, segments=self.ledger.head.table.segments, directions=self._directions)

    def catch_up(
        self, held: int, *, target: int | None = None, least: Literal["bytes", "work"] = "bytes"
    ) -> tuple[CatchUp, State | None, list[bytes]]:
        """What to send to a client that holds the state after round ``held``.

        Args:
            held: -1 where it holds none.
            target: the round to get to; the last one where left out.
            least: bytes, or directions that the client regenerates.

        Returns:
            What it costs; the state of the snapshot it begins with, or None; the canonical entries, in order.

        Raises:
            LedgerError: there is no such round, or no way there.
        """
        target = self.ledger.last if target is None else target
        costs, kept = Costs(self.ledger.head.facts["model_bytes"]), []
        for row in self.ledger.rows(0, target):
            if (entry := row.decoded()) is not None:
                costs.add(entry)
            if self.has_snapshot(row):
                kept.append(row.round)
        try:
            way = costs.choose(held, target, snapshots=kept, least=least)
        except ValueError as error:
            raise LedgerError(f"no way from round {held} to round {target}: {error}", round=target) from None
        state = None if way.snapshot is None else self.snapshot(self.ledger.row(way.snapshot))
        return way, state, [row.entry for row in self.ledger.rows(way.first, way.last)]

    def _start(self, round: int) -> int:
        """The last round up to ``round`` with a snapshot from which the entries lead there."""
        for number in range(round, -1, -1):
            row = self.ledger.row(number)
            if self.has_snapshot(row):
                return number
            if self._rerun is None and isinstance(row.decoded(), Replacement):
                raise LedgerError(
                    f"round {number}: a first-order round of which no snapshot is kept; "
                    f"snapshots: rounds {self.kept()}",
                    hint='run.keep-snapshots = "all" keeps every one',
                    round=number,
                )
        raise LedgerError(f"no snapshot of rounds 0 to {round}", round=round)

    def kept(self) -> str:
        """Rounds with a snapshot, for people."""
        rounds = [str(row.round) for row in self.ledger.rows() if self.has_snapshot(row)]
        return ", ".join(rounds) or "none"

    def _again(self, entry: Replacement, state: State) -> State:
        assert self._rerun is not None
        again = self._rerun(entry, state)
        if again.digest() != entry.snapshot:
            raise mismatch(entry.round, entry.snapshot, again.digest(), "running it again gives")
        return again


def check(row: Row, state: State) -> None:
    """Hold a rebuilt state to the ledger.

    Raises:
        ReplayMismatch: it has another digest.
    """
    if state.digest() != row.state.hex():
        raise mismatch(row.round, row.state.hex(), state.digest(), "replay gives")


def mismatch(round: int, expected: str, got: str, how: str) -> ReplayMismatch:
    """The error for a state that is not the ledger's."""
    ours, theirs = shortened(got, expected)
    return ReplayMismatch(
        f"round {round}: {how} weights {ours}, the ledger says {theirs}",
        hint="the base weights or the entries differ; `zowarmup verify DIR` says what was changed",
        round=round,
        expected=expected,
        got=got,
    )


def _entry(row: Row) -> Entry:
    entry = row.decoded()
    assert entry is not None, "round 0 has no entry, and always a snapshot"
    return entry
