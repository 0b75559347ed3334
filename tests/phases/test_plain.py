"""The engine gives the bits of the plain loops, for exact slopes, local steps and a pool that is fixed over the run."""

import pytest
import torch

import zowarmup
from zowarmup import recipes
from zowarmup.errors import ModelError
from zowarmup.experiment import arithmetic
from zowarmup.state import State

from .plain import train

SETTINGS = {"phase.0.rounds": 2, "phase.0.step": "plain", "data.clients": 3, "data.take": 120, "run.micro-batch": 8}
CASES = {
    "differences": {"phase.0.pool": 9},
    "exact, shared": {"phase.0.difference": "exact", "phase.0.directions": 7},
    "exact, distinct": {"phase.0.difference": "exact", "phase.0.pool": "distinct"},
    "exact, a whole pool": {"phase.0.difference": "exact", "phase.0.pool": 11, "phase.0.batch": "all"},
    "exact for the high tier": {"phase.0.high-difference": "exact", "phase.0.pool": 11, "data.high-resource": [1]},
    "differences for the high tier": {"phase.0.difference": "exact", "phase.0.high-difference": "two-sided"},
    "decomfl": {"phase.0.local-steps": 3, "phase.0.schedule": "constant"},
    "local steps, distinct, another rate": {
        "phase.0.local-steps": 2,
        "phase.0.local-lr": 0.3,
        "phase.0.pool": "distinct",
        "phase.0.difference": "two-sided",
    },
    "local steps, exact": {"phase.0.local-steps": 2, "phase.0.difference": "exact", "phase.0.pool": 5},
    "fedkseed, slopes": {
        "phase.0.local-steps": 4,
        "phase.0.directions": 1,
        "phase.0.pool": 6,
        "phase.0.pool-seed": "run",
        "phase.0.difference": "two-sided",
    },
    "fedkseed, sums": {
        "phase.0.local-steps": 9,
        "phase.0.directions": 1,
        "phase.0.pool": 6,
        "phase.0.pool-seed": "run",
        "phase.0.difference": "two-sided",
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_engine_gives_the_bits_of_plain_loops(case):
    recipe = recipes.load("digits-zo-scratch", overrides=SETTINGS | CASES[case])
    with arithmetic(recipe, torch.device("cpu")):
        expected = State(train(recipe)).digest()
    summary = zowarmup.run(recipe).summary
    assert summary["refused"] == 0
    assert summary["state_digest"] == expected


@pytest.mark.parametrize("case", ["exact for the high tier", "fedkseed, sums"])
def test_a_ledger_replays_and_verifies(case, tmp_path):
    recipe = recipes.load("digits-zo-scratch", overrides=SETTINGS | CASES[case])
    zowarmup.run(recipe, out=tmp_path / "run")
    proof = zowarmup.verify(tmp_path / "run")
    assert proof.holds
    assert proof.replayed == 2


def test_a_model_that_cannot_run_backprop_is_refused_before_round_1():
    class Detached(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    recipe = recipes.load("digits-zo-scratch", overrides=SETTINGS | {"phase.0.high-difference": "exact"})
    with pytest.raises(ModelError, match="backprop can follow"):
        zowarmup.run(recipe, model=Detached(64, 10))
    plain = recipes.load("digits-zo-scratch", overrides=SETTINGS)
    assert zowarmup.run(plain, model=Detached(64, 10)).summary["status"] == "finished"
