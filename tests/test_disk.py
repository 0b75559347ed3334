"""Files that are whole at every moment: what is done in which order, and what each failure leaves and says."""

import errno
import os
import sqlite3

import pytest

from zowarmup import disk as module
from zowarmup.disk import Disk, network_file_system, writing
from zowarmup.errors import DiskError, OutputError


class Watch:
    """Notes every operation, and lets one fail."""

    def __init__(self, fails=None, error=None):
        self.seen, self._fails, self._error = [], fails, error

    def __call__(self, name, when, path):
        self.seen.append((name, when, path.name.split(".")[-2 if path.name.startswith(".") else 0] or path.name))
        if (name, when) == self._fails:
            raise self._error


def test_a_file_is_written_synced_and_renamed_in_that_order_and_then_its_folder_is_synced(tmp_path):
    watch = Watch()
    Disk(watch=watch).write(tmp_path / "f", b"content")
    assert [(name, when) for name, when, _ in watch.seen] == [
        (name, when) for name in ("write", "fsync", "rename", "fsync") for when in ("before", "after")
    ]
    assert watch.seen[-1][2] == tmp_path.name.split(".")[0]
    assert (tmp_path / "f").read_bytes() == b"content"


def test_without_sync_nothing_is_synced(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: pytest.fail("synced"))
    watch = Watch()
    disk = Disk(sync=False, watch=watch)
    disk.write(tmp_path / "f", b"content")
    disk.rename(tmp_path / "f", tmp_path / "g")
    assert {name for name, _, _ in watch.seen} == {"write", "rename"}
    assert [path.name for path in tmp_path.iterdir()] == ["g"]


@pytest.mark.parametrize(
    "fails", [(name, when) for name in ("write", "fsync", "rename") for when in ("before", "after")]
)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_write_that_fails_leaves_the_old_file_or_the_new_one_and_nothing_else(tmp_path, fails, number):
    error = OSError(number, os.strerror(number))
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(DiskError) as caught:
        Disk(watch=Watch(fails, error)).write(tmp_path / "f", b"new")
    assert error.strerror in caught.value.message
    assert str(tmp_path) in caught.value.message
    assert (caught.value.hint is not None) == (number == errno.ENOSPC)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == (b"new" if fails == ("rename", "after") else b"old")


def test_an_interrupt_leaves_no_temporary_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Disk(watch=Watch(("fsync", "before"), KeyboardInterrupt())).write(tmp_path / "f", b"new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_that_cannot_sync_is_refused(tmp_path, monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OutputError, match="its file system cannot make files durable") as caught:
        Disk().write(tmp_path / "f", b"new")
    assert 'run.sync = "off"' in caught.value.hint
    Disk(sync=False).write(tmp_path / "f", b"new")


def test_unlink_removes_a_file_that_may_not_be_there(tmp_path):
    watch = Watch()
    (tmp_path / "f").write_bytes(b"x")
    Disk(watch=watch).unlink(tmp_path / "f")
    Disk(watch=watch).unlink(tmp_path / "f")
    assert not (tmp_path / "f").exists()
    assert [name for name, _, _ in watch.seen] == ["unlink"] * 4
    (tmp_path / "folder").mkdir()
    with pytest.raises(DiskError, match="folder: cannot be written"):
        Disk().unlink(tmp_path / "folder")


def test_a_commit_is_watched_and_its_failure_named(tmp_path):
    path = tmp_path / "x.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    watch = Watch()
    connection.execute("BEGIN")
    Disk(watch=watch).commit(connection, path)
    assert [each[:2] for each in watch.seen] == [("commit", "before"), ("commit", "after")]
    with pytest.raises(DiskError, match=r"x\.db: cannot be written: cannot commit - no transaction is active"):
        Disk().commit(connection, path)
    connection.close()


def test_what_sqlite_says_of_a_full_disk_comes_with_a_hint(tmp_path):
    with pytest.raises(DiskError) as caught, writing(tmp_path / "x"):
        raise sqlite3.OperationalError("database or disk is full")
    assert "free some space" in caught.value.hint
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "x"):
        raise ZeroDivisionError


class Mount:
    def __init__(self, mountpoint, fstype):
        self.mountpoint, self.fstype = mountpoint, fstype


@pytest.mark.parametrize("kind, network", [("nfs4", True), ("CIFS", True), ("fuse.sshfs", True), ("ext4", False)])
def test_a_network_file_system_is_told_by_the_nearest_mount(tmp_path, monkeypatch, kind, network):
    inner = tmp_path / "mounted" / "folder"
    inner.mkdir(parents=True)
    mounts = [
        Mount("/", "9p"),
        Mount(str(tmp_path.resolve()), "ext4"),
        Mount(str(tmp_path.resolve() / "mounted"), kind),
    ]
    monkeypatch.setattr("psutil.disk_partitions", lambda **_: mounts)
    assert network_file_system(inner) == (kind if network else None)
    assert network_file_system(tmp_path) is None
    assert network_file_system(inner / "not" / "there") == (kind if network else None)
    monkeypatch.setattr("psutil.disk_partitions", lambda **_: [])
    assert network_file_system(inner) is None


def test_the_operations_are_those_that_the_documentation_names():
    for name in ("write", "fsync", "rename", "unlink", "commit"):
        assert f'"{name}"' in module.Disk.__doc__
