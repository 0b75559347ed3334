"""What a run leaves behind: metrics round by round, and at its end a summary, the model and a report."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import safetensors.torch

from zowarmup import recipes, report
from zowarmup.errors import ZOWarmUpError
from zowarmup.experiment import Experiment, with_versions
from zowarmup.memory import Peak
from zowarmup.model import state_tensors
from zowarmup.phases import Phase
from zowarmup.protocol import Entry
from zowarmup.recipe import FirstOrder, ZerothOrder
from zowarmup.rundir import MODEL, RECIPE, SUMMARY, RunDirectory
from zowarmup.state import State
from zowarmup.traffic import Traffic
from zowarmup.trained import Trained


@dataclass(frozen=True)
class Round:
    """A finished round; round 0, the initial weights, has no phase and no entry."""

    number: int
    phase: Phase | None
    entry: Entry | None
    state: State
    traffic: Traffic
    evaluation: Mapping[str, Any]
    """Empty where the round was not evaluated."""

    def line(self) -> dict[str, Any]:
        """Its line in metrics.jsonl, without the time."""
        line: dict[str, Any] = {
            "round": self.number,
            "phase": None,
            "kind": None,
            "lr": None,
            "cohort": 0,
            "refused": 0,
        }
        if self.phase is not None and self.entry is not None:
            scope, settings = self.phase.scope, self.phase.settings
            line |= {
                "phase": scope.phase,
                "kind": settings.kind,
                "lr": scope.lr(self.number, settings),
                "cohort": len(scope.cohort(self.number, settings)),
                "refused": len(self.entry.refused),
            }
            if self.entry.refused:
                line["refusals"] = {str(client): reason for client, reason in self.entry.refused.items()}
        return line | self.traffic.counts() | dict(self.evaluation)


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
    """Draws the rounds of a run and keeps what they leave, in memory and in a directory.

    Args:
        experiment: what is run.
        directory: where to write; nothing is written where None.
    """

    def __init__(self, experiment: Experiment, directory: RunDirectory | None) -> None:
        self._experiment = experiment
        self._directory = directory
        self._lines: list[dict[str, Any]] = []
        self._phases: list[dict[str, Any]] = []
        self._peak = Peak(experiment.model.device)
        self._highest = 0
        self._fedavg: dict[str, int] = {}
        self._turns: dict[str, int] = {}
        self._start = time.perf_counter()

    def record(self, rounds: Iterator[Round], callbacks: Sequence[Callback]) -> Trained:
        """Draw all rounds and write them; leave a readable directory however it ends."""
        last: Round | None = None
        with self._directory or contextlib.nullcontext():
            if self._directory is not None:
                recipe = with_versions(self._experiment.recipe)
                self._directory.write(RECIPE, recipes.to_toml(recipe).encode())
            try:
                for last in rounds:
                    line = self._add(last)
                    for callback in callbacks:
                        callback(self._progress(last, line))
            except BaseException as cause:
                with contextlib.suppress(ZOWarmUpError):  # the first error says more
                    if last is not None:
                        self._finish(last, cause)
                    elif self._directory is not None:
                        self._directory.discard()
                raise
            assert last is not None
            return self._finish(last, None)

    def _add(self, round: Round) -> dict[str, Any]:
        """Note a round."""
        self._fedavg, self._turns = dict(round.traffic.fedavg), dict(round.traffic.turns)  # of finished rounds
        line = round.line() | {"seconds": round_seconds(time.perf_counter() - self._start)}
        self._lines.append(line)
        if self._directory is not None:
            self._directory.append(line)
        peak = self._peak.bytes()
        self._highest = max(self._highest, peak)
        if round.phase is not None and round.entry is not None:
            if len(self._phases) == round.phase.scope.phase:
                self._phases.append(_phase_row(round.phase, self._lines[-2]["seconds"]))
            row = self._phases[-1]
            row["last_round"] = round.number
            row["refused"] += len(round.entry.refused)
            row["seconds"] = round_seconds(line["seconds"] - row["began"])
            row["peak_memory_bytes"] = peak
        if round.phase is None or round.number == round.phase.scope.first_round + round.phase.settings.rounds - 1:
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

    def _finish(self, last: Round, cause: BaseException | None) -> Trained:
        """Write summary, model and report."""
        experiment, directory = self._experiment, self._directory
        experiment.model.bind(last.state.weights)
        experiment.model.load_buffers(last.state.buffers)
        experiment.model.module.eval()
        trained = Trained(
            recipe=experiment.recipe,
            summary=self._summary(last, cause),
            metrics=tuple(self._lines),
            module=experiment.model.module,
            out=None if directory is None else directory.path,
        )
        if directory is not None:
            directory.write(MODEL, safetensors.torch.save(state_tensors(experiment.model)))
            directory.write(SUMMARY, msgspec.json.format(msgspec.json.encode(trained.summary), indent=2) + b"\n")
            report.write(directory.path)
        return trained

    def _summary(self, last: Round, cause: BaseException | None) -> dict[str, Any]:
        experiment, recipe, line = self._experiment, self._experiment.recipe, self._lines[-1]
        evaluated = next(line for line in reversed(self._lines) if "accuracy" in line)
        summary = {
            "format": report.FORMAT,
            "status": _status(cause),
            "method": recipe.method or recipe.name,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "rounds": last.number,
            "planned_rounds": recipe.rounds,
            "parameters": experiment.model.size,
            "table": _table(experiment),
            "net": recipe.model.net,
            "batch_norm": recipe.model.batch_norm,
            "input_shape": list(experiment.train.shape),
            "classes": experiment.federation.classes,
            "device": str(experiment.model.device),
            "threads": recipe.run.threads,
            "pivot": _pivot(recipe.phase),
            "phases": [{key: value for key, value in row.items() if key != "began"} for row in self._phases],
            "final": {name: evaluated[name] for name in evaluated if name in _FINAL},
            "final_round": evaluated["round"],
            "bytes": {"uplink": line["uplink_bytes"], "downlink": line["downlink_bytes"]},
            "fedavg_bytes": {"uplink": self._fedavg, "downlink": self._fedavg},
            "turns": self._turns,
            "federation": _federation(experiment),
            "refused": sum(row["refused"] for row in self._phases),
            "peak_memory_bytes": self._highest,
            "seconds": line["seconds"],
            "weights_digest": last.state.weights_digest(),
            "state_digest": last.state.digest(),
            "versions": with_versions(recipe).versions,
        }
        if isinstance(cause, ZOWarmUpError):
            summary["error"] = str(cause)
        return summary


_FINAL = (
    "accuracy",
    "loss",
    "low_held_accuracy",
    "worst_class_accuracy",
    "low_client_accuracy",
    "high_client_accuracy",
    "client_accuracy_p10",
    "class_accuracy",
    "validation_accuracy",
    "validation_loss",
)


def round_seconds(seconds: float) -> float:
    """Seconds to the millisecond."""
    return float(f"{seconds:.3f}")


def _status(cause: BaseException | None) -> str:
    if cause is None:
        return "finished"
    return "interrupted" if isinstance(cause, KeyboardInterrupt) else "failed"


def _pivot(phases: Sequence[FirstOrder | ZerothOrder]) -> int | None:
    """The last round before zeroth-order rounds begin; None where there are none."""
    rounds = 0
    for phase in phases:
        if isinstance(phase, ZerothOrder):
            return rounds
        rounds += phase.rounds
    return None


def _phase_row(phase: Phase, began: float) -> dict[str, Any]:
    first = phase.scope.first_round
    return {
        "kind": phase.settings.kind,
        "tier": phase.settings.tier,
        "first_round": first,
        "last_round": first,
        "cohort": len(phase.scope.cohort(first, phase.settings)),
        "seconds": 0.0,
        "peak_memory_bytes": 0,
        "refused": 0,
        "began": began,
    }


def _table(experiment: Experiment) -> list[dict[str, Any]]:
    """The order of the flat vector: what a replica needs to apply an update."""
    table = experiment.model.table
    rows = zip(table.names, table.shapes, table.segments, strict=True)
    return [{"name": name, "shape": list(shape), "base": segment.base} for name, shape, segment in rows]


def _federation(experiment: Experiment) -> dict[str, Any]:
    federation = experiment.federation
    counts = federation.class_counts
    return {
        "tiers": [client.tier for client in federation.clients],
        "sizes": [int(n) for n in federation.sizes],
        "class_counts": None if counts is None else counts.tolist(),
        "class_names": experiment.class_names,
        "low_held_classes": list(federation.low_held_classes()),
        "digest": federation.digest(),
    }
