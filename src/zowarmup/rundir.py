"""The run directory: what a run leaves behind, written so that a crash leaves whole files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec

from zowarmup.errors import DiskError, OutputError

RECIPE, METRICS, SUMMARY, MODEL, REPORT = (
    "run.toml",
    "metrics.jsonl",
    "summary.json",
    "model.safetensors",
    "report.html",
)


def check(path: Path, *, force: bool = False) -> None:
    """Refuse a directory that cannot hold a run; writes nothing.

    Raises:
        OutputError: it is a file, is not empty (and not ``force``), or cannot be looked at.
    """
    try:
        if not os.access(next(parent for parent in (path, *path.absolute().parents) if parent.exists()), os.W_OK):
            raise OutputError(f"{path}: cannot be written to: no permission", path=path)
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: is a file, expected a directory", path=path)
        if not force and path.is_dir() and any(path.iterdir()):
            raise OutputError(
                f"{path}: exists and is not empty", hint="choose another --out, or --force to replace it", path=path
            )
    except OSError as error:
        raise OutputError(f"{path}: cannot be used: {error.strerror}", path=path) from error


class RunDirectory:
    """Writes a run's files; a context manager that closes metrics.jsonl.

    Args:
        path: made with its parents. With ``force``, an earlier run's files in it are removed; other files stay.

    Raises:
        OutputError: see :func:`check`; or it cannot be written to.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        check(path, force=force)
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name in (RECIPE, METRICS, SUMMARY, MODEL, REPORT):
                (path / name).unlink(missing_ok=True)
            self._metrics: IO[bytes] = (path / METRICS).open("wb", buffering=0)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written to: {error.strerror}", path=path) from error

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        with disk(self.path / METRICS):
            self._metrics.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl, whole or not at all; it is with the operating system when this returns."""
        content = memoryview(msgspec.json.encode(line) + b"\n")
        with disk(self.path / METRICS):
            before = self._metrics.tell()
            try:
                while content:
                    content = content[self._metrics.write(content) :]
            except OSError:
                self._metrics.truncate(before)
                raise

    def discard(self) -> None:
        """Remove what there is of a run without a round."""
        with disk(self.path):
            for name in (RECIPE, METRICS):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: other files were there before
                self.path.rmdir()

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file, or leave what was there."""
        write(self.path / name, content)


def write(path: Path, content: bytes) -> None:
    """Replace a file by way of a temporary one, so that it is whole at every moment.

    Raises:
        DiskError: for instance, the disk is full; the file is as it was.
    """
    with disk(path):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn an operating system's error into a DiskError that names the file."""
    try:
        yield
    except OSError as error:
        hint = "free some space; what was written before is readable" if error.errno == errno.ENOSPC else None
        raise DiskError(f"{path}: cannot be written: {error.strerror}", hint=hint, path=path) from error
