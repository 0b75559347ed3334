"""Small tables and images that the data tests share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """An image of given pixels as bytes."""

    def make(pixels: Any, *, mode: str | None = None, kind: str = "PNG", **options: Any) -> bytes:
        image = Image.fromarray(np.asarray(pixels))
        image = image if mode is None else image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder of parquet files; each keyword or item is a file's columns."""

    def make(files: dict[str, Any], **write: Any) -> Path:
        for name, columns in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path, **write)
        return tmp_path

    return make
