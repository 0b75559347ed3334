"""One writer at a time: the lock of a run directory, and who holds it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import filelock

from zowarmup.disk import network_file_system
from zowarmup.errors import OutputError, ZOWarmUpError, ZOWarmUpWarning
from zowarmup.ledger import Ledger

LOCK = "writer.lock"
_PATIENCE_SECONDS = 0.5


def lock(folder: Path) -> filelock.BaseFileLock:
    """The folder's lock, not held yet; taking it does not wait."""
    return filelock.FileLock(folder / LOCK, blocking=False)


def locked(folder: Path) -> filelock.BaseFileLock:
    """The folder's lock, held.

    Raises:
        OutputError: another process holds it, or the file system has no locks.
    """
    if kind := network_file_system(folder):
        warnings.warn(
            f"{folder} is on a network file system ({kind}): commits take longer, and are as safe as it syncs",
            ZOWarmUpWarning,
            stacklevel=5,
        )
    found = lock(folder)
    try:
        found.acquire(blocking=True, timeout=_PATIENCE_SECONDS)  # others hold it for an instant, to look
    except filelock.Timeout:
        message = f"{folder}: is being written by {_holder(folder)}"
        raise OutputError(message, hint="wait, or stop it", path=folder) from None
    except (OSError, NotImplementedError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{folder}: cannot be locked: {what}", path=folder) from error
    return found


def held(folder: Path) -> bool:
    """Whether a process writes; False too where that cannot be known, as on a read-only medium.

    The lock is tried for an instant, and nothing is made where there is none.
    """
    if not (folder / LOCK).is_file():
        return False
    try:
        with lock(folder):
            return False
    except filelock.Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def writer(folder: Path, ledger: Ledger) -> dict[str, Any] | None:
    """The process that writes: pid, host, since; None where there is none."""
    if not held(folder):
        return None
    found = ledger.value("writer")
    return found if isinstance(found, dict) else {}


def in_words(writer: dict[str, Any]) -> str:
    """``process 12 on host since then``, as far as is known.

    >>> in_words({"pid": 12, "host": "here", "since": "2026-01-02 10:11:12 +0000"})
    'process 12 on here since 2026-01-02 10:11:12 +0000'
    """
    if not {"pid", "host", "since"} <= writer.keys():
        return "another process"
    return f"process {writer['pid']} on {writer['host']} since {writer['since']}"


def _holder(folder: Path) -> str:
    """Who writes, as far as is known; a ledger may not be there yet, or be damaged."""
    try:
        with Ledger.open(folder) as ledger:
            return in_words(ledger.value("writer") or {})
    except ZOWarmUpError:
        return in_words({})
