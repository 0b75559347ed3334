"""A comparison as text: Markdown to read, CSV to go on with."""

from __future__ import annotations

import csv as csv_module
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zowarmup.report.grid import Runs, load_grid
from zowarmup.report.intervals import called
from zowarmup.report.shown import HEADINGS, best, is_best, mean_sd, shown_choice, shown_difference
from zowarmup.report.tables import METRICS, Row, values
from zowarmup.report.words import UNDEFINED

PIVOTS = METRICS[:2]
"""What is printed method by split, as papers do."""


def markdown(rows: Sequence[Row]) -> str:
    """The rows as Markdown.

    Of one split a table with every metric, ``mean (sd)``, and the differences of accuracies in percentage points. Of
    several: accuracy and low-held accuracy, methods down and splits across; their differences likewise; then the table
    of each split. The best mean of a score is bold.

    >>> print(markdown([{"label": "a|b", "n": 1, "accuracy_mean": 0.5, "accuracy_sd": None}]).splitlines()[2])
    | a\\|b | 1 | 50.0 % | – | – | – | – | – | – | – | – | – | – |
    """
    splits, parts = by_split(rows), []
    for metric in PIVOTS if len(splits) > 1 else ():
        name = heading(rows, metric)
        parts.append(f"**{name}**, mean (sd) over seeds\n\n" + _lines(_pivot(rows, metric)))
        interval = called(max(row["pairs"] or 0 for row in rows))
        text = f"minus {_cell(rows[0]['baseline'])}, over the same seeds [{interval}]"
        parts.append(f"**{name}** {text}\n\n" + _lines(_pivot(rows, metric, difference=True)))
    for name, found in splits.items() or [("", [])]:
        parts.append((f"**{_cell(name)}**\n\n" if name else "") + _lines(_full(found)))
    return "\n".join(parts)


def csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, every number in full; seeds separated by blanks, settings as JSON, undefined values empty.

    >>> csv([{"label": "a", "seeds": [0, 1], "n": 2, "accuracy_mean": 0.5}])
    'label,seeds,n,accuracy_mean\\na,0 1,2,0.5\\n'
    """
    return _csv([{**row, "seeds": " ".join(map(str, row["seeds"]))} for row in rows])


def runs_csv(runs: Runs, *, root: str | Path | None = None) -> str:
    """Every run as a line of CSV: split, label, seed, how it ended, its own :data:`METRICS`, settings, folder.

    Args:
        runs: as in :func:`zowarmup.report.load_grid`.
        root: folders are written relative to this one, where they lie below it.
    """
    grid = load_grid(runs)
    return _csv(
        [
            {
                "split": split.name,
                "label": method,
                "choice": split.choices.get(method, {}),
                "seed": seed,
                "status": run.summary["status"],
                "rounds": run.last_round,
                **values(run),
                "folder": _below(run.path, root),
            }
            for split in grid.splits
            for method, group in split.groups.items()
            for seed, run in group.items()
        ]
    )


def by_split(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each split, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.get("split", ""), []).append(row)
    return found


def pivot(rows: Sequence[Row], metric: str) -> tuple[list[str], dict[str, list[tuple[Row | None, bool]]]]:
    """A metric with methods down and splits across.

    Returns:
        The splits, and for each method a row of the table at each of them (None where it has no runs there), with
        whether it is the best of its split.
    """
    splits = by_split(rows)
    tops = {name: best(found, metric) for name, found in splits.items()}
    at = {(row["label"], row["split"]): row for row in rows}
    lines: dict[str, list[tuple[Row | None, bool]]] = {}
    for method in dict.fromkeys(row["label"] for row in rows):
        found = [(at.get((method, name)), tops[name]) for name in splits]
        lines[method] = [(row, row is not None and is_best(row, metric, top)) for row, top in found]
    return list(splits), lines


def heading(rows: Sequence[Row], metric: str) -> str:
    """What a pivot's metric is called; a score where the task is no classification."""
    name = "Accuracy" if all(row["classification"] for row in rows) else "Score"
    return name if metric == "accuracy" else f"{name} on low-held classes"


def _pivot(rows: Sequence[Row], metric: str, *, difference: bool = False) -> list[list[str]]:
    splits, methods = pivot(rows, metric)
    lines = [["", *map(_cell, splits)]]
    show = shown_difference if difference else mean_sd
    for method, found in methods.items():
        texts = [(show(row, metric) if row else UNDEFINED, top and not difference) for row, top in found]
        if not difference or any(text != UNDEFINED for text, _ in texts):
            lines.append([_cell(method), *(_bold(text, top) for text, top in texts)])
    return lines


def _full(rows: Sequence[Row]) -> list[list[str]]:
    against = f"± {_cell(rows[0].get('baseline', 'first'))}" if rows else "± first"
    lines = [["", "seeds"]]
    for metric in METRICS:
        lines[0] += [HEADINGS[metric], against] if metric in PIVOTS else [HEADINGS[metric]]
    tops = {metric: best(rows, metric) for metric in METRICS}
    for row in rows:
        choice = shown_choice(row.get("choice", {}))
        cells = [_cell(row["label"]) + (f" ({_cell(choice)})" if choice else ""), str(row["n"])]
        for metric in METRICS:
            cells.append(_bold(mean_sd(row, metric), is_best(row, metric, tops[metric])))
            cells += [shown_difference(row, metric)] if metric in PIVOTS else []
        lines.append(cells)
    return lines


def _lines(lines: Sequence[Sequence[str]]) -> str:
    head, *others = lines
    rule = ["---", *["---:"] * (len(head) - 1)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *others))
    return text.replace("\N{NO-BREAK SPACE}", " ") + "\n"


def _bold(text: str, top: bool) -> str:
    return f"**{text}**" if top else text


def _cell(text: str) -> str:
    """Plain text in a cell: one line, and nothing in it is markup."""
    return re.sub(r"([\\`*<\[|])", r"\\\1", " ".join(text.split()))


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv_module.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    for line in lines:
        choices = {key: json.dumps(value) if value else "" for key, value in line.items() if isinstance(value, Mapping)}
        writer.writerow({**line, **choices})
    return buffer.getvalue()


def _below(path: Path, root: str | Path | None) -> str:
    return (path.relative_to(root) if root is not None and path.is_relative_to(root) else path).as_posix()
