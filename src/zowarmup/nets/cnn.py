"""A small convolutional network: 24,346 parameters on 3 x 32 x 32 images and 10 classes, with either norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from zowarmup.errors import ModelError
from zowarmup.nets.checks import divides, image_shape, narrowed, positive


def cnn(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    widths: Sequence[int] = (16, 32, 64),
    norm: Literal["batch", "group"] = "group",
    groups: int = 4,
    rate: float = 1.0,
) -> nn.Module:
    """Strided 3x3 convolutions, each with a norm and ReLU; the mean over positions; a linear head.

    Args:
        input_shape: channels, height, width; any size.
        classes: width of the head.
        widths: channels of the convolutions; each halves height and width. The last one is the number of features.
        norm: ``"group"``, or ``"batch"``; without effect on the number of parameters.
        groups: of every GroupNorm.
        rate: the share of every width that is there, rounded up, and of the groups: each keeps its channels.

    Raises:
        ModelError: samples are not images, ``groups`` does not divide a width, or ``rate`` is out of range.
    """
    channels, _, _ = image_shape("cnn", input_shape)
    if not widths:
        raise ModelError(f"cnn: model.args.widths is {widths}, expected at least one width")
    positive("cnn", groups=groups)
    groups = narrowed("cnn", groups, rate)
    layers: list[nn.Module] = []
    for width in widths:
        positive("cnn", widths=width)
        width = narrowed("cnn", width, rate)
        if norm == "group":
            divides("cnn", "groups", groups, width, "width")
        # A norm subtracts any constant the convolution could add.
        convolution = nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(groups, width) if norm == "group" else nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
