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
from zowarmup.experiment import Experiment
from zowarmup.ledger import Head, Ledger
from zowarmup.recipe import Recipe


def continued(ledger: Ledger, rounds: int | str | None, overrides: Mapping[str, Any] | Iterable[str]) -> str:
    """The ledger's recipe with more rounds, and with values that change no bit.

    Raises:
        RecipeError: a value changes bits, or the rounds are fewer than there are, or have no learning rate.
    """
    text = recipes.edit(ledger.head.recipe, overrides, name="resume")
    if rounds is not None:
        text = _extended(recipes.parse(text), text, _total(rounds, ledger), ledger)
    ours, theirs = (json.loads(each) for each in (chain.identity(tomllib.loads(text)), ledger.head.identity))
    if ours != theirs:
        keys = ", ".join(key for key, _ in unlike(ours, theirs))
        raise RecipeError(
            f"{ledger.path}: {keys} cannot be changed: it would be another run",
            hint="`zowarmup run` begins one; resume changes rounds, paths and how often to take snapshots",
        )
    return text


def _total(rounds: int | str, ledger: Ledger) -> int:
    """Rounds of the whole run, from a number or ``"+100"``."""
    planned = recipes.parse(ledger.head.recipe).rounds
    try:
        number = int(rounds)
    except ValueError:
        raise UsageError(f"rounds = {rounds!r}, expected a number, or +100 for 100 more") from None
    total = planned + number if str(rounds).strip().startswith("+") else number
    if total < max(ledger.last, 1):
        raise UsageError(f"rounds = {rounds}: the run has {ledger.last} rounds already")
    return total


def _extended(recipe: Recipe, text: str, total: int, ledger: Ledger) -> str:
    """The recipe with another number of rounds in its last phase."""
    last, index = recipe.phase[-1], len(recipe.phase) - 1
    own = last.rounds + total - recipe.rounds
    if own < 1:
        raise UsageError(f"rounds = {total}: the phases before the last one take {recipe.rounds - last.rounds}")
    horizon = last.schedule_rounds or last.rounds
    if last.schedule == "cosine" and own > horizon:
        raise RecipeError(
            f"{ledger.path}: phase {index} has a cosine schedule over {horizon} rounds: "
            f"its learning rate would be 0 from round {recipe.rounds - last.rounds + horizon + 1} on",
            hint="set schedule-rounds of a run that may be extended to all rounds it may ever get",
        )
    values: dict[str, Any] = {f"phase.{index}.rounds": own}
    if last.schedule == "cosine":
        values[f"phase.{index}.schedule-rounds"] = horizon
    return recipes.edit(text, values)


def fit(experiment: Experiment, recorded: Head, path: Path) -> None:
    """Refuse another model, or other data, than the run's.

    Raises:
        ModelError, DataError: they differ.
    """
    if (table := experiment.model.table) != recorded.table:
        raise ModelError(f"{path}: the model is another one than the run's: {table.unlike(recorded.table)}")
    if (got := experiment.federation.digest()) != recorded.data:
        raise DataError(
            f"{path}: data, partition or tiers are not those of the run: {{}}, expected {{}}".format(
                *shortened(got, recorded.data)
            ),
            hint="--set data.path=... says where the same data lie here",
        )


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
