"""A recipe over nodes, in one process: beginning, going on, refusing, nodes with data of their own, and the status."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import zowarmup
from zowarmup import recipes
from zowarmup.engines.rounds import Patience
from zowarmup.engines.workshop import Materials
from zowarmup.errors import DataError, OutputError, QuorumError, UsageError
from zowarmup.recipe import Recipe
from zowarmup.serving import Serving, from_config, serve

sys.path.insert(0, str(Path(__file__).parent / "engines"))

from fleet import Fleet, at_work, short

QUICK = Patience(deadline_seconds=2.0, give_up_seconds=4.0, join_seconds=4.0)


def served(fleet: Fleet, out: Path, **more: object) -> zowarmup.Trained:
    return serve(Serving(recipe=fleet.recipe, out=out, patience=QUICK, device="cpu", **more), fleet.lists)


def everybody(folder: Path, recipe: Recipe) -> Fleet:
    return Fleet(folder / "nodes", recipe).everybody()


def test_it_runs_to_the_local_engines_chain_and_says_so(tmp_path: Path) -> None:
    recipe = short()
    trained = served(everybody(tmp_path, recipe), tmp_path / "run")
    assert trained.summary["chain"] == zowarmup.run(recipe, device="cpu").summary["chain"]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["round"], status["rounds"]) == ("finished", recipe.rounds, recipe.rounds)
    assert status["accuracy"] == pytest.approx(trained.summary["final"]["accuracy"])
    low = [client["bytes"]["1 zeroth-order"] for client in status["clients"].values() if client["tier"] == "low"]
    assert low and all(count["payload_up"] == 4 * 3 * recipe.phase[1].rounds for count in low)


def test_nodes_hear_that_it_is_over(tmp_path: Path) -> None:
    fleet = everybody(tmp_path, short())
    served(fleet, tmp_path / "run")
    assert all(node.over for node in fleet.lists.fleet.values())


def test_without_nodes_it_stops_and_the_same_call_goes_on(tmp_path: Path) -> None:
    recipe, out = short(), tmp_path / "run"
    with pytest.raises(QuorumError, match="0 of 4 nodes have come in 4 seconds"):
        served(Fleet(tmp_path / "none", recipe), out)
    trained = served(everybody(tmp_path, recipe), out)
    assert trained.summary["chain"] == zowarmup.run(recipe, device="cpu").summary["chain"]


def test_a_run_of_another_recipe_stays_as_it_is(tmp_path: Path) -> None:
    served(everybody(tmp_path, short()), tmp_path / "run")
    with pytest.raises(OutputError, match=r"holds a run of another recipe: seed is 0, expected 1"):
        served(everybody(tmp_path, short(seed=1)), tmp_path / "run")
    assert zowarmup.load(tmp_path / "run").summary["rounds"] == 5


def own() -> Recipe:
    values = {"data.clients": 3, "phase.0.rounds": 2, "phase.1.rounds": 3, "data.partition": {"kind": "own"}}
    return recipes.load("digits", overrides=values)


def bringing(folder: Path, recipe: Recipe, tiers: str = "high low low") -> Fleet:
    """Nodes with a third of the digits each."""
    train, fleet = zowarmup.data.digits().train, Fleet(folder / "nodes", recipe, apart=True)
    for client, tier in enumerate(tiers.split()):
        path = folder / f"own-{client}.npz"
        np.savez(path, x=train.x[client::3], y=train.y[client::3])
        fleet.join(100 + client, fleet.node(None, tier, f"own-{client}", materials=Materials(data=path, device="cpu")))
    return fleet


def test_nodes_bring_their_own_data_and_say_their_tier(tmp_path: Path) -> None:
    fleet, out = bringing(tmp_path, own()), tmp_path / "run"
    summary = served(fleet, out).summary
    assert summary["rounds"] == 5
    assert zowarmup.verify(out).holds
    status = json.loads((out / "status.json").read_text())
    assert [status["clients"][str(client)]["tier"] for client in range(3)] == ["high", "low", "low"]


def test_a_federation_with_its_own_data_goes_on(tmp_path: Path) -> None:
    recipe, out = own(), tmp_path / "run"
    whole = served(bringing(tmp_path, recipe), tmp_path / "whole").summary
    fleet = bringing(tmp_path, recipe)
    fleet.lists.change = lambda node, question: None if at_work(question) >= 4 else question
    with pytest.raises(QuorumError):
        served(fleet, out)
    fleet.lists.change = lambda node, question: question
    assert served(fleet, out).summary["chain"] == whole["chain"]


def test_in_one_process_there_are_no_nodes_to_bring_data() -> None:
    with pytest.raises(DataError, match="there are no nodes in one process"):
        zowarmup.run(own())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"recipe": "digits", "colour": 1}, "run configuration: unknown colour"),
        ({"quorum": 0.0}, "quorum is 0.0, expected more than 0"),
        ({"quorum": 0.9, "enough": 0.5}, "enough is 0.5, less than quorum"),
        ({"deadline-seconds": -1.0}, "deadline-seconds is -1.0, expected a number > 0"),
        ({"recipe": "digitz"}, "digitz"),
        ({"set": "phase.1.lrr=1"}, "unknown field `lrr`"),
    ],
)
def test_a_run_configuration_says_what_is_wrong(config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_config(config)


def test_a_run_configuration_becomes_what_is_served(tmp_path: Path) -> None:
    serving = from_config({"set": "seed=3 phase.1.lr=0.5", "out": str(tmp_path), "nodes": 2, "quorum": 0.25})
    assert (serving.recipe.seed, serving.recipe.phase[1].lr, serving.nodes) == (3, 0.5, 2)
    assert (serving.out, serving.patience.quorum, serving.force) == (tmp_path, 0.25, False)
