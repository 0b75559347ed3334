"""A network as this package sees it: one flat fp32 vector in a fixed order, buffers apart, forwards at w + c z.

The order is that of ``named_parameters()``; a parameter used in several places is one. Parameters with
``requires_grad=False`` when the model is made are constants: in no table, never perturbed, trained or sent; every
replica has them from its own constructor or weights file, and :func:`state_tensors` saves them.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zowarmup.directions import Directions, select
from zowarmup.draws import Draw
from zowarmup.errors import ModelError, UsageError
from zowarmup.perturbed import BatchNormPolicy, Perturbed, Read, evaluating
from zowarmup.refusals import check_forward, dtype_name, refuse
from zowarmup.table import Table

__all__ = ["Model", "Table", "cuda_precision", "initialise", "load_weights", "save_weights", "state_tensors"]

_LARGEST = float(np.finfo(np.float32).max)


class Model:
    """A module whose parameters are views of one flat vector.

    Args:
        module: the network. It is moved to ``device`` and used as it is, not copied.
        device: where it runs.
        batch_norm: what BatchNorm normalises with in zeroth-order forwards: ``"frozen"``, its running statistics, or
            ``"batch"``, the batch's own. Required where there is BatchNorm, without effect where there is none.
        directions: the backend of directions; the device's fastest where left out.

    Raises:
        ModelError: BatchNorm and no policy, no trainable parameters, trainable parameters that are not fp32, that are
            uninitialised, or that share memory without being one; a scripted or compiled module.

    >>> model = Model(nn.Linear(3, 2))
    >>> model.table.names, model.size
    (('weight', 'bias'), 8)
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        device: str | torch.device = "cpu",
        batch_norm: BatchNormPolicy | None = None,
        directions: Directions | None = None,
    ) -> None:
        refuse(module, batch_norm)
        self.module = module.to(device)
        self.device = torch.device(device)
        self.batch_norm = batch_norm
        self.directions = directions if directions is not None else select(self.device)
        named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._parameters = tuple(named.values())
        self._witness = next(value for value in self._parameters if value.numel())
        self._persistent = frozenset(module.state_dict(keep_vars=True))
        self._has_buffers = any(True for _ in module.buffers())
        self._transient = {
            name: value.detach().clone() for name, value in module.named_buffers() if name not in self._persistent
        }
        self.table = Table(tuple(named), tuple(tuple(value.shape) for value in self._parameters))
        self._flat = torch.cat([value.detach().reshape(-1) for value in self._parameters])
        self._bound = self._flat  # what `bind` was given, to see that it is given it again
        self._point()

    @property
    def size(self) -> int:
        """d, the length of the flat vector."""
        return self.table.size

    @property
    def normalises_over_batch(self) -> bool:
        """Whether a sample's output depends on the rest of its batch, which excludes micro-batches."""
        return self.batch_norm == "batch" and self.has_batch_norm

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer is a BatchNorm."""
        return any(isinstance(part, _BatchNorm) for part in self.module.modules())

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters, in the table's order; views of the bound vector."""
        return self._parameters

    def weights(self) -> Float[Tensor, " d"]:
        """A fresh copy of the bound vector."""
        return self._flat.clone()

    def bind(self, weights: Float[Tensor, " d"]) -> None:
        """Make the parameters views of ``weights``: nothing is copied, and training writes into it.

        Raises:
            ModelError: another shape, dtype or device than the model's, or not contiguous.
        """
        if weights is self._bound and self._is_pointed():
            return
        form = f"{dtype_name(weights)} {tuple(weights.shape)} on {weights.device}"
        if (expected := f"float32 ({self.size},) on {self._flat.device}") != form or not weights.is_contiguous():
            contiguous = "" if weights.is_contiguous() else ", not contiguous"
            raise ModelError(f"weights to bind are {form}{contiguous}, expected {expected}")
        self._bound, self._flat = weights, weights.detach()
        self._point()

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the persistent buffers by name, in the order of ``state_dict()``."""
        return {name: buffer.detach().clone() for name, buffer in self._buffers().items()}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Copy values into the persistent buffers, and put the others back to what they were at first.

        Raises:
            ModelError: names or shapes differ from the model's.
        """
        if not buffers and not self._has_buffers:
            return
        own = self._buffers()
        if faults := _faults(shapes(own), shapes(buffers)):
            raise ModelError(f"buffers do not fit the model: {faults}")
        with torch.no_grad():
            for name, buffer in own.items():
                buffer.copy_(buffers[name])
            for name, buffer in self.module.named_buffers():
                if name in self._transient:
                    buffer.copy_(self._transient[name])

    def perturbed(self, *, seed: int, stream: int, c: float, frozen: Collection[str] = ()) -> Perturbed:
        """A context in which a forward of the module reads ``fl32(w + c z)`` wherever it reads a parameter ``w``.

        The bound weights are never written. Extra memory is the parameters that one operation reads. Of nested
        contexts the inner one counts.

        Args:
            seed: the direction's seed, ``0 <= seed < 2**64``.
            stream: which direction under this seed, ``0 <= stream < 2**32``.
            c: eps times tau, exactly a float32; negative for the minus side.
            frozen: parameters, by name, that are read as they are.

        Raises:
            UsageError: one of them is out of range.
            ModelError: the module's parameters have been replaced since the model was made.
        """
        if not 0 <= seed < 2**64 or not 0 <= stream < 2**32:
            raise UsageError(
                f"direction: seed {seed}, stream {stream}: expected 0 <= seed < 2**64, 0 <= stream < 2**32"
            )
        if not abs(c) <= _LARGEST or float(np.float32(c)) != c:
            raise UsageError(f"direction: c is {c!r}, expected a float32 exactly", hint="float(np.float32(eps * tau))")
        if not self._is_pointed():
            raise ModelError(
                "the module's parameters are no longer views of the bound weights",
                hint="make one Model of a module, do not move or cast the module afterwards, or bind again",
            )
        reads = self._reads
        if frozen:
            named = zip(self.table.names, self._parameters, strict=True)
            reads = {id(value): reads[id(value)] for name, value in named if name not in frozen}
        return Perturbed(reads, self.directions, seed=seed, stream=stream, c=c)

    def evaluation(self) -> contextlib.AbstractContextManager[None]:
        """A context for zeroth-order forwards: see :func:`zowarmup.perturbed.evaluating`."""
        return evaluating(self.module, self.batch_norm, self.device)

    def check(self, x: Tensor) -> None:
        """Refuse a module whose forward cannot be perturbed: compares one with a forward on perturbed copies.

        The copies replace the values of the module's parameters, where ``torch.func.functional_call`` replaces the
        parameters; so that modules which keep parameters in lists of their own are right too.

        Args:
            x: a few samples, as the module takes them.

        Raises:
            ModelError: the forward returns something else than one tensor, is random, changes buffers, or reads
                a parameter (which is named) in a way that this package cannot see.
        """
        with self.evaluation():
            check_forward(
                self.module, dict(zip(self.table.names, self._parameters, strict=True)), self._reads, self.directions, x
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        # Parameters are known by identity, so a copy is a new model of a copy of the module.
        module = copy.deepcopy(self.module, memo)
        return Model(module, device=self.device, batch_norm=self.batch_norm, directions=self.directions)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Model cannot be pickled, and a shallow copy would share its parameters: copy.deepcopy it")

    def _point(self) -> None:
        reads = {}
        for parameter, shape, segment in zip(self._parameters, self.table.shapes, self.table.segments, strict=True):
            values = self._flat[segment.offset : segment.offset + segment.size].view(shape)
            parameter.data = values
            reads[id(parameter)] = Read(values, segment.base)
        self._reads = reads

    def _is_pointed(self) -> bool:
        # One stands for all: moving, casting and wrapping a module again replace every one.
        return self._witness.data_ptr() == self._reads[id(self._witness)].values.data_ptr()

    def _buffers(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.module.named_buffers() if name in self._persistent}


@contextlib.contextmanager
def cuda_precision(precision: Literal["ieee", "tf32"]) -> Iterator[None]:
    """While open, CUDA's matrix products and convolutions compute in full fp32 or in TF32."""
    cudnn: Any = torch.backends.cudnn
    settings: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = precision
        yield
    finally:
        for setting, was in zip(settings, before, strict=True):
            setting.fp32_precision = was


def initialise(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Run a module's constructor so that its random weights depend on the run seed alone.

    Constructors of arbitrary modules draw from torch's global generator, so it is seeded while ``build`` runs and put
    back afterwards. Build on the CPU: generators of other devices are left alone.

    Args:
        build: makes the module.
        seed: the run seed; the draw is ``Draw(seed, "weights")``.

    >>> one, other = (initialise(lambda: nn.Linear(3, 2), seed=7) for _ in range(2))
    >>> torch.equal(one.weight, other.weight)
    True
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(Draw(seed, "weights").key() & (2**63 - 1))
        return build()


def state_tensors(model: Model) -> dict[str, Tensor]:
    """Parameters, constants and persistent buffers under their names in ``state_dict()``, copied to the CPU.

    A tensor with several names has its first one.
    """
    return {name: value.detach().cpu().clone() for name, value in _state(model).items()}


def save_weights(model: Model, path: str | Path) -> None:
    """Write :func:`state_tensors` to a safetensors file, which :func:`load_weights` reads.

    Raises:
        OSError: the file cannot be written.
    """
    save_file(state_tensors(model), path)


def load_weights(model: Model, path: str | Path) -> None:
    """Take weights, constants and buffers from a safetensors file with the names of ``state_dict()``.

    The model is bound to a fresh vector; a vector that it was bound to stays as it is. A tensor with several names
    may have any of them, or all.

    Raises:
        ModelError: the file cannot be read, or tensors are missing, unexpected, or of another shape or dtype.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: cannot be read: {error}", hint="expected a safetensors file") from error
    own = _state(model)
    found = _first_names(model, found)
    if faults := _faults(shapes(own), shapes(found)):
        raise ModelError(f"{path}: does not fit the model: {faults}")
    model.bind(torch.cat([found[name].reshape(-1) for name in model.table.names]).to(model.device))
    with torch.no_grad():
        for name in set(own) - set(model.table.names):
            own[name].copy_(found[name])


def _state(model: Model) -> dict[str, Tensor]:
    """What a weights file holds, in the order of ``state_dict()``, each tensor under its first name."""
    first: dict[int, str] = {}
    state = model.module.state_dict(keep_vars=True)
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    return {name: value for name, value in tensors.items() if first.setdefault(id(value), name) == name}


def _first_names(model: Model, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """``found`` with further names of a tensor replaced by its first one."""
    first: dict[int, str] = {}
    names = {
        name: first.setdefault(id(value), name)
        for name, value in model.module.state_dict(keep_vars=True).items()
        if isinstance(value, Tensor)
    }
    return {names.get(name, name): value for name, value in reversed(found.items())}


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Type and shape of each tensor, in words."""
    return {name: f"{dtype_name(value)} {tuple(value.shape)}" for name, value in tensors.items()}


def _faults(expected: Mapping[str, str], got: Mapping[str, str]) -> str:
    """Everything that differs, in one line; empty where nothing does."""
    missing = [name for name in expected if name not in got]
    unexpected = [name for name in got if name not in expected]
    differ = [
        f"{name} is {got[name]}, expected {form}" for name, form in expected.items() if got.get(name, form) != form
    ]
    listed = {"missing": missing, "unexpected": unexpected}
    return "; ".join([f"{what} {', '.join(names)}" for what, names in listed.items() if names] + differ)
