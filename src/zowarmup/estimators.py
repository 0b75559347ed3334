"""Slopes along directions: the numbers that a client sends, from forward passes alone, or from one backward pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from zowarmup.errors import DataError, ModelError, UsageError
from zowarmup.model import Model
from zowarmup.recipe import Difference
from zowarmup.task import Task

Chunks = Sequence[tuple[Tensor, Tensor]]


def slopes(
    model: Model,
    x: Tensor,
    y: Tensor,
    task: Task,
    *,
    seed: int,
    streams: Sequence[int] | NDArray[np.integer],
    eps: float,
    tau: float,
    difference: Difference,
    micro_batch: int | Literal["all"],
    frozen: Collection[str] = (),
) -> NDArray[np.float64]:
    r"""Slopes of the mean loss at the bound weights ``w`` along ``S`` directions ``z`` of signs.

    .. math:: \frac{L(w + \epsilon\tau z) - L(w - \epsilon\tau z)}{2\epsilon}
        \quad\text{or}\quad \frac{L(w + \epsilon\tau z) - L(w)}{\epsilon}
        \quad\text{or their limit}\quad \tau \langle \nabla L(w), z \rangle

    arXiv:2509.03503v1, Alg. 1, whose directions are ``tau z``; SPSA with one sample a direction. The product
    ``eps * tau`` is rounded to fp32 once, and ``w + c z`` once for each weight. Both sides see the same samples, and
    the module is in evaluation mode (see :func:`zowarmup.perturbed.evaluating`). On CUDA, TF32 is the caller's to
    switch off: it rounds weights by more than ``eps * tau``.

    The limit takes one backward pass for all directions (see :func:`gradient`), the idea of Ferret (arXiv:2409.06277)
    for clients that can afford one; inner products are in float64.

    Args:
        model: bound to the weights; neither they nor the buffers are changed.
        x: samples, shape ``(n, ...)``.
        y: targets, shape ``(n, ...)``.
        task: its losses are averaged over the samples.
        seed: of the round's directions, ``0 <= seed < 2**64``.
        streams: which directions, each ``0 <= stream < 2**32``; length ``S``.
        eps: half-step, in units of the weights; ``> 0``.
        tau: scale of the directions; ``> 0``.
        difference: ``"two-sided"`` evaluates 2 S losses, ``"one-sided"`` S + 1, ``"exact"`` one, and its gradient.
        micro_batch: samples in one forward pass.
        frozen: parameters along which directions are 0.

    Returns:
        Loss per unit of ``eps``, shape ``(S,)``; not finite where a loss is not.

    Raises:
        UsageError: a number is out of range.
        DataError: no samples, or ``x`` and ``y`` of different lengths.
        ModelError: the module or the task returns something else than expected, the module normalises over the
            batch, which micro-batches would split, or ``"exact"`` and it cannot run backprop.
    """
    c = step(eps, tau)
    if difference not in ("two-sided", "one-sided", "exact"):
        raise UsageError(f'difference is {difference!r}, expected "two-sided", "one-sided" or "exact"')
    if difference == "exact":
        vector = gradient(model, x, y, task, micro_batch=micro_batch, frozen=frozen)
        return tau * _dots(model, vector, seed, streams, frozen)
    chunks = _chunks(model, x, y, micro_batch)
    found = np.empty(len(streams))
    with model.evaluation():
        base = _loss(model, chunks, task) if difference == "one-sided" else None
        for index, stream in enumerate(int(stream) for stream in streams):
            plus = _loss(model, chunks, task, model.perturbed(seed=seed, stream=stream, c=c, frozen=frozen))
            if base is None:
                minus = _loss(model, chunks, task, model.perturbed(seed=seed, stream=stream, c=-c, frozen=frozen))
                found[index] = (plus - minus) / (2 * eps)
            else:
                found[index] = (plus - base) / eps
    return found


def gradient(
    model: Model,
    x: Tensor,
    y: Tensor,
    task: Task,
    *,
    micro_batch: int | Literal["all"],
    frozen: Collection[str] = (),
) -> Float[Tensor, " d"]:
    """The gradient of :func:`loss` at the bound weights, flat, in fp32; 0 for frozen parameters.

    Activations are kept for one micro-batch at a time; gradients of micro-batches are added in order.

    Args:
        model: bound to the weights; neither they nor the buffers are changed.
        x: samples, shape ``(n, ...)``.
        y: targets, shape ``(n, ...)``.
        task: its losses are averaged over the samples.
        micro_batch: samples in one forward and backward pass.
        frozen: parameters that take none.

    Raises:
        UsageError, DataError: as :func:`slopes`.
        ModelError: as :func:`slopes`; or backprop fails, or does not reach any parameter.
    """
    chunks = _chunks(model, x, y, micro_batch)
    total = torch.zeros(model.size, device=model.device)
    with model.evaluation(), torch.enable_grad(), gathering(model.parameters(), total):
        for name, parameter in zip(model.table.names, model.parameters(), strict=True):
            parameter.requires_grad = name not in frozen  # until the evaluation ends
        for inputs, targets in chunks:
            _backward(_sum(model.module(inputs), targets, task) / len(x))
    return total


@contextmanager
def gathering(parameters: Sequence[Tensor], gradient: Float[Tensor, " d"]) -> Iterator[None]:
    """While open, gradients of the parameters accumulate in one flat vector."""
    offset = 0
    for parameter in parameters:
        parameter.grad = gradient[offset : offset + parameter.numel()].view(parameter.shape)
        offset += parameter.numel()
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.grad = None


def loss(model: Model, x: Tensor, y: Tensor, task: Task, *, micro_batch: int | Literal["all"]) -> float:
    """The mean loss at the bound weights, by the arithmetic of :func:`slopes`.

    Outputs go to float64 (on the CPU, where the device has none) before the loss, and the sums of the micro-batches
    are added in order.

    Args:
        model: bound to the weights.
        x: samples, shape ``(n, ...)``.
        y: targets, shape ``(n, ...)``.
        task: its losses are averaged over the samples.
        micro_batch: samples in one forward pass.

    Raises:
        UsageError, DataError, ModelError: as :func:`slopes`.
    """
    chunks = _chunks(model, x, y, micro_batch)
    with model.evaluation():
        return _loss(model, chunks, task)


def step(eps: float, tau: float) -> float:
    """c: ``eps * tau``, rounded to fp32 once; what every replica perturbs with.

    Raises:
        UsageError: it is not a positive fp32 number.

    >>> step(1e-4, 0.75).hex()
    '0x1.3a92a40000000p-14'
    """
    with np.errstate(over="ignore", under="ignore"):
        c = float(np.float32(eps * tau))
    if not (eps > 0 and tau > 0 and 0 < c < float("inf")):
        raise UsageError(f"eps is {eps!r} and tau is {tau!r}, expected both > 0, and their product an fp32 number > 0")
    return c


def _backward(mean: Tensor) -> None:
    if not mean.requires_grad:
        raise ModelError(
            "the loss does not depend on the parameters through operations that backprop can follow",
            hint='difference = "two-sided" or "one-sided" needs no backprop',
        )
    try:
        mean.backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ModelError(
            f"backprop fails: {str(error).splitlines()[0]}",
            hint='difference = "two-sided" or "one-sided" needs no backprop; a smaller run.micro-batch, less memory',
        ) from error


def _dots(
    model: Model,
    vector: Tensor,
    seed: int,
    streams: Sequence[int] | NDArray[np.integer],
    frozen: Collection[str],
) -> NDArray[np.float64]:
    for stream in map(int, streams):
        if not (0 <= seed < 2**64 and 0 <= stream < 2**32):
            raise UsageError(
                f"direction: seed {seed}, stream {stream}: expected 0 <= seed < 2**64, 0 <= stream < 2**32"
            )
    return model.directions.dots(
        vector,
        segments=model.table.moving(frozen),
        seeds=np.full(len(streams), seed, np.uint64),
        streams=np.asarray(streams, np.uint32),
    )


def _chunks(model: Model, x: Tensor, y: Tensor, micro_batch: int | Literal["all"]) -> Chunks:
    n = len(x)
    if n == 0 or len(y) != n:
        raise DataError(f"{n} samples and {len(y)} targets, expected the same number, and at least one")
    size = n if micro_batch == "all" else micro_batch
    if size < 1:
        raise UsageError(f'micro-batch is {micro_batch!r}, expected "all" or at least 1')
    if size < n and model.normalises_over_batch:
        raise ModelError(
            f'model.batch-norm = "batch" normalises over the whole batch of {n}, but micro-batch is {size}',
            hint='set run.micro-batch = "all"',
        )
    return [(x[start : start + size], y[start : start + size]) for start in range(0, n, size)]


def _loss(model: Model, chunks: Chunks, task: Task, weights: AbstractContextManager[Any] | None = None) -> float:
    """The mean loss at the weights that forwards within ``weights`` see."""
    weights = nullcontext() if weights is None else weights
    sums = []
    for x, y in chunks:
        with weights:
            outputs = model.module(x)
        sums.append(_sum(outputs, y, task))
    total = 0.0
    for value in sums:  # after the last forward is on its way, as reading waits for the device
        total += float(value)
    return total / sum(len(y) for _, y in chunks)


def _sum(outputs: object, targets: Tensor, task: Task) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise ModelError(f"the module's forward returns a {type(outputs).__name__}, expected one tensor")
    if outputs.device.type == "mps":  # has no float64
        outputs, targets = outputs.cpu(), targets.cpu()
    losses = task.losses(outputs.double(), targets)
    if losses.shape != targets.shape[:1]:
        raise ModelError(f"the task's losses have shape {tuple(losses.shape)}, expected ({len(targets)},)")
    return losses.sum(dtype=torch.float64)
