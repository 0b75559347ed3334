"""Going on with a run: what of its recipe may change, and whether model, data and machine are still its own."""

from __future__ import annotations

import json
import tomllib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from zowarmup import chain, recipes
from zowarmup.chain import shortened, unlike
from zowarmup.errors import DataError, ModelError, RecipeError, UsageError, ZOWarmUpWarning
from zowarmup.experiment import Experiment, data_digest
from zowarmup.ledger import Head as LedgerHead
from zowarmup.ledger import Ledger
from zowarmup.model import shapes
from zowarmup.recipe import Recipe
from zowarmup.state import State


def continued(ledger: Ledger, rounds: int | str | None, overrides: Mapping[str, Any] | Iterable[str]) -> str:
    """The ledger's recipe with more rounds, and with values that change no bit.

    Raises:
        RecipeError: a value changes bits, or the rounds are fewer than there are, or have no learning rate.
    """
    recorded = recipes.parse(ledger.head.recipe)
    text = ledger.head.recipe
    if rounds is not None:
        text = _extended(recorded, text, _total(rounds, recorded, ledger))
    text = recipes.edit(text, overrides, name="resume")
    recipe = recipes.parse(text)
    if (ours := chain.identity(tomllib.loads(text))) != ledger.head.identity:
        keys = ", ".join(key for key, _ in unlike(*map(json.loads, (ours, ledger.head.identity))))
        raise RecipeError(
            f"{ledger.path}: {keys} cannot be changed: it would be another run",
            hint="`zowarmup run` begins one; resume changes rounds, paths and how often to take snapshots",
        )
    _check_rounds(recipe, recorded, ledger)
    return text


def _total(rounds: int | str, recorded: Recipe, ledger: Ledger) -> int:
    """Rounds of the whole run, from a number or ``"+100"``."""
    try:
        number = int(str(rounds))
    except ValueError:
        raise UsageError(f"rounds = {rounds!r}, expected a number, or +100 for 100 more") from None
    if not str(rounds).strip().startswith("+"):
        return number
    if ledger.last < recorded.rounds:  # the same command again, as a rule, after an extension was interrupted
        raise UsageError(
            f"rounds = {rounds}: the run is at round {max(ledger.last, 0)} of {recorded.rounds}",
            hint=f"without --rounds it goes on to {recorded.rounds}; --rounds {recorded.rounds + number} is a total",
        )
    return recorded.rounds + number


def _extended(recipe: Recipe, text: str, total: int) -> str:
    """The recipe with another number of rounds in its last phase, and its schedule as it was."""
    last, index = recipe.phase[-1], len(recipe.phase) - 1
    own = last.rounds + total - recipe.rounds
    if own < 1:
        raise UsageError(f"rounds = {total}: the phases before the last one take {recipe.rounds - last.rounds}")
    values: dict[str, Any] = {f"phase.{index}.rounds": own}
    values |= {f"phase.{index}.{key}": horizon for key, horizon in last.horizons.items()}
    return recipes.edit(text, values)


def _check_rounds(recipe: Recipe, recorded: Recipe, ledger: Ledger) -> None:
    """Refuse fewer rounds than there are, and more than the schedule has a learning rate for."""
    if recipe.rounds >= 2**31:
        raise UsageError(f"rounds = {recipe.rounds}: expected less than 2**31")
    if recipe.rounds < max(ledger.last, 1):
        raise UsageError(f"rounds = {recipe.rounds}: the run has {ledger.last} rounds already")
    last, horizon = recipe.phase[-1], recipe.phase[-1].horizon
    if recipe.rounds != recorded.rounds and not last.extendable:
        raise UsageError(f"rounds = {recipe.rounds}: the last phase ({last.kind}) takes no other number of rounds")
    if recipe.rounds > recorded.rounds and horizon is not None and last.rounds > horizon:
        raise RecipeError(
            f"{ledger.path}: phase {len(recipe.phase) - 1} has a cosine schedule over {horizon} rounds: "
            f"its learning rate would be 0 from round {recipe.rounds - last.rounds + horizon + 1} on",
            hint="set schedule-rounds of a run that may be extended to all rounds it may ever get",
        )


def fit(experiment: Experiment, recorded: LedgerHead, path: Path) -> None:
    """Refuse another model, or other data, than the run's.

    Raises:
        ModelError, DataError: they differ.
    """
    if (table := experiment.model.table) != recorded.table:
        raise ModelError(f"{path}: the model is another one than the run's: {table.unlike(recorded.table)}")
    if (got := data_digest(experiment)) != recorded.data:
        constant = len(experiment.model.table.names) < len(list(experiment.model.module.parameters()))
        more = ", or parameters that are not trained," if constant else ""
        raise DataError(
            f"{path}: data, partition or tiers{more} are not those of the run: {{}}, expected {{}}".format(
                *shortened(got, recorded.data)
            ),
            hint="--set data.path=... says where the same data lie here",
        )


def fit_buffers(experiment: Experiment, state: State, path: Path) -> None:
    """Refuse a model whose buffers are not the run's.

    Raises:
        ModelError: names, shapes or types differ.
    """
    ours, theirs = shapes(experiment.initial.buffers), shapes(state.buffers)
    if ours != theirs:
        differ = ", ".join(sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)))
        raise ModelError(f"{path}: the model is another one than the run's: buffers {differ} differ")


def warn(ledger: Ledger, here: Mapping[str, Any]) -> None:
    """Say where rounds still to run may get other bits than they would have."""
    for before in ledger.sessions()[-1:]:
        pairs = [(key, before.get(key), here[key]) for key in ("device", "processor")]
        pairs += [(name, before.get("versions", {}).get(name), here["versions"][name]) for name in ("torch", "numpy")]
        differ = [f"{name} was {then}, is {now}" for name, then, now in pairs if then != now]
        if differ:
            warnings.warn(
                f"{'; '.join(differ)}: rounds still to run may differ in their last bits from those of a run that was "
                "not interrupted",
                ZOWarmUpWarning,
                stacklevel=4,
            )
