"""Checks that the shipped nets share."""

from __future__ import annotations

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


def divides(net: str, name: str, value: int, whole: int, what: str) -> None:
    """Refuse a setting that does not divide ``whole``.

    Raises:
        ModelError: it does not.
    """
    if whole % value:
        raise ModelError(f"{net}: model.args.{name} is {value}, expected a divisor of the {what}, {whole}")
