"""Weights and directions that tests of all backends share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zowarmup.directions import Step


def same(a: Tensor, b: Tensor) -> bool:
    """Equal bits: torch.equal takes -0.0 for 0.0."""
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def weights(size: int, seed: int = 0) -> Tensor:
    """Weights of all magnitudes, with denormals and both zeros."""
    draw = np.random.default_rng(seed)
    w = (draw.standard_normal(size) * 10.0 ** draw.integers(-44, 3, size)).astype(np.float32)
    w[draw.random(size) < 0.05] = -0.0
    w[draw.random(size) < 0.05] = 0.0
    return torch.from_numpy(w)


def step(count: int, exponent: int = 40, seed: int = 0) -> Step:
    """``count`` directions with coefficients over all of int32, so that sums wrap around."""
    draw = np.random.default_rng(seed)
    return Step(
        seeds=draw.integers(0, 2**64, count, dtype=np.uint64),
        streams=draw.integers(0, 2**32, count, dtype=np.uint32),
        coefficients=draw.integers(-(2**31), 2**31, count).astype(np.int32),
        exponent=exponent,
    )
