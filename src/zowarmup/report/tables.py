"""The numbers of a comparison: one row for each method and split, means over seeds and paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from zowarmup.report.grid import Grid, Group, Runs, Split, load_grid
from zowarmup.report.intervals import bootstrap
from zowarmup.report.records import RunRecord, Tiers, Traffic
from zowarmup.report.words import Number, defined

METRICS = (
    "accuracy",
    "low_held_accuracy",
    "worst_class_accuracy",
    "loss",
    "low_client_uplink_bytes",
    "total_bytes",
    "forward_samples",
    "backward_samples",
    "seconds",
)
SCORES = METRICS[:4]
"""Metrics that say how good a model is; fewer bytes or seconds are no merit where clients take no part."""

Row = dict[str, Any]
Values = dict[str, Number | None]


def table(runs: Runs, *, baseline: str | None = None) -> list[Row]:
    """One row for each method and split, split by split, in the order given.

    Args:
        runs: label -> run directories, one a seed; or cells, see :func:`zowarmup.report.load_grid`.
        baseline: the label that others are compared with; the first where left out.

    Returns:
        Rows with ``split`` (``""`` where there is one), ``label``, ``choice`` (settings that tuning chose),
        ``baseline``, ``seeds`` (ascending), ``n``, ``unfinished`` (runs that did not reach their end),
        ``classification`` (whether accuracies are shares of 1), ``pairs`` (seeds shared with the baseline, None for
        itself), and for each of :data:`METRICS` ``<metric>_mean``, ``<metric>_n`` (how many runs define it),
        ``<metric>_sd`` (of the sample; None for one seed) and ``<metric>_difference``: the mean over shared seeds of
        this label minus the baseline (None for itself, or where no seed is shared). Those of
        :data:`SCORES` also have a 95 % interval of that mean, from ``<metric>_difference_low`` to
        ``<metric>_difference_high`` (:func:`zowarmup.report.intervals.bootstrap`; None where fewer than two seeds are
        shared). A value that a run does not define is left out of its mean.

    Raises:
        UsageError: no labels, a label without runs, or with two runs of one seed.
        OutputError: a run directory that cannot be read.
    """
    return rows(load_grid(runs, baseline=baseline))


def rows(grid: Grid) -> list[Row]:
    """The rows of :func:`table`, from runs already read."""
    return [row for split in grid.splits for row in split_rows(split)]


def split_rows(split: Split) -> list[Row]:
    """The rows of one split."""
    found = {method: by_seed(group) for method, group in split.groups.items()}
    return [_row(split, method, found) for method in split.groups]


def by_seed(group: Group) -> dict[int, Values]:
    """:func:`values` of each run of a group."""
    return {seed: values(run) for seed, run in group.items()}


def values(run: RunRecord) -> Values:
    """A run's value of each of :data:`METRICS`, None where undefined; scores are shares of 1."""
    summary, last = run.summary, run.metrics[-1]
    final, low = summary["final"], run.clients("low")
    found: Values = {
        "accuracy": final.get("accuracy"),
        "low_held_accuracy": final.get("low_held_accuracy"),
        "worst_class_accuracy": final.get("worst_class_accuracy"),
        "loss": final.get("loss"),
        "low_client_uplink_bytes": summary["bytes"]["uplink"]["low"] / low if low else None,
        "total_bytes": _total(summary["bytes"]),
        "forward_samples": _both(last.get("forward_samples")),
        "backward_samples": _both(last.get("backward_samples")),
        "seconds": summary.get("seconds"),
    }
    return {name: value if defined(value) else None for name, value in found.items()}


def differences(found: Mapping[int, Values], base: Mapping[int, Values], metric: str) -> dict[int, Number]:
    """``found - base`` of a metric for each shared seed that defines both."""
    both = {seed: (found[seed][metric], base[seed][metric]) for seed in found if seed in base}
    return {seed: a - b for seed, (a, b) in both.items() if a is not None and b is not None}


def _row(split: Split, method: str, methods: Mapping[str, Mapping[int, Values]]) -> Row:
    group, found = split.groups[method], methods[method]
    base = methods.get(split.baseline, {}) if method != split.baseline else {}
    row: Row = {
        "split": split.name,
        "label": method,
        "choice": dict(split.choices.get(method, {})),
        "baseline": split.baseline,
        "seeds": list(group),
        "n": len(group),
        "unfinished": sum(run.summary["status"] != "finished" for run in group.values()),
        "classification": all(run.classification for run in group.values()),
        "pairs": len(group.keys() & base.keys()) if method != split.baseline else None,
    }
    for metric in METRICS:
        column = [value for each in found.values() if (value := each[metric]) is not None]
        row[f"{metric}_mean"] = math.fsum(column) / len(column) if column else None
        row[f"{metric}_n"] = len(column)
        row[f"{metric}_sd"] = statistics.stdev(column) if len(column) > 1 else None
        paired = list(differences(found, base, metric).values())
        row[f"{metric}_difference"] = math.fsum(paired) / len(paired) if paired else None
        if metric in SCORES:
            low, high = bootstrap(paired) or (None, None)
            row[f"{metric}_difference_low"], row[f"{metric}_difference_high"] = low, high
    return row


def _total(traffic: Traffic) -> int:
    return sum(_both(way) or 0 for way in (traffic["uplink"], traffic["downlink"]))


def _both(tiers: Tiers | None) -> int | None:
    return tiers["high"] + tiers["low"] if tiers is not None else None
