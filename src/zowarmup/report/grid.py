"""What is compared: methods by splits, each cell with runs of several seeds, and how their settings were chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zowarmup.errors import UsageError
from zowarmup.report.records import RunRecord, load_run
from zowarmup.report.words import Number

Group = dict[int, RunRecord]
"""Runs by seed, ascending."""


@dataclass(frozen=True)
class Cell:
    """The runs of one method at one split.

    Args:
        method: the method's label.
        split: the split's label; ``""`` where there is only one.
        runs: run directories, one a seed.
        choice: settings that tuning chose, by recipe key.
    """

    method: str
    split: str
    runs: tuple[Path, ...]
    choice: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """A run that tuning looked at.

    Args:
        method: whose settings are tuned.
        split: the split that it ran at.
        values: what was tried, by recipe key.
        seed: the run's seed.
        score: what the choice was made by, higher is better (accuracy on validation shares); None where undefined.
        folder: the run directory; None where it is gone.
    """

    method: str
    split: str
    values: Mapping[str, Any]
    seed: int
    score: Number | None
    folder: Path | None = None


@dataclass(frozen=True)
class Split:
    """One split: what a figure or a table is made from.

    Args:
        name: ``""`` where it is the only one.
        groups: method -> its runs, in the grid's order; a method without runs at this split is left out.
        baseline: the method that others are compared with; it may be missing from ``groups``.
        styles: method -> number of its colour, the same at every split; the baseline's is 0.
        choices: method -> settings that tuning chose.
        prefix: begins the ids of figures, as a page holds several splits.
    """

    name: str
    groups: Mapping[str, Group]
    baseline: str
    styles: Mapping[str, int]
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prefix: str = ""

    @property
    def classification(self) -> bool:
        """Whether every run knows classes, so that scores are shares."""
        return all(run.classification for group in self.groups.values() for run in group.values())

    @property
    def others(self) -> list[str]:
        """The methods but the baseline."""
        return [method for method in self.groups if method != self.baseline]


@dataclass(frozen=True)
class Grid:
    """A comparison, read from its run directories.

    Args:
        splits: in the order in which they first appear; at least one.
        methods: of any split, likewise.
        baseline: the method that others are compared with; it may have no runs.
    """

    splits: tuple[Split, ...]
    methods: tuple[str, ...]
    baseline: str

    @property
    def classification(self) -> bool:
        """Whether every run knows classes, so that scores are shares."""
        return all(split.classification for split in self.splits)

    def runs(self) -> list[RunRecord]:
        """Every run; one that serves several splits comes once."""
        found = {run.path: run for split in self.splits for group in split.groups.values() for run in group.values()}
        return list(found.values())


Runs = Mapping[str, Sequence[str | Path]] | Sequence[Cell] | Grid
"""What reports are made from: cells, or label -> run directories where there is one split, or what was read already."""


def load_grid(runs: Runs, *, baseline: str | None = None) -> Grid:
    """Read the runs of a comparison.

    Args:
        runs: cells; or label -> run directories, one a seed, where there is one split; or a grid, given back as it is.
        baseline: the method that others are compared with, the first where left out. Where it has no runs at a
            split, there are no differences at that split.

    Raises:
        UsageError: no cells, a cell given twice, without runs, or with two runs of one seed; a grid and another
            baseline than its own.
        OutputError: a run directory cannot be read.
    """
    if isinstance(runs, Grid):
        if baseline not in (None, runs.baseline):
            raise UsageError(f"{baseline}: expected {runs.baseline}, the baseline with which the runs were read")
        return runs
    cells = _cells(runs)
    if not cells:
        raise UsageError("nothing to compare", hint="name at least one label with its run directories")
    methods = tuple(dict.fromkeys(cell.method for cell in cells))
    first = methods[0] if baseline is None else baseline
    styles = {method: index for index, method in enumerate(dict.fromkeys((first, *methods)))}
    groups = _groups(cells)
    names = tuple(dict.fromkeys(cell.split for cell in cells))
    splits = tuple(
        Split(
            name=name,
            groups={method: groups[method, name] for method in methods if (method, name) in groups},
            baseline=first,
            styles=styles,
            choices={cell.method: cell.choice for cell in cells if cell.split == name and cell.choice},
            prefix=f"split{index}-" if len(names) > 1 else "",
        )
        for index, name in enumerate(names)
    )
    return Grid(splits, methods, first)


def _cells(runs: Mapping[str, Sequence[str | Path]] | Sequence[Cell]) -> list[Cell]:
    if isinstance(runs, Mapping):
        return [Cell(label, "", tuple(map(Path, folders))) for label, folders in runs.items()]
    return list(runs)


def _groups(cells: Sequence[Cell]) -> dict[tuple[str, str], Group]:
    read: dict[Path, RunRecord] = {}  # a run may serve several splits
    groups: dict[tuple[str, str], Group] = {}
    for cell in cells:
        label = f"{cell.method}, split {cell.split}" if cell.split else cell.method
        if (cell.method, cell.split) in groups:
            raise UsageError(f"{label}: given twice", hint="one cell for each method and split, with all of its runs")
        for folder in cell.runs:
            read[folder] = read.get(folder) or load_run(folder)
        groups[cell.method, cell.split] = _group(label, [read[folder] for folder in cell.runs])
    return groups


def _group(label: str, runs: Sequence[RunRecord]) -> Group:
    group: Group = {}
    for run in runs:
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
