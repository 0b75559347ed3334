"""Checks that the shipped nets share."""

from __future__ import annotations

import math

from zowarmup.errors import ModelError


def image_shape(net: str, input_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """``input_shape`` as channels, height and width.

    Raises:
        ModelError: samples are not images.
    """
    if len(input_shape) != 3:
        raise ModelError(f"{net}: samples have shape {input_shape}, expected images (channels, height, width)")
    channels, height, width = input_shape
    return channels, height, width


def positive(net: str, **values: int) -> None:
    """Refuse settings below 1.

    Raises:
        ModelError: names the first one.
    """
    for name, value in values.items():
        if value < 1:
            raise ModelError(f"{net}: model.args.{name} is {value}, expected >= 1")


def narrowed(net: str, width: int, rate: float) -> int:
    """A share of a width, rounded up as in HeteroFL (arXiv:2010.01264), so at least 1.

    Raises:
        ModelError: ``rate`` is not above 0 and at most 1.

    >>> narrowed("mlp", 33, 0.5), narrowed("mlp", 30, 0.1)
    (17, 3)
    """
    if not 0 < rate <= 1:
        raise ModelError(f"{net}: model.args.rate is {rate}, expected > 0, <= 1")
    return math.ceil(rate * width - 1e-9)  # 0.1 * 30 is 3.0000000000000004


def divides(net: str, name: str, value: int, whole: int, what: str) -> None:
    """Refuse a setting that does not divide ``whole``.

    Raises:
        ModelError: it does not.
    """
    if whole % value:
        raise ModelError(f"{net}: model.args.{name} is {value}, expected a divisor of the {what}, {whole}")
