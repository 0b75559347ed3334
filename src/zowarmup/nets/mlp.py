"""A multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from zowarmup.nets.checks import narrowed, positive


def mlp(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    hidden: Sequence[int] = (32,),
    norm: Literal["none", "batch"] = "none",
    rate: float = 1.0,
) -> nn.Module:
    """Linear layers with ReLU between them, on flattened samples of any shape.

    Args:
        input_shape: shape of one sample.
        classes: width of the last layer.
        hidden: widths of the hidden layers; empty for a linear model.
        norm: ``"batch"`` normalises before every ReLU.
        rate: the share of every hidden width that is there, rounded up.

    Raises:
        ModelError: a width below 1, or ``rate`` out of range.
    """
    for width in hidden:
        positive("mlp", hidden=width)
    layers: list[nn.Module] = [nn.Flatten()]
    widths = [math.prod(input_shape), *(narrowed("mlp", width, rate) for width in hidden)]
    for inputs, outputs in pairwise(widths):
        normalised = [nn.BatchNorm1d(outputs)] if norm == "batch" else []
        layers += [nn.Linear(inputs, outputs), *normalised, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
