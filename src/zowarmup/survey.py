"""What a comparison will do, worked out before anything runs: its grid, and what is left to do in every folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from zowarmup import grid, manifest, recipes, suites, tuning
from zowarmup.errors import UsageError, ZOWarmUpWarning
from zowarmup.grid import Cell, Grid
from zowarmup.jobs import Job, in_order, look
from zowarmup.recipe import Recipe
from zowarmup.report import Trial
from zowarmup.rundir import check
from zowarmup.suite import Suite, Tune

What = str | Path | Recipe | Suite | Sequence[str | Path | Recipe | Suite]
Scores = Mapping[Job, float | None]
"""What trials came to that have ended; None for one that failed."""
_VERSIONS = ("zowarmup", "torch", "numpy")


@dataclass(frozen=True)
class Run:
    """One run of a comparison, in its place.

    Args:
        cell: whose.
        job: to do, or done.
        values: the settings that are tried, or were chosen; None where they are not chosen yet.
    """

    cell: Cell
    job: Job
    values: Mapping[str, Any] | None


@dataclass(frozen=True)
class Survey:
    """What a comparison will do.

    Args:
        grid: everything that is run.
        out: the comparison's directory.
        force: whether runs of another recipe are replaced.
        trials: runs made to choose settings.
        runs: the others, seed by seed, so that early results cover every method.
        scores: of trials that are finished already.
    """

    grid: Grid
    out: Path
    force: bool
    trials: tuple[Run, ...]
    runs: tuple[Run, ...]
    scores: Scores

    @property
    def all(self) -> tuple[Run, ...]:
        """Trials and runs."""
        return self.trials + self.runs

    @property
    def finished(self) -> int:
        """How many are finished already."""
        return sum(run.job.start == "finished" for run in self.all)


def survey(
    what: What,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    tune: Mapping[str, Sequence[Any]] | None = None,
    tune_seeds: Sequence[int] | None = None,
    force: bool = False,
) -> Survey:
    """What :func:`zowarmup.compare` would do, with the same arguments; nothing is written.

    A warning says which runs were made by other versions.

    Raises:
        UsageError: something cannot be read, runs clash, tuning is not possible, or ``out`` cannot be used.
        LedgerError: a run in ``out`` is damaged.
    """
    found, default = _grid(what, seeds, overrides, tune, tune_seeds)
    folder = Path(out) if out is not None else default
    if folder is None:
        raise UsageError("no directory for the runs", hint="for instance --out runs/first")
    check(folder, force=force or (folder / manifest.NAME).is_file())
    looking = Looking(found, folder, force)
    trials = looking.trials()
    scores = {run.job: tuning.score(run.job.out) for run in trials if run.job.start == "finished"}
    planned = Survey(found, folder, force, trials, looking.runs(trials, scores), scores)
    looking.warn()
    return planned


def choice(cell: Cell, trials: Sequence[Run], scores: Scores) -> Mapping[str, Any] | None:
    """What tuning chooses for a cell; empty where nothing is tuned.

    Args:
        cell: of the grid.
        trials: of the survey.
        scores: of those that have ended.

    Returns:
        None where not all of them have, or nothing can be chosen.
    """
    if not cell.values:
        return {}
    mine = [run for run in trials if (run.cell.method, run.cell.split) == (cell.method, cell.judge)]
    return tuning.best([trial(run, scores) for run in mine]) if all(run.job in scores for run in mine) else None


def trial(run: Run, scores: Scores) -> Trial:
    """A trial and what it came to."""
    job = run.job
    return Trial(run.cell.method, run.cell.split, run.values or {}, job.seed, scores.get(job), job.out)


@dataclass
class Looking:
    """Looks at what folders hold, and remembers which versions made that.

    Args:
        grid: what is run.
        out: the comparison's directory.
        force: whether runs of another recipe are replaced.
    """

    grid: Grid
    out: Path
    force: bool
    _versions: list[Mapping[str, str]] = field(default_factory=list)

    def trials(self) -> tuple[Run, ...]:
        """Runs made to choose settings."""
        found = []
        for cell in self.grid.cells:
            for values in cell.values if cell.judge == cell.split else ():
                folder = self.out / grid.TRIALS / cell.folder / grid.trial_folder(values)
                label = f"{cell.label}, {grid.in_words(values)}"
                for seed in self.grid.trial_seeds:
                    found.append(Run(cell, self._job(cell, seed, values, folder, label), values))
        return ordered(found)

    def runs(self, trials: Sequence[Run], scores: Scores) -> tuple[Run, ...]:
        """The other runs, with what is chosen as far as trials have ended."""
        chosen = {cell.label: choice(cell, trials, scores) for cell in self.grid.cells}
        found = [self.run(cell, seed, chosen[cell.label]) for seed in self.grid.seeds for cell in self.grid.cells]
        settled = iter(ordered([run for run in found if run.values is not None], [run.job for run in trials]))
        return tuple(run if run.values is None else next(settled) for run in found)

    def run(self, cell: Cell, seed: int, values: Mapping[str, Any] | None) -> Run:
        """A run with settings that are chosen, or not yet."""
        return Run(cell, self._job(cell, seed, values, self.out / cell.folder, cell.label), values)

    def warn(self) -> None:
        """Say which versions made the runs that are kept, where they are other ones than now."""
        here = {name: metadata.version(name) for name in _VERSIONS}
        others: dict[str, int] = {}
        for there in self._versions:
            if text := ", ".join(f"{name} {there[name]}" for name in here if there.get(name, here[name]) != here[name]):
                others[text] = others.get(text, 0) + 1
        for text, count in others.items():
            now = ", ".join(f"{name} {version}" for name, version in here.items() if f"{name} " in text)
            runs = "1 run is" if count == 1 else f"{count} runs are"
            message = f"{self.out}: {runs} kept that {text} made; here it is {now}"
            warnings.warn(message, ZOWarmUpWarning, stacklevel=4)

    def _job(self, cell: Cell, seed: int, values: Mapping[str, Any] | None, folder: Path, label: str) -> Job:
        recipe, out = cell.filled(seed, values or {}), folder / f"seed-{seed}"
        open_keys = cell.values[0] if values is None else ()
        aside = [path for key in open_keys for path in recipes.paths(recipes.table(recipe), key)]
        found = look(recipe, out, force=self.force, aside=aside)
        start = found.start
        if values is None and start == "finished":
            start = "resume"  # whether it has what will be chosen is not known yet
        self._versions.append(found.versions)
        return Job(recipe, seed, out, label, start, found.changes)


def ordered(runs: Sequence[Run], before: Sequence[Job] = ()) -> tuple[Run, ...]:
    """The runs, each after the one whose beginning it shares; see :func:`zowarmup.jobs.in_order`."""
    jobs = in_order([run.job for run in runs], before)
    return tuple(replace(run, job=job) for run, job in zip(runs, jobs, strict=True))


def _grid(
    what: What,
    seeds: Sequence[int] | None,
    overrides: Mapping[str, Any] | Iterable[str],
    tune: Mapping[str, Sequence[Any]] | None,
    tune_seeds: Sequence[int] | None,
) -> tuple[Grid, Path | None]:
    """The grid, and where its runs go where nothing else is said."""
    given = (what,) if isinstance(what, str | Path | Recipe | Suite) else tuple(what)
    named, others = [], []
    for each in given:
        if isinstance(each, Suite) or (not isinstance(each, Recipe) and suites.is_suite(each)):
            named.append(each)
        else:
            others.append(each)
    if not named:
        return grid.of_recipes(others, seeds or (), overrides=overrides, tune=_tune(Tune(), tune, tune_seeds)), None
    first = named[0]
    if len(given) > 1:
        name = first.name if isinstance(first, Suite) else first
        raise UsageError(f"{name}: is a suite, which is compared by itself", hint="give it alone")
    suite, folder = (first, Path()) if isinstance(first, Suite) else (suites.load(first), Path(first).parent)
    if tune is not None:
        methods = tuple(msgspec.structs.replace(method, tune=None) for method in suite.method)
        suite = msgspec.structs.replace(suite, method=methods)
    suite = msgspec.structs.replace(suite, tune=_tune(suite.tune, tune, tune_seeds))
    return grid.of_suite(suite, folder=folder, seeds=seeds, overrides=overrides), Path("runs") / suite.name


def _tune(base: Tune, values: Mapping[str, Sequence[Any]] | None, seeds: Sequence[int] | None) -> Tune:
    """A suite's tuning with what the caller says in its place."""
    for key, given in (values or {}).items():
        if not given:
            raise UsageError(f"tune: {key} has no values to try")
    return Tune(
        values=base.values if values is None else {key: tuple(given) for key, given in values.items()},
        seeds=base.seeds if seeds is None else grid.checked_seeds(seeds),
        split=base.split,
    )
