"""Rounds that a run need not run, because another run has them: two recipes with the same first phases begin alike.

Bits depend on the recipe's beginning alone, so methods that share a warm-up share its rounds, entries, states and
metrics; the links of the chain are made anew, as a chain begins with the whole recipe.
"""

from __future__ import annotations

import json
from pathlib import Path

from zowarmup import chain, recipes
from zowarmup.chain import unlike
from zowarmup.continuing import fit
from zowarmup.errors import ModelError, UsageError
from zowarmup.experiment import Experiment
from zowarmup.ledger import Ledger
from zowarmup.recipe import Recipe
from zowarmup.rundir import RunDirectory
from zowarmup.snapshots import Snapshots


def check(recipe: Recipe, folder: Path) -> int:
    """How many rounds of the run in ``folder`` a run of ``recipe`` can begin with.

    Raises:
        UsageError: none: a key differs, which is named, or the run has not come to the end of a phase they share.
        OutputError, LedgerError: no run directory, or a damaged one.
    """
    with Ledger.open(folder) as ledger:
        other = recipes.parse(ledger.head.recipe, name=str(ledger.path))
        a, b = recipes.table(recipe), recipes.table(other)
        if found := _within(recipe, chain.shared(a, b), ledger.last):
            return found
        keys = ", ".join(key for key, _ in unlike(*(json.loads(chain.beginning(each, 1)) for each in (a, b))))
        what = f"{keys} differ" if keys else f"it has {max(ledger.last, 0)} of the first phase's rounds"
        raise UsageError(
            f"{folder}: its rounds are no beginning of {recipe.name}: {what}",
            hint="a beginning is a run with the same seed, data, model, run settings and first phase",
        )


def adopt(directory: RunDirectory, experiment: Experiment, folder: Path) -> None:
    """Record the rounds that the run in ``folder`` has in common with one that has none yet.

    A killed process leaves some of them, which are a run's rounds like any others.

    Raises:
        UsageError, OutputError: see :func:`check`.
        LedgerError: a link of the other run does not hold, or a snapshot is damaged.
        ModelError, DataError: the other run had another model, first weights or data under the same recipe.
    """
    recipe, ledger = experiment.recipe, directory.ledger
    last = check(recipe, folder)
    with Ledger.open(folder) as other:
        other.check()
        fit(experiment, other.head, folder)
        if other.row(0).state.hex() != experiment.initial.digest():
            raise ModelError(f"{folder}: began with other weights than this run")
        snapshots, files = Snapshots(folder, other.head.table), other.files()
        ends = {first + phase.rounds - 1 for phase, first in zip(recipe.phase, recipe.first_rounds, strict=True)}
        for session in other.sessions():
            if (first := session.pop("first_round")) <= last:
                ledger.begin(session, first)
        for row in other.rows(0, last):
            add = []
            if row.round == 0 or row.round in ends:
                for digest in row.digests():
                    add.append(directory.snapshots.put(digest, snapshots.content(files[digest]), directory.disk))
            ledger.append(row.phase, row.entry, row.measured(), row.state.hex(), row.timed(), add=add)


def _within(recipe: Recipe, rounds: int, last: int) -> int:
    """The last end of a phase that is neither behind ``rounds`` nor behind ``last``."""
    ends = (first + phase.rounds - 1 for phase, first in zip(recipe.phase, recipe.first_rounds, strict=True))
    return max((end for end in ends if end <= min(rounds, last)), default=0)
