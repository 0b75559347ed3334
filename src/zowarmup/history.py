"""What a ledger says, in plain dictionaries: metrics.jsonl, summary.json, and a round as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zowarmup import recipes, report
from zowarmup.ledger import Ledger, Row
from zowarmup.protocol import Array, Entry, Patch, Replacement, Update
from zowarmup.recipe import Mixed, Phase, Recipe, ZerothOrder

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
_COUNTS = ("uplink_bytes", "downlink_bytes", "forward_samples", "backward_samples", "replayed_directions")


class History:
    """What a ledger says.

    Args:
        ledger: of the run; read each time anew.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.recipe: Recipe = recipes.parse(ledger.head.recipe, name=str(ledger.path))
        self._first = self.recipe.first_rounds

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every round, as metrics.jsonl has it."""
        return map(self.line, self._ledger.rows())

    def line(self, row: Row) -> dict[str, Any]:
        """A round, as metrics.jsonl has it."""
        metrics, entry = row.measured(), row.decoded()
        line: dict[str, Any] = {"round": row.round, "phase": None, "kind": None, "lr": None, "cohort": 0, "refused": 0}
        if entry is not None:
            settings = self.recipe.phase[row.phase]
            line |= {
                "phase": row.phase,
                "kind": settings.kind,
                "lr": settings.lr_at(row.round - self._first[row.phase]),
                "cohort": self._cohort(settings),
                "refused": len(entry.refused),
            }
            if entry.refused:
                line["refusals"] = {str(client): reason for client, reason in entry.refused.items()}
        line |= {name: _tiers(getattr(metrics, name)) for name in _COUNTS}
        return line | (metrics.evaluation or {}) | {"seconds": row.timed().seconds}

    def describe(self, row: Row) -> dict[str, Any]:
        """A round with its entry and digests, as ``zowarmup export`` writes it."""
        line = self.line(row)
        seconds = line.pop("seconds")
        return line | {
            "entry": _described(row.decoded()),
            "state": row.state.hex(),
            "chain": row.chain.hex(),
            "seconds": seconds,
            "peak_memory_bytes": row.timed().peak_memory_bytes,
        }

    def status(self) -> str:
        """``"finished"``, ``"interrupted"`` (or killed, or still running), or ``"failed"``."""
        if self._ledger.last >= self.recipe.rounds:
            return "finished"
        ended = self._ledger.value("ended") or {}
        return "failed" if ended.get("status") == "failed" else "interrupted"

    def summary(self) -> dict[str, Any]:
        """What summary.json holds; the run has at least round 0."""
        ledger, recipe = self._ledger, self.recipe
        facts, session = dict(ledger.head.facts), (ledger.sessions() or [{}])[-1]
        last = ledger.row(ledger.last)
        metrics, evaluated = last.measured(), self._evaluated()
        phases = self._phases()
        summary = {
            "format": report.FORMAT,
            "status": self.status(),
            "method": recipe.method or recipe.name,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "rounds": last.round,
            "planned_rounds": recipe.rounds,
            "parameters": facts["parameters"],
            "table": facts["table"],
            "net": recipe.model.net,
            "batch_norm": recipe.model.batch_norm,
            "input_shape": facts["input_shape"],
            "classes": facts["classes"],
            "device": session.get("device"),
            "threads": recipe.run.threads,
            "pivot": _pivot(recipe),
            "phases": phases,
            "final": {name: evaluated[1][name] for name in _FINAL if name in evaluated[1]},
            "final_round": evaluated[0],
            "bytes": {"uplink": _tiers(metrics.uplink_bytes), "downlink": _tiers(metrics.downlink_bytes)},
            "fedavg_bytes": {"uplink": _tiers(metrics.fedavg_bytes), "downlink": _tiers(metrics.fedavg_bytes)},
            "turns": _tiers(metrics.turns),
            "replayed_directions": _tiers(metrics.replayed_directions),
            "federation": facts["federation"] | {"digest": ledger.head.data},
            "refused": sum(row["refused"] for row in phases),
            "peak_memory_bytes": max(row.timed().peak_memory_bytes for row in ledger.rows()),
            "seconds": last.timed().seconds,
            "state_digest": last.state.hex(),
            "chain": last.chain.hex(),
            "sessions": len(ledger.sessions()),
            "versions": session.get("versions", {}),
        }
        ended = ledger.value("ended") or {}
        if summary["status"] == "failed":
            summary["error"] = ended.get("error")
        return summary

    def _evaluated(self) -> tuple[int, Mapping[str, Any]]:
        """The last round with an evaluation, and that."""
        for number in range(self._ledger.last, -1, -1):
            evaluation = self._ledger.row(number).measured().evaluation
            if evaluation is not None:
                return number, evaluation
        return 0, {}

    def _phases(self) -> list[dict[str, Any]]:
        """A row for each phase that has begun."""
        found: list[dict[str, Any]] = []
        before = 0.0
        for row in self._ledger.rows():
            clock, entry = row.timed(), row.decoded()
            if entry is None:
                before = clock.seconds
                continue
            if len(found) == row.phase:
                found.append(self._begin(row) | {"began": before})
            phase = found[-1]
            phase["last_round"] = row.round
            phase["refused"] += len(entry.refused)
            phase["seconds"] = round(clock.seconds - phase["began"], 3)
            phase["peak_memory_bytes"] = max(phase["peak_memory_bytes"], clock.peak_memory_bytes)
            before = clock.seconds
        return [{key: value for key, value in phase.items() if key != "began"} for phase in found]

    def _begin(self, row: Row) -> dict[str, Any]:
        settings = self.recipe.phase[row.phase]
        return {
            "kind": settings.kind,
            "tier": settings.tier,
            "first_round": row.round,
            "last_round": row.round,
            "cohort": self._cohort(settings),
            "seconds": 0.0,
            "peak_memory_bytes": 0,
            "refused": 0,
        }

    def _cohort(self, settings: Phase) -> int:
        tiers = self._ledger.head.facts["federation"]["tiers"]
        members = len(tiers) if settings.tier == "all" else tiers.count(settings.tier)
        return members if settings.cohort == "all" else settings.cohort


def _described(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    found: dict[str, Any] = {"participants": list(entry.participants), "refused": dict(entry.refused)}
    if isinstance(entry, Update):
        return (
            {"kind": "update"}
            | found
            | {
                "seed": f"{entry.seed:#018x}",
                "coefficients": entry.coefficients.tolist(),
                "exponent": entry.exponent,
                "state": entry.state,
            }
        )
    if isinstance(entry, Patch):
        tensors = {"values": entry.values, "buffers": entry.buffers}
        return {"kind": "patch"} | found | {key: _lists(values) for key, values in tensors.items()}
    assert isinstance(entry, Replacement)
    return {"kind": "replacement"} | found | {"snapshot": entry.snapshot, "moments": entry.moments or None}


def _lists(tensors: Mapping[str, Array]) -> dict[str, Any]:
    return {name: values.tolist() for name, values in tensors.items()}


def _tiers(pair: tuple[int, int]) -> dict[str, int]:
    return {"high": pair[0], "low": pair[1]}


def _pivot(recipe: Recipe) -> int | None:
    """The last round before zeroth-order rounds begin; None where there are none."""
    for phase, first in zip(recipe.phase, recipe.first_rounds, strict=True):
        if isinstance(phase, ZerothOrder | Mixed):
            return first - 1
    return None
