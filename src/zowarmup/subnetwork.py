"""A narrower network inside a network: the leading channels of every hidden layer; how its numbers lie in the whole.

Diao et al. 2021 (HeteroFL, arXiv:2010.01264, Sec. 3). Which numbers belong to the part follows from comparing the
parameters of the two networks, which one constructor made: in each dimension the leading ones. So the inputs of the
first layer and the outputs of the head stay whole, and behind a flattened convolution the leading channels are the
leading inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from zowarmup.errors import ModelError
from zowarmup.model import Model
from zowarmup.table import Table
from zowarmup.task import Task


@dataclass(frozen=True)
class Cut:
    """How a part of a model lies in the whole: the leading block of every parameter.

    Args:
        whole: the whole's parameters.
        part: the part's, of the same names and no larger.

    Raises:
        ModelError: names or numbers of dimensions differ, or a parameter of the part is larger.

    >>> cut = Cut(Table(("weight",), ((2, 3),)), Table(("weight",), ((2, 2),)))
    >>> cut.take(torch.arange(6.0)).tolist()
    [0.0, 1.0, 3.0, 4.0]
    """

    whole: Table
    part: Table

    def __post_init__(self) -> None:
        if self.whole.names != self.part.names:
            differ = sorted({*self.whole.names} ^ {*self.part.names}) or ["their order"]
            raise ModelError(f"the narrower net has other parameters than the net: {', '.join(differ)}")
        for name, shape, part in zip(self.whole.names, self.whole.shapes, self.part.shapes, strict=True):
            _fit(name, shape, part)

    def blocks(self, whole: Tensor, part: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """For every parameter its name, its leading block in ``whole``, and its values in ``part``: views of one shape.

        Args:
            whole: shape ``(d,)``.
            part: shape ``(d_part,)``.
        """
        for name, shape, inner in zip(self.whole.names, self.whole.shapes, self.part.shapes, strict=True):
            block = whole[self.whole.place(name)].view(shape)
            yield name, block[_leading(inner)], part[self.part.place(name)].view(inner)

    def take(self, weights: Float[Tensor, " d"]) -> Float[Tensor, " d_part"]:
        """The part's numbers in a vector of the whole's, as a vector of their own."""
        part = torch.empty(self.part.size, dtype=weights.dtype, device=weights.device)
        for _, block, values in self.blocks(weights, part):
            values.copy_(block)
        return part


@dataclass(frozen=True)
class Narrow:
    """A narrower net beside a model.

    Args:
        model: the narrower net; bound to some weights or other.
        cut: how its parameters lie in the model's.
    """

    model: Model
    cut: Cut

    def buffers(self, buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The leading block of every buffer of the whole."""
        return {name: buffers[name][_leading(own.shape)] for name, own in self.model.buffers().items()}


def narrow(model: Model, module: nn.Module, rate: float, *, scaler: bool, x: Tensor) -> Narrow:
    """A narrower net that trains a part of a model.

    Args:
        model: the whole.
        module: the net, made by the constructor of the whole; hooks are added to it.
        rate: the share of its hidden widths.
        scaler: divide outputs of narrowed layers by ``rate``, as the paper's Scaler does while clients train.
        x: a few samples.

    Raises:
        ModelError: the net is no leading part of the model, has constants of its own or outputs of another shape, or a
            narrowed layer whose outputs cannot be scaled.
    """
    small = Model(module, device=model.device, batch_norm=model.batch_norm, directions=model.directions)
    made = Narrow(small, Cut(model.table, small.table))
    if constant := [name for name, value in module.named_parameters() if not value.requires_grad]:
        raise ModelError(f"{constant[0]} is not trained: the narrower net would have another one than the net")
    theirs, own = model.buffers(), small.buffers()
    if theirs.keys() != own.keys():
        raise ModelError(f"the narrower net has buffers {sorted(own)}, expected {sorted(theirs)}")
    for name, buffer in own.items():
        _fit(f"buffer {name}", tuple(theirs[name].shape), tuple(buffer.shape))
    if scaler:
        _scale(model.module, module, rate)
    with model.evaluation(), small.evaluation():
        got, expected = tuple(small.module(x).shape), tuple(model.module(x).shape)
    if got != expected:
        raise ModelError(f"the narrower net's outputs have shape {got}, expected {expected}")
    return made


@dataclass(frozen=True)
class Masked:
    """A task on the classes that a client holds: the outputs of the others count as 0.

    Args:
        task: the task.
        held: which classes, shape ``(classes,)``.
    """

    task: Task
    held: Bool[Tensor, " classes"]

    def losses(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
        """Loss of each sample, without a gradient for classes that are not held."""
        return self.task.losses(outputs.masked_fill(~self.held, 0.0), targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Score of each sample."""
        return self.task.scores(outputs.masked_fill(~self.held, 0.0), targets)


def held(targets: Int[Tensor, " n"], classes: int) -> Bool[Tensor, " classes"]:
    """Which classes there is a sample of.

    >>> held(torch.tensor([2, 0, 2]), 4).tolist()
    [True, False, True, False]
    """
    return torch.bincount(targets, minlength=classes) > 0


@contextlib.contextmanager
def static_statistics(module: nn.Module) -> Iterator[None]:
    """While open, BatchNorm in training leaves its running statistics as they are; it normalises with the batch's."""
    layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    tracking = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.track_running_stats = False
        yield
    finally:
        for layer, was in zip(layers, tracking, strict=True):
            layer.track_running_stats = was


def _leading(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(size) for size in shape)


def _fit(name: str, whole: tuple[int, ...], part: tuple[int, ...]) -> None:
    """Refuse a tensor that is no leading block of another."""
    if len(whole) != len(part) or any(inner > size for inner, size in zip(part, whole, strict=True)):
        raise ModelError(f"{name} has shape {part} in the narrower net, which is no part of {whole}")


def _scale(wide: nn.Module, module: nn.Module, rate: float) -> None:
    """Hooks that divide the outputs of narrowed layers; refuses one that is not linear or a convolution."""
    whole, scaled = dict(wide.named_parameters()), set()
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            scaled.add(id(layer.weight))
            if _outputs(layer) < _outputs(wide.get_submodule(name)):
                layer.register_forward_hook(lambda layer, inputs, output: output / rate)
    for name, value in module.named_parameters():
        if value.ndim > 1 and value.shape != whole[name].shape and id(value) not in scaled:
            raise ModelError(
                f"{name} belongs to no linear layer or convolution, so its layer's outputs cannot be scaled",
                hint="set scaler = false in the sub-network phase",
            )


def _outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
