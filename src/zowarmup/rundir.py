"""The run directory: the ledger and its snapshots, one writer at a time, and the files that are made from them."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import filelock
import msgspec

from zowarmup.disk import Disk, writing
from zowarmup.errors import OutputError, ZOWarmUpError
from zowarmup.ledger import FILES as LEDGER
from zowarmup.ledger import Head, Ledger
from zowarmup.writers import LOCK, locked

RECIPE, METRICS, SUMMARY, MODEL, REPORT, STATUS = (
    "run.toml",
    "metrics.jsonl",
    "summary.json",
    "model.safetensors",
    "report.html",
    "status.json",
)
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR}
_DERIVED = (RECIPE, METRICS, SUMMARY, MODEL, REPORT, STATUS)
SERVER = "server"
"""A folder of the server's, where nodes take part; no part of the run."""
_UNBORN = {LOCK, f".{LEDGER[0]}", f".{LEDGER[0]}-journal"}
"""What a run leaves that was killed before it had a ledger."""


def check(path: Path, *, force: bool = False) -> None:
    """Refuse a directory that cannot hold a new run; writes nothing.

    Raises:
        OutputError: it is a file, is not empty (and not ``force``), or cannot be looked at.
    """
    try:
        if not os.access(next(parent for parent in (path, *path.absolute().parents) if parent.exists()), os.W_OK):
            raise OutputError(f"{path}: cannot be written to: no permission", path=path)
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: is a file, expected a directory", path=path)
        if not force and path.is_dir() and {entry.name for entry in path.iterdir()} - _UNBORN - {SERVER, STATUS}:
            hint = "choose another --out, or --force to replace it"
            if (path / LEDGER[0]).is_file():
                hint = f"`zowarmup resume {path}` goes on with the run in it; --force replaces it"
            raise OutputError(f"{path}: exists and is not empty", hint=hint, path=path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be used: {error.strerror}", path=path) from error


def lacking(ledger: Ledger) -> str | None:
    """What is wrong where metrics.jsonl has a later round than the ledger, which had it first.

    As a rule ``ledger.db`` was copied without its ``-wal``, or that was cut short.
    """
    path = ledger.path.parent
    try:
        with (path / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
            lines = file.read().splitlines()
        told = max(msgspec.json.decode(line)["round"] for line in lines[-2:] if line.endswith(b"}"))
    except (OSError, ValueError, KeyError, TypeError, msgspec.DecodeError):
        return None
    ledger.refresh()  # behind the line, so that a run that goes on lacks nothing
    if not isinstance(told, int) or told <= ledger.last:
        return None
    end = f"round {ledger.last}" if ledger.last >= 0 else "none"
    return f"{path}: {METRICS} has round {told}, the ledger ends with {end}"


class RunDirectory:
    """A run directory that this process writes; a context manager that closes it. Made by create or open.

    Args:
        path: the folder, which exists.
        lock: held.
        ledger: opened to write.
        disk: what writes files.
    """

    def __init__(self, path: Path, lock: filelock.BaseFileLock, ledger: Ledger, disk: Disk) -> None:
        from zowarmup.snapshots import Snapshots  # imports torch, which a directory that is refused does without

        self.path, self._lock, self.ledger, self.disk = path, lock, ledger, disk
        self.snapshots = Snapshots(path, ledger.head.table)
        self._metrics: IO[bytes] | None = None
        self.snapshots.sweep(ledger.files(), disk)
        for name in _DERIVED:
            for rest in path.glob(f".{name}.*"):  # an interrupted write's
                disk.unlink(rest)
        ledger.note(
            writer={
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now().astimezone().isoformat(" ", "seconds"),
            }
        )

    @classmethod
    def create(cls, path: Path, head: Head, *, force: bool = False, disk: Disk) -> RunDirectory:
        """Begin a run in a folder, made with its parents.

        Args:
            path: the folder.
            head: what the ledger begins with.
            force: remove an earlier run's files; other files stay.
            disk: what writes files.

        Raises:
            OutputError: see :func:`check`; or another process writes it, or its file system cannot sync.
            DiskError: it cannot be written.
        """
        check(path, force=force)
        fresh = not path.exists()
        try:
            disk.mkdir(path)
        except ZOWarmUpError as error:
            if fresh:
                with contextlib.suppress(OSError):  # it was made, but not durably
                    path.rmdir()
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _REFUSED:
                raise OutputError(f"{path}: cannot be written to: {error.__cause__.strerror}", path=path) from error
            raise
        lock, cleared = locked(path), False
        try:
            disk.probe(path)
            cleared = True
            _clear(path)
            return cls._begun(path, lock, Ledger.create(path, head, disk=disk), disk)
        except BaseException:
            if cleared:  # an earlier run stays as it was until then
                with contextlib.suppress(ZOWarmUpError):
                    _clear(path)
            _release(path, lock, remove=fresh)
            raise

    @classmethod
    def open(cls, path: Path, *, disk: Disk) -> RunDirectory:
        """Go on writing a run.

        Raises:
            OutputError: not a run directory, or another process writes it.
            LedgerError: the ledger is damaged.
        """
        Ledger.open(path).close()  # refuses without a trace what is no run directory
        lock = locked(path)
        try:
            disk.probe(path)
            return cls._begun(path, lock, Ledger.open(path, disk=disk), disk)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def _begun(cls, path: Path, lock: filelock.BaseFileLock, ledger: Ledger, disk: Disk) -> RunDirectory:
        try:
            return cls(path, lock, ledger, disk)
        except BaseException:
            ledger.close()
            raise

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close ledger and metrics.jsonl, and let others write."""
        try:
            if self._metrics is not None:
                with writing(self.path / METRICS):
                    self._metrics.close()
        finally:
            self._metrics = None
            if self._lock.is_locked:
                self.ledger.close()
                self._lock.release()

    def outdate(self) -> None:
        """Remove what was made of fewer rounds, and will be made again at the end."""
        for name in (SUMMARY, MODEL, REPORT):
            self.disk.unlink(self.path / name)

    def begin(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Make metrics.jsonl anew, to be added to."""
        self.write(METRICS, b"".join(map(_encoded, lines)))
        with writing(self.path / METRICS):
            self._metrics = (self.path / METRICS).open("ab", buffering=0)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl, whole or not at all; it is with the operating system when this returns."""
        assert self._metrics is not None
        content = memoryview(_encoded(line))
        with writing(self.path / METRICS):
            before = self._metrics.tell()
            try:
                while content:
                    content = content[self._metrics.write(content) :]
            except OSError:
                self._metrics.truncate(before)
                raise

    def discard(self) -> None:
        """Remove what there is of a run without a round."""
        self.ledger.close()
        _clear(self.path)
        _release(self.path, self._lock, remove=True)

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file, or leave what was there."""
        self.disk.write(self.path / name, content)


def _encoded(line: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _clear(path: Path) -> None:
    """Remove a run's files."""
    from zowarmup.snapshots import FOLDER

    names = (*_DERIVED, *LEDGER, *_UNBORN - {LOCK})
    with writing(path):
        for name in names:
            (path / name).unlink(missing_ok=True)
        if (path / FOLDER).is_dir():
            shutil.rmtree(path / FOLDER)


def _release(path: Path, lock: filelock.BaseFileLock, *, remove: bool) -> None:
    if remove and os.name != "nt":  # while it is held, so that nobody else gets it in between
        with contextlib.suppress(OSError):
            (path / LOCK).unlink(missing_ok=True)
    lock.release()
    if remove:
        with contextlib.suppress(OSError):  # not empty: other files were there before
            path.rmdir()
