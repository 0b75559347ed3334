"""Keeps a run: every round into the ledger before it counts, and the files that are made from the ledger."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import safetensors.torch

from zowarmup import report
from zowarmup.errors import ZOWarmUpError
from zowarmup.experiment import Experiment
from zowarmup.history import History
from zowarmup.ledger import INITIAL, Clock, Ledger
from zowarmup.memory import Peak
from zowarmup.model import state_tensors
from zowarmup.phases import Phase
from zowarmup.protocol import Entry, Update, encode
from zowarmup.rundir import METRICS, MODEL, RECIPE, REPORT, SUMMARY, RunDirectory
from zowarmup.snapshots import Keeper
from zowarmup.state import State
from zowarmup.traffic import Traffic
from zowarmup.trained import Trained


@dataclass(frozen=True)
class Round:
    """A round that was run and is not recorded yet; round 0, the initial weights, has no phase and no entry."""

    number: int
    phase: Phase | None
    entry: Entry | None
    state: State
    traffic: Traffic
    evaluation: Mapping[str, Any]
    """Empty where the round was not evaluated."""


@dataclass(frozen=True)
class Progress:
    """What a callback sees after every round, and once for round 0, the initial weights."""

    round: int
    rounds: int
    """Rounds of the whole run."""
    phase: int | None
    """Index in the recipe; None for round 0."""
    metrics: Mapping[str, Any]
    """The round's line in metrics.jsonl; accuracy and its kin only where the round was evaluated."""
    state: State = field(repr=False)
    experiment: Experiment = field(repr=False)


Callback = Callable[[Progress], None]


class Recorder:
    """Draws the rounds of a run and keeps them.

    Args:
        experiment: what is run.
        ledger: where rounds are recorded; it may have some already.
        directory: the ledger's, for snapshots and files made from it; None for a ledger in memory.
    """

    def __init__(self, experiment: Experiment, ledger: Ledger, directory: RunDirectory | None) -> None:
        self._experiment, self._ledger, self._directory = experiment, ledger, directory
        self._history = History(ledger)
        self._peak = Peak(experiment.model.device)
        self._keeper = _keeper(experiment, ledger)
        self._lines = list(self._history.lines())
        before = self._lines[-1]["seconds"] if self._lines else 0.0
        self._start = time.perf_counter() - before

    def record(self, rounds: Iterator[Round], last: State | None, callbacks: Sequence[Callback]) -> Trained:
        """Draw all rounds and record them; leave a readable directory however it ends.

        Args:
            rounds: those still to run.
            last: the state after the last round that the ledger has; None where it has none.
            callbacks: called with each round that is recorded.
        """
        round: Round | None = None
        try:
            if self._directory is not None:
                self._directory.begin(self._lines)
            for round in rounds:
                line = self._add(round)
                last = round.state
                for callback in callbacks:
                    callback(self._progress(round, line))
        except BaseException as cause:
            if round is not None and round.number == self._ledger.last:
                last = round.state  # in the ledger, whatever failed behind its commit
            with contextlib.suppress(ZOWarmUpError):  # the first error says more
                if last is not None:
                    self._finish(last, cause)
                elif self._directory is not None:
                    self._directory.discard()
            raise
        assert last is not None
        return self._finish(last, None)

    def _add(self, round: Round) -> dict[str, Any]:
        """Record a round; it counts from here on."""
        phase, entry = round.phase, round.entry
        index = 0 if phase is None else round.number - phase.scope.first_round
        due = self._keeper.due(round.number, index, entry)
        files, drop = [], []
        if due and self._directory is not None:
            files = self._directory.snapshots.write(round.state, self._directory.disk)
            drop = self._keeper.add(round.number, files)
        row = self._ledger.append(
            INITIAL if phase is None else phase.scope.phase,
            b"" if entry is None else encode(entry),
            msgspec.structs.replace(round.traffic.counts(), evaluation=dict(round.evaluation) or None),
            round.state.digest(),
            Clock(seconds=round_seconds(time.perf_counter() - self._start), peak_memory_bytes=self._peak.bytes()),
            add=files,
            drop=drop,
        )
        line = self._history.line(row)
        self._lines.append(line)
        if self._directory is not None:
            self._directory.append(line)
            self._directory.snapshots.remove(drop, self._directory.disk)
        if phase is None or index == phase.settings.rounds - 1:
            self._peak.reset()  # the next phase has its own peak
        return line

    def _progress(self, round: Round, line: Mapping[str, Any]) -> Progress:
        return Progress(
            round=round.number,
            rounds=self._experiment.recipe.rounds,
            phase=None if round.phase is None else round.phase.scope.phase,
            metrics=line,
            state=round.state,
            experiment=self._experiment,
        )

    def _finish(self, last: State, cause: BaseException | None) -> Trained:
        """Note how it ended, and write what is made from the ledger."""
        experiment, directory = self._experiment, self._directory
        self._ledger.note(ended=_ended(cause))
        experiment.model.bind(last.weights)
        experiment.model.load_buffers(last.buffers)
        experiment.model.module.eval()
        if directory is not None:
            directory.write(MODEL, safetensors.torch.save(state_tensors(experiment.model)))
            for name, content in derived(self._ledger).items():
                directory.write(name, content)
            directory.write(REPORT, report.render(report.load_run(directory.path)).encode())
        return Trained(
            recipe=experiment.recipe,
            summary=self._history.summary(),
            metrics=tuple(self._lines),
            module=experiment.model.module,
            out=None if directory is None else directory.path,
        )


def derived(ledger: Ledger) -> dict[str, bytes]:
    """Files made from a ledger with a round: name -> content."""
    history = History(ledger)
    return {
        RECIPE: ledger.head.recipe.encode(),
        METRICS: b"".join(msgspec.json.encode(line) + b"\n" for line in history.lines()),
        SUMMARY: msgspec.json.format(msgspec.json.encode(history.summary()), indent=2) + b"\n",
    }


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond."""
    return float(f"{seconds:.3f}")


def _ended(cause: BaseException | None) -> dict[str, str]:
    if cause is None:
        return {"status": "finished"}
    if isinstance(cause, KeyboardInterrupt):
        return {"status": "interrupted"}
    return {"status": "failed", "error": str(cause) if isinstance(cause, ZOWarmUpError) else repr(cause)}


def _keeper(experiment: Experiment, ledger: Ledger) -> Keeper:
    """Who decides about snapshots, with those that the ledger has."""
    files, size = ledger.files(), experiment.model.size
    kept: dict[int, tuple[bytes, ...]] = {}
    cost = 0
    for row in ledger.rows():
        entry = row.decoded()
        if all(digest in files for digest in row.digests()):
            kept[row.round], cost = row.digests(), 0
        elif isinstance(entry, Update):
            cost += len(entry.coefficients) * size
    ends = [phase.scope.first_round + phase.settings.rounds - 1 for phase in experiment.phases]
    return Keeper(experiment.recipe.run, ends, size, kept=kept, cost=cost)
