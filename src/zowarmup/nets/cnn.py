"""A small convolutional network with GroupNorm: 24,346 parameters on 3 x 32 x 32 images and 10 classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from zowarmup.errors import ModelError
from zowarmup.nets.checks import divides, image_shape, positive


def cnn(
    *, input_shape: tuple[int, ...], classes: int, widths: Sequence[int] = (16, 32, 64), groups: int = 4
) -> nn.Module:
    """Strided 3x3 convolutions, each with GroupNorm and ReLU; the mean over positions; a linear head.

    Args:
        input_shape: channels, height, width; any size.
        classes: width of the head.
        widths: channels of the convolutions; each halves height and width. The last one is the number of features.
        groups: of every GroupNorm.

    Raises:
        ModelError: samples are not images, or ``groups`` does not divide a width.
    """
    channels, _, _ = image_shape("cnn", input_shape)
    if not widths:
        raise ModelError(f"cnn: model.args.widths is {widths}, expected at least one width")
    positive("cnn", groups=groups)
    layers: list[nn.Module] = []
    for width in widths:
        positive("cnn", widths=width)
        divides("cnn", "groups", groups, width, "width")
        # GroupNorm subtracts any constant the convolution could add.
        convolution = nn.Conv2d(channels, width, kernel_size=3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(groups, width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
