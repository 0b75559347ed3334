"""A training set that one device holds: what is read, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zowarmup.data import alone, load_own
from zowarmup.errors import DataError
from zowarmup.recipe import Data, Own

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([2, 0, 2, 1])
SETTINGS = Data(source="digits", clients=3, partition=Own())


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    split = load_own(npz(tmp_path / "mine.npz", x=X, y=Y), SETTINGS)
    assert (split.x == X).all() and split.y.tolist() == Y.tolist()
    assert (split.x.dtype, split.y.dtype) == (np.float32, np.int64)


def test_types_are_those_of_other_sources(tmp_path: Path) -> None:
    images = np.zeros((4, 1, 2, 2), np.uint8)
    split = load_own(npz(tmp_path / "mine.npz", x=images, y=Y.astype(np.int32)), SETTINGS)
    assert (split.x.dtype, split.y.dtype) == (np.uint8, np.int64)
    assert load_own(npz(tmp_path / "mine.npz", x=X.astype(np.float64), y=Y), SETTINGS).x.dtype == np.float32


def test_parquet_files_are_read_alone_and_by_the_folder(folder: Callable[..., Path]) -> None:
    made = folder(
        {"a.parquet": {"x": X[:3].tolist(), "label": Y[:3]}, "b.parquet": {"x": X[3:].tolist(), "label": Y[3:]}}
    )
    assert load_own(made, SETTINGS).x.tolist() == X.tolist()
    assert load_own(made / "b.parquet", SETTINGS).y.tolist() == [1]


def test_columns_are_those_of_the_recipe(folder: Callable[..., Path]) -> None:
    made = folder({"mine.parquet": {"x": X.tolist(), "label": Y, "other": Y + 1, "z": (X + 1).tolist()}})
    settings = Data(source="parquet", path="elsewhere", clients=3, image_column="z", label_column="other")
    split = load_own(made, settings)
    assert split.x.tolist() == (X + 1).tolist() and split.y.tolist() == (Y + 1).tolist()


def test_by_itself_it_is_a_data_set_with_the_classes_that_it_shows(tmp_path: Path) -> None:
    dataset = alone(npz(tmp_path / "mine.npz", x=X, y=Y), SETTINGS)
    assert (dataset.classes, len(dataset.train), len(dataset.test)) == (3, 4, 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mine\.npz: there is no such file or folder"):
        load_own(tmp_path / "mine.npz", SETTINGS)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([{"a": 1}], dtype=object), y=Y[:1])
    return buffer.getvalue()


def plain() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, X)
    return buffer.getvalue()


UNREADABLE = {
    "empty": b"",
    "no archive": b"noise",
    "cut short": pickled()[:60],
    "one array": plain(),
    "pickled objects": pickled(),
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_npz_file_is_refused_and_never_unpickled(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.npz: not a readable \.npz file"):
        load_own(tmp_path / "mine.npz", SETTINGS)


MISFITS = {
    "no labels": ({"x": X}, r"has no array .*y"),
    "too few labels": ({"x": X, "y": Y[:3]}, "4 samples in x, but 3 in"),
    "no samples": ({"x": X[:0], "y": Y[:0]}, "there are no samples"),
    "not finite": ({"x": np.full((4, 3), np.nan, np.float32), "y": Y}, "finite"),
    "a label below zero": ({"x": X, "y": Y - 1}, "label"),
}


@pytest.mark.parametrize(("arrays", "message"), MISFITS.values(), ids=MISFITS)
def test_arrays_that_do_not_fit(arrays: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_own(npz(tmp_path / "mine.npz", **arrays), SETTINGS)
    assert "mine.npz" in caught.value.message


def test_a_folder_without_parquet_files_and_one_without_rows(tmp_path: Path, folder: Callable[..., Path]) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: holds no \*\.parquet file"):
        load_own(tmp_path / "none", SETTINGS)
    made = folder({"few/a.parquet": {"x": X[:0].tolist(), "label": Y[:0]}})
    with pytest.raises(DataError, match="few: there are no samples"):
        load_own(made / "few", SETTINGS)


def test_a_file_that_is_neither(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("x,y")
    with pytest.raises(DataError, match=r"mine\.csv"):
        load_own(tmp_path / "mine.csv", SETTINGS)
