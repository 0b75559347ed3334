"""The forward pass at w + c z, without w + c z: what an operation reads is perturbed as it is read.

Every torch function that is given a parameter gets ``fl32(w + c z)`` in a fresh tensor instead, which nothing but
that use keeps alive. Base weights are never written (adding and subtracting in place would drift), and extra memory
is the parameters of one operation. Hooks on layers are silently wrong for tied embeddings and for modules that pass
their children's parameters on (``nn.MultiheadAttention``); functions see every read, also of a slice, of ``.data``,
and in a list.

What runs below torch functions is not seen: ``nn.Parameter(weight)`` inside a forward, compiled modules, scripts.
:meth:`zowarmup.model.Model.check` finds that out.

The tensors are fresh, not one that is used again and again: that would save page faults of parameters above 4 MB
(0.25 ms for 9 MB, so about a thousandth of a ResNet-18 evaluation of 64 samples), and only torch's internals know
whether a view of it is still alive.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from zowarmup.directions import Directions

BatchNormPolicy = Literal["frozen", "batch"]


class Read(NamedTuple):
    """Where the values of a parameter lie."""

    values: Tensor
    """The part of the bound vector, in the parameter's shape."""
    base: int
    """Index of the first element in direction space."""


def _metadata() -> frozenset[Any]:
    """Functions that tell about a tensor and not about its values: they read the parameter itself."""
    properties = [
        "shape",
        "dtype",
        "device",
        "layout",
        "ndim",
        "itemsize",
        "nbytes",
        "requires_grad",
        "grad",
        "grad_fn",
    ]
    properties += [name for name in dir(Tensor) if name.startswith("is_") and not callable(getattr(Tensor, name))]
    methods = ["size", "dim", "numel", "nelement", "ndimension", "stride", "element_size", "get_device", "__len__"]
    methods += ["__hash__", "is_contiguous", "is_floating_point", "is_complex", "is_signed"]
    found = [getattr(Tensor, name).__get__ for name in properties]
    found += [getattr(Tensor, name) for name in methods]
    return frozenset([*found, torch.is_floating_point, torch.is_complex, torch.numel])


_METADATA = _metadata()
_NESTED = frozenset([list, tuple, dict])


class Perturbed(TorchFunctionMode):
    """While active, torch functions get ``w + c z`` where they would get a parameter ``w``.

    Args:
        reads: the parameters, by ``id``.
        directions: makes ``w + c z``.
        seed: the direction's seed, ``0 <= seed < 2**64``.
        stream: which direction under this seed, ``0 <= stream < 2**32``.
        c: the length of the step, exactly a float32; negative for the minus side.
    """

    def __init__(self, reads: Mapping[int, Read], directions: Directions, *, seed: int, stream: int, c: float) -> None:
        super().__init__()
        self._reads = reads
        self._directions = directions
        self._seed = seed
        self._stream = stream
        self._c = c
        self._kept: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call ``func``, with perturbed parameters."""
        # On the way of every call: most get no parameter and should cost next to nothing.
        reads = self._reads
        for value in args:
            if id(value) in reads or value.__class__ in _NESTED:
                return self._call(func, args, kwargs)
        if not kwargs:
            return func(*args)
        for value in kwargs.values():
            if id(value) in reads or value.__class__ in _NESTED:
                return self._call(func, args, kwargs)
        return func(*args, **kwargs)

    def __exit__(self, *exception: Any) -> None:
        """Stop, and let go of what raw pointers might still point to."""
        self._kept.clear()
        try:
            super().__exit__(*exception)  # type: ignore[no-untyped-call]
        except RuntimeError:
            # Torch takes a mode off for each call of a function and puts it back: Ctrl-C in between leaves none to
            # take off, and is what the caller should hear of.
            if exception[0] is None:
                raise

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
        if func in _METADATA:
            return func(*args, **(kwargs or {}))
        replaced = self._replace(args)
        if func is Tensor.data_ptr:
            self._kept.append(replaced)  # the pointer must outlive this call
        return func(*replaced, **self._replace(kwargs)) if kwargs else func(*replaced)

    def _replace(self, values: Any) -> Any:
        """A list, tuple or dict with its parameters perturbed, also those in lists, tuples and dicts within."""
        if values.__class__ is dict:
            return dict(zip(values, self._replace(list(values.values())), strict=True))
        reads = self._reads
        found = [
            self.read(value) if id(value) in reads else self._replace(value) if value.__class__ in _NESTED else value
            for value in values
        ]
        return found if values.__class__ is list else tuple(found)

    def read(self, parameter: Tensor) -> Tensor:
        """``fl32(w + c z)`` of one of the parameters, in a fresh tensor."""
        read = self._reads[id(parameter)]
        out = torch.empty_like(read.values)
        self._directions.perturb(read.values, out, base=read.base, seed=self._seed, stream=self._stream, c=self._c)
        return out


@contextlib.contextmanager
def evaluating(module: nn.Module, batch_norm: BatchNormPolicy | None, device: torch.device) -> Iterator[None]:
    """While open, forwards of ``module`` are a function of its weights and buffers, and change neither.

    Evaluation mode (dropout is off); no gradients; no autocast, which would round weights; no fast path of
    ``nn.TransformerEncoder`` and ``nn.MultiheadAttention``, which reads parameters in one fused call of its own
    arithmetic. BatchNorm uses its running statistics (``"frozen"``) or the batch's own (``"batch"``), and leaves the
    running ones as they are. Parameters do not require gradients: matrix products choose their arithmetic by that, so
    that a forward at ``w`` and one at ``w + c z`` would round differently. Everything is as it was afterwards, also
    after an exception.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    training = [(part, part.training) for part in module.modules()]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    layers = [part for part, _ in training if isinstance(part, _BatchNorm)] if batch_norm == "batch" else []
    tracking = [(layer, layer.track_running_stats) for layer in layers]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        module.eval()
        for parameter in trained:
            parameter.requires_grad = False
        for layer in layers:
            # A training layer that does not track: normalises with the batch's statistics, and counts no batch.
            layer.training, layer.track_running_stats = True, False
        with torch.no_grad(), _full_precision(device):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True
        for part, was in training:
            part.training = was
        for layer, was in tracking:
            layer.track_running_stats = was
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
