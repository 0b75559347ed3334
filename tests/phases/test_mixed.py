"""Mixed rounds: against both parts done by hand, against each part alone, and everything that can be wrong."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import zowarmup
from zowarmup import recipes
from zowarmup.directions.philox import bits
from zowarmup.errors import RecipeError
from zowarmup.loop import local
from zowarmup.plan import plan
from zowarmup.protocol import Slopes, SlopesRequest, Weights

HIGH = "[phase.high]\nlr = 0.1\nbatch = 16\n"
LOW = '[phase.low]\nlr = 0.02\ndirections = 2\npool = "shared"\nbatch = 8\n'
MIXED = f'kind = "mixed"\nrounds = 3\n{HIGH}{LOW}'
MEMORY = {"phase.1.high.server": "fedadam", "phase.1.high.server-lr": 0.02, "phase.1.low.step": "rms"}
UNEQUAL = {"kind": "dirichlet-by-class", "alpha": 0.5}


def answers(experiment, phase, number, state):
    requests = phase.plan(number, state)
    return requests, list(local(experiment).reports(phase, requests, state))


def test_the_new_weights_are_both_steps_by_their_share_of_the_samples(short):
    experiment, found = short.run(short.recipe(MIXED, data__partition=UNEQUAL))
    phase, state = experiment.phases[1], found[2].state
    requests, reports = answers(experiment, phase, 3, state)
    n, before = experiment.federation.sizes, state.weights.double().numpy()
    high, low = (experiment.federation.members(tier) for tier in ("high", "low"))
    assert [request.client for request in requests] == list(range(20))
    total, trained, probed = int(n.sum()), int(n[list(high)].sum()), int(n[list(low)].sum())
    mean = sum(n[i] * reports[i].weights.astype(np.float64) for i in high) / trained
    slopes = sum(n[i] * reports[i].slopes.astype(np.float64) for i in low) / probed
    seed = next(request.seed for request in requests if isinstance(request, SlopesRequest))
    step = np.zeros_like(before)
    for k, slope in enumerate(slopes):
        for place in experiment.model.table.segments:
            signs = np.where(bits(seed, k, place.base, place.size), -1.0, 1.0)
            step[place.offset : place.offset + place.size] -= 0.02 * 0.75 * slope / 2 * signs
    expected = before + trained / total * (mean - before) + probed / total * step
    # Each part's own result is rounded to fp32 before the two are put together, and the sum is rounded once.
    np.testing.assert_allclose(found[3].state.weights.numpy(), expected, rtol=0, atol=2 * 2**-24)
    assert found[3].entry.participants == tuple(range(20))


@pytest.mark.parametrize("tier", ["high", "low"])
def test_a_cohort_of_one_tier_does_that_tiers_round(short, tier):
    experiment, found = short.run(short.recipe(MIXED))
    phase, state = experiment.phases[1], found[2].state
    alone = phase.high if tier == "high" else phase.low
    _, reports = answers(experiment, phase, 3, state)
    reports = [report for report in reports if report.client in experiment.federation.members(tier)]
    mixed, blobs = phase.close(3, reports, state)
    entry, own = alone.close(3, reports, state)
    expected, ours = alone.apply(entry, own, state), phase.apply(mixed, blobs, state)
    assert torch.equal(ours.weights, expected.weights)
    assert mixed.participants == entry.participants == experiment.federation.members(tier)


def test_the_cohort_is_sampled_from_everybody(short):
    experiment, found = short.run(short.recipe(MIXED, **{"phase.1.cohort": 6, "phase.1.rounds": 6}))
    phase = experiment.phases[1]
    cohorts = [phase.scope.cohort(number, phase.settings) for number in range(3, 9)]
    assert [list(each.entry.participants) for each in found[3:]] == [list(cohort) for cohort in cohorts]
    mixtures = {len(phase.scope.high.intersection(cohort)) for cohort in cohorts}
    assert len(mixtures) > 1


def test_nobody_that_counts_leaves_everything_as_it_was(short):
    experiment, found = short.run(short.recipe(MIXED, **MEMORY))
    phase, state = experiment.phases[1], found[3].state
    entry, blobs = phase.close(4, [], state)
    after = phase.apply(entry, blobs, state)
    assert after.digest() == state.digest() and after.phase.keys() == state.phase.keys()
    assert all(torch.equal(after.phase[name], state.phase[name]) for name in state.phase)


def test_each_part_remembers_its_own_in_float64(short):
    experiment, found = short.run(short.recipe(MIXED, **MEMORY))
    assert [sorted(each.state.phase) for each in found[2:]] == [[]] + 3 * [["high.m", "high.v", "low.v"]]
    phase = experiment.phases[1]
    _, reports = answers(experiment, phase, 3, found[2].state)
    low = [report for report in reports if isinstance(report, Slopes)]
    entry, _ = phase.low.close(3, low, found[2].state)
    assert found[3].state.phase["low.v"].item() == entry.state["v"]
    assert found[3].state.phase["low.v"].dtype == torch.float64


@pytest.mark.parametrize("more", [MEMORY, {"run.snapshot-every": 3}], ids=["memory", "few snapshots"])
def test_a_run_with_mixed_rounds_is_resumed_and_proved(short, kept, more):
    kept(short.recipe(MIXED, **{"phase.1.cohort": 12, "phase.1.rounds": 5, **more}), 4, 6)


def test_bytes_are_those_of_models_and_slopes_and_of_the_plan(short):
    made = short.recipe(MIXED)
    trained, planned = zowarmup.run(made), plan(made)
    model = 4 * 2410
    # Two warm-up rounds and three mixed ones; what high-resource clients trained is a model that all others fetch.
    assert trained.summary["bytes"]["uplink"] == {"high": 4 * 5 * model, "low": 16 * 3 * 8}
    assert trained.summary["bytes"]["downlink"]["low"] == 16 * 3 * (model + 16)
    assert trained.metrics[-1]["backward_samples"] == {"high": 5 * 240, "low": 0}
    assert trained.metrics[-1]["forward_samples"]["low"] == 16 * 3 * 4 * 8
    assert planned.uplink_bytes == trained.summary["bytes"]["uplink"]
    assert planned.downlink_bytes == trained.summary["bytes"]["downlink"]


def test_a_plan_knows_a_tier_that_the_first_round_did_not_sample(short):
    for seed in range(8):
        made = short.recipe(MIXED, seed=seed, **{"phase.1.cohort": 2, "phase.1.rounds": 12})
        experiment, found = short.run(made)
        if not experiment.phases[1].scope.high.intersection(found[3].entry.participants):
            break
    planned = plan(made)
    assert found[-1].traffic.uplink == planned.uplink_bytes
    assert found[-1].traffic.backward["high"] == sum(phase.backward_samples["high"] for phase in planned.phases)


def test_the_parts_have_their_own_schedules_and_metrics_show_the_high_ones(short):
    made = short.recipe(MIXED, **{"phase.1.high.schedule": "cosine", "phase.1.low.schedule-rounds": 9})
    settings = made.phase[1]
    assert [round(settings.lr_at(index), 4) for index in range(3)] == [0.1, 0.075, 0.025]
    assert settings.zeroth_order.lr_at(2) == 0.02
    lines = zowarmup.run(made).metrics
    assert [line["lr"] for line in lines[3:]] == [settings.lr_at(index) for index in range(3)]
    assert {line["kind"] for line in lines[3:]} == {"mixed"}


def test_a_value_of_a_part_can_be_set_by_its_path(short):
    made = recipes.parse(
        recipes.to_toml(short.recipe(MIXED)), overrides=["phase.1.high.lr=0.3", "phase.1.low.eps=1e-3"]
    )
    assert (made.phase[1].high.lr, made.phase[1].low.eps) == (0.3, 1e-3)


def test_frozen_parameters_of_a_part_keep_its_hands_off(short):
    frozen = {"phase.1.high.freeze": ["head"], "phase.1.low.freeze": ["head"]}
    experiment, found = short.run(short.recipe(MIXED, **frozen))
    place = experiment.model.table.place("3.weight")
    assert torch.equal(found[2].state.weights[place], found[-1].state.weights[place])
    assert not torch.equal(found[2].state.weights, found[-1].state.weights)


def test_more_rounds_keep_the_schedules_of_both_parts(short, tmp_path):
    cosines = {f"phase.1.{part}.schedule": "cosine" for part in ("high", "low")}
    longer = {f"phase.1.{part}.schedule-rounds": 8 for part in ("high", "low")}
    zowarmup.run(short.recipe(MIXED, **cosines, **longer), out=tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    extended = zowarmup.resume(tmp_path / "a", rounds="+2").summary
    whole = zowarmup.run(short.recipe(MIXED, **cosines, **longer, **{"phase.1.rounds": 5})).summary
    assert extended["state_digest"] == whole["state_digest"]
    with pytest.raises(RecipeError, match="phase 1 has a cosine schedule over 8 rounds"):
        zowarmup.resume(tmp_path / "b", rounds="+6")


# What can be wrong.


def test_reports_of_the_other_tiers_kind_are_refused(short):
    experiment, found = short.run(short.recipe(MIXED))
    phase, state = experiment.phases[1], found[2].state
    _, reports = answers(experiment, phase, 3, state)
    high, low = (experiment.federation.members(tier)[0] for tier in ("high", "low"))
    own = {"round": 3, "phase": 1}
    reports[high] = Slopes(client=high, slopes=np.zeros(2, np.float32), **own)
    reports[low] = Weights(client=low, weights=state.weights.numpy(), **own)
    stranger = Slopes(client=99, slopes=np.zeros(2, np.float32), **own)
    entry, _ = phase.close(3, [*reports, stranger], state)
    assert entry.refused == dict(
        sorted(
            {high: "sent Slopes, expected Weights", low: "sent Weights, expected Slopes", 99: "was not asked"}.items()
        )
    )
    assert entry.participants == tuple(i for i in range(20) if i not in (high, low))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_both_tiers_are_needed(short, share):
    values = {"phase.0.tier": "all", "data.high-resource": share}
    with pytest.raises(RecipeError, match=r'phase 1: kind = "mixed" needs clients of both tiers, but (0|20) of 20 are'):
        short.run(short.recipe(MIXED, **values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MIXED.replace(LOW, ""), r"Object missing required field `low` - at `\$.phase\[1\]`"),
        (MIXED.replace("lr = 0.1\n", ""), r"Object missing required field `lr` - at `\$.phase\[1\].high`"),
        (MIXED + "rounds = 2\n", r"unknown field `rounds` - at `\$.phase\[1\].low`"),
        (f'kind = "mixed"\nrounds = 3\n{HIGH}average-last = 2\n{LOW}', r"`average-last` - at `\$.phase\[1\].high`"),
        (MIXED + "momentum = 0.9\n", r"unknown field `momentum` - at `\$.phase\[1\].low`"),
        (
            MIXED.replace('"shared"', "1"),
            r"`pool` is 1, smaller than `directions`, which is 2 - at `\$.phase\[1\].low`",
        ),
        (MIXED + 'freeze = ["nothing.*"]\n', r'freeze = "nothing\.\*" fits no parameter'),
        (MIXED.replace("rounds = 3", "rounds = 3\ncohort = 21"), 'cohort = 21, but tier = "all" has 20 clients'),
    ],
)
def test_a_recipe_that_cannot_be(short, text, message):
    with pytest.raises(RecipeError, match=message):
        short.run(short.recipe(text))
