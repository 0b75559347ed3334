"""The run directory: refused where it must be, whole at every moment."""

import errno
from pathlib import Path

import pytest

from zowarmup.errors import DiskError, OutputError
from zowarmup.rundir import RunDirectory, check, write


def test_a_new_directory_is_made_with_its_parents(tmp_path):
    with RunDirectory(tmp_path / "a" / "b") as directory:
        directory.append({"round": 0, "loss": float("nan")})
        directory.write("summary.json", b"{}")
    assert (tmp_path / "a" / "b" / "metrics.jsonl").read_bytes() == b'{"round":0,"loss":null}\n'


def test_one_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="exists and is not empty") as caught:
        RunDirectory(tmp_path)
    assert "--force" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_force_removes_an_earlier_run_and_nothing_else(tmp_path):
    (tmp_path / "mine").write_text("x")
    (tmp_path / "summary.json").write_text("old")
    with RunDirectory(tmp_path, force=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "mine"]


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file, expected a directory"):
        check(tmp_path / "file", force=True)


def test_a_place_that_cannot_be_written_is_refused():
    with pytest.raises(OutputError, match="cannot be written to"):
        RunDirectory(Path("/proc/nope/run"))


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    write(tmp_path / "f", b"old")

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
