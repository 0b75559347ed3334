from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import zowarmup.data
from zowarmup.data import Dataset, Split, from_arrays
from zowarmup.errors import DataError

X, Y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 2, 1])


def test_public_names_are_there() -> None:
    assert all(hasattr(zowarmup.data, name) for name in zowarmup.data.__all__)
    assert zowarmup.data.__all__ == sorted(zowarmup.data.__all__)


def test_import_is_light() -> None:
    heavy = ["datasets", "matplotlib", "PIL", "pyarrow", "scipy", "sklearn"]
    code = f"import sys, zowarmup.data as d; d.digits(); print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("float64", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("uint8", "uint8"),
        ("int32", "int64"),
        ("uint16", "int64"),
    ],
)
def test_types_of_x(given: str, kept: str) -> None:
    dataset = from_arrays((X.astype(given), Y), (X.astype(given), Y))
    assert dataset.train.x.dtype == kept
    assert (dataset.train.x == X).all()
    assert dataset.train.y.dtype == np.int64


def test_tensors_and_arrays_give_the_same_dataset() -> None:
    tensors = from_arrays((torch.tensor(X), torch.tensor(Y)), (torch.tensor(X).half(), torch.tensor(Y)))
    assert tensors.digest() == from_arrays((X, Y), (X, Y)).digest()


def test_targets_that_are_not_classes() -> None:
    assert from_arrays((X, X[:, 0]), (X, X[:, 0])).classes is None
    tokens = from_arrays((Y[:, None], Y[:, None]), (Y[:, None], Y[:, None]))
    assert tokens.classes is None
    assert tokens.train.y.shape == (4, 1)


def test_read_only_arrays_are_copied() -> None:
    x = X.astype(np.float32)
    x.flags.writeable = False
    assert from_arrays((x, Y), (x, Y)).train.x.flags.writeable


def test_digest_depends_on_every_part() -> None:
    parts: dict[str, tuple[Any, ...]] = {
        "base": ((X, Y), (X, Y), 3),
        "train x": ((X + 1, Y), (X, Y), 3),
        "train y": ((X, Y[::-1]), (X, Y), 3),
        "test x": ((X, Y), (X + 1, Y), 3),
        "test y": ((X, Y), (X, Y[::-1]), 3),
        "classes": ((X, Y), (X, Y), 4),
        "type": ((X.astype(np.uint8), Y), (X.astype(np.uint8), Y), 3),
        "shape": ((X[:, :, None], Y), (X[:, :, None], Y), 3),
        "column": (Split(X, Y, {"writer": Y}), (X, Y), 3),
    }
    digests = {name: from_arrays(*part).digest() for name, part in parts.items()}
    assert len(set(digests.values())) == len(digests)
    assert digests["base"] == from_arrays((X.copy(), Y.copy()), (X, Y), 3).digest()
    assert len(digests["base"]) == 64


NAN = np.where(X == 7, np.nan, X)


@pytest.mark.parametrize(
    ("train", "test", "classes", "message"),
    [
        ((X, Y[:3]), (X, Y), None, "own: train: 4 samples in x, but 3 in y"),
        ((X[:0], Y[:0]), (X, Y), None, "own: train: there are no samples"),
        ((X, Y), (X[:0], Y[:0]), None, "own: test: there are no samples"),
        ((NAN, Y), (X, Y), None, "own: train x: not finite (in float32) in sample 2"),
        ((X, Y), (X * 1e300, Y), None, "own: test x: not finite (in float32) in sample 0"),
        ((X, NAN[:, 1]), (X, Y), None, "own: train y: not finite (in float32) in sample 2"),
        ((X, Y), (X, Y + 1), None, "own: test: label 3 of sample 2 is not one of the classes 0 to 2"),
        ((X, Y), (X, Y), 2, "own: train: label 2 of sample 2 is not one of the classes 0 to 1"),
        ((X, Y - 1), (X, Y), None, "own: train: label -1 of sample 0 is not one of the classes 0 to 1"),
        ((X, X), (X, X), 3, "own: train: 3 classes, so y must be one integer a sample; got float32, shape (4, 3)"),
        ((X, Y), (X[:, :2], Y), None, "own: train x has samples of shape (3,) float32, test x (2,) float32"),
        ((X, Y), (X.astype(int), Y), None, "own: train x has samples of shape (3,) float32, test x (3,) int64"),
        ((X, Y), (X, Y * 0.5), None, "own: train y has samples of shape () int64, test y () float32"),
        ((X > 3, Y), (X, Y), None, "own: train x: expected uint8, integers or floats, got bool"),
        ((X, ["a", "b", "c", "d"]), (X, Y), None, "own: train y: expected uint8, integers or floats, got <U1"),
        (([[1], [1, 2]], Y), (X, Y), None, "own: train x: not an array"),
        ((3.0, Y), (X, Y), None, "own: train x: expected one entry a sample, got float"),
        (X, (X, Y), None, "own: train: expected a pair (x, y), got ndarray"),
        ((X, Y, Y), (X, Y), None, "own: train: expected a pair (x, y), got a tuple of 3"),
        (Split(X, Y, {"w": Y[:1]}), (X, Y), None, "own: train: 4 samples in x, but 1 in column w"),
        (Split(X, Y, {"w": np.array([None] * 4)}), (X, Y), None, "own: train column w: expected numbers or strings"),
    ],
)
def test_wrong_arrays(train: Any, test: Any, classes: int | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        from_arrays(train, test, classes, name="own")
    assert message in caught.value.message


def test_class_names_must_fit() -> None:
    with pytest.raises(DataError, match="3 classes, but 1 class names"):
        from_arrays((X, Y), (X, Y), class_names=["one"])
    assert from_arrays((X, Y), (X, Y), class_names="abc").class_names == ("a", "b", "c")


def test_rows() -> None:
    split = Split(X, Y, {"writer": np.array(["a", "b", "c", "d"])}).rows(np.array([3, 0]))
    assert len(split) == 2
    assert split.columns["writer"].tolist() == ["d", "a"]
    assert isinstance(Dataset(split, split, None).digest(), str)
