"""The zeroth-order phase: its algebra, restated by hand; what it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from zowarmup.directions import select
from zowarmup.errors import RecipeError
from zowarmup.phases import Scope, build
from zowarmup.protocol import Slopes, Weights
from zowarmup.recipe import ZerothOrder
from zowarmup.state import State
from zowarmup.table import Table

SIZES = (10, 20, 30, 40)


def phase(members=(0, 1, 3), high=(), **settings):
    scope = Scope(
        seed=5,
        phase=1,
        first_round=11,
        members=members,
        samples=SIZES,
        table=Table(("a", "b"), ((7,), (5000,))),
        directions=select("cpu"),
        micro_batch=64,
        high=frozenset(high),
    )
    return build(ZerothOrder(**{"rounds": 10, "lr": 0.5, "tau": 0.5, "directions": 2} | settings), scope)


def state():
    return State(torch.linspace(-1, 1, 5007))


def report(client, *slopes, round=11):
    return Slopes(round=round, phase=1, client=client, slopes=np.array(slopes, np.float32))


def step(entry):
    """What the entry adds along each direction."""
    return entry.coefficients * 2.0**-entry.exponent


def test_shared_directions_average_over_clients_by_their_samples():
    entry, blobs = phase(pool="shared").close(11, [report(0, 1, 2), report(1, 3, 4), report(3, 5, 6)], state())
    mean = np.array([10 * 1 + 20 * 3 + 40 * 5, 10 * 2 + 20 * 4 + 40 * 6]) / 70
    # The integers carry 30 bits of the sum: relative rounding of 2**-29 at most for two of like size.
    np.testing.assert_allclose(step(entry), -0.5 * 0.5 * mean / 2, rtol=2**-28)
    assert entry.participants == (0, 1, 3)
    assert blobs == {}


def test_distinct_directions_each_carry_their_client_alone():
    entry, _ = phase(pool="distinct").close(11, [report(0, 1, 2), report(1, 3, 4), report(3, 5, 6)], state())
    expected = np.array([10, 20, 60, 80, 200, 240]) / 70 / 2 * -0.25
    # Each integer is rounded by half a unit at most, and a unit is 2**-exponent.
    np.testing.assert_allclose(step(entry), expected, rtol=0, atol=2.0 ** -(entry.exponent + 1))


def test_a_pool_is_served_in_parts():
    made = phase(pool=5)
    requests = made.plan(11, state())
    streams = [made.pool.streams(11, request.client, request.rank)[0] for request in requests]
    entry, _ = made.close(11, [report(0, 1, 2), report(1, 3, 4), report(3, 5, 6)], state())
    expected = np.zeros(5)
    for n, served, slopes in zip((10, 20, 40), streams, ([1, 2], [3, 4], [5, 6]), strict=True):
        expected[served] += n * np.array(slopes)
    assert all(len(set(served)) == 2 for served in streams)
    np.testing.assert_allclose(step(entry), expected / 70 / 2 * -0.25, rtol=0, atol=2.0 ** -(entry.exponent + 1))


def test_the_streams_of_a_pool_depend_on_the_round():
    made = phase(pool=1000)
    assert not np.array_equal(made.pool.streams(11, 0, 0), made.pool.streams(12, 0, 0))


def test_the_rms_step_starts_at_its_first_value_and_decays():
    made = phase(pool="shared", step="rms", members=(0,))
    first, _ = made.close(11, [report(0, 3, 4)], state())
    square = (3 / 2) ** 2 + (4 / 2) ** 2
    assert first.state == {"v": square}
    np.testing.assert_allclose(step(first), -0.25 * np.array([1.5, 2]) / math.sqrt(square), rtol=2**-27)
    after = made.apply(first, {}, state())
    second, _ = made.close(12, [report(0, 1, 1, round=12)], after)
    assert second.state["v"] == 0.95 * square + (1.0 - 0.95) * 0.5


def test_the_learning_rate_follows_the_schedule_of_the_phase():
    made = phase(pool="shared", members=(0,), schedule="cosine")
    start, _ = made.close(11, [report(0, 1, 1)], state())
    middle, _ = made.close(16, [report(0, 1, 1, round=16)], state())
    np.testing.assert_allclose(step(middle), step(start) / 2, rtol=2**-27)


def test_apply_adds_the_sum_of_directions():
    made = phase(pool="shared", members=(0,))
    entry, _ = made.close(11, [report(0, 1, -2)], state())
    after = made.apply(entry, {}, state())
    expected = state().weights.double()
    for k, a in enumerate(step(entry)):
        z = torch.zeros(5007)
        for offset, size, base in made.scope.table.segments:
            part = z[offset : offset + size]
            select("cpu").perturb(part, part, base=base, seed=entry.seed, stream=k, c=1.0)
        expected += a * z.double()
    # fl32(sum) and the sum with the weights are rounded once each.
    torch.testing.assert_close(after.weights.double(), expected, rtol=0, atol=2**-23)


def test_an_update_and_its_negation_cancel_up_to_one_rounding():
    made = phase(pool="shared", members=(0,))
    there, _ = made.close(11, [report(0, 1, -2)], state())
    back, _ = made.close(11, [report(0, -1, 2)], state())
    after = made.apply(back, {}, made.apply(there, {}, state()))
    torch.testing.assert_close(after.weights, state().weights, rtol=0, atol=2**-23)


REFUSED = {
    "nan": (report(1, math.nan, 1), "non-finite slopes"),
    "infinite": (report(1, 1, math.inf), "non-finite slopes"),
    "too few": (report(1, 1), "slopes of shape (1,) and float32, expected (2,) and float32"),
    "wrong dtype": (
        Slopes(round=11, phase=1, client=1, slopes=np.zeros(2)),
        "slopes of shape (2,) and float64, expected (2,) and float32",
    ),
    "wrong message": (Weights(round=11, phase=1, client=1, weights=np.zeros(2, np.float32)), "sent Weights"),
    "another round": (report(1, 1, 1, round=10), "reported for round 10"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_report_is_refused_and_the_others_count(case):
    bad, reason = REFUSED[case]
    entry, _ = phase(pool="shared").close(11, [report(0, 1, 2), bad, report(3, 5, 6)], state())
    without, _ = phase(pool="shared").close(11, [report(0, 1, 2), report(3, 5, 6)], state())
    assert list(entry.refused) == [1]
    assert reason in entry.refused[1]
    assert entry.participants == (0, 3)
    assert np.array_equal(entry.coefficients, without.coefficients)


def test_a_client_that_was_not_asked_is_refused():
    entry, _ = phase(pool="shared").close(11, [report(0, 1, 2), report(2, 9, 9)], state())
    assert entry.refused == {2: "was not asked"}


def test_a_client_counts_once():
    entry, _ = phase(pool="shared").close(11, [report(0, 1, 2), report(0, 9, 9)], state())
    once, _ = phase(pool="shared").close(11, [report(0, 1, 2)], state())
    assert np.array_equal(entry.coefficients, once.coefficients)
    assert entry.refused == {}


@pytest.mark.parametrize("step", ["plain", "rms"])
def test_a_round_in_which_all_are_bad_leaves_the_model_as_it_was(step):
    made = phase(pool="shared", step=step)
    before = replace(state(), phase={"v": 2.0} if step == "rms" else {})
    entry, blobs = made.close(11, [report(client, math.nan, 1) for client in (0, 1, 3)], before)
    assert sorted(entry.refused) == [0, 1, 3]
    assert len(entry.coefficients) == 0
    after = made.apply(entry, blobs, before)
    assert torch.equal(after.weights, before.weights)
    assert dict(after.phase) == dict(before.phase)


def test_finite_slopes_whose_step_is_too_large_are_refused_together():
    entry, _ = phase(pool="shared", lr=1e10).close(11, [report(0, 3e38, 3e38), report(1, 3e38, 3e38)], state())
    assert len(entry.coefficients) == 0
    assert sorted(entry.refused) == [0, 1]
    assert "2**96" in entry.refused[0]


def test_a_round_nobody_answers_changes_nothing():
    entry, blobs = phase().close(11, [], state())
    assert entry.participants == ()
    before = state()
    after = phase().apply(entry, blobs, before)
    assert after.weights is before.weights
    assert after.phase == {}


def test_the_cohort_is_drawn_anew_each_round_from_the_tier():
    made = phase(cohort=2)
    cohorts = {tuple(request.client for request in made.plan(round, state())) for round in range(11, 21)}
    assert len(cohorts) == 3
    assert all(len(cohort) == 2 and set(cohort) <= {0, 1, 3} for cohort in cohorts)


def test_a_tier_without_clients_is_refused():
    with pytest.raises(RecipeError, match='phase 1: tier = "low" has no clients among 4'):
        phase(members=(), tier="low")


def test_a_cohort_larger_than_its_tier_is_refused():
    with pytest.raises(RecipeError, match='phase 1: cohort = 4, but tier = "all" has 3 clients'):
        phase(cohort=4)


def test_a_client_that_serves_the_whole_pool_weighs_as_much_as_its_samples():
    """The step stays the mean over clients of each client's mean over its directions."""
    made = phase(pool=4, high=(1,), high_difference="exact")
    requests = made.plan(11, state())
    reports = [report(0, 1, 2), report(1, 3, 4, 5, 6), report(3, 7, 8)]
    expected = np.zeros(4)
    for request, each, n in zip(requests, reports, (10, 20, 40), strict=True):
        streams = made.pool.streams(11, request.client, request.rank)[0]
        expected[streams] += n / 70 * each.slopes.astype(float) / len(streams)
    entry, _ = made.close(11, reports, state())
    np.testing.assert_allclose(step(entry), -0.25 * expected, rtol=0, atol=2.0 ** -(entry.exponent + 1))
    assert entry.refused == {}


def test_each_tier_is_held_to_what_it_was_asked():
    made = phase(pool=4, high=(1,), high_difference="exact")
    entry, _ = made.close(11, [report(0, 1, 2, 3, 4), report(1, 3, 4), report(3, 7, 8)], state())
    assert entry.refused == {
        0: "slopes of shape (4,) and float32, expected (2,) and float32",
        1: "slopes of shape (2,) and float32, expected (4,) and float32",
    }


def test_a_round_of_exact_slopes_of_a_linear_loss_is_a_gradient_step_in_the_mean():
    """With many directions, the mean of <g, z> z is g, so the step is close to -lr tau^2 g."""
    made = phase(pool=4096, members=(0,), difference="exact", lr=1.0, tau=1.0)
    gradient = torch.linspace(-1, 1, 5007)
    seeds = np.full(4096, made.pool.seed(11), np.uint64)
    where = {"segments": made.scope.table.segments, "seeds": seeds, "streams": np.arange(4096, dtype=np.uint32)}
    slopes = select("cpu").dots(gradient, **where)
    entry, _ = made.close(11, [report(0, *slopes)], state())
    moved = made.apply(entry, {}, state()).weights - state().weights
    # The projection on 4096 of 5007 random directions has a relative error of about sqrt(5007 / 4096) in each number,
    # which the inner product averages: 1 with a deviation of sqrt(2 / 4096), 0.02; five of those.
    assert float(-moved @ gradient) / float(gradient @ gradient) == pytest.approx(1.0, abs=0.11)


def test_passes_of_local_steps_and_of_exact_slopes():
    assert phase(local_steps=3, batch=4).passes(10, 0) == (3 * 4 * 4, 0)
    assert phase(difference="exact").passes(10, 0) == (10, 10)
    assert phase(difference="exact", local_steps=3, batch=4).passes(10, 0) == (12, 12)
    mixed = phase(high=(1,), high_difference="exact", difference="one-sided")
    assert (mixed.passes(10, 0), mixed.passes(10, 1)) == ((30, 0), (10, 10))


def test_passes_count_samples():
    assert phase().passes(10, 0).forward == 2 * 2 * 10
    assert phase(difference="one-sided", batch=4).passes(10, 0).forward == 3 * 4
    assert phase(batch=400).passes(10, 0).forward == 2 * 2 * 10
