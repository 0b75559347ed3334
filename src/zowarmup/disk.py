"""Files that survive: whole at every moment, and on the medium when a call returns."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from zowarmup.errors import DiskError, OutputError

When = Literal["before", "after"]
Watch = Callable[[str, When, Path], None]

_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_NETWORK = {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"}
_NETWORK |= {"fuse.sshfs", "fuse.rclone", "fuse.glusterfs"}


class Disk:
    """The operations on files that a run's record is made with.

    Args:
        sync: wait until what was written is on the medium. Without, a killed process loses nothing all the same, but a
            power cut may.
        watch: called with an operation's name (``"write"``, ``"fsync"``, ``"rename"``, ``"unlink"``, ``"commit"``),
            ``"before"`` or ``"after"``, and the file; what it raises is the operation's failure. For tests of faults.
    """

    def __init__(self, *, sync: bool = True, watch: Watch | None = None) -> None:
        self.sync = sync
        self._watch = watch

    def write(self, path: Path, content: bytes | Iterable[bytes]) -> None:
        """Replace a file by way of a temporary one, so that it is whole at every moment.

        Raises:
            DiskError: for instance, the disk is full; the file is as it was.
            OutputError: the file system cannot sync.
        """
        with writing(path):
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                with self._step("write", temporary), temporary.open("wb") as file:
                    file.writelines((content,) if isinstance(content, bytes) else content)
                self._fsync(temporary)
                self.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise

    def rename(self, before: Path, path: Path) -> None:
        """Give a file another name in its folder, durably."""
        with writing(path):
            with self._step("rename", path):
                before.replace(path)
            self._fsync(path.parent)

    def unlink(self, path: Path) -> None:
        """Remove a file, if it is there."""
        with writing(path), self._step("unlink", path):
            path.unlink(missing_ok=True)

    def commit(self, connection: sqlite3.Connection, path: Path) -> None:
        """Commit the transaction; SQLite syncs by its own settings."""
        with writing(path), self._step("commit", path):
            connection.execute("COMMIT")

    def mkdir(self, path: Path) -> None:
        """Make a folder with its parents, durably; one that is there stays as it is."""
        if path.is_dir():
            return
        self.mkdir(path.parent)
        with writing(path):
            path.mkdir(exist_ok=True)
            self._fsync(path.parent)

    def probe(self, folder: Path) -> None:
        """Find out whether a folder's file system syncs, before SQLite does, which would not say what is wrong.

        Raises:
            OutputError: it does not.
            DiskError: it should, and failed.
        """
        with writing(folder):
            self._fsync(folder)

    def _fsync(self, path: Path) -> None:
        if not self.sync or (path.is_dir() and os.name == "nt"):  # Windows does not open folders
            return
        with self._step("fsync", path):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in _NO_SYNC:
                    raise
                raise OutputError(
                    f"{path}: its file system cannot make files durable: {error.strerror}",
                    hint='run.sync = "off" does without; a power cut may then cost the run',
                    path=path,
                ) from error
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def _step(self, name: str, path: Path) -> Iterator[None]:
        if self._watch is not None:
            self._watch(name, "before", path)
        yield
        if self._watch is not None:
            self._watch(name, "after", path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's or SQLite's error into a DiskError that names the file."""
    try:
        yield
    except OSError as error:
        full = error.errno == errno.ENOSPC
        raise DiskError(f"{path}: cannot be written: {error.strerror}", hint=_hint(full), path=path) from error
    except sqlite3.OperationalError as error:
        raise DiskError(f"{path}: cannot be written: {error}", hint=_hint("full" in str(error)), path=path) from error


def _hint(full: bool) -> str | None:
    return "free some space; `zowarmup resume` goes on from the last round that was written" if full else None


def network_file_system(path: Path) -> str | None:
    """The kind of network file system that a folder is on, or None."""
    import psutil

    mounts = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    here = path.resolve()
    kind = next((mounts[parent] for parent in (here, *here.parents) if parent in mounts), "")
    return kind if kind.lower() in _NETWORK else None
