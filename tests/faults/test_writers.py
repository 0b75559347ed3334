"""One writer at a time, any number of readers, and the signals that end a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from crashes import SHORT, Job, differences, finish, ledger_last

import zowarmup
from zowarmup.cli import main
from zowarmup.errors import OutputError


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come within a minute"
        time.sleep(0.01)


@pytest.fixture
def busy(driver, tmp_path):
    """A run that waits in another process, after round 3."""
    run, hold = tmp_path / "run", tmp_path / "hold"
    driver.start(Job(do="run", out=str(run), overrides=SHORT, hold=str(hold), hold_round=3))
    wait_for(hold)
    yield run
    hold.unlink()
    assert driver.finish().code == 0


def test_a_second_writer_is_refused_and_told_who_holds_it(busy, capsys):
    who = rf"is being written by process \d+ on {os.uname().nodename} since \d{{4}}-\d\d-\d\d"
    before = ledger_last(busy)
    with pytest.raises(OutputError, match=who):
        zowarmup.resume(busy)
    with pytest.raises(OutputError, match=who):
        zowarmup.run("digits", overrides=SHORT, out=busy, force=True)
    assert main(["resume", str(busy)]) == 2
    assert "is being written by process" in capsys.readouterr().err
    assert ledger_last(busy) == before == 3


def test_readers_read_while_a_run_goes_on(busy):
    proof = zowarmup.verify(busy)
    assert proof.holds and proof.rounds == 3
    assert zowarmup.load(busy).summary["status"] == "interrupted"
    assert zowarmup.diff(busy, busy).identical
    assert main(["report", str(busy)]) == 0


def test_the_run_that_was_read_ends_as_if_nobody_had_looked(driver, whole, tmp_path):
    run, hold = tmp_path / "run", tmp_path / "hold"
    driver.start(Job(do="run", out=str(run), overrides=SHORT, hold=str(hold), hold_round=2, figures=True))
    wait_for(hold)
    zowarmup.verify(run)
    with pytest.raises(OutputError):
        zowarmup.resume(run)
    hold.unlink()
    assert driver.finish().code == 0
    assert differences(run, whole(SHORT)[0]) == []


def test_a_run_that_goes_on_is_verified_at_any_moment(driver, tmp_path):
    run = tmp_path / "run"
    driver.start(Job(do="run", out=str(run), overrides={"phase.0.rounds": 40, "phase.1.rounds": 40}))
    while ledger_last(run) < 1:
        time.sleep(0.005)
    seen = []
    while not seen or seen[-1] < 80:
        proof = zowarmup.verify(run)
        assert proof.holds, proof.problems
        seen.append(proof.rounds)
    assert driver.finish().code == 0
    assert len(set(seen)) > 1


def test_a_lock_whose_holder_was_killed_holds_nobody_up(driver, whole, tmp_path):
    run = tmp_path / "run"
    assert driver(Job(do="run", out=str(run), overrides=SHORT, strike="commit after", nth=6)).code == -9
    assert (run / "writer.lock").exists()
    finish(driver, run, SHORT)
    assert differences(run, whole(SHORT)[0]) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_run_that_is_told_to_stop_is_resumed(tmp_path, number):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "zowarmup", "run", "digits", "--out", str(run), "--quiet"]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a background job would ignore it)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heard)
    while ledger_last(run) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "interrupted" in told and f"zowarmup resume {run}" in told
    last = ledger_last(run)
    summary = json.loads((run / "summary.json").read_text())
    assert 2 <= last < 200 and (summary["status"], summary["rounds"]) == ("interrupted", last)
    assert zowarmup.verify(run).holds
    assert zowarmup.load(run).summary["state_digest"] == summary["state_digest"]


def test_leaving_a_script_early_lets_the_next_one_write(tmp_path: Path):
    def stop(progress):
        raise RuntimeError("a callback that fails")

    with pytest.raises(RuntimeError, match="a callback that fails"):
        zowarmup.run("digits", overrides=SHORT, out=tmp_path / "run", callbacks=[stop])
    trained = zowarmup.resume(tmp_path / "run")
    assert trained.summary["status"] == "finished"
