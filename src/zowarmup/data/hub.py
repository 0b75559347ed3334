"""Data sets of the Hugging Face hub, through the ``datasets`` library's Arrow tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.columns import CHUNK, Piece
from zowarmup.data.extras import need
from zowarmup.errors import DataError


class HubRows:
    """One split of a loaded data set; nothing is decoded by ``datasets`` itself."""

    def __init__(self, name: str, split: Any) -> None:
        self.name = name
        self.count = len(split)
        self.schema: Any = split.features.arrow_schema
        self._split = split.with_format("arrow")

    def pieces(self, columns: Sequence[str], rows: NDArray[np.int64]) -> Iterator[Piece]:
        """See :class:`zowarmup.data.columns.Rows`."""
        chosen = self._split.select_columns(list(columns))
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            yield Piece(chosen[part.tolist()], self.name, part)


def load_splits(name: str, *, load_dataset: Callable[[str], Any] | None = None) -> tuple[Any, Any]:
    """The ``train`` and ``test`` splits of a data set (``validation`` where there is no ``test``).

    Args:
        name: the data set, for instance ``"uoft-cs/cifar10"``, or a local folder.
        load_dataset: what loads it; ``datasets.load_dataset`` where None.

    Raises:
        DataError: the library is not installed, the data set cannot be loaded, or lacks a split.
    """
    load_dataset = load_dataset or need("datasets", "reading from the hub").load_dataset
    try:
        loaded = load_dataset(name)
    except Exception as error:  # network, name, configuration or disk: the library has no common base class
        text = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"{name}: cannot be loaded: {type(error).__name__}: {text}",
            hint="check the name and the network; `hf auth login` where the data set is private",
        ) from error
    splits = dict(loaded) if isinstance(loaded, dict) else {}
    test = splits.get("test", splits.get("validation"))
    if "train" not in splits or test is None:
        names = ", ".join(splits) or type(loaded).__name__
        raise DataError(f"{name}: expected the splits train and test (or validation), got {names}")
    return splits["train"], test
