"""From tables to arrays: which column is which, and what its values are. Parquet files and the hub share it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.dataset import Split, stored
from zowarmup.data.extras import need
from zowarmup.data.images import decode
from zowarmup.errors import DataError

CHUNK = 4096
"""Rows decoded at a time: bounds the memory that encoded images take beside the decoded ones."""


class Piece(NamedTuple):
    """Some rows of a table: their values (a ``pyarrow.Table``), the file they are in, their numbers in that file."""

    table: Any
    file: str
    rows: NDArray[np.int64]


@runtime_checkable
class Rows(Protocol):
    """One set, wherever it is stored."""

    name: str
    """How error messages call it."""
    count: int
    """Number of rows."""
    schema: Any
    """``pyarrow.Schema``."""

    def pieces(self, columns: Sequence[str], rows: NDArray[np.int64]) -> Iterator[Piece]:
        """The columns of the given rows (ascending), in order, at most :data:`CHUNK` at a time."""


class Columns(NamedTuple):
    """Names of the columns that are read."""

    image: str
    label: str


def find(rows: Rows, *, image: str | None, label: str | None, keep: str | None) -> Columns:
    """Which column holds the inputs and which the labels.

    Args:
        image: ``data.image-column``; None: the only column of images or of lists of numbers.
        label: ``data.label-column``; None: the integer column named ``label``, or else the only integer column.
        keep: a column that is neither.

    Raises:
        DataError: no such column, none of a fitting type, or several.
    """
    types = {field.name: _storage(field.type) for field in rows.schema if field.name != keep}
    images = [name for name, kind in types.items() if _is_image(kind) or _is_array(kind)]
    integers = [name for name, kind in types.items() if need("pyarrow", "reading tables").types.is_integer(kind)]
    if label is None and "label" in integers:
        label = "label"
    return Columns(
        _only(rows, types, image, images, "image-column", "of images or of lists of numbers"),
        _only(rows, types, label, integers, "label-column", "of integers"),
    )


def class_names(schema: Any, label: str) -> tuple[str, ...] | None:
    """The names that the ``datasets`` library keeps in a table's metadata for a column of labels."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(str(name) for name in features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def read_labels(rows: Rows, column: str) -> NDArray[np.int64]:
    """Every label, shape ``(n,)``."""
    everything = np.arange(rows.count)
    values = [_integers(piece, column) for piece in rows.pieces([column], everything)]
    return np.concatenate(values) if values else np.empty(0, np.int64)


def read(rows: Rows, columns: Columns, labels: NDArray[np.int64], chosen: NDArray[np.int64], keep: str | None) -> Split:
    """The chosen rows' inputs, labels and kept column; what is not chosen is not decoded.

    Raises:
        DataError: a value that is missing, does not decode or has another shape; says file, row and column.
    """
    kept = {}
    if keep is not None:
        parts = [_plain(piece, keep) for piece in rows.pieces([keep], chosen)]
        kept[keep] = np.concatenate(parts)
    if _is_image(_storage(rows.schema.field(columns.image).type)):
        x = _read_images(rows, columns.image, chosen)
    else:
        x = _read_arrays(rows, columns.image, chosen)
    return Split(x, labels[chosen], kept)


def _read_images(rows: Rows, column: str, chosen: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Shape ``(n, 3, h, w)``, or ``(n, 1, h, w)`` where all are grayscale."""
    out: NDArray[np.uint8] | None = None
    done, gray = 0, True
    for piece in rows.pieces([column], chosen):
        size = None if out is None else (out.shape[3], out.shape[2])
        rgb, piece_gray = decode(_blobs(piece, column), size=size, fail=partial(_at, piece, column))
        if out is None:
            out = np.empty((len(chosen), 3, *rgb.shape[1:3]), np.uint8)
        out[done : done + len(rgb)] = rgb.transpose(0, 3, 1, 2)
        done, gray = done + len(rgb), gray and piece_gray
    assert out is not None, "the caller reads at least one row"
    return np.ascontiguousarray(out[:, :1]) if gray else out


def _read_arrays(rows: Rows, column: str, chosen: NDArray[np.int64]) -> NDArray[Any]:
    out: NDArray[Any] | None = None
    done = 0
    for piece in rows.pieces([column], chosen):
        block = _nested(piece, column)
        if out is None:
            out = np.empty((len(chosen), *block.shape[1:]), block.dtype)
        if block.shape[1:] != out.shape[1:]:
            raise _at(piece, column, 0, f"array has shape {block.shape[1:]}, the first one {out.shape[1:]}")
        out[done : done + len(block)] = block
        done += len(block)
    assert out is not None, "the caller reads at least one row"
    return out


def _blobs(piece: Piece, column: str) -> list[bytes | None]:
    array = piece.table.column(column).combine_chunks()
    if need("pyarrow", "reading tables").types.is_struct(array.type):
        # `field` would ignore the nulls of the struct itself.
        array = need("pyarrow.compute", "reading tables").struct_field(array, "bytes")
    blobs: list[bytes | None] = array.to_pylist()
    return blobs


def _nested(piece: Piece, column: str) -> NDArray[Any]:
    """Nested lists of numbers as one array, shape from the nesting."""
    pa, pc = need("pyarrow", "reading tables"), need("pyarrow.compute", "reading tables")
    array = piece.table.column(column).combine_chunks()
    shape = [len(array)]
    tail: tuple[int, ...] = ()
    if isinstance(array.type, pa.BaseExtensionType):
        tail = tuple(getattr(array.type, "shape", ()) if isinstance(array.type, pa.FixedShapeTensorType) else ())
        array = array.storage
    while _is_list(array.type):
        inner = int(np.prod(shape[1:], dtype=np.int64))
        if array.null_count:
            raise _at(piece, column, _first(array.is_null()) // inner, "there is a null")
        lengths = pc.list_value_length(array).to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != lengths[0])
        if other.size:
            text = f"list of {lengths[other[0]]}, the first one has {lengths[0]}; all must share one shape"
            raise _at(piece, column, int(other[0]) // inner, text)
        if lengths[0] == 0:
            raise _at(piece, column, 0, "list is empty")
        shape.append(int(lengths[0]))
        array = array.flatten()
    if array.null_count:
        raise _at(piece, column, _first(array.is_null()) // int(np.prod(shape[1:])), "there is a null")
    values = stored(array.to_numpy(zero_copy_only=False), f"{piece.file}: column `{column}`")
    return values.reshape(shape[0], *(tail or shape[1:]))


def _integers(piece: Piece, column: str) -> NDArray[np.int64]:
    array = piece.table.column(column).combine_chunks()
    if array.null_count:
        raise _at(piece, column, _first(array.is_null()), "there is a null")
    return np.asarray(array.to_numpy(zero_copy_only=False).astype(np.int64))


def _plain(piece: Piece, column: str) -> NDArray[Any]:
    """Numbers, or strings of fixed width."""
    array = piece.table.column(column).combine_chunks()
    if array.null_count:
        raise _at(piece, column, _first(array.is_null()), "there is a null")
    values = np.asarray(array.to_pylist())
    if values.dtype.hasobject or values.ndim != 1:
        raise _at(piece, column, 0, f"expected a number or a string, the column is {array.type}")
    return values


def _only(rows: Rows, types: dict[str, Any], wanted: str | None, candidates: list[str], key: str, what: str) -> str:
    listed = ", ".join(f"{name} ({kind})" for name, kind in types.items())
    if wanted is not None and wanted not in types:
        raise DataError(f"{rows.name}: there is no column `{wanted}`; there are {listed}", hint=f"set data.{key}")
    if wanted is not None and wanted not in candidates:
        raise DataError(f"{rows.name}: column `{wanted}` is {types[wanted]}, expected one {what}")
    if wanted is not None:
        return wanted
    if not candidates:
        raise DataError(f"{rows.name}: there is no column {what}; there are {listed or 'none'}")
    if len(candidates) > 1:
        raise DataError(
            f"{rows.name}: ambiguous: columns {', '.join(candidates)} are all {what}",
            hint=f'say which: data.{key} = "{candidates[0]}"',
            candidates=tuple(candidates),
        )
    return candidates[0]


def _storage(kind: Any) -> Any:
    pa = need("pyarrow", "reading tables")
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _is_binary(kind: Any) -> bool:
    types = need("pyarrow", "reading tables").types
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _is_image(kind: Any) -> bool:
    if need("pyarrow", "reading tables").types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind)


def _is_list(kind: Any) -> bool:
    types = need("pyarrow", "reading tables").types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_array(kind: Any) -> bool:
    types = need("pyarrow", "reading tables").types
    if not _is_list(kind):
        return False
    while _is_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _first(mask: Any) -> int:
    return int(np.flatnonzero(mask.to_numpy(zero_copy_only=False))[0])


def _at(piece: Piece, column: str, position: int, text: str) -> DataError:
    row = int(piece.rows[position])
    return DataError(f"{piece.file}: row {row}, column `{column}`: {text}", file=piece.file, row=row, column=column)
