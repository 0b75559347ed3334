"""Short runs on the digits: two first-order rounds, then the phases that a test is about."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

import zowarmup
from zowarmup import recipes
from zowarmup.experiment import prepare
from zowarmup.loop import local, rounds
from zowarmup.recipe import Recipe

FIRST = '[[phase]]\nkind = "first-order"\ntier = "high"\nrounds = 2\nlr = 0.1\nbatch = 16\n'


def _recipe(*phases: str, **overrides) -> Recipe:
    text = recipes.to_toml(recipes.load("digits"))
    made = text[: text.index("[[phase]]")] + FIRST + "".join(f"[[phase]]\n{phase}\n" for phase in phases)
    return recipes.parse(made, overrides={key.replace("__", "."): value for key, value in overrides.items()})


def _run(made: Recipe):
    experiment = prepare(made, device="cpu")
    return experiment, list(rounds(experiment, local(experiment)))


@pytest.fixture
def short() -> SimpleNamespace:
    """``recipe``: the digits recipe with other phases; ``run``: every round of it."""
    return SimpleNamespace(recipe=_recipe, run=_run)


@pytest.fixture
def kept(tmp_path) -> Callable[..., None]:
    """Holds a recipe to what a ledger promises: it is proved, and killed and resumed it gives the same chain."""

    def hold(made: Recipe, *stops: int) -> None:
        whole = zowarmup.run(made, out=tmp_path / "a")
        assert zowarmup.verify(tmp_path / "a").holds

        def stop(progress):
            if progress.round in stops:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            zowarmup.run(made, out=tmp_path / "b", callbacks=[stop])
        for _ in stops[1:]:
            with pytest.raises(KeyboardInterrupt):
                zowarmup.resume(tmp_path / "b", callbacks=[stop])
        assert zowarmup.resume(tmp_path / "b").summary["chain"] == whole.summary["chain"]
        assert zowarmup.diff(tmp_path / "a", tmp_path / "b").identical
        assert zowarmup.verify(tmp_path / "b").holds

    return hold
