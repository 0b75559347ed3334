"""`zowarmup compare --dry-run`: the runs of a comparison, and what is left of them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zowarmup.cli import consoles, tables
from zowarmup.grid import in_words
from zowarmup.report import words

if TYPE_CHECKING:
    from zowarmup.survey import Run, Survey


def show(planned: Survey, *, as_json: bool) -> None:
    """A line for each method and split, and each combination of values to try; how much is left in all."""
    if as_json:
        consoles.print_json(_described(planned))
        return
    console = consoles.out()
    table = tables.table("method", "split", "", ">runs", ">rounds", ">finished", ">begun", ">to begin")
    for runs, what in ((planned.trials, "trials"), (planned.runs, "")):
        for group in _groups(runs):
            cell, starts = group[0].cell, Counter(run.job.start for run in group)
            values = in_words(group[0].values or {}) if group[0].values is not None else "what trials choose"
            note = " ".join(filter(None, (what, values)))
            counts = (len(group), group[0].job.recipe.rounds, starts["finished"], starts["resume"])
            begin = starts["begin"] + starts["replace"]
            table.add_row(cell.method, cell.split, note, *(f"{count:,}" for count in (*counts, begin)))
    tables.show(console, table)
    console.print()
    count, left = len(planned.all), len(planned.all) - planned.finished
    rounds = sum(run.job.recipe.rounds for run in planned.all if run.job.start != "finished")
    text = f"{words.plural(count, 'run')}, {planned.finished} finished, {left} to do"
    tables.say(console, f"{text} with up to {rounds:,} rounds" if left else text)
    if any(run.job.start == "replace" and run.job.out.exists() for run in planned.all):
        tables.say(console, "runs of another recipe are replaced")
    tables.say(console, f"into {planned.out}")


def _groups(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that differ in their seed alone, in the order of cells."""
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        key = (run.cell.method, run.cell.split, in_words(run.values or {}))
        found.setdefault(key, []).append(run)
    return list(found.values())


def _described(planned: Survey) -> dict[str, Any]:
    kinds = itertools.chain(((run, True) for run in planned.trials), ((run, False) for run in planned.runs))
    runs = [
        {
            "method": run.cell.method,
            "split": run.cell.split,
            "trial": is_trial,
            "values": run.values,
            "seed": run.job.seed,
            "rounds": run.job.recipe.rounds,
            "folder": str(run.job.out),
            "start": run.job.start,
            "after": None if run.job.after is None else str(run.job.after.out),
        }
        for run, is_trial in kinds
    ]
    name, baseline = planned.grid.name, planned.grid.baseline
    return {"name": name, "out": str(planned.out), "baseline": baseline, "finished": planned.finished, "runs": runs}
