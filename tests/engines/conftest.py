"""Federations in one process, held to what the in-process engine does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import zowarmup
from zowarmup.engines import workshop
from zowarmup.ledger import Ledger
from zowarmup.recipe import Recipe

from .fleet import Fleet, short


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Drawing the page takes longer than all else in so short a run; tests/report has tests of it. Nodes take the
    backend of large models, which is compiled already; `small` has them take that of small ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zowarmup.report.render", lambda record: "<html>")
        patch.setattr(workshop, "_FEW", 0)
        yield


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes take the backend of small models, as they do outside these tests."""
    monkeypatch.setattr(workshop, "_FEW", 2**20)


@pytest.fixture(scope="session")
def alone() -> Callable[[Recipe], dict[str, Any]]:
    """What the in-process engine makes of a recipe: the summary."""
    made: dict[str, dict[str, Any]] = {}

    def run(recipe: Recipe) -> dict[str, Any]:
        key = repr(recipe)
        if key not in made:
            made[key] = dict(zowarmup.run(recipe, device="cpu").summary)
        return made[key]

    return run


@pytest.fixture
def fleet(tmp_path: Path) -> Callable[..., Fleet]:
    """A server, and a node for each client of a recipe."""

    def make(recipe: Recipe, **more: Any) -> Fleet:
        return Fleet(tmp_path / "nodes", recipe, **more).everybody()

    return make


@pytest.fixture(scope="session")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """The ledger of a run of twelve rounds, of which the first two are first-order ones."""
    out = tmp_path_factory.mktemp("record") / "run"
    zowarmup.run(short(phase__1__rounds=10, run__keep_snapshots="all"), out=out, device="cpu")
    with Ledger.open(out) as ledger:
        yield ledger
