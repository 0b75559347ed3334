"""The bootstrap interval against what it is by definition, and how often it holds the truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from zowarmup.report.intervals import RESAMPLES, bootstrap


def test_one_value_has_no_interval():
    assert bootstrap([0.3]) is None
    assert bootstrap([]) is None


def test_three_values_give_their_range():
    # a resample is all smallest with probability 1/27 > 2.5 %, and all largest likewise
    assert bootstrap([0.041, 0.08, 0.06]) == (0.041, 0.08)


@pytest.mark.parametrize("count", [2, 4, 5])
def test_few_values_take_every_resample(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    means = sorted(math.fsum(pick) / count for pick in itertools.product(values, repeat=count))
    # the smallest mean that 2.5 % (97.5 %) of all resamples do not exceed; summed in another order
    low, high = (means[math.ceil(share * len(means)) - 1] for share in (0.025, 0.975))
    assert bootstrap(values) == pytest.approx((low, high), rel=1e-12)


def test_many_values_draw_resamples_of_which_the_ends_leave_out_five_per_cent():
    values = np.random.default_rng(0).normal(size=30).tolist()
    low, high = bootstrap(values)
    # the bootstrap of a mean of 30 is near a normal distribution: mean -+ 1.96 sd / sqrt(n), sd with divisor n; an end
    # of 10,000 resamples has a standard error of about 0.027 sd / sqrt(n), and skewness adds as much again
    half = 1.96 * float(np.std(values)) / math.sqrt(30)
    assert low == pytest.approx(np.mean(values) - half, abs=0.1 * half)
    assert high == pytest.approx(np.mean(values) + half, abs=0.1 * half)
    assert RESAMPLES == 10_000


def test_the_same_values_in_any_order_give_the_same_interval():
    values = np.random.default_rng(1).normal(size=12).tolist()
    assert bootstrap(values) == bootstrap(values) == bootstrap(values[::-1])


def test_equal_values_give_no_width():
    assert bootstrap([0.1] * 7) == (0.1, 0.1)


def test_a_wider_level_holds_a_narrower_one():
    values = np.random.default_rng(2).normal(size=8).tolist()
    (a, b), (c, d) = bootstrap(values, level=0.99), bootstrap(values, level=0.5)
    assert a < c < d < b


@pytest.mark.parametrize(("count", "share"), [(2, 0.5), (3, 0.75), (5, 0.853), (20, 0.934)])
def test_how_often_the_interval_holds_the_mean_of_a_normal_distribution(count, share):
    # 2 and 3: the range misses the mean when all values lie on one side, 2 / 2 ** n. 5 and 20: measured on 4,000 sets.
    draw, sets = np.random.default_rng(count), 300
    ends = [bootstrap(draw.standard_normal(count).tolist()) for _ in range(sets)]
    held = sum(low <= 0 <= high for low, high in ends) / sets
    assert held == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / sets))  # four standard errors
