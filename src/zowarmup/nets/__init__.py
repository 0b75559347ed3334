"""Networks by name: the shipped ones, and any callable of the user's.

>>> module = build("mlp", input_shape=(1, 8, 8), classes=10, args={"hidden": [32]})
>>> sum(parameter.numel() for parameter in module.parameters())
2410
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import msgspec
from torch import nn

from zowarmup.errors import ModelError
from zowarmup.imports import load_object
from zowarmup.nets.cnn import cnn
from zowarmup.nets.lenet import lenet
from zowarmup.nets.mlp import mlp
from zowarmup.nets.resnet import resnet8, resnet18
from zowarmup.nets.vit import vit

__all__ = ["SHIPPED", "build", "cnn", "lenet", "mlp", "resnet8", "resnet18", "vit"]

SHIPPED: Mapping[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "lenet": lenet,
    "resnet8": resnet8,
    "resnet18": resnet18,
    "vit": vit,
}
"""The nets a recipe may name; each is called with ``input_shape``, ``classes`` and the recipe's ``args``."""


def build(name: str, *, input_shape: tuple[int, ...], classes: int | None, args: Mapping[str, Any]) -> nn.Module:
    """The network that a recipe names, with random initial weights from torch's global generator.

    Args:
        name: one of ``SHIPPED``, or ``"python:module:callable"``. A callable of the user's gets ``args``, and
            ``input_shape`` and ``classes`` only where its signature has parameters of these names.
        input_shape: shape of one sample, for instance ``(3, 32, 32)``.
        classes: number of classes; None where targets are not labels.
        args: keyword arguments of the net.

    Raises:
        ModelError: an unknown name, arguments the net does not take, a callable that cannot be found, fails, or
            returns something else than a module.
    """
    if name.startswith("python:") and name.count(":") == 2:
        return _build_own(name, {"input_shape": input_shape, "classes": classes}, dict(args))
    if name not in SHIPPED:
        raise ModelError(
            f'model.net = "{name}": no such net',
            hint=f'one of {", ".join(SHIPPED)}, or "python:module:callable"',
        )
    if classes is None:
        raise ModelError(
            f'model.net = "{name}" needs a number of classes, and the data has none',
            hint='for other targets use a net of your own: "python:module:callable"',
        )
    if clash := sorted({"input_shape", "classes"} & set(args)):
        raise ModelError(f"model.args: {', '.join(clash)} comes from the data", hint="remove it")
    given = {"input_shape": input_shape, "classes": classes, **args}
    _check_arguments(name, SHIPPED[name], given)
    return SHIPPED[name](**{key: _convert(name, key, value) for key, value in given.items()})


def narrow(
    name: str, rate: float, *, input_shape: tuple[int, ...], classes: int | None, args: Mapping[str, Any]
) -> nn.Module:
    """The network that a recipe names, with a share of the width of its hidden layers.

    Args:
        name: as for :func:`build`; the net, or the user's callable, takes ``rate``.
        rate: the share, in addition to the one that ``args`` may have.
        input_shape, classes, args: as for :func:`build`.

    Raises:
        ModelError: the net takes no ``rate``; or as for :func:`build`.
    """
    make = SHIPPED.get(name) if not name.startswith("python:") else load_object(name, ModelError)
    if make is not None and "rate" not in _parameters(make):
        takers = ", ".join(key for key, shipped in SHIPPED.items() if "rate" in _parameters(shipped))
        raise ModelError(
            f'model.net = "{name}" takes no `rate`, so there is no narrower one',
            hint=f"{takers} do; a callable of your own may: the share of its hidden widths, 1.0 for all of them",
        )
    return build(name, input_shape=input_shape, classes=classes, args={**args, "rate": rate * args.get("rate", 1.0)})


def _convert(name: str, key: str, value: Any) -> Any:
    """A value of a recipe as the type that the net's signature names."""
    try:
        return msgspec.convert(value, get_type_hints(SHIPPED[name])[key])
    except msgspec.ValidationError as error:
        raise ModelError(f"{name}: model.args.{key} is {value!r}: {error}") from None


def _build_own(name: str, known: dict[str, Any], args: dict[str, Any]) -> nn.Module:
    make = load_object(name, ModelError)
    if not callable(make):
        raise ModelError(f"{name}: is a {type(make).__name__}, expected a callable that returns a module")
    given = {key: value for key, value in known.items() if key in _parameters(make)} | args
    _check_arguments(name, make, given)
    try:
        module = make(**given)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{name}: failed with {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"{name}: returned a {type(module).__name__}, expected a torch.nn.Module")
    return module


def _check_arguments(name: str, make: Callable[..., Any], given: dict[str, Any]) -> None:
    """Tell a wrong argument in a recipe apart from a TypeError inside the net."""
    try:
        signature = inspect.signature(make)
    except ValueError:  # some callables written in C have none
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        takes = ", ".join(key for key in signature.parameters if key not in ("input_shape", "classes")) or "none"
        raise ModelError(f"{name}: model.args: {error}", hint=f"arguments it takes: {takes}") from None


def _parameters(make: Callable[..., Any]) -> frozenset[str]:
    try:
        return frozenset(inspect.signature(make).parameters)
    except ValueError:
        return frozenset()
