"""LeNet-5 (LeCun et al. 1998) as it is built today: ReLU, max pooling, a plain linear head."""

from __future__ import annotations

from torch import nn

from zowarmup.errors import ModelError
from zowarmup.nets.checks import image_shape, narrowed

_PADDING = {28: 2, 32: 0}  # the first convolution leaves 28 x 28 either way


def lenet(*, input_shape: tuple[int, ...], classes: int, rate: float = 1.0) -> nn.Module:
    """Two 5x5 convolutions with pooling, then layers of 120, 84 and ``classes``; 61,706 parameters on MNIST.

    Args:
        input_shape: channels, then 28 x 28 or 32 x 32.
        classes: width of the last layer.
        rate: the share of every hidden width that is there, rounded up.

    Raises:
        ModelError: samples are not images of one of these sizes, or ``rate`` is out of range.
    """
    channels, height, width = image_shape("lenet", input_shape)
    if height != width or height not in _PADDING:
        raise ModelError(f"lenet: images are {height} x {width}, expected 28 x 28 or 32 x 32")
    first, second, third, fourth = (narrowed("lenet", width, rate) for width in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(channels, first, kernel_size=5, padding=_PADDING[height]),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, kernel_size=5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * 5 * 5, third),
        nn.ReLU(),
        nn.Linear(third, fourth),
        nn.ReLU(),
        nn.Linear(fourth, classes),
    )
