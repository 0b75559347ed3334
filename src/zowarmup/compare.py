"""Many runs side by side: every recipe with every seed, in worker processes, and one table of what came of them.

out/<recipe>/seed-<n>/     a run directory each
out/compare.html .csv .md  the finished runs, mean and standard deviation over seeds, against the first recipe
out/compare.json           which runs belong to which recipe, so that `zowarmup report` can make the page again
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from zowarmup import recipes, report
from zowarmup.disk import Disk
from zowarmup.errors import OutputError, UsageError
from zowarmup.recipe import Recipe
from zowarmup.rundir import check
from zowarmup.workers import Job, Step, work

FORMAT = 1
MANIFEST, PAGE, TABLE_CSV, TABLE_MARKDOWN = "compare.json", "compare.html", "compare.csv", "compare.md"

OnProgress = Callable[[Step], None]


@dataclass(frozen=True)
class Comparison:
    """What came of the runs.

    Args:
        out: the comparison's directory.
        runs: recipe name -> directories of its finished runs, in the order of the seeds.
        failed: what went wrong, by the job's name (``"digits, seed 3"``).
        rows: the table, see :func:`zowarmup.report.table`; empty where no run finished.
    """

    out: Path
    runs: Mapping[str, tuple[Path, ...]]
    failed: Mapping[str, str] = field(default_factory=dict)
    rows: Sequence[dict[str, Any]] = ()

    @property
    def page(self) -> Path:
        """Where the page is."""
        return self.out / PAGE


def compare(
    recipes: Sequence[str | Path | Recipe],
    seeds: Sequence[int],
    out: str | Path,
    *,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    workers: int | None = None,
    device: str = "auto",
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Run each recipe with each seed, and write what they come to.

    Workers are started with ``spawn``: a script that calls this needs ``if __name__ == "__main__":`` around it.

    Args:
        recipes: recipes, names of shipped ones or paths; the first is what the others are compared with.
        seeds: run seeds; differences are paired by seed.
        out: the comparison's directory.
        overrides: recipe values by path, for every recipe given by name or path.
        workers: processes, never more than runs; where left out, as many as this machine has cores for.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        force: replace earlier runs in ``out``.
        on_progress: called as runs begin, go on and end.

    Returns:
        The finished runs, their table, and what failed: a failed run does not stop the others.

    Raises:
        UsageError: a recipe cannot be read, a recipe or seed is given twice, or ``out`` cannot be used; nothing ran.
        DiskError: the table could not be written; the runs are there.
        KeyboardInterrupt: passed on after workers have been stopped and what is finished has been written.
    """
    loaded = load(recipes, overrides)
    jobs = plan_jobs(loaded, seeds, Path(out))
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers}, expected at least 1")
    _prepare(Path(out), jobs, force=force)
    count = min(len(jobs), workers or default_workers(loaded))
    done: dict[Job, str | None] = {}  # None: finished; otherwise what went wrong
    try:
        with contextlib.closing(work(jobs, workers=count, device=device, force=force)) as steps:
            for step in steps:
                if step.state != "running":
                    done[step.job] = step.error
                if on_progress is not None:
                    on_progress(step)
    finally:
        comparison = _write(Path(out), jobs, done)
    return comparison


def load(given: Sequence[str | Path | Recipe], overrides: Mapping[str, Any] | Iterable[str] = ()) -> list[Recipe]:
    """The recipes, each of another name.

    Raises:
        UsageError: none is given, one cannot be read, or two have one name.
    """
    values = overrides if isinstance(overrides, Mapping) else tuple(overrides)
    loaded = [each if isinstance(each, Recipe) else recipes.load(each, overrides=values) for each in given]
    if not loaded:
        raise UsageError("no recipe to run", hint="`zowarmup recipes` lists the shipped ones")
    for name in (recipe.name for recipe in loaded):
        if sum(recipe.name == name for recipe in loaded) > 1:
            raise UsageError(f"{name}: two recipes of this name", hint="give each recipe once, and names of their own")
    return loaded


def plan_jobs(loaded: Sequence[Recipe], seeds: Sequence[int], out: Path) -> list[Job]:
    """A job for each recipe and seed, seed by seed, so that early results cover every recipe.

    Raises:
        UsageError: no seed, a seed twice or negative, or a name that is no folder below ``out``.
    """
    if not seeds:
        raise UsageError("no seeds", hint="for instance --seeds 0,1,2")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed}: expected 0 to 2**63 - 1")
        if list(seeds).count(seed) > 1:
            raise UsageError(
                f"seed {seed} is given twice", hint="each seed once: a second run would be the same, bit by bit"
            )
    return [
        Job(
            recipe=msgspec.structs.replace(recipe, seed=seed),
            seed=seed,
            out=out / recipe.name / f"seed-{seed}",
        )
        for seed in seeds
        for recipe in loaded
    ]


def default_workers(loaded: Sequence[Recipe]) -> int:
    """How many runs fit on this machine's cores at a time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(recipe.run.threads for recipe in loaded))


def read(out: str | Path) -> Comparison:
    """The comparison in a directory.

    Raises:
        OutputError: not a comparison's directory, or a run of it is gone or damaged.
    """
    out = Path(out)
    try:
        manifest = msgspec.json.decode((out / MANIFEST).read_bytes(), type=_Manifest)
    except OSError:
        raise OutputError(f"{out}: not a comparison: it has no {MANIFEST}", path=out) from None
    except msgspec.DecodeError as error:
        raise OutputError(f"{out / MANIFEST}: is damaged: {error}", path=out) from None
    if manifest.format != FORMAT:
        raise OutputError(f"{out / MANIFEST}: expected format {FORMAT}, got {manifest.format}", path=out)
    runs = {label: tuple(out / folder for folder in folders) for label, folders in manifest.runs.items()}
    return Comparison(out, runs, manifest.failed, report.table(runs) if runs else [])


def write_page(comparison: Comparison) -> None:
    """Write page and tables anew from the run directories; nothing where no run finished.

    Raises:
        DiskError: they could not be written.
    """
    if not comparison.runs:
        return
    disk = Disk()
    disk.write(comparison.out / TABLE_CSV, report.csv(comparison.rows).encode())
    disk.write(comparison.out / TABLE_MARKDOWN, report.markdown(comparison.rows).encode())
    report.compare(comparison.runs, comparison.page)


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    runs: dict[str, list[str]]
    failed: dict[str, str]


def _prepare(out: Path, jobs: Sequence[Job], *, force: bool) -> None:
    """Make the directory, or refuse it before anything runs."""
    check(out, force=force)
    for job in jobs:
        check(job.out, force=force)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in (MANIFEST, PAGE, TABLE_CSV, TABLE_MARKDOWN):
            (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written to: {error.strerror}", path=out) from error


def _write(out: Path, jobs: Sequence[Job], done: Mapping[Job, str | None]) -> Comparison:
    runs: dict[str, list[str]] = {}
    for job in jobs:
        if done.get(job, "") is None:
            runs.setdefault(job.recipe.name, []).append(job.out.relative_to(out).as_posix())
    order = [name for name in dict.fromkeys(job.recipe.name for job in jobs) if name in runs]
    failed = {job.name: error for job, error in done.items() if error is not None}
    manifest = _Manifest(format=FORMAT, runs={name: runs[name] for name in order}, failed=failed)
    Disk().write(out / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    comparison = read(out)
    write_page(comparison)
    return comparison
