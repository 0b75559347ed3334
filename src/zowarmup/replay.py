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
from zowarmup.phases.apply import apply
from zowarmup.protocol import Entry, Patch, Replacement, Update
from zowarmup.snapshots import Snapshots
from zowarmup.state import State, moments_digest

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
        start, state = self._base(round)
        previous = start.phase
        updates: list[Update | Patch] = []
        for row in self.ledger.rows(start.round + 1, round):
            entry = _entry(row)
            if not isinstance(entry, Replacement):
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
        if isinstance(entry, Replacement) and entry.moments:
            return State(
                state.weights,
                state.buffers,
                self._snapshots.read_moments(self._files[bytes.fromhex(entry.moments)]),
            )
        return state

    def has_snapshot(self, row: Row) -> bool:
        """Whether there is a snapshot of the state after a round, and of its moments."""
        return all(digest in self._files for digest in row.digests())

    def step(self, state: State, *entries: Update | Patch) -> State:
        """The state some rounds later; zeroth-order rounds that follow each other are one pass."""
        return apply(state, *entries, table=self.ledger.head.table, directions=self._directions)

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
            if row.state in self._files:  # a client needs no moments
                kept.append(row.round)
        try:
            way = costs.choose(held, target, snapshots=kept, least=least)
        except ValueError as error:
            raise LedgerError(f"no way from round {held} to round {target}: {error}", round=target) from None
        start = None if way.snapshot is None else self.ledger.row(way.snapshot)
        state = None if start is None else self._snapshots.read(self._files[start.state])
        return way, state, [row.entry for row in self.ledger.rows(way.first, way.last)]

    def _base(self, round: int) -> tuple[Row, State]:
        """The last round up to ``round`` with a snapshot from which the entries lead there, and its state.

        Where that snapshot is damaged, the one before it will do, as what is rebuilt is held to the ledger's digest.
        """
        damage: LedgerError | None = None
        stop = round
        for start in reversed(self.ledger.kept(round)):
            row = self.ledger.row(start)
            if not self.has_snapshot(row):
                continue
            self._refuse_barrier(start + 1, stop, damage)
            try:
                return row, self.snapshot(row)
            except LedgerError as error:
                damage, stop = damage or error, start
        self._refuse_barrier(0, stop, damage)
        raise damage or LedgerError(f"no snapshot of rounds 0 to {round}", round=round)

    def _refuse_barrier(self, first: int, last: int, damage: LedgerError | None) -> None:
        """Raise where a first-order round lies in the way, and nobody can run it again."""
        for row in self.ledger.rows(first, last) if self._rerun is None else ():
            if isinstance(row.decoded(), Replacement):
                raise damage or LedgerError(
                    f"round {row.round}: a first-order round of which no snapshot is kept; "
                    f"snapshots: rounds {self.kept()}",
                    hint='run.keep-snapshots = "all" keeps every one',
                    round=row.round,
                )

    def kept(self) -> str:
        """Rounds with a snapshot, for people."""
        return ", ".join(map(str, self.ledger.kept(self.ledger.last))) or "none"

    def _again(self, entry: Replacement, state: State) -> State:
        assert self._rerun is not None
        again = self._rerun(entry, state)
        if again.digest() != entry.snapshot:
            raise mismatch(entry.round, entry.snapshot, again.digest(), "running it again gives")
        if (moments := moments_digest(again.moments())) != entry.moments:
            raise mismatch(entry.round, entry.moments, moments, "running it again gives another phase state,")
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
