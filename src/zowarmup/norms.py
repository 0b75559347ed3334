"""The BatchNorm layers of a network: which ones there are, and sums over their inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zowarmup.data import Samples
from zowarmup.errors import ModelError
from zowarmup.model import Model
from zowarmup.perturbed import BatchNormPolicy, evaluating


@dataclass(frozen=True)
class NormLayer:
    """A BatchNorm layer with running statistics.

    Args:
        name: of the module.
        channels: how many it normalises.
    """

    name: str
    channels: int

    @property
    def mean(self) -> str:
        """Name of the running mean among the buffers."""
        return f"{self.name}.running_mean".lstrip(".")

    @property
    def variance(self) -> str:
        """Name of the running variance among the buffers."""
        return f"{self.name}.running_var".lstrip(".")


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over a layer's inputs x, less its running mean m.

    Args:
        count: values in each channel: samples times positions.
        sums: of x - m, shape ``(channels,)``.
        squares: of (x - m)^2, the same shape.
    """

    count: int
    sums: NDArray[np.float64]
    squares: NDArray[np.float64]


def find(model: Model) -> tuple[NormLayer, ...]:
    """The BatchNorm layers of a model, in the order of its modules; one that stands in several places is one.

    Raises:
        ModelError: there are none, or one has no running statistics.
    """
    found = {name: part for name, part in model.module.named_modules() if isinstance(part, _BatchNorm)}
    if not found:
        raise ModelError(
            "the model has no BatchNorm, so it has no running statistics to gather",
            hint='shipped nets have it with model.args.norm = "batch"',
        )
    if untracked := [name for name, part in found.items() if part.running_mean is None]:
        raise ModelError(
            f"{', '.join(untracked)}: BatchNorm with track_running_stats=False has no running statistics to gather"
        )
    return tuple(NormLayer(name, part.num_features) for name, part in found.items())


def gather(
    model: Model,
    layers: Sequence[NormLayer],
    samples: Samples,
    indices: NDArray[np.int64],
    micro_batch: int | Literal["all"],
    policy: BatchNormPolicy = "frozen",
) -> list[Moments]:
    """Sums over the inputs of every layer, in float64, from one forward pass of each sample.

    A layer that a forward calls several times has all its inputs in one sum; one that is not called has a count of 0.

    Args:
        model: bound to weights and buffers; in evaluation mode while it runs.
        layers: as :func:`find` gives them.
        samples: the client can read.
        indices: which of them.
        micro_batch: samples in one forward pass.
        policy: what layers normalise with: ``"frozen"``, the running statistics, so that no sample depends on another;
            or ``"batch"``, the micro-batch's own.
    """
    totals = [_Total(layer) for layer in layers]
    size = len(indices) if micro_batch == "all" else micro_batch
    starts = list(range(0, len(indices), size))
    if policy == "batch" and len(starts) > 1 and len(indices) % size == 1:
        starts.pop()  # one sample has no variance: it joins the micro-batch before it
    with contextlib.ExitStack() as hooks:
        for total in totals:
            module = model.module.get_submodule(total.layer.name)
            hooks.callback(module.register_forward_pre_hook(total.add).remove)
        hooks.enter_context(evaluating(model.module, policy, model.device))
        for start, stop in pairwise([*starts, len(indices)]):
            x, _ = samples.batch(indices[start:stop])
            model.module(x)
    return [total.moments() for total in totals]


class _Total:
    """Grows by what a layer is given."""

    def __init__(self, layer: NormLayer) -> None:
        self.layer = layer
        self._count = 0
        self._sums, self._squares = (torch.zeros(layer.channels, dtype=torch.float64) for _ in range(2))

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Called before the layer's forward; inputs have shape ``(n, channels, ...)``."""
        x, mean = (_wide(value) for value in (inputs[0], module.get_buffer("running_mean")))
        rows = x.transpose(0, 1).reshape(self.layer.channels, -1) - mean[:, None]
        self._count += rows.shape[1]
        self._sums += rows.sum(dim=1).cpu()
        self._squares += rows.square().sum(dim=1).cpu()

    def moments(self) -> Moments:
        """What has been added."""
        return Moments(self._count, self._sums.numpy(), self._squares.numpy())


def _wide(value: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return (value.cpu() if value.device.type == "mps" else value).double()
