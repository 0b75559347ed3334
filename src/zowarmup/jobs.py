"""One run of a comparison: what is in its folder already, and which other run it may begin with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from zowarmup import chain, recipes, writers
from zowarmup.errors import LedgerError, OutputError, RecipeError
from zowarmup.ledger import NAME as LEDGER
from zowarmup.ledger import Ledger
from zowarmup.recipe import Recipe
from zowarmup.rundir import METRICS, RECIPE, REPORT, SUMMARY, check

Start = Literal["begin", "replace", "resume", "finished"]
_ALWAYS_ANOTHER = {"name", "method", "versions"}


@dataclass(frozen=True, eq=False)
class Job:
    """One run to do.

    Args:
        recipe: with its seed.
        seed: the recipe's.
        out: the run directory.
        label: what people call it, without the seed; the recipe's name where left out.
        start: what to do about the folder: ``"finished"`` is nothing at all.
        changes: for ``"resume"``, recipe values that change no bit.
        after: a run that shares this one's beginning, and goes first.
        shares: how many rounds that beginning has.
    """

    recipe: Recipe
    seed: int
    out: Path
    label: str = ""
    start: Start = "begin"
    changes: Mapping[str, Any] = field(default_factory=dict)
    after: Job | None = None
    shares: int = 0

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.label or self.recipe.name}, seed {self.seed}"


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Args:
        start: what is left to do.
        changes: recipe values that change no bit and are other ones now.
        versions: what its last rounds were made with; empty where there are none.
    """

    start: Start
    changes: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def look(recipe: Recipe, folder: Path, *, force: bool = False, aside: Iterable[str] = ()) -> Found:
    """What a folder holds of the run of a recipe; nothing is written.

    Args:
        recipe: of the run, with its seed.
        folder: its run directory.
        force: a run of another recipe, or other files, may be replaced.
        aside: keys that may differ.

    Raises:
        OutputError: the folder holds another run (the message names the key), is being written, or cannot be used.
        LedgerError: its ledger is damaged.
    """
    if not (folder / LEDGER).is_file():
        check(folder, force=force)
        return Found("replace" if force else "begin")
    try:
        with Ledger.open(folder) as ledger:
            return _found(ledger, recipe, folder, set(aside))
    except (OutputError, LedgerError):
        if force and not writers.held(folder):
            return Found("replace")
        raise


def in_order(jobs: Sequence[Job], before: Sequence[Job] = ()) -> list[Job]:
    """The jobs, each with the job before it that shares most of its rounds.

    Runs share the rounds of their first phases as long as data, model, run settings, seed and these phases are the
    same. A run that has rounds already waits for none.

    Args:
        jobs: in the order to do them.
        before: jobs done earlier.
    """
    placed = list(before)
    tables = {job: recipes.table(job.recipe) for job in before}
    for job in jobs:
        table = recipes.table(job.recipe)
        shared = {other: chain.shared(tables[other], table) for other in placed if job.start != "resume"}
        first = max(shared, key=lambda other: shared[other], default=None)
        if first is not None and shared[first]:
            job = replace(job, after=first, shares=shared[first])
        placed.append(job)
        tables[job] = table
    return placed[len(before) :]


def _found(ledger: Ledger, recipe: Recipe, folder: Path, aside: Set[str]) -> Found:
    differ = _differ(ledger, recipe)
    others = [key for key in differ if not any(key == each or key.startswith(f"{each}.") for each in aside)]
    versions = (ledger.sessions() or [{}])[-1].get("versions", {})
    if not others and ledger.last >= recipe.rounds and _complete(folder):
        return Found("finished", versions=versions)
    if (writer := writers.writer(folder, ledger)) is not None:
        raise OutputError(f"{folder}: is being written by {writers.in_words(writer)}", hint="wait, or stop it")
    if others:
        raise OutputError(
            f"{folder}: holds a run of another recipe: {_difference(others[0], differ)}",
            hint="choose another --out, or --force to replace such runs; those of the same recipe are kept",
            path=folder,
        )
    return Found("resume", _changes(ledger, recipe), versions)


def _differ(ledger: Ledger, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Keys that bits depend on, where the folder's run has another value than the recipe: path -> (there, here)."""
    try:
        recorded = recipes.parse(ledger.head.recipe, name=str(ledger.path))  # keys that came later get their defaults
    except RecipeError as error:
        return {"recipe": (error.message, "one that this version reads")}
    identities = [chain.identity(recipes.table(each)) for each in (recorded, recipe)]
    differ = dict(chain.unlike(*map(json.loads, identities)))
    rounds = recorded.phase[-1].rounds, recipe.phase[-1].rounds  # no part of the identity: a run may be extended
    if not differ and rounds[0] != rounds[1]:
        differ[f"phase.{len(recipe.phase) - 1}.rounds"] = rounds
    return differ


def _difference(key: str, differ: Mapping[str, tuple[Any, Any]]) -> str:
    there, here = (json.dumps(value) for value in differ[key])
    short = len(there) + len(here) < 100
    return f"{key} is {there}, expected {here}" if short else f"{key} differs"


def _changes(ledger: Ledger, recipe: Recipe) -> dict[str, Any]:
    recorded = recipes.parse(ledger.head.recipe)
    pairs = chain.unlike(recipes.table(recorded), recipes.table(recipe))
    return {key: here for key, (_, here) in pairs if key not in _ALWAYS_ANOTHER and here is not None}


def _complete(folder: Path) -> bool:
    """Whether everything that is made from the ledger is there; resuming makes what is not."""
    return all((folder / name).is_file() for name in (RECIPE, METRICS, SUMMARY, REPORT))
