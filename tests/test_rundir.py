"""The run directory: refused where it must be, one writer, whole at every moment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zowarmup.chain import identity
from zowarmup.disk import Disk
from zowarmup.errors import OutputError
from zowarmup.ledger import Head, Ledger
from zowarmup.rundir import RunDirectory, check
from zowarmup.table import Table

RECIPE = '[[phase]]\nkind = "zeroth-order"\nrounds = 5\n'
HEAD = Head(
    recipe=RECIPE,
    identity=identity({"phase": [{"kind": "zeroth-order", "rounds": 5}]}),
    table=Table(("weight",), ((2,),)),
    data="ab" * 32,
)


def create(path: Path, **options) -> RunDirectory:
    return RunDirectory.create(path, HEAD, disk=Disk(), **options)


def test_a_new_directory_is_made_with_its_parents(tmp_path):
    with create(tmp_path / "a" / "b") as directory:
        directory.begin([{"round": 0}])
        directory.append({"round": 1, "loss": float("nan")})
        directory.write("summary.json", b"{}")
    assert (tmp_path / "a" / "b" / "metrics.jsonl").read_bytes() == b'{"round":0}\n{"round":1,"loss":null}\n'
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert names == {"ledger.db", "writer.lock", "metrics.jsonl", "summary.json"}


def test_one_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OutputError, match="exists and is not empty") as caught:
        create(tmp_path)
    assert "--force" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_one_with_a_run_names_resume(tmp_path):
    create(tmp_path).close()
    with pytest.raises(OutputError, match="exists and is not empty") as caught:
        check(tmp_path)
    assert f"zowarmup resume {tmp_path}" in str(caught.value)


def test_what_a_run_left_that_was_killed_before_it_had_a_ledger_is_nothing(tmp_path):
    for name in ("writer.lock", ".ledger.db", ".ledger.db-journal"):
        (tmp_path / name).write_text("half")
    with create(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"ledger.db", "writer.lock"}


def test_force_removes_an_earlier_run_and_nothing_else(tmp_path):
    (tmp_path / "mine").write_text("x")
    (tmp_path / "summary.json").write_text("old")
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "old.safetensors").write_text("old")
    with create(tmp_path, force=True):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.db", "mine", "writer.lock"]


def test_a_run_that_is_being_written_is_not_replaced(tmp_path):
    with create(tmp_path), pytest.raises(OutputError, match="is being written by process"):
        create(tmp_path, force=True)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.head == HEAD


def test_opening_what_is_no_run_leaves_no_trace(tmp_path):
    with pytest.raises(OutputError, match=r"not a run directory: it has no ledger\.db"):
        RunDirectory.open(tmp_path, disk=Disk())
    with pytest.raises(OutputError, match="not a run directory: no such folder"):
        RunDirectory.open(tmp_path / "nowhere", disk=Disk())
    assert list(tmp_path.iterdir()) == []


def test_one_without_a_round_is_discarded_with_the_folder_that_was_made_for_it(tmp_path):
    with create(tmp_path / "run") as directory:
        directory.discard()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").write_text("x")
    with create(tmp_path, force=True) as directory:
        directory.discard()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_who_writes_is_in_the_ledger(tmp_path):
    with create(tmp_path):
        pass
    with Ledger.open(tmp_path) as ledger:
        writer = ledger.value("writer")
    assert set(writer) == {"pid", "host", "since"}
    assert json.dumps(writer["pid"]).isdigit()


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file, expected a directory"):
        check(tmp_path / "file", force=True)


def test_a_place_that_cannot_be_written_is_refused():
    with pytest.raises(OutputError, match="cannot be written to"):
        create(Path("/proc/nope/run"))
