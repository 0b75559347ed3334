"""The last linear layer of a network: which one it is, and its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32
from numpy import ndarray
from numpy.typing import NDArray
from torch import Tensor, nn

from zowarmup.data import Samples
from zowarmup.errors import ModelError
from zowarmup.model import Model


@dataclass(frozen=True)
class HeadLayer:
    """A linear layer whose outputs are the network's.

    Args:
        name: of the module.
        weight: name of its weight in the table, shape ``(classes, features)``.
        bias: name of its bias, or None.
        features: how many inputs it has.
        classes: how many outputs.
    """

    name: str
    weight: str
    bias: str | None
    features: int
    classes: int

    @property
    def inputs(self) -> int:
        """p: features, and the 1 that is appended to them."""
        return self.features + 1

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in the table."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def values(self, solution: NDArray[np.float64]) -> dict[str, Float32[ndarray, ...]]:
        """What the parameters become.

        Args:
            solution: shape ``(p, classes)``; the last row is the bias.
        """
        values = {self.weight: np.ascontiguousarray(solution[: self.features].T, np.float32)}
        if self.bias is not None:
            values[self.bias] = solution[self.features].astype(np.float32)
        return values


def find(model: Model, name: str | None, classes: int | None) -> HeadLayer:
    """The head of a model.

    Args:
        model: the model.
        name: of the module; the last linear layer with as many outputs as classes where None.
        classes: of the data; None where targets are not classes.

    Raises:
        ModelError: there is none of that name, it is not linear, or has other outputs; or targets are not classes.
    """
    if classes is None:
        raise ModelError("a head is solved from labels, but the targets of these data are not classes")
    modules = dict(model.module.named_modules())
    linear = {key: each for key, each in modules.items() if isinstance(each, nn.Linear)}
    fitting = [key for key, each in linear.items() if each.out_features == classes]
    if name is None:
        if not fitting:
            raise ModelError(
                f"no linear layer has {classes} outputs, so the model has no head to solve",
                hint="a head phase's `module` names the layer",
            )
        name = fitting[-1]
    elif name not in fitting:
        what = "there is no such module" if name not in modules else f"is {modules[name]}"
        raise ModelError(
            f'module = "{name}": {what}, expected a linear layer with {classes} outputs',
            hint=f"linear layers with {classes} outputs: {', '.join(fitting) or 'none'}",
        )
    layer = linear[name]
    names = {id(value): key for key, value in model.module.named_parameters()}
    computed = [key for key in ("weight", "bias") if (own := getattr(layer, key)) is not None and id(own) not in names]
    if computed:
        raise ModelError(f"{name}: its {computed[0]} is computed from other parameters, so it cannot be solved for")
    weight, bias = names[id(layer.weight)], None if layer.bias is None else names[id(layer.bias)]
    missing = [each for each in (weight, bias) if each is not None and each not in model.table.names]
    if missing:
        raise ModelError(f"{missing[0]}: does not require gradients, so it is no parameter of the run")
    return HeadLayer(name, weight, bias, layer.in_features, classes)


def check(model: Model, layer: HeadLayer, x: Tensor) -> None:
    """Refuse a head whose outputs are not the network's, on a few samples.

    Raises:
        ModelError: they are not, or its inputs are not one vector a sample.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((inputs[0], output))

    handle = model.module.get_submodule(layer.name).register_forward_hook(note)
    try:
        with model.evaluation():
            outputs = model.module(x)
    finally:
        handle.remove()
    shapes = [tuple(given.shape) for given, _ in seen]
    if shapes != [(len(x), layer.features)]:
        raise ModelError(
            f"{layer.name}: gets inputs of shapes {shapes}, expected one of shape {(len(x), layer.features)}",
            hint="a head phase needs a last linear layer on one vector a sample",
        )
    if not torch.equal(seen[0][1], outputs):
        raise ModelError(f"{layer.name}: its outputs are not the network's, so it is not the last layer")


def features(
    model: Model, layer: HeadLayer, samples: Samples, indices: NDArray[np.int64], micro_batch: int | Literal["all"]
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """The head's inputs with 1 appended, shape ``(n, p)``, and labels, ``(n,)``, a micro-batch at a time.

    Args:
        model: bound to the weights; in evaluation mode while it runs.
        layer: the head.
        samples: the client can read.
        indices: which of them.
        micro_batch: samples in one forward pass.
    """
    seen: list[Tensor] = []
    size = len(indices) if micro_batch == "all" else micro_batch

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[0])

    handle = model.module.get_submodule(layer.name).register_forward_pre_hook(note)
    try:
        with model.evaluation():
            for start in range(0, len(indices), size):
                x, y = samples.batch(indices[start : start + size])
                model.module(x)
                inputs = seen.pop().cpu().double().numpy()
                yield np.hstack([inputs, np.ones((len(inputs), 1))]), y.cpu().numpy()
    finally:
        handle.remove()
