"""What every source hands over: arrays of a training and a test set, checked once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zowarmup.errors import DataError


@dataclass(frozen=True, eq=False)
class Split:
    """The samples of one set, in memory; the arrays are never changed.

    Args:
        x: inputs, shape ``(n, ...)``: uint8 pixels (images are ``(n, channels, height, width)``), float32 features,
            or int64 token ids.
        y: targets, shape ``(n,)`` int64 for a classification; ``(n, ...)`` int64 or float32 for an own task.
        columns: further values of each sample by name, each of shape ``(n,)``, for natural partitions.
    """

    x: NDArray[Any]
    y: NDArray[Any]
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, indices: NDArray[np.int64]) -> Split:
        """The samples at ``indices``, in that order."""
        return Split(self.x[indices], self.y[indices], {name: column[indices] for name, column in self.columns.items()})


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set.

    Args:
        train: what is dealt out to clients.
        test: what the server evaluates on.
        classes: number of classes; None where the targets are not classes.
        class_names: one name a class, where the source has them.
    """

    train: Split
    test: Split
    classes: int | None
    class_names: tuple[str, ...] | None = None

    def digest(self) -> str:
        """blake2b-256, in hex, of names, types, shapes and bytes of every array, and of the number of classes.

        Two runs whose datasets have the same digest saw the same samples in the same order.
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        state = hashlib.blake2b(digest_size=32)
        state.update(f"classes {self.classes}\n".encode())
        for name, split in (("train", self.train), ("test", self.test)):
            arrays = {"x": split.x, "y": split.y} | {
                f"column {key}": split.columns[key] for key in sorted(split.columns)
            }
            for key, array in arrays.items():
                state.update(f"{name} {key} {array.dtype.str} {array.shape}\n".encode())
                state.update(np.ascontiguousarray(array).data.cast("B"))
        return state.hexdigest()


def from_arrays(
    train: Any,
    test: Any,
    classes: int | None = None,
    *,
    class_names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Dataset:
    """A dataset from arrays or torch tensors, checked.

    Args:
        train: ``(x, y)``, or a :class:`Split` where there are further columns. float64 and half precision become
            float32, every integer type but uint8 becomes int64.
        test: likewise, with the same sample shape.
        classes: number of classes. Where left out, one-dimensional integer ``y`` are class labels and there are
            ``max(y) + 1`` classes; any other ``y`` is not a classification.
        class_names: one name a class.
        name: how error messages call the data.

    Raises:
        DataError: empty, of unequal length, of an unknown type, not finite, or a label out of range.

    >>> dataset = from_arrays((np.zeros((4, 2)), [0, 1, 2, 1]), (np.ones((1, 2)), [2]))
    >>> dataset.classes, dataset.train.x.dtype.name, dataset.train.y.dtype.name
    (3, 'float32', 'int64')
    """
    splits = [_checked(part, f"{name}: {label}") for part, label in ((train, "train"), (test, "test"))]
    if classes is None and splits[0].y.ndim == 1 and splits[0].y.dtype == np.int64:
        classes = max(int(splits[0].y.max()) + 1, 1)
    names = None if class_names is None else tuple(class_names)
    return validate(Dataset(splits[0], splits[1], classes, names), name=name)


def validate(dataset: Dataset, *, name: str) -> Dataset:
    """The same dataset with arrays of the types :class:`Split` promises.

    Raises:
        DataError: as :func:`from_arrays`.
    """
    train, test = (_checked(s, f"{name}: {k}") for s, k in ((dataset.train, "train"), (dataset.test, "test")))
    for key, a, b in (("x", train.x, test.x), ("y", train.y, test.y)):
        if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
            raise DataError(
                f"{name}: train {key} has samples of shape {a.shape[1:]} {a.dtype}, test {key} {b.shape[1:]} {b.dtype}"
            )
    if dataset.classes is not None:
        _check_labels(train.y, dataset.classes, f"{name}: train")
        _check_labels(test.y, dataset.classes, f"{name}: test")
        if dataset.class_names is not None and len(dataset.class_names) != dataset.classes:
            raise DataError(f"{name}: {dataset.classes} classes, but {len(dataset.class_names)} class names")
    return replace(dataset, train=train, test=test)


def _checked(part: Any, where: str) -> Split:
    if not isinstance(part, Split):
        if not isinstance(part, tuple | list) or len(part) != 2:
            raise DataError(f"{where}: expected a pair (x, y), got {describe(part)}")
        part = Split(_array(part[0], f"{where} x"), _array(part[1], f"{where} y"))
    x, y = _numbers(part.x, f"{where} x"), _numbers(part.y, f"{where} y")
    y = y.astype(np.int64) if y.dtype == np.uint8 else y
    columns = {str(key): _array(column, f"{where} column {key}") for key, column in part.columns.items()}
    for key, array in {"y": y, **{f"column {key}": column for key, column in columns.items()}}.items():
        if len(array) != len(x):
            raise DataError(f"{where}: {len(x)} samples in x, but {len(array)} in {key}")
        if array.dtype.hasobject:
            raise DataError(f"{where} {key}: expected numbers or strings, got Python objects")
    if not len(x):
        raise DataError(f"{where}: there are no samples")
    return Split(x, y, columns)


def _array(values: Any, where: str) -> NDArray[Any]:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where}: not an array: {error}") from None
    if array.ndim == 0:
        raise DataError(f"{where}: expected one entry a sample, got {describe(values)}")
    return array


def stored(array: NDArray[Any], where: str) -> NDArray[Any]:
    """The array as uint8, int64 or float32, contiguous and writable (torch warns of tensors over read-only memory).

    Raises:
        DataError: it holds no numbers.
    """
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and found as such
            array = array.astype(np.float32, copy=False)
    elif array.dtype.kind in "iu" and array.dtype != np.uint8:
        array = array.astype(np.int64, copy=False)
    elif array.dtype != np.uint8:
        raise DataError(f"{where}: expected uint8, integers or floats, got {array.dtype}")
    return np.require(array, requirements=["C", "W"])


def _numbers(values: Any, where: str) -> NDArray[Any]:
    array = stored(_array(values, where), where)
    finite = np.isfinite(array) if array.dtype == np.float32 else np.True_
    if not finite.all():
        raise DataError(f"{where}: not finite (in float32) in sample {int(np.argwhere(~finite)[0][0])}")
    return array


def _check_labels(y: NDArray[Any], classes: int, where: str) -> None:
    if y.ndim != 1 or y.dtype != np.int64:
        raise DataError(
            f"{where}: {classes} classes, so y must be one integer a sample; got {y.dtype}, shape {y.shape}"
        )
    outside = np.flatnonzero((y < 0) | (y >= classes))
    if outside.size:
        row = int(outside[0])
        raise DataError(f"{where}: label {y[row]} of sample {row} is not one of the classes 0 to {classes - 1}")


def describe(value: Any) -> str:
    """What error messages say instead of a value that may be long."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
