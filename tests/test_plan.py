"""The plan of a run against the run itself."""

from __future__ import annotations

import json

import pytest
import torch

from zowarmup.errors import RecipeError
from zowarmup.held import peak_bytes
from zowarmup.loop import run
from zowarmup.plan import plan

CASES = {
    "digits": {},
    "cohorts": {"phase.0.cohort": 2, "phase.1.cohort": 7, "phase.1.rounds": 12, "seed": 5},
    "distinct": {"phase.1.pool": "distinct", "phase.1.difference": "two-sided", "phase.1.batch": "all"},
    "pool": {"phase.1.pool": 40, "phase.1.cohort": 3, "phase.0.epochs": 2, "phase.0.batch": "all"},
    "tiers that differ": {"phase.1.high-difference": "exact", "phase.1.pool": 40, "phase.1.cohort": 2, "seed": 3},
    "sums of local steps": {
        "phase.1.step": "plain",
        "phase.1.local-steps": 5,
        "phase.1.pool": 9,
        "phase.1.pool-seed": "run",
    },
    "unequal": {"data.partition": {"kind": "quantity", "alpha": 5.0}, "phase.1.batch": 32},
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_bytes_and_passes_are_those_of_the_run(overrides) -> None:
    overrides = {"phase.0.rounds": 3, "phase.1.rounds": 4, **overrides}
    planned = plan("digits", overrides=overrides, device="cpu")
    ran = run("digits", overrides=overrides, device="cpu")
    assert {"uplink": planned.uplink_bytes, "downlink": planned.downlink_bytes} == ran.summary["bytes"]
    assert planned.fedavg_bytes == ran.summary["fedavg_bytes"]["uplink"]
    last = ran.metrics[-1]
    for name in ("forward_samples", "backward_samples"):
        of_phases = {tier: sum(getattr(phase, name)[tier] for phase in planned.phases) for tier in ("high", "low")}
        assert of_phases == last[name]
    assert (planned.parameters, planned.model_bytes) == (ran.summary["parameters"], 4 * ran.summary["parameters"])
    assert planned.seed == ran.summary["seed"]


def test_every_shipped_digits_recipe_has_a_plan_that_sums_up() -> None:
    for name in ("digits", "digits-high-res-only", "digits-zo-scratch", "digits-fedavg"):
        planned = plan(name, device="cpu")
        for total in ("uplink_bytes", "downlink_bytes", "fedavg_bytes"):
            phases = [getattr(phase, total) for phase in planned.phases]
            assert getattr(planned, total) == {tier: sum(each[tier] for each in phases) for tier in ("high", "low")}
        assert planned.seconds > 0
        assert planned.samples == {"high": 240, "low": 960}


def test_turns_are_clients_times_rounds() -> None:
    warmup, zeroth = plan("digits", device="cpu").phases
    assert (warmup.kind, warmup.rounds, warmup.cohort, warmup.turns) == ("first-order", 50, 4, {"high": 200, "low": 0})
    assert (zeroth.kind, zeroth.rounds, zeroth.cohort) == ("zeroth-order", 150, 20)
    assert zeroth.turns == {"high": 600, "low": 2400}
    assert zeroth.backward_samples == {"high": 0, "low": 0}


def test_backprop_holds_more_than_forward_passes() -> None:
    """A client that trains holds a copy of the weights, their gradient and activations; one that only looks, less."""
    planned = plan("digits", device="cpu")
    first_order, zeroth_order = planned.phases
    assert first_order.working_bytes["high"] >= 2 * planned.model_bytes
    assert 0 < zeroth_order.working_bytes["high"] < first_order.working_bytes["high"]
    assert zeroth_order.working_bytes["high"] == zeroth_order.working_bytes["low"]
    assert zeroth_order.held_bytes == {"high": planned.model_bytes, "low": planned.model_bytes}


def test_a_tier_that_is_not_asked_holds_nothing() -> None:
    warmup = plan("digits", device="cpu").phases[0]
    assert warmup.held_bytes["low"] == warmup.working_bytes["low"] == 0


def test_a_plan_is_plain_data() -> None:
    planned = plan("digits", device="cpu", seed=3)
    assert json.loads(json.dumps(planned.to_dict()))["seed"] == 3


def test_what_a_run_would_refuse_is_refused() -> None:
    with pytest.raises(RecipeError, match='cohort = 5, but tier = "high" has 4 clients'):
        plan("digits", overrides={"phase.0.cohort": 5})


def test_memory_is_the_most_held_at_a_time() -> None:
    """Known by hand, in fp32: 1000 + 1000 held, one given back before the third."""

    def work() -> None:
        a = torch.zeros(1000)
        b = a + 1
        del a
        (b * 2).view(10, 100).add_(1)

    assert peak_bytes(work, torch.device("cpu")) == 8000


def test_activations_kept_for_the_backward_pass_count() -> None:
    w = torch.ones(50, 50, requires_grad=True)
    x = torch.ones(100, 50)

    def forward() -> torch.Tensor:
        return torch.tanh(x @ w).sum()

    with torch.no_grad():
        without = peak_bytes(forward, torch.device("cpu"))
    kept = peak_bytes(lambda: forward().backward(), torch.device("cpu"))  # type: ignore[no-untyped-call]
    assert without == 2 * 100 * 50 * 4  # the product, and its tanh
    assert kept > without
