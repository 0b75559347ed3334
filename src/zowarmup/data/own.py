"""A training set that one device holds by itself: an .npz file, or parquet files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from zowarmup.data import columns
from zowarmup.data.dataset import Dataset, Split, from_arrays
from zowarmup.data.parquet import ParquetRows
from zowarmup.errors import DataError
from zowarmup.recipe import Data


def load_own(path: Path, settings: Data) -> Split:
    """The samples in a file or folder, all of them for training.

    Args:
        path: an ``.npz`` file with arrays ``x`` and ``y``; a parquet file; or a folder of parquet files.
        settings: the recipe's ``data`` table, for the names of the columns.

    Raises:
        DataError: it is not there, is neither, or does not decode.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder")
    if path.suffix == ".npz":
        x, y = _arrays(path)
        return from_arrays((x, y), (x, y), name=str(path)).train
    files = sorted(path.glob("**/*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: holds no *.parquet file")
    rows = ParquetRows(files)
    if rows.count == 0:
        raise DataError(f"{path}: there are no samples")
    found = columns.find(rows, image=settings.image_column, label=settings.label_column, keep=None)
    labels = columns.read_labels(rows, found.label)
    split = columns.read(rows, found, labels, np.arange(rows.count), None)
    return from_arrays(split, split, name=str(path)).train


def alone(path: Path, settings: Data) -> Dataset:
    """The same as a data set by itself, with as many classes as its labels show; for trying things out."""
    train = load_own(path, settings)
    return from_arrays((train.x, train.y), (train.x[:1], train.y[:1]), name=str(path))


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as found:
            return found["x"], found["y"]
    except KeyError as error:
        raise DataError(f"{path}: has no array {error}", hint="numpy.savez(path, x=..., y=...)") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file: {error}") from None
