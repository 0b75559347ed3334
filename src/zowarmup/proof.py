"""Proof that a ledger holds together: its chain, its snapshots, and every state that can be rebuilt."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from zowarmup.directions import Directions
from zowarmup.errors import LedgerError, UsageError
from zowarmup.ledger import Ledger, Row, broken
from zowarmup.protocol import Entry, Patch, Replacement, Update
from zowarmup.replay import Replay, check
from zowarmup.rundir import lacking
from zowarmup.snapshots import Snapshots
from zowarmup.state import State


class Problem(NamedTuple):
    """Something that is wrong."""

    round: int | None
    """Where; None where it concerns the whole run."""
    message: str


@dataclass(frozen=True)
class Proof:
    """What :func:`verify` found.

    Args:
        rounds: the last round.
        chain: the last link, hex; empty where there is no round.
        snapshots: snapshots that were read and compared with their digests.
        replayed: rounds whose state was rebuilt from the round before and compared.
        unproved: rounds of which only the link was checked, as ``(first, last)``: first-order ones without a snapshot.
        problems: everything that is wrong, in order of the rounds.
    """

    rounds: int
    chain: str
    snapshots: int
    replayed: int
    unproved: tuple[tuple[int, int], ...] = ()
    problems: tuple[Problem, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(
    folder: str | Path,
    *,
    from_round: int = 0,
    directions: Directions | None = None,
    on_round: Callable[[int, int], None] | None = None,
) -> Proof:
    """Check a run's chain, its snapshots, and every state that can be rebuilt.

    Args:
        folder: the run directory; nothing in it is changed.
        from_round: rebuild states from the last snapshot up to here on; the chain is always checked as a whole.
        directions: the backend; all give the same bits.
        on_round: called with a round that was looked at, and the last one.

    Raises:
        OutputError: not a run directory, or a ledger of a newer version.
        LedgerError: the database cannot be read at all.
        UsageError: there is no round ``from_round``.
    """
    with Ledger.open(Path(folder)) as ledger:
        if not 0 <= from_round <= max(ledger.last, 0):
            raise UsageError(f"from_round is {from_round}, expected 0 to {ledger.last}, the last round")
        incomplete = lacking(ledger)
        verifier = _Verifier(ledger, Snapshots(Path(folder), ledger.head.table), directions)
        head = verifier.chain()
        good = verifier.snapshots()
        replayed, unproved = verifier.states(from_round, good, on_round or (lambda round, last: None))
        return Proof(
            rounds=ledger.last,
            chain=head,
            snapshots=len(good),
            replayed=replayed,
            unproved=_ranges(unproved),
            problems=(
                *([Problem(None, incomplete)] if incomplete else []),
                *sorted(verifier.problems, key=_place),
                *verifier.orphans,
            ),
        )


class _Verifier:
    """Three passes over a ledger that note what is wrong and go on."""

    def __init__(self, ledger: Ledger, snapshots: Snapshots, directions: Directions | None) -> None:
        self._ledger, self._snapshots = ledger, snapshots
        self._replay = Replay(ledger, snapshots, directions=directions)
        self._files = ledger.files()
        ledger.refresh()  # behind the files, so that every file has its round
        self.problems: list[Problem] = []
        self.orphans: list[Problem] = []  # as a rule of a round whose state was changed, so they come last

    def chain(self) -> str:
        """Check the file, every link, every entry and the recipe; the last link."""
        ledger = self._ledger
        if (found := ledger.integrity()) != "ok":
            self._note(None, f"{ledger.path}: SQLite finds it damaged: {found}")
        if (error := ledger.contradiction()) is not None:
            self._note(None, error.message)
        previous, last = ledger.head.genesis(), ""
        for row in self._rows(0):
            if not row.follows(previous):
                self._note(row.round, broken(ledger, row).message)
            with self._noting(row.round):
                entry = row.decoded()
                row.measured()
                row.timed()
                if isinstance(entry, Replacement) and entry.snapshot != row.state.hex():
                    self._note(row.round, f"round {row.round}: the entry names another state than the row")
            previous, last = row.chain, row.chain.hex()
        return last

    def snapshots(self) -> set[bytes]:
        """Check every snapshot; digests of those that are what they should be."""
        rounds, moments = self._named()
        good, orphans = set(), self.orphans
        for digest, file in self._files.items():
            place = rounds.get(digest, moments.get(digest))
            if place is None:
                orphans.append(Problem(None, f"{self._snapshots.path(digest)}: no round has this state"))
                continue
            with self._noting(place):
                try:
                    if digest in rounds:
                        self._snapshots.read(file)
                    else:
                        self._snapshots.read_moments(file)
                    good.add(digest)
                except LedgerError:
                    if digest in self._ledger.files():  # and not dropped by a run that goes on
                        raise
        return good

    def states(self, from_round: int, good: Set[bytes], on_round: Callable[[int, int], None]) -> tuple[int, list[int]]:
        """Rebuild states one after the other; how many, and the rounds that could not be."""
        state: State | None = None
        replayed, unproved = 0, []
        for row in self._rows(self._start(from_round, good)):
            entry = self._entry(row)
            if isinstance(entry, Update | Patch) and state is not None:
                state = self._replay.step(state, entry)
                with self._noting(row.round) as failed:
                    check(row, state)
                    replayed += 1
                state = None if failed else state
            else:
                state = None
            if state is None and row.state in good:
                with contextlib.suppress(LedgerError):  # it was whole a moment ago: dropped by a run that goes on
                    state = self._snapshots.read(self._files[row.state])
            if row.round == 0 and row.state not in self._files:
                self._note(0, "round 0: there is no snapshot of it")
            elif state is None and row.state not in self._files:
                unproved.append(row.round)
            on_round(row.round, self._ledger.last)
        return replayed, unproved

    def _start(self, from_round: int, good: Set[bytes]) -> int:
        """The last round up to ``from_round`` with a snapshot."""
        kept = [row.round for row in self._rows(0) if row.round <= from_round and row.state in good]
        return max(kept, default=0)

    def _named(self) -> tuple[dict[bytes, int], dict[bytes, int]]:
        """Digests of states, and of moments, each with the last round that has it."""
        rounds, moments = {}, {}
        for row in self._rows(0):
            rounds[row.state] = row.round
            entry = self._entry(row)
            if isinstance(entry, Replacement) and entry.moments:
                moments[bytes.fromhex(entry.moments)] = row.round
        return rounds, moments

    def _rows(self, first: int) -> Iterator[Row]:
        with self._noting(None):
            yield from self._ledger.rows(first)

    def _entry(self, row: Row) -> Entry | None:
        try:
            return row.decoded()
        except LedgerError:
            return None  # noted with the links

    @contextlib.contextmanager
    def _noting(self, round: int | None) -> Iterator[list[str]]:
        """Note a failure, and go on behind the block; what is yielded is not empty after one."""
        failed: list[str] = []
        try:
            yield failed
        except LedgerError as error:
            failed.append(error.message)
            self._note(getattr(error, "round", round), error.message)

    def _note(self, round: int | None, message: str) -> None:
        problem = Problem(
            round, message if round is None or f"round {round}" in message else f"round {round}: {message}"
        )
        if problem not in self.problems:
            self.problems.append(problem)


def _place(problem: Problem) -> int:
    """Problems of the whole run come first."""
    return -1 if problem.round is None else problem.round


def _ranges(rounds: list[int]) -> tuple[tuple[int, int], ...]:
    """Ascending rounds as ranges.

    >>> _ranges([1, 2, 3, 7])
    ((1, 3), (7, 7))
    """
    found: list[tuple[int, int]] = []
    for round in rounds:
        if found and found[-1][1] == round - 1:
            found[-1] = (found[-1][0], round)
        else:
            found.append((round, round))
    return tuple(found)
