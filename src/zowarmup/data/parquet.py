"""Parquet files in a folder as a training and a test set."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.columns import CHUNK, Piece
from zowarmup.data.extras import need
from zowarmup.errors import DataError

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})")
_KINDS = ("train", "test", "val")


class ParquetRows:
    """The rows of one or several files, one after the other in the order given.

    Raises:
        DataError: a file that is not parquet, or whose columns differ from the first one's.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [(path, _opened(path)) for path in files]
        self.name = str(files[0]) if len(files) == 1 else str(files[0].parent)
        self.schema: Any = self._files[0][1].schema_arrow
        self.count = sum(file.metadata.num_rows for _, file in self._files)
        for path, file in self._files[1:]:
            if not file.schema_arrow.equals(self.schema):
                raise DataError(f"{path}: columns differ from those of {files[0].name} beside it")

    def pieces(self, columns: Sequence[str], rows: NDArray[np.int64]) -> Iterator[Piece]:
        """See :class:`zowarmup.data.columns.Rows`; row groups without a wanted row are not read."""
        first_of_file = 0
        for path, file in self._files:
            first = first_of_file
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                wanted = _between(rows, first, first + size)
                if wanted.size:
                    yield from _group(path, file, group, columns, wanted - first, first - first_of_file)
                first += size
            first_of_file = first


def find_files(path: str) -> tuple[list[Path], list[Path]]:
    """The training files and the test files in a folder, each in the order of their names.

    Files are told apart by ``train`` and ``test`` in their names (``val`` stands in where no name has ``test``), or
    by the same in the names of the folders they are in.

    Raises:
        DataError: no folder, no such files, a name that says both, or a shard (``-00000-of-00002``) missing.
    """
    folder = Path(path).expanduser()
    hint = "`zowarmup fetch cifar10` downloads it" if Path(path) == Path("data/cifar10") else None
    if not folder.exists():
        raise DataError(f"{path}: there is no such folder", hint=hint)
    if not folder.is_dir():
        raise DataError(f"{path}: expected a folder with train and test files, got a file", hint=f"use {folder.parent}")
    found: dict[str, list[Path]] = {kind: [] for kind in _KINDS}
    for file in sorted(
        [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")], key=lambda p: p.relative_to(folder).parts
    ):
        kind = _kind(file.stem, file) or (_kind(file.parent.name, file) if file.parent != folder else None)
        if kind is not None:
            found[kind].append(file)
    train, test = found["train"], found["test"] or found["val"]
    for files, what in ((train, "train"), (test, "test")):
        if not files:
            names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
            raise DataError(f"{path}: no *.parquet file has `{what}` in its name; the folder holds {names}", hint=hint)
        _check_shards(files, what)
    return train, test


def _opened(path: Path) -> Any:
    pa, pq = need("pyarrow", "reading parquet"), need("pyarrow.parquet", "reading parquet")
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file: {_line(error)}") from None


def _group(
    path: Path, file: Any, group: int, columns: Sequence[str], wanted: NDArray[np.int64], first: int
) -> Iterator[Piece]:
    """The wanted rows (numbers within the row group) of a group whose first row is the file's row ``first``."""
    pa = need("pyarrow", "reading parquet")
    done = 0
    try:
        for batch in file.iter_batches(batch_size=CHUNK, row_groups=[group], columns=list(columns)):
            inside = _between(wanted, done, done + batch.num_rows)
            if inside.size:
                yield Piece(pa.Table.from_batches([batch]).take(inside - done), str(path), inside + first)
            done += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read from row {first + done} on: {_line(error)}", file=str(path)) from None


def _between(rows: NDArray[np.int64], low: int, high: int) -> NDArray[np.int64]:
    start, end = np.searchsorted(rows, [low, high])
    return rows[start:end]


def _kind(name: str, file: Path) -> str | None:
    """Which set a name speaks of: by whole words first, so that `contest-train` is no test set."""
    words = re.split(r"[^a-z]+", name.lower())
    kinds = [kind for kind in _KINDS if kind in words or (kind == "val" and "validation" in words)]
    kinds = kinds or [kind for kind in _KINDS if kind in name.lower()]
    if len(kinds) > 1:
        raise DataError(f"{file}: ambiguous: the name has both `{kinds[0]}` and `{kinds[1]}`", hint="rename the file")
    return kinds[0] if kinds else None


def _check_shards(files: Sequence[Path], what: str) -> None:
    """All shards are there, and nothing is beside them: a set would be read in part, or twice."""
    matches = [_SHARD.fullmatch(file.stem) for file in files]
    if not any(matches):
        return
    sets = {(file.parent, match[1], match[3]) if match else (file,) for file, match in zip(files, matches, strict=True)}
    if len(sets) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise DataError(f"{files[0].parent}: ambiguous: {what} files of several sets: {names}", hint="keep one set")
    numbers = {int(match[2]) for match in matches if match}
    missing = sorted(set(range(int(matches[0][3]))) - numbers) if matches[0] else []
    if missing:
        raise DataError(f"{files[0].parent}: {what} shard {missing[0]:05d} of {len(missing) + len(numbers)} is missing")


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
