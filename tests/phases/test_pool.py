"""The pool: which directions a client serves, what it sends, and that folding undoes packing."""

from __future__ import annotations

import numpy as np
import pytest

from zowarmup.directions import select
from zowarmup.phases import Scope
from zowarmup.phases.pool import Pool
from zowarmup.recipe import ZerothOrder
from zowarmup.table import Table


def pool(seed=5, high=(1,), **settings):
    scope = Scope(
        seed=seed,
        phase=0,
        first_round=1,
        members=(0, 1, 2),
        samples=(10, 10, 10),
        table=Table(("a",), ((7,),)),
        directions=select("cpu"),
        micro_batch=64,
        high=frozenset(high),
    )
    return Pool(ZerothOrder(**{"rounds": 3, "lr": 0.5, "directions": 2} | settings), scope)


CASES = {
    "distinct": ({}, 6, [[[0, 1]], [[2, 3]], [[4, 5]]]),
    "shared": ({"pool": "shared"}, 2, [[[0, 1]], [[0, 1]], [[0, 1]]]),
    "distinct, steps": (
        {"local_steps": 2, "directions": 1},
        6,
        [[[0], [1]], [[2], [3]], [[4], [5]]],
    ),
    "shared, steps": ({"pool": "shared", "local_steps": 2}, 4, [[[0, 1], [2, 3]]] * 3),
    "exact, distinct": ({"difference": "exact"}, 6, [[[0, 1]], [[2, 3]], [[4, 5]]]),
    "exact": ({"difference": "exact", "pool": 4}, 4, [[[0, 1, 2, 3]]] * 3),
    "exact, steps": ({"difference": "exact", "pool": 3, "local_steps": 2}, 3, [[[0, 1, 2], [0, 1, 2]]] * 3),
}


@pytest.mark.parametrize("case", CASES)
def test_streams(case):
    settings, size, expected = CASES[case]
    made = pool(**settings)
    assert made.size(3) == size
    assert [made.streams(1, client, client).tolist() for client in range(3)] == expected


def test_one_step_of_a_pool_takes_different_directions_and_many_steps_repeat_some():
    (once,) = pool(pool=4, directions=3).streams(1, 0, 0)
    assert len(set(once.tolist())) == 3
    walk = pool(pool=4, directions=1, local_steps=200).streams(1, 0, 0)
    assert walk.shape == (200, 1)
    # Uniform: 50 each in the mean, with a deviation of 6.1; five of those.
    assert np.abs(np.bincount(walk.ravel(), minlength=4) - 50).max() < 31


def test_a_pool_of_the_run_keeps_its_seed_and_not_who_serves_what():
    of_round, of_run = pool(pool=100), pool(pool=100, pool_seed="run")
    assert of_round.seed(1) != of_round.seed(2)
    assert of_run.seed(1) == of_run.seed(2)
    assert of_run.seed(1) not in (of_round.seed(1), pool(seed=6, pool=100, pool_seed="run").seed(1))
    assert of_run.streams(1, 0, 0).tolist() != of_run.streams(2, 0, 0).tolist()


def test_the_high_tier_measures_in_its_own_way():
    made = pool(pool=9, high_difference="exact")
    assert [made.difference(client) for client in range(3)] == ["two-sided", "exact", "two-sided"]
    assert [made.numbers(client) for client in range(3)] == [2, 9, 2]
    assert made.streams(1, 1, 1).tolist() == [list(range(9))]
    other = pool(pool=9, difference="exact", high_difference="one-sided")
    assert [other.numbers(client) for client in range(3)] == [9, 2, 9]


NUMBERS = {
    "slopes of all steps": ({"pool": 10, "local_steps": 5}, 10),
    "sums, where those are fewer": ({"pool": 9, "local_steps": 5}, 9),
    "a pool without a number has a direction for each slope": ({"pool": "shared", "local_steps": 50}, 100),
    "exact, steps": ({"pool": 7, "local_steps": 5, "difference": "exact"}, 7),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_a_client_sends_the_fewest_numbers(case):
    settings, numbers = NUMBERS[case]
    made = pool(**settings)
    streams = made.streams(1, 0, 0)
    slopes = np.random.default_rng(0).normal(size=streams.shape)
    sent = made.packed(0, streams, slopes)
    assert sent.shape == (numbers,)
    assert made.numbers(0) == numbers
    folded, plain = np.ones(made.size(3)), np.ones(made.size(3))
    made.fold(folded, streams, sent)
    for stream, slope in zip(streams.ravel(), slopes.ravel(), strict=True):
        plain[stream] += slope
    np.testing.assert_allclose(folded, plain, rtol=1e-14)  # sums of a dozen float64 in another order


def test_slopes_that_are_not_finite_stay_so_in_sums():
    made = pool(pool=2, directions=1, local_steps=5)
    slopes = np.zeros((5, 1))
    slopes[3:] = np.nan
    assert np.isnan(made.packed(0, made.streams(1, 0, 0), slopes)).any()
