"""Many runs side by side: every method at every split with every seed, in worker processes, and one table of them.

out/<method>/<split>/seed-<n>/                 a run directory each; no <split> where there are none
out/tune/<method>/<split>/<values>/seed-<n>/   runs made to choose settings
out/compare.html .csv .md, out/runs.csv        the finished runs, mean and standard deviation over seeds; one by one
out/compare.json                               which runs belong to it: see manifest.py

What is finished is kept: the same call again, with more seeds or methods, runs what is missing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zowarmup import manifest, report, tuning
from zowarmup.disk import Disk
from zowarmup.errors import OutputError, UsageError, ZOWarmUpError
from zowarmup.jobs import Job
from zowarmup.manifest import Comparison
from zowarmup.recipe import Recipe
from zowarmup.survey import Looking, Run, Survey, What, choice, ordered, survey, trial
from zowarmup.workers import Step, work

TABLE_CSV, RUNS_CSV, TABLE_MARKDOWN = "compare.csv", "runs.csv", "compare.md"

OnProgress = Callable[[Step], None]


def compare(
    what: What,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    tune: Mapping[str, Sequence[Any]] | None = None,
    tune_seeds: Sequence[int] | None = None,
    workers: int | None = None,
    device: str = "auto",
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Run every method at every split with every seed, and write what they come to.

    What ``out`` holds already is kept: finished runs are not run again, and one that was stopped or killed goes on.
    Workers are started with ``spawn``: a script that calls this needs ``if __name__ == "__main__":`` around it.

    Args:
        what: a suite, the name of a shipped one or a path; or recipes, names of shipped ones or paths, of which the
            first is what the others are compared with.
        seeds: run seeds, in the place of the suite's; differences are paired by seed.
        out: the comparison's directory; ``runs/NAME`` of a suite where left out.
        overrides: recipe values by path, for every recipe that is not passed as an object.
        tune: values to try by recipe key, for every method that has the key; in the place of all that the suite and its
            methods would try.
        tune_seeds: seeds of these trials; the first of ``seeds`` where left out.
        workers: processes, never more than runs; where left out, as many as this machine has cores for.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        force: replace runs of another recipe in ``out``.
        on_progress: called as runs begin, go on and end.

    Returns:
        The finished runs, their table, and what failed: a failed run does not stop the others.

    Raises:
        UsageError: something cannot be read, runs clash, tuning is not possible, or ``out`` cannot be used: nothing
            ran.
        LedgerError: a run in ``out`` is damaged; nothing ran.
        DiskError: the table could not be written; the runs are there.
        KeyboardInterrupt: passed on after workers have been stopped and what is finished has been written.
    """
    planned = survey(what, seeds, out, overrides=overrides, tune=tune, tune_seeds=tune_seeds, force=force)
    return carry_out(planned, workers=workers, device=device, on_progress=on_progress)


def carry_out(
    planned: Survey, *, workers: int | None = None, device: str = "auto", on_progress: OnProgress | None = None
) -> Comparison:
    """Do what a survey found to do: see :func:`compare`."""
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers}, expected at least 1")
    if device not in ("auto", "cpu"):  # which are everywhere, and torch takes a while to import
        from zowarmup.experiment import choose_device

        choose_device(device)
    count = workers or default_workers(run.job.recipe for run in planned.all)
    try:
        planned.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{planned.out}: cannot be written to: {error.strerror}", path=planned.out) from error
    state = _State(planned)
    manifest.write(state.comparison())
    try:
        for stage in state.stages():
            with contextlib.closing(work(stage, workers=count, device=device)) as steps:
                for step in steps:
                    if step.state != "running":
                        state.ended(step.job, step.error)
                        manifest.write(state.comparison())
                    if on_progress is not None:
                        on_progress(step)
    finally:
        manifest.write(state.comparison())
        comparison = read(planned.out)
        write_page(comparison)
    return comparison


def default_workers(recipes: Iterable[Recipe]) -> int:
    """How many runs fit on this machine's cores at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(recipe.run.threads for recipe in recipes))


def read(out: str | Path) -> Comparison:
    """The comparison in a directory, with its table; one that still goes on, as far as it has come.

    Raises:
        OutputError: not a comparison's directory, or a run of it is gone or damaged.
    """
    comparison = manifest.read(Path(out))
    return replace(comparison, rows=tuple(report.table(_grid(comparison)) if comparison.finished else ()))


def write_page(comparison: Comparison) -> None:
    """Write page and tables anew from the run directories; remove them where no run finished.

    Raises:
        DiskError: they could not be written.
    """
    disk, tables = Disk(), {name: comparison.out / name for name in (TABLE_CSV, RUNS_CSV, TABLE_MARKDOWN)}
    if not comparison.finished:
        for path in (*tables.values(), comparison.page):
            disk.unlink(path)
        return
    grid = _grid(comparison)
    disk.write(tables[TABLE_CSV], report.csv(comparison.rows).encode())
    disk.write(tables[RUNS_CSV], report.runs_csv(grid, root=comparison.out).encode())
    disk.write(tables[TABLE_MARKDOWN], report.markdown(comparison.rows).encode())
    report.compare(grid, comparison.page, title=comparison.name or None, trials=comparison.trials)


class _State:
    """How far a comparison has come.

    Args:
        planned: what there is to do.
    """

    def __init__(self, planned: Survey) -> None:
        self._planned = planned
        self._runs = list(planned.runs)
        self._trials = [run.job for run in planned.trials]
        self._done = {run.job for run in planned.all if run.job.start == "finished"}
        self._scores = dict(planned.scores)
        self._failed: dict[str, str] = {}

    def stages(self) -> Iterator[list[Job]]:
        """What can be done: trials, and runs that wait for none; then the others, with what the trials say."""
        settled = [run.job for run in self._runs if run.values is not None]
        yield self._todo([*self._trials, *settled])
        waiting = [run for run in self._runs if run.values is None]
        if waiting:
            chosen = ordered(self._chosen(waiting), [*self._trials, *settled])
            self._runs = [run for run in self._runs if run.values is not None] + list(chosen)
            self._done |= {run.job for run in chosen if run.job.start == "finished"}
            yield self._todo([run.job for run in chosen])

    def ended(self, job: Job, error: str | None) -> None:
        """Note how a job has ended."""
        if error is None:
            self._done.add(job)
        else:
            self._failed[job.name] = error
        if job in self._trials:
            self._scores[job] = tuning.score(job.out) if error is None else None

    def comparison(self) -> Comparison:
        """What there is, without its table."""
        grid, trials = self._planned.grid, self._planned.trials
        choices = {cell.label: choice(cell, trials, self._scores) or {} for cell in grid.cells}
        cells = []
        for split in dict.fromkeys(split for cell in grid.cells for split in cell.shown):
            for cell in grid.cells:
                if split in cell.shown:
                    jobs = [run.job for run in self._runs if run.cell is cell]
                    runs = tuple(job.out for job in jobs if job in self._done)
                    cells.append(report.Cell(cell.method, split, runs, choices[cell.label]))
        return Comparison(
            out=self._planned.out,
            name=grid.name,
            baseline=grid.baseline,
            cells=tuple(cells),
            failed=dict(self._failed),
            trials=tuple(trial(run, self._scores) for run in trials),
        )

    def _chosen(self, waiting: Sequence[Run]) -> list[Run]:
        """The runs that waited, with what was chosen; those for which nothing can be are noted as failed."""
        planned, found = self._planned, []
        looking = Looking(planned.grid, planned.out, planned.force)
        for run in waiting:
            values = choice(run.cell, planned.trials, self._scores)
            try:
                if values is None:
                    raise UsageError(f"no {', '.join(run.cell.values[0])} to choose: of every value a trial failed")
                found.append(looking.run(run.cell, run.job.seed, values))
            except ZOWarmUpError as error:
                self._failed[run.job.name] = str(error)
        return found

    def _todo(self, jobs: Iterable[Job]) -> list[Job]:
        return [job for job in jobs if job not in self._done]


def _grid(comparison: Comparison) -> report.Grid:
    return report.load_grid(comparison.finished, baseline=comparison.baseline)
