"""Modules that cannot be trained as asked: refused when a model is made, or by one forward before round 1."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from zowarmup.directions import Directions
from zowarmup.errors import ModelError
from zowarmup.perturbed import BatchNormPolicy, Perturbed, Read


def refuse(module: nn.Module, batch_norm: BatchNormPolicy | None) -> None:
    """Refuse modules whose reads cannot be seen, and parameters that cannot be one fp32 vector.

    Raises:
        ModelError: see :class:`zowarmup.model.Model`.
    """
    for name, part in module.named_modules():
        where = f"module {name}" if name else "the module"
        if isinstance(part, torch.jit.ScriptModule):
            raise ModelError(f"{where} is scripted: its parameters are read where no forward can be perturbed")
        if hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None:
            raise ModelError(f"{where} is compiled: its parameters are read where no forward can be perturbed")
    lazy = [name for name, value in (*module.named_parameters(), *module.named_buffers()) if is_lazy(value)]
    if lazy:
        raise ModelError(f"uninitialised: {', '.join(lazy)}", hint="run one batch through the module first")
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    if not any(value.numel() for value in trained.values()):
        raise ModelError("the module has no parameters with requires_grad=True: nothing to train")
    if other := [f"{name} ({dtype_name(value)})" for name, value in trained.items() if value.dtype != torch.float32]:
        raise ModelError(f"parameters that are not fp32: {', '.join(other)}", hint="module.float()")
    if meta := [name for name, value in trained.items() if value.is_meta]:
        raise ModelError(f"parameters without values (device meta): {', '.join(meta)}")
    _refuse_shared(trained)
    _refuse_batch_norm(module, batch_norm)


def _refuse_shared(trained: Mapping[str, nn.Parameter]) -> None:
    seen: dict[int, str] = {}
    for name, value in trained.items():
        other = seen.setdefault(value.data_ptr(), name) if value.numel() else name
        if other != name:
            raise ModelError(
                f"parameters {other} and {name} share memory without being one parameter",
                hint="assign the parameter itself, as in `b.weight = a.weight`",
            )


def _refuse_batch_norm(module: nn.Module, batch_norm: BatchNormPolicy | None) -> None:
    layers = {name: part for name, part in module.named_modules() if isinstance(part, _BatchNorm)}
    if layers and batch_norm is None:
        raise ModelError(
            f"the model has BatchNorm ({next(iter(layers))}) and model.batch-norm is not set: zeroth-order forwards "
            "cannot move running statistics",
            hint='set model.batch-norm to "frozen" (the running statistics) or "batch" (the batch\'s own)',
        )
    untracked = [name for name, part in layers.items() if part.running_mean is None]
    if batch_norm == "frozen" and untracked:
        raise ModelError(
            f'model.batch-norm = "frozen", but {", ".join(untracked)} has no running statistics',
            hint='set model.batch-norm = "batch"',
        )


def check_forward(
    module: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    reads: Mapping[int, Read],
    directions: Directions,
    x: Tensor,
) -> None:
    """Compare a perturbed forward, bit for bit, with a forward of the module on perturbed values.

    Args:
        module: the module, under :func:`evaluating`.
        parameters: its parameters by name; given other values for a moment.
        reads: the same, by ``id``.
        directions: the backend.
        x: a few samples.

    Raises:
        ModelError: see :meth:`zowarmup.model.Model.check`.
    """

    def forward() -> Tensor:
        output = module(x)
        if not isinstance(output, Tensor):
            raise ModelError(f"the module's forward returns a {type(output).__name__}, expected one tensor")
        return output

    probe: dict[str, Any] = {"seed": 0, "stream": 0, "c": 2.0**-7}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with Perturbed(reads, directions, **probe):
        got = forward()
    changed = [name for name, buffer in module.named_buffers() if not _same_bits(buffer, buffers[name])]
    if changed:
        raise ModelError(f"a forward in evaluation mode changes buffers: {', '.join(changed)}")
    with Perturbed(reads, directions, **probe):
        if not _same_bits(got, forward()):
            raise ModelError(
                "two forwards on the same samples differ: the module draws random numbers in evaluation mode"
            )
    with _values(parameters, reads, directions, probe):
        expected = forward()
    if _same_bits(got, expected):
        return
    unseen = []
    for name, parameter in parameters.items():
        with _values({name: parameter}, reads, directions, probe), Perturbed(reads, directions, **probe):
            if not _same_bits(got, forward()):
                unseen.append(name)
    raise ModelError(
        f"a forward cannot be perturbed: {', '.join(unseen) or 'some parameter'} is read in a way that torch functions "
        "do not see",
        hint="read parameters in forward itself: no nn.Parameter(weight), no values kept from before, no writing",
    )


@contextlib.contextmanager
def _values(
    parameters: Mapping[str, nn.Parameter],
    reads: Mapping[int, Read],
    directions: Directions,
    probe: Mapping[str, Any],
) -> Iterator[None]:
    """While open, the parameters hold perturbed values themselves."""
    before = {name: parameter.data for name, parameter in parameters.items()}
    mode = Perturbed(reads, directions, **probe)
    try:
        for parameter in parameters.values():
            parameter.data = mode.read(parameter)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = before[name]


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


def dtype_name(tensor: Tensor) -> str:
    """``float32`` for ``torch.float32``."""
    return str(tensor.dtype).removeprefix("torch.")
