"""A row's numbers as people read them: means with deviations, differences with intervals, the best of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zowarmup.report.tables import SCORES, Row
from zowarmup.report.words import (
    UNDEFINED,
    Number,
    amount,
    defined,
    duration,
    number,
    percent,
    points,
    signed,
    size,
)

HEADINGS = {
    "accuracy": "accuracy",
    "low_held_accuracy": "low-held classes",
    "worst_class_accuracy": "worst class",
    "loss": "loss",
    "low_client_uplink_bytes": "a low client sends",
    "total_bytes": "all bytes",
    "forward_samples": "forward samples",
    "backward_samples": "backward samples",
    "seconds": "time",
}
_UNITS = {
    "loss": number,
    "accuracy": number,
    "forward_samples": amount,
    "backward_samples": amount,
    "seconds": duration,
}


def is_share(row: Row, metric: str) -> bool:
    """Whether the metric is a share of 1 in this row, so printed as percent."""
    return metric.endswith("accuracy") and bool(row.get("classification", True))


def shown(row: Row, metric: str, value: Number | None) -> str:
    """A value of a metric as the report prints it."""
    if is_share(row, metric):
        return percent(value)
    return _UNITS.get(metric, size)(value)


def mean_sd(row: Row, metric: str) -> str:
    """``81.5 (2.3) %``: mean and, with two seeds or more, sd in the same unit; behind it how many seeds define it,
    where not all do."""
    mean, sd = row.get(f"{metric}_mean"), row.get(f"{metric}_sd")
    if not defined(mean):
        return UNDEFINED
    text, known, n = _spread(row, metric, mean, sd), row.get(f"{metric}_n"), row.get("n")
    return text if known in (None, n) else f"{text}, {known} of {n}"


def _spread(row: Row, metric: str, mean: Number, sd: Number | None) -> str:
    if not sd:  # every seed the same: bytes, as a rule
        return shown(row, metric, mean)
    if is_share(row, metric):
        return f"{100 * mean:.1f} ({100 * sd:.1f})\N{NO-BREAK SPACE}%"
    spread = f"{sd:.2g}" if metric in ("loss", "accuracy") else shown(row, metric, sd)
    return f"{shown(row, metric, mean)} ({spread})"


def shown_difference(row: Row, metric: str) -> str:
    """A difference as the report prints it: percentage points for shares, otherwise the metric's unit.

    A score's has its interval behind it, where two seeds or more are shared.

    >>> row = {"accuracy_difference": 0.062, "accuracy_difference_low": 0.041, "accuracy_difference_high": 0.08}
    >>> shown_difference(row, "accuracy")
    '+6.2 [4.1, 8.0]'
    """
    value = row.get(f"{metric}_difference")
    if not defined(value):
        return UNDEFINED
    low, high = row.get(f"{metric}_difference_low"), row.get(f"{metric}_difference_high")
    if is_share(row, metric):
        return points(value) + _interval(low, high, lambda end: f"{100 * end:.1f}")
    if metric in ("loss", "accuracy"):
        return signed(f"{value:+.3g}") + _interval(low, high, lambda end: f"{end:.3g}")
    return ("−" if value < 0 else "+") + shown(row, metric, abs(value))


def best(found: Sequence[Row], metric: str) -> Number | None:
    """The best mean of a score, of rows to be set side by side; None for other metrics, or where all are the same.

    Rows with fewer seeds than others are out: their mean may be of the easier ones.
    """
    most = max((row["n"] for row in found), default=0)
    known: list[Number] = [mean for row in found if row["n"] == most and defined(mean := row.get(f"{metric}_mean"))]
    if len(set(known)) < 2 or metric not in SCORES:
        return None
    return min(known) if metric == "loss" else max(known)


def is_best(row: Row, metric: str, top: Number | None) -> bool:
    """Whether the row's mean is ``top``, what :func:`best` gave."""
    return top is not None and row.get(f"{metric}_mean") == top


def shown_choice(choice: Mapping[str, Any]) -> str:
    """Settings in a line.

    >>> shown_choice({"phase.1.lr": 0.04, "phase.1.step": "rms"})
    'phase.1.lr = 0.04, phase.1.step = rms'
    """
    return ", ".join(f"{key} = {value}" for key, value in choice.items())


def _interval(low: Number | None, high: Number | None, show: Any) -> str:
    return f" [{signed(show(low))}, {signed(show(high))}]" if defined(low) and defined(high) else ""
