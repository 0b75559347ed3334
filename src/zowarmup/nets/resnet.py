"""ResNets for small images, with BatchNorm or GroupNorm: the paper's ResNet-18, and a ResNet-8 for small machines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zowarmup.nets.checks import divides, image_shape, narrowed, positive

Norm = Callable[[int], nn.Module]


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, a 1x1 convolution where the shape changes (He et al. 2016, Fig. 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm1 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, norm(outputs))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h2 w2"]:
        """The block's output, before the next block's convolution."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    norm: Literal["batch", "group"] = "batch",
    groups: int = 32,
    width: int = 64,
    rate: float = 1.0,
) -> nn.Module:
    """Eight blocks at 64, 128, 256 and 512 channels behind a 3x3 stem without pooling.

    11,173,962 parameters on colour images and 10 classes, with either norm, as in arXiv:2509.03503v1.

    Args:
        input_shape: channels, height, width; any size.
        classes: width of the head.
        norm: ``"batch"``, or ``"group"`` (the paper's FedAdam runs).
        groups: of every GroupNorm; 32 as in Wu & He 2018 (arXiv:1803.08494).
        width: channels of the stem; the last blocks have 8 times as many, which is the number of features.
        rate: the share of every width that is there, rounded up, and of the groups: each keeps its channels.

    Raises:
        ModelError: samples are not images, ``groups`` does not divide ``width``, or ``rate`` is out of range.
    """
    return _resnet("resnet18", 4, 2, input_shape, classes, norm, groups, width, rate)


def resnet8(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    norm: Literal["batch", "group"] = "group",
    groups: int = 4,
    width: int = 16,
    rate: float = 1.0,
) -> nn.Module:
    """Three blocks at 16, 32 and 64 channels behind a 3x3 stem; 78,042 parameters on colour images and 10 classes.

    The small end of He et al. 2016, Sec. 4.2, with 1x1 convolutions as shortcuts. Arguments and errors are those of
    :func:`resnet18`.
    """
    return _resnet("resnet8", 3, 1, input_shape, classes, norm, groups, width, rate)


def _resnet(
    name: str,
    stages: int,
    blocks: int,
    input_shape: tuple[int, ...],
    classes: int,
    norm: Literal["batch", "group"],
    groups: int,
    width: int,
    rate: float,
) -> nn.Module:
    """A stem, ``stages`` of ``blocks``, each stage but the first half as high and wide and twice as deep, a head."""
    channels, _, _ = image_shape(name, input_shape)
    positive(name, width=width, groups=groups)
    width, groups = narrowed(name, width, rate), narrowed(name, groups, rate)
    make: Norm = nn.BatchNorm2d
    if norm == "group":
        divides(name, "groups", groups, width, "width")
        make = partial(nn.GroupNorm, groups)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False), make(width), nn.ReLU()]
    inputs = width
    for stage in range(stages):
        outputs = width * 2**stage
        layers.append(Block(inputs, outputs, 1 if stage == 0 else 2, make))
        layers += [Block(outputs, outputs, 1, make) for _ in range(blocks - 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
