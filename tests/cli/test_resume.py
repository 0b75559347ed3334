"""`zowarmup resume` and `zowarmup report`: what a run that stopped becomes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import filelock
import pytest

import zowarmup
from zowarmup import writers
from zowarmup.cli import consoles, rebuilding, results
from zowarmup.errors import ZOWarmUpWarning

from .conftest import SHORT
from .tampering import cut, execute, flip

MADE = ("run.toml", "metrics.jsonl", "summary.json", "report.html")


def test_a_stopped_run_goes_on_to_the_same_end(cli, run_dir: Path, finished: Path, tmp_path: Path) -> None:
    cut(run_dir, 5)
    ended = cli("resume", "a")
    assert ended.code == 0
    assert [line.split("  ")[0] for line in ended.err.splitlines()] == [
        "goes on after round 5/9",
        "round 6/9",
        "round 9/9",
    ]
    assert ended.out.startswith("digits, seed 0: 9\xa0rounds in ")
    assert ended.out.endswith("\nreport  a/report.html\n")
    shutil.copytree(finished, tmp_path / "b")
    assert cli("diff", "a", "b").out.startswith("identical: 9 rounds, chain blake2b:")
    assert [each["first_round"] for each in json.loads(cli("inspect", "a", "--json").out)["sessions"]] == [0, 6]


def test_json_and_quiet(cli, run_dir: Path) -> None:
    cut(run_dir, 5)
    ended = cli("resume", "a", "--json", "--quiet")
    summary = json.loads(ended.out)
    assert ended.err == ""
    assert (summary["status"], summary["rounds"], summary["report"]) == ("finished", 9, "a/report.html")


def test_a_finished_run_is_said_to_be(cli, run_dir: Path) -> None:
    before = (run_dir / "summary.json").read_bytes()
    ended = cli("resume", "a")
    assert ended.code == 0
    assert ended.err == "zowarmup: note: a: is finished, 9 rounds; --rounds +100 adds some\n"
    assert ended.out.startswith("digits, seed 0: 9\xa0rounds in ")
    assert (run_dir / "summary.json").read_bytes() == before


def test_a_cosine_at_its_end_is_said_to_be(cli) -> None:
    recipe = zowarmup.load_recipe("digits")
    assert results.finished(recipe) == "is finished, 200 rounds, and its cosine schedule at its end"
    longer = zowarmup.load_recipe("digits", overrides={"phase.1.schedule-rounds": 160})
    assert results.finished(longer) == "is finished, 200 rounds; --rounds +100 adds some"


def test_a_finished_run_gets_more_rounds(cli, run_dir: Path, tmp_path: Path) -> None:
    values = {"phase.0.rounds": 3, "phase.1.rounds": 8, "phase.1.schedule": "constant", "run.evaluate-every": 3}
    zowarmup.run("digits", out=tmp_path / "b", overrides=values)
    assert cli("resume", "a", "--rounds", "+2", "--quiet").code == 0
    assert cli("diff", "a", "b").out.startswith("identical: 11 rounds")
    assert cli("resume", "a", "--rounds", "12", "--quiet").code == 0
    assert zowarmup.load(run_dir).summary["rounds"] == 12


REFUSED = [
    ("--rounds many", 'zowarmup: rounds = "many", expected a number, or +100 for 100 more\n'),
    ("--rounds 4", "zowarmup: rounds = 4: the run has 9 rounds already\n"),
    ("--set phase.1.lr=1", "zowarmup: a/ledger.db: phase.1.lr cannot be changed: it would be another run\nhint: "),
    ("--set phase.1.epss=1", "Object contains unknown field `epss` - at `$.phase[1]`"),
    ("--device abacus", 'zowarmup: device = "abacus" cannot be used here: '),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
def test_what_cannot_be_is_refused(cli, run_dir: Path, arguments: str, message: str) -> None:
    ended = cli("resume", "a", *arguments.split())
    assert message.replace('"', "'") in ended.err.replace('"', "'")
    assert (ended.code, ended.out) == (2, "")
    assert "the rounds until then" not in ended.err
    assert cli("verify", "a").code == 0


def test_what_bits_do_not_depend_on_may_change(cli, run_dir: Path) -> None:
    assert cli("resume", "a", "--rounds", "+1", "--set", "run.keep-snapshots=5", "--quiet").code == 0
    assert "keep-snapshots = 5" in (run_dir / "run.toml").read_text()


def test_a_changed_ledger_is_not_resumed(cli, run_dir: Path) -> None:
    cut(run_dir, 8)
    flip(run_dir, "entry", 6)
    ended = cli("resume", "a")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("zowarmup: a/ledger.db: round 6: the link does not follow from the round before")


def test_two_writers_are_one_too_many(cli, run_dir: Path) -> None:
    cut(run_dir, 5)
    with filelock.FileLock(run_dir / "writer.lock"):
        ended = cli("resume", "a", "--quiet")
    assert (ended.code, ended.out) == (2, "")
    assert re.fullmatch(
        r"zowarmup: a: is being written by process \d+ on \S+ since .+\nhint: wait, or stop it\n", ended.err
    )


def test_run_says_how_to_go_on_with_what_is_there(cli, run_dir: Path) -> None:
    ended = cli("run", "digits", *SHORT, "--out", "a")
    message = "zowarmup: a: exists and is not empty\nhint: `zowarmup resume a` goes on with the run in it; --force "
    assert ended.err.startswith(message)
    assert ended.code == 2


def test_warnings_come_as_notes(cli, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(run_dir, 5)
    execute(run_dir, """UPDATE sessions SET facts = CAST(replace(facts, '"cpu"', '"cuda"') AS BLOB)""")
    ended = cli("resume", "a")
    first, *_ = ended.err.splitlines()
    assert first.startswith(
        "zowarmup: note: device was cuda, is cpu: rounds still to run may differ in their last bits"
    )
    assert "Warning" not in ended.err


def test_warnings_of_others_stay_warnings(capsys) -> None:
    with pytest.warns(UserWarning, match="of others"), consoles.warnings_are_notes():
        warnings.warn("of ours", ZOWarmUpWarning, stacklevel=1)
        warnings.warn("of others", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "zowarmup: note: of ours\n"


def test_a_path_with_spaces_can_be_copied_from_the_hint(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self, round, line):
        raise KeyboardInterrupt

    monkeypatch.setattr("zowarmup.recorder.Recorder._progress", interrupt)
    ended = cli("run", "digits", *SHORT, "--quiet", "--out", "my run")
    assert ended.err.endswith("the rounds until then are in my run; `zowarmup resume 'my run'` goes on\n")


def test_a_report_makes_everything_again(cli, run_dir: Path) -> None:
    before = {each: (run_dir / each).read_bytes() for each in MADE}
    for name in ("run.toml", "summary.json"):
        (run_dir / name).unlink()
    for name in ("metrics.jsonl", "report.html"):
        (run_dir / name).write_text("rubbish")
    assert cli("report", "a") == (0, "a/report.html\n", "")
    assert {each: (run_dir / each).read_bytes() for each in MADE} == before


def test_a_report_without_a_ledger_is_made_of_the_files(cli, run_dir: Path) -> None:
    before = (run_dir / "report.html").read_bytes()
    for name in ("ledger.db", "report.html", "writer.lock"):
        (run_dir / name).unlink()
    assert cli("report", "a") == (0, "a/report.html\n", "")
    assert (run_dir / "report.html").read_bytes() == before
    assert not (run_dir / "writer.lock").exists()


def test_a_report_of_a_run_without_a_round_is_refused(cli, run_dir: Path) -> None:
    execute(run_dir, "DELETE FROM rounds")
    message = "zowarmup: a: has no round yet\nhint: `zowarmup resume a` starts it\n"
    assert cli("report", "a") == (2, "", message)


def test_a_report_of_a_damaged_ledger_leaves_the_files(cli, run_dir: Path) -> None:
    before = {each: (run_dir / each).read_bytes() for each in MADE}
    execute(run_dir, "UPDATE rounds SET metrics = x'ff' WHERE round = 7")
    ended = cli("report", "a")
    assert ended.code == 1
    assert ended.err.startswith("zowarmup: round 7: its metrics do not decode: ")
    assert {each: (run_dir / each).read_bytes() for each in MADE} == before


def test_while_a_run_goes_on_only_its_report_is_made(cli, run_dir: Path) -> None:
    cut(run_dir, 5, ended=None)
    (run_dir / "metrics.jsonl").write_text("the writer's\n")
    with filelock.FileLock(run_dir / "writer.lock"):
        ended = cli("report", "a")
    assert (ended.code, ended.out) == (0, "a/report.html\n")
    assert re.fullmatch(
        r"zowarmup: note: a: is being written by process \d+ on \S+ since .+: the report is that of round 5 of 9, and "
        r"nothing else was made again\n",
        ended.err,
    )
    assert (run_dir / "metrics.jsonl").read_text() == "the writer's\n"
    assert not (run_dir / "summary.json").exists()
    assert "Interrupted after round 5 of 9" in (run_dir / "report.html").read_text()


def test_a_run_that_ends_while_its_page_is_made_gets_everything(cli, run_dir: Path, monkeypatch) -> None:
    lock, page = filelock.FileLock(run_dir / "writer.lock"), rebuilding._page

    def slow(folder: Path) -> Path:
        found = page(folder)
        lock.release()
        return found

    monkeypatch.setattr(rebuilding, "_page", slow)
    (run_dir / "summary.json").unlink()
    lock.acquire()
    assert cli("report", "a").code == 0
    assert (run_dir / "summary.json").is_file()


def test_a_killed_run_gets_its_files_and_goes_on(cli, tmp_path: Path) -> None:
    """A real process, killed with its ledger open."""
    command = [sys.executable, "-m", "zowarmup", "run", "digits", "--quiet", "--out", "a"]
    command += ["--set", "phase.0.rounds=3", "--set", "phase.1.rounds=100000", "--set", "phase.1.schedule=constant"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    lines = tmp_path / "a" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (lines.is_file() and lines.read_bytes().count(b"\n") > 8):
        assert process.poll() is None
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.05)
    assert cli("inspect", "a").out.split("\n")[1].startswith(f"being written by process {process.pid} on ")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "a" / "summary.json").exists()
    assert cli("report", "a") == (0, "a/report.html\n", "")
    done = json.loads((tmp_path / "a" / "summary.json").read_bytes())["rounds"]
    assert done >= 8
    assert cli("verify", "a").code == 0
    assert cli("resume", "a", "--rounds", str(done + 2), "--quiet").code == 0
    assert zowarmup.load(tmp_path / "a").summary["rounds"] == done + 2
    with sqlite3.connect(tmp_path / "a" / "ledger.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_lock_that_cannot_be_tried_is_held_by_nobody(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    assert not writers.held(run_dir)


def test_a_writer_that_left_no_name_is_another_process() -> None:
    assert writers.in_words({}) == "another process"
