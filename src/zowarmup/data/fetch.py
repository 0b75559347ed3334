"""Download a data set once, as files that ``source = "parquet"`` reads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zowarmup.data.hub import load_splits
from zowarmup.errors import DataError, OutputError

KNOWN = {"cifar10": "uoft-cs/cifar10"}
"""Short names of data sets on the Hugging Face hub."""


def fetch(name: str, out: str | Path, *, force: bool = False, load_dataset: Callable[[str], Any] | None = None) -> None:
    """Write ``train.parquet`` and ``test.parquet`` into a folder.

    Columns are as on the hub, images encoded as they are there (a struct of bytes and path). Files appear under their
    names only when both are complete.

    Args:
        name: ``"cifar10"``, or a data set of the hub as ``"owner/name"``.
        out: the folder; made where it does not exist.
        force: replace files that are there.
        load_dataset: what loads a data set by name; ``datasets.load_dataset`` where None.

    Raises:
        DataError: an unknown name, or the data set cannot be loaded.
        OutputError: the files are there already, or cannot be written.
    """
    if name not in KNOWN and "/" not in name:
        raise DataError(f"unknown data set `{name}`; known: {', '.join(KNOWN)}, or owner/name on the hub")
    folder = Path(out)
    targets = [folder / "train.parquet", folder / "test.parquet"]
    there = [target for target in targets if target.exists()]
    if there and not force:
        raise OutputError(f"{there[0]}: is there already", hint="--force replaces it", path=there[0])
    splits = load_splits(KNOWN.get(name, name), load_dataset=load_dataset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            parts = [Path(temporary) / target.name for target in targets]
            for split, part in zip(splits, parts, strict=True):
                split.to_parquet(str(part))
            for part, target in zip(parts, targets, strict=True):
                part.replace(target)  # atomic
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error}", path=folder) from error
