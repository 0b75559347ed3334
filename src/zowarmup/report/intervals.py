"""How far a mean over seeds can be trusted: a bootstrap interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zowarmup.report.words import Number

LEVEL = 0.95
RANGE = 3
"""With as many values or fewer, the interval at :data:`LEVEL` is from the least to the greatest."""
RESAMPLES = 10_000


def called(count: Number) -> str:
    """What the interval of ``count`` values is.

    >>> called(3), called(5)
    ('range', '95 % interval')
    """
    return "range" if count <= RANGE else f"{100 * LEVEL:.0f} % interval"


def bootstrap(values: Sequence[Number], *, level: Number = LEVEL) -> tuple[float, float] | None:
    """The percentile bootstrap interval of the mean of ``values``: seeds drawn anew, with replacement.

    Efron & Tibshirani 1993, *An Introduction to the Bootstrap*, ch. 13. Up to five values every resample is taken
    once, so nothing is drawn; beyond, :data:`RESAMPLES` resamples from a generator of a fixed seed. The order of the
    values does not matter.

    With few seeds an interval is coarse, and too narrow: of three values it is their range, and holds the true mean of
    a normal distribution in 75 % of cases where it says 95; of five in 85 %, of ten in 91 %, of twenty in 93 %
    (``tests/report/test_intervals.py`` measures it).

    Args:
        values: one number a seed, finite.
        level: the share between the two ends, above 0 and below 1.

    Returns:
        Its lower and upper end; None for fewer than two values.

    >>> bootstrap([0.02, 0.05, 0.03])
    (0.02, 0.05)
    """
    column = np.sort(np.asarray(values, dtype=np.float64))
    count = len(column)
    if count < 2:
        return None
    if count**count <= RESAMPLES:
        picks = np.indices((count,) * count).reshape(count, -1).T
    else:
        picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    # (resamples,); a mean of equal numbers may be off by a rounding, and never lies outside them
    means = column[picks].mean(axis=1).clip(column[0], column[-1])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    return float(low), float(high)
