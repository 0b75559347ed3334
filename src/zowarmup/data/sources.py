"""The four sources of a recipe: ``digits``, ``parquet``, ``hub`` and ``python:module:function``."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from zowarmup.data import columns
from zowarmup.data.columns import Rows
from zowarmup.data.dataset import Dataset, Split, describe, from_arrays, validate
from zowarmup.data.hub import HubRows, load_splits
from zowarmup.data.parquet import ParquetRows, find_files
from zowarmup.data.partition import missing_column
from zowarmup.draws import Draw
from zowarmup.errors import DataError
from zowarmup.imports import load_object
from zowarmup.recipe import GIVEN, Data, Natural

_DIGITS_TRAIN = 1200


def load(settings: Data, *, seed: int, dataset: Dataset | None = None) -> Dataset:
    """The dataset a recipe names, checked.

    Args:
        settings: the recipe's ``data`` table; partition and tiers play no part here, but for the column a natural
            partition needs.
        seed: the run seed; ``take`` draws training samples with it.
        dataset: for ``source = "given"``: the data, which is checked like any other.

    Raises:
        DataError: missing, ambiguous, undecodable or contradictory data, or an extra that is not installed.
    """
    if settings.source == GIVEN:
        if dataset is None:
            raise DataError('data.source is "given", but no data was given', hint="pass `data` from Python")
        return _take(validate(dataset, name="given data"), settings, seed)
    if settings.source == "digits":
        return _take(digits(), settings, seed)
    if settings.source == "parquet":
        train, test = find_files(cast(str, settings.path))
        return _tables(cast(str, settings.path), ParquetRows(train), ParquetRows(test), settings, seed)
    if settings.source == "hub":
        name = cast(str, settings.name)
        train_split, test_split = load_splits(name)
        return _tables(name, HubRows(f"{name} train", train_split), HubRows(f"{name} test", test_split), settings, seed)
    return _take(_from_python(settings.source), settings, seed)


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels in 0..1 as 64 float32; 1,200 train and 597 test.

    The split is the same for every run seed, so that accuracies of different seeds compare.
    """
    x, y = _embedded_digits()
    order = Draw(0, "digits-split").permutation(len(x))
    x, y = (x[order] / 16.0).astype(np.float32), y[order]
    cut = _DIGITS_TRAIN
    names = [str(digit) for digit in range(10)]
    return from_arrays((x[:cut], y[:cut]), (x[cut:], y[cut:]), 10, class_names=names, name="digits")


def _embedded_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels 0..16, shape ``(1797, 64)``, and labels, in scikit-learn's order.

    Importing scikit-learn takes seconds, reading the table it carries a few hundredths of one.
    """
    spec = importlib.util.find_spec("sklearn")
    table = Path((spec and spec.origin) or "").parent / "datasets" / "data" / "digits.csv.gz"
    if table.is_file():
        values = np.loadtxt(table, delimiter=",")
        return values[:, :-1], values[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return x, y


def _take(dataset: Dataset, settings: Data, seed: int) -> Dataset:
    if settings.take is None:
        return dataset
    chosen = _chosen(len(dataset.train), settings, seed)
    return Dataset(dataset.train.rows(chosen), dataset.test, dataset.classes, dataset.class_names)


def _chosen(count: int, settings: Data, seed: int) -> NDArray[np.int64]:
    """Rows of the training set that a run uses, ascending."""
    if settings.take is None:
        return np.arange(count)
    if settings.take > count:
        raise DataError(f"data.take is {settings.take}, but there are {count} training samples")
    return Draw(seed, "take").choose(count, settings.take)


def _tables(name: str, train: Rows, test: Rows, settings: Data, seed: int) -> Dataset:
    keep = settings.partition.column if isinstance(settings.partition, Natural) else None
    if keep is not None and keep not in train.schema.names:
        raise missing_column(train.name, keep, train.schema.names)
    found = columns.find(train, image=settings.image_column, label=settings.label_column, keep=keep)
    columns.find(test, image=found.image, label=found.label, keep=None)
    labels, test_labels = (columns.read_labels(rows, found.label) for rows in (train, test))
    for rows in (train, test):
        if rows.count == 0:
            raise DataError(f"{rows.name}: there are no samples")
    names = columns.class_names(train.schema, found.label)
    # All labels count, taken or not: the classes of a data set do not depend on the draw.
    classes = len(names) if names is not None else max(int(labels.max()) + 1, 1)
    train_split = columns.read(train, found, labels, _chosen(train.count, settings, seed), keep)
    test_split = columns.read(test, found, test_labels, np.arange(test.count), None)
    return validate(Dataset(*_same_channels(train_split, test_split), classes, names), name=name)


def _same_channels(train: Split, test: Split) -> tuple[Split, Split]:
    """Where only one of the two sets is all grayscale, its channel is repeated."""
    if train.x.ndim != 4 or test.x.ndim != 4 or {train.x.shape[1], test.x.shape[1]} != {1, 3}:
        return train, test
    if train.x.shape[1] == 1:
        return replace(train, x=train.x.repeat(3, axis=1)), test
    return train, replace(test, x=test.x.repeat(3, axis=1))


def _from_python(source: str) -> Dataset:
    try:
        make = load_object(source, DataError)
    except DataError:
        raise
    except Exception as error:  # whatever the module does when it is imported
        raise DataError(f"{source}: cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(make):
        raise DataError(f"{source}: expected a function, got {describe(make)}")
    try:
        made = make()
    except Exception as error:
        raise DataError(f"{source}: the function failed: {type(error).__name__}: {error}") from error
    if isinstance(made, Dataset):
        return validate(made, name=source)
    if not isinstance(made, tuple | list) or len(made) != 2:
        wanted = "a Dataset or ((x_train, y_train), (x_test, y_test))"
        raise DataError(f"{source}: expected {wanted}, got {describe(made)}")
    return from_arrays(made[0], made[1], name=source)
