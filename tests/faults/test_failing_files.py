"""Files that cannot be written: a clean message, a ledger that opens, and a run that goes on where it was."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from crashes import SHORT, Driver, Job, Outcome, differences, finish, ledger_last, ledger_there
from safetensors.torch import load_file

import zowarmup
from zowarmup.disk import Disk
from zowarmup.errors import OutputError, ZOWarmUpWarning
from zowarmup.ledger import Ledger
from zowarmup.replay import Replay
from zowarmup.rundir import RunDirectory
from zowarmup.snapshots import Snapshots, tensors

SET = [part for path, value in SHORT.items() for part in ("--set", f"{path}={value}")]
ERRORS = (errno.ENOSPC, errno.EIO)


def by_command_line(run: Path) -> Job:
    return Job(do="cli", out=str(run), arguments=("run", "digits", *SET, "--out", str(run), "--quiet"))


def check_failure(driver: Driver, run: Path, reference: Path, outcome: Outcome) -> None:
    """What must be true after a file could not be written."""
    assert outcome.code == 1, outcome
    assert "zowarmup: " in outcome.printed and "Traceback" not in outcome.printed, outcome.printed
    assert "cannot be written" in outcome.printed or "cannot be read" in outcome.printed, outcome.printed
    if "No space left" in outcome.printed or "is full" in outcome.printed:
        assert "hint: free some space" in outcome.printed
    if ledger_there(run):
        assert zowarmup.verify(run).holds
        check_agreement(run)
    finish(driver, run, SHORT)
    assert differences(run, reference, snapshots=False) == []


def check_agreement(run: Path) -> None:
    """The files made last are of the round that they name, which is the ledger's last."""
    summary, model = run / "summary.json", run / "model.safetensors"
    if not (summary.is_file() and model.is_file()):
        return
    number = json.loads(summary.read_text())["rounds"]
    assert number == ledger_last(run)
    with Ledger.open(run) as ledger:
        state = Replay(ledger, Snapshots(run, ledger.head.table)).state(number)
        expected = tensors(state, ledger.head.table)
    found = load_file(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected), number


def fail_at(driver: Driver, whole, folder: Path, numbers, error: int, *, lasting: bool = False) -> None:
    """Fail the n-th operation on files, for each of ``numbers``; counted over all kinds."""
    reference, _ = whole(SHORT)
    for nth in numbers:
        run = folder / f"run-{nth}-{error}"
        job = replace(by_command_line(run), strike="any before", nth=nth, error=error, lasting=lasting)
        outcome = driver(job)
        if outcome.code == 0:  # a rest that could not be removed stops nothing
            assert differences(run, reference, snapshots=False) == [], nth
        else:
            check_failure(driver, run, reference, outcome)


def count(driver: Driver, folder: Path) -> int:
    outcome = driver(by_command_line(folder / "counted"))
    assert outcome.code == 0, outcome
    return sum(number for name, number in outcome.operations.items() if name.endswith("before"))


def test_some_operations_fail(driver, whole, tmp_path):
    total = count(driver, tmp_path)
    assert total > 50
    fail_at(driver, whole, tmp_path, (1, 2, total // 3, total // 2, total - 3, total), errno.ENOSPC)
    fail_at(driver, whole, tmp_path, (3, total // 2), errno.EIO, lasting=True)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=["full", "io"])
def test_every_operation_fails(driver, whole, tmp_path, error):
    fail_at(driver, whole, tmp_path, range(1, count(driver, tmp_path) + 1), error)


@pytest.mark.slow
def test_a_disk_that_stays_full(driver, whole, tmp_path):
    fail_at(driver, whole, tmp_path, range(1, count(driver, tmp_path) + 1, 3), errno.ENOSPC, lasting=True)


def fail_calls(failing: Driver, driver: Driver, folder: Path, reference: Path, step: int, error: int) -> int:
    """Fail system calls below the run directory, SQLite's own among them; how many there are."""
    job = by_command_line(folder / "counted")
    counted = failing(replace(job, calls="all", nth=0))
    assert counted.code == 0, counted
    total = int(counted.said["calls"])
    for nth in range(1, total + 1, step):
        run = folder / f"run-{nth}-{error}"
        outcome = failing(replace(by_command_line(run), calls="all", nth=nth, error=error))
        if outcome.code == 0:
            assert differences(run, reference, snapshots=False) == [], nth
        elif error:
            check_failure(driver, run, reference, outcome)
        else:
            assert outcome.code == -9, outcome
            finish(driver, run, SHORT)
            assert differences(run, reference, snapshots=False) == [], nth
    return total


def test_some_system_calls_fail(failing, driver, whole, tmp_path):
    assert fail_calls(failing, driver, tmp_path, whole(SHORT)[0], 37, errno.ENOSPC) > 150


@pytest.mark.slow
@pytest.mark.parametrize("error", (*ERRORS, 0), ids=["full", "io", "killed"])
def test_every_system_call_fails(failing, driver, whole, tmp_path, error):
    fail_calls(failing, driver, tmp_path, whole(SHORT)[0], 1, error)


def kill_without_wal(failing: Driver, driver: Driver, folder: Path, reference: Path, step: int) -> None:
    """A journal that a killed commit left is rolled back, by whoever looks first."""
    job = replace(by_command_line(folder / "counted"), network=True, calls="all")
    for nth in range(1, int(failing(job).said["calls"]) + 1, step):
        run = folder / f"run-{nth}"
        killed = failing(replace(by_command_line(run), network=True, calls="all", nth=nth))
        assert killed.code == -9
        if ledger_there(run):
            assert zowarmup.verify(run).holds, nth
        finish(driver, run, SHORT)
        assert differences(run, reference, snapshots=False) == [], nth


def test_killed_without_wal_here_and_there(failing, driver, whole, tmp_path):
    kill_without_wal(failing, driver, tmp_path, whole(SHORT)[0], 29)


@pytest.mark.slow
def test_killed_without_wal_everywhere(failing, driver, whole, tmp_path):
    kill_without_wal(failing, driver, tmp_path, whole(SHORT)[0], 1)


@pytest.mark.parametrize("limit", [1000, 4000, 9000, 12_000, 20_000, 40_000])
def test_files_that_may_not_grow(driver, whole, tmp_path, limit):
    """The operating system's own limit, which SQLite and snapshots run into at different places."""
    outcome = driver(replace(by_command_line(tmp_path / "run"), limit_bytes=limit))
    if outcome.code:
        check_failure(driver, tmp_path / "run", whole(SHORT)[0], outcome)
    else:
        assert limit > 30_000


def test_a_file_system_that_cannot_sync(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OutputError, match="its file system cannot make files durable: Invalid argument") as caught:
        zowarmup.run("digits", overrides=SHORT, out=tmp_path / "run")
    assert 'run.sync = "off" does without' in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    trained = zowarmup.run("digits", overrides={**SHORT, "run.sync": "off"}, out=tmp_path / "run")
    assert zowarmup.verify(tmp_path / "run").holds
    assert trained.summary["status"] == "finished"


@pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS], ids=["invalid", "unknown"])
def test_a_file_system_that_cannot_sync_in_sqlite_either(failing, tmp_path, error):
    """The system call itself refuses, so SQLite meets it too."""
    run = tmp_path / "run"
    refused = failing(replace(by_command_line(run), calls="fsync fdatasync", nth=1, error=error, lasting=True))
    assert refused.code == 2, refused
    assert "its file system cannot make files durable" in refused.printed
    assert 'hint: run.sync = "off" does without' in refused.printed
    assert not run.exists()


def test_without_sync_nothing_syncs(failing, tmp_path):
    run = tmp_path / "run"
    job = Job(do="run", out=str(run), overrides={**SHORT, "run.sync": "off"}, sync=False, calls="fsync fdatasync")
    done = failing(replace(job, nth=1, error=errno.EINVAL, lasting=True))
    assert (done.code, done.said) == (0, {"calls": 0})
    assert zowarmup.verify(run).holds


def test_a_refused_force_leaves_the_earlier_run(failing, driver, whole, tmp_path):
    reference, run = whole(SHORT)[0], tmp_path / "run"
    assert driver(Job(do="run", out=str(run), overrides=SHORT)).code == 0
    again = Job(do="run", out=str(run), overrides=SHORT, force=True, calls="fsync fdatasync")
    refused = failing(replace(again, nth=1, error=errno.EINVAL, lasting=True))
    assert (refused.code, refused.said["error"]) == (2, "OutputError")
    assert differences(run, reference) == []


def test_a_network_file_system_is_told_and_does_without_wal(tmp_path, monkeypatch):
    for module in ("writers", "ledger"):
        monkeypatch.setattr(f"zowarmup.{module}.network_file_system", lambda path: "nfs4")
    modes = []

    def look(progress):
        modes.append(sorted(path.name for path in (tmp_path / "run").iterdir() if path.name.startswith("ledger.db-")))

    with pytest.warns(ZOWarmUpWarning, match=r"is on a network file system \(nfs4\)"):
        zowarmup.run("digits", overrides=SHORT, out=tmp_path / "run", callbacks=[look])
    assert modes == [[]] * 6
    assert zowarmup.verify(tmp_path / "run").holds


def test_what_an_interrupted_write_left_is_removed(tmp_path):
    zowarmup.run("digits", overrides=SHORT, out=tmp_path)
    for name in (".summary.json.123", "snapshots/.ab.safetensors.1", "snapshots/ab.safetensors"):
        (tmp_path / name).write_text("half")
    (tmp_path / "mine").write_text("mine")
    with RunDirectory.open(tmp_path, disk=Disk()):
        pass
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert "mine" in names and not any("123" in name or name.endswith((".1", "/ab.safetensors")) for name in names)
    assert zowarmup.verify(tmp_path).holds


def test_a_run_directory_that_is_read_only_can_be_read(driver, tmp_path):
    run = tmp_path / "run"
    zowarmup.run("digits", overrides=SHORT, out=run)
    for path in (run, run / "snapshots"):
        path.chmod(0o555)
    outside = (
        driver(Job(do="read", out=str(run), user=65534)) if _is_root(tmp_path) else driver(Job(do="read", out=str(run)))
    )
    assert outside.code == 0, outside
    assert outside.said["holds"] and outside.said["same"] and outside.said["rounds"] == 5
    refused = driver(Job(do="resume", out=str(run), user=65534 if _is_root(tmp_path) else None))
    assert (refused.code, refused.said["error"]) == (2, "OutputError"), json.dumps(refused.said)
    for path in (run, run / "snapshots"):
        path.chmod(0o755)


def test_a_killed_run_on_a_read_only_medium(driver, tmp_path):
    """With SQLite's shared memory beside it, it can be read; without, the hint says what to do."""
    user = 65534 if _is_root(tmp_path) else None
    for shared in (True, False):
        run = tmp_path / f"run-{shared}"
        assert driver(Job(do="run", out=str(run), overrides=SHORT, strike="commit after", nth=6)).code == -9
        if not shared:
            (run / "ledger.db-shm").unlink()
        for path in (run / "snapshots", run):
            path.chmod(0o555)
        read = driver(Job(do="read", out=str(run), user=user))
        for path in (run, run / "snapshots"):
            path.chmod(0o755)
        if shared:
            assert read.code == 0 and read.said["holds"] and read.said["status"] == "interrupted", read
        else:
            assert (read.code, read.said["error"]) == (2, "OutputError"), read
            assert read.said["hint"].startswith("its last rounds are in ledger.db-wal: copy the folder")


def _is_root(folder: Path) -> bool:
    """Whether permissions stop nobody; the folder is then opened to others."""
    import os

    if os.geteuid():
        return False
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == 0 and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
        if parent.name.startswith("pytest-of"):
            break
    return True
