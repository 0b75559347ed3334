"""The comparison table: one row a label, mean and standard deviation over seeds, paired differences."""

from __future__ import annotations

import csv as csv_module
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zowarmup.errors import UsageError
from zowarmup.report.records import RunRecord, Traffic, load_run
from zowarmup.report.words import UNDEFINED, Number, defined, duration, number, percent, points, signed, size

METRICS = (
    "accuracy",
    "low_held_accuracy",
    "worst_class_accuracy",
    "loss",
    "low_uplink_bytes",
    "total_bytes",
    "seconds",
)
HEADINGS = {
    "accuracy": "accuracy",
    "low_held_accuracy": "low-held classes",
    "worst_class_accuracy": "worst class",
    "loss": "loss",
    "low_uplink_bytes": "low-tier uplink",
    "total_bytes": "all bytes",
    "seconds": "time",
}

Row = dict[str, Any]
Group = dict[int, RunRecord]


def table(runs: Mapping[str, Sequence[str | Path]]) -> list[Row]:
    """One row a label, in the order given.

    Args:
        runs: label -> run directories, one a seed; the first label is what others are compared with.

    Returns:
        Rows with ``label``, ``seeds`` (ascending), ``n``, ``unfinished`` (runs that did not reach their end),
        ``classification`` (whether accuracies are shares of 1), ``pairs`` (seeds shared with the first label), and for
        each of :data:`METRICS` ``<metric>_mean``, ``<metric>_sd`` (of the sample; None for one seed) and
        ``<metric>_difference``: the mean over shared seeds of this label minus the first (None for the first label, or
        where no seed is shared). A value that a run does not define is left out of its mean.

    Raises:
        UsageError: no labels, a label without runs, or with two runs of one seed.
        OutputError: a run directory that cannot be read.
    """
    return rows(load_groups(runs))


def load_groups(runs: Mapping[str, Sequence[str | Path]]) -> dict[str, Group]:
    """Runs of each label by seed, ascending; see :func:`table` for what is refused."""
    if not runs:
        raise UsageError("nothing to compare", hint="name at least one label with its run directories")
    return {label: _group(label, folders) for label, folders in runs.items()}


def rows(groups: Mapping[str, Group]) -> list[Row]:
    """The rows of :func:`table`, from runs already read."""
    first = next(iter(groups))
    return [_row(label, group, groups[first] if label != first else None) for label, group in groups.items()]


def values(run: RunRecord) -> dict[str, Number | None]:
    """A run's value of each of :data:`METRICS`; scores are shares of 1, None where undefined."""
    summary, final = run.summary, run.summary["final"]
    found: dict[str, Number | None] = {
        "accuracy": final.get("accuracy"),
        "low_held_accuracy": final.get("low_held_accuracy"),
        "worst_class_accuracy": final.get("worst_class_accuracy"),
        "loss": final.get("loss"),
        "low_uplink_bytes": summary["bytes"]["uplink"]["low"],
        "total_bytes": _total(summary["bytes"]),
        "seconds": summary.get("seconds"),
    }
    return {name: value if defined(value) else None for name, value in found.items()}


def is_share(row: Row, metric: str) -> bool:
    """Whether the metric is a share of 1 in this row, so printed as percent."""
    return metric.endswith("accuracy") and bool(row.get("classification", True))


def shown(row: Row, metric: str, value: Number | None) -> str:
    """A value of a metric as the report prints it."""
    if is_share(row, metric):
        return percent(value)
    return {"loss": number, "accuracy": number, "seconds": duration}.get(metric, size)(value)


def shown_difference(row: Row, metric: str) -> str:
    """A difference as the report prints it: percentage points for shares, otherwise the metric's unit."""
    value = row.get(f"{metric}_difference")
    if not defined(value):
        return UNDEFINED
    if is_share(row, metric):
        return points(value)
    if metric in ("loss", "accuracy"):
        return signed(f"{value:+.3g}")
    return ("−" if value < 0 else "+") + shown(row, metric, abs(value))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table: ``mean (sd)``, and the difference of accuracy in percentage points.

    >>> print(markdown([{"label": "a|b", "n": 1, "accuracy_mean": 0.5, "accuracy_sd": None}]).splitlines()[2])
    | a\\|b | 1 | 50.0 % | – | – | – | – | – | – | – | – |
    """
    head = ["", "seeds", "accuracy", "± first", "low-held classes", "± first", *(HEADINGS[m] for m in METRICS[2:])]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        cells = [str(row["label"]).replace("|", r"\|").replace("\n", " "), str(row["n"])]
        for metric in METRICS:
            cells.append(mean_sd(row, metric))
            if metric in METRICS[:2]:
                cells.append(shown_difference(row, metric))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("\N{NO-BREAK SPACE}", " ") + "\n"


def csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, every number in full; seeds separated by blanks, undefined values empty.

    >>> csv([{"label": "a", "seeds": [0, 1], "n": 2, "accuracy_mean": 0.5}])
    'label,seeds,n,accuracy_mean\\na,0 1,2,0.5\\n'
    """
    buffer = io.StringIO()
    writer = csv_module.DictWriter(buffer, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "seeds": " ".join(map(str, row["seeds"]))})
    return buffer.getvalue()


def mean_sd(row: Row, metric: str) -> str:
    """``81.5 (2.3) %``: mean and, with two seeds or more, sd in the same unit."""
    mean, sd = row.get(f"{metric}_mean"), row.get(f"{metric}_sd")
    if not defined(mean) or not sd:  # every seed the same: bytes, as a rule
        return shown(row, metric, mean)
    if is_share(row, metric):
        return f"{100 * mean:.1f} ({100 * sd:.1f})\N{NO-BREAK SPACE}%"
    spread = f"{sd:.2g}" if metric in ("loss", "accuracy") else shown(row, metric, sd)
    return f"{shown(row, metric, mean)} ({spread})"


def _group(label: str, folders: Sequence[str | Path]) -> Group:
    group: Group = {}
    for folder in folders:
        run = load_run(folder)
        seed = run.summary["seed"]
        if seed in group:
            raise UsageError(
                f"{label}: two runs of seed {seed}: {group[seed].path} and {run.path}",
                hint="give each seed once, or the other run a label of its own",
            )
        group[seed] = run
    if not group:
        raise UsageError(f"{label}: no runs", hint="give at least one run directory")
    return dict(sorted(group.items()))


def _row(label: str, group: Group, first: Group | None) -> Row:
    found = {seed: values(run) for seed, run in group.items()}
    base = {seed: values(run) for seed, run in (first or {}).items()}
    row: Row = {
        "label": label,
        "seeds": list(group),
        "n": len(group),
        "unfinished": sum(run.summary["status"] != "finished" for run in group.values()),
        "classification": all(run.classification for run in group.values()),
        "pairs": len(group.keys() & base.keys()) if first is not None else None,
    }
    for metric in METRICS:
        column = [value for each in found.values() if (value := each[metric]) is not None]
        row[f"{metric}_mean"] = math.fsum(column) / len(column) if column else None
        row[f"{metric}_sd"] = statistics.stdev(column) if len(column) > 1 else None
        paired = list(differences(found, base, metric).values())
        row[f"{metric}_difference"] = math.fsum(paired) / len(paired) if paired else None
    return row


def differences(
    found: Mapping[int, Mapping[str, Number | None]], base: Mapping[int, Mapping[str, Number | None]], metric: str
) -> dict[int, Number]:
    """``found - base`` of a metric for each shared seed that defines both."""
    both = {seed: (found[seed][metric], base[seed][metric]) for seed in found if seed in base}
    return {seed: a - b for seed, (a, b) in both.items() if a is not None and b is not None}


def _total(traffic: Traffic) -> int:
    return sum(way["high"] + way["low"] for way in (traffic["uplink"], traffic["downlink"]))
