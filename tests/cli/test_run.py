"""`zowarmup run`, and what its directory serves for."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from pathlib import Path

import pytest

import zowarmup
from zowarmup import disk, recorder, rundir

from .conftest import SHORT

OWN_TASK = """
import torch

class Task:
    def losses(self, outputs, targets):
        {fault}
        return outputs.sum(dim=1) * 0 + 1

    def scores(self, outputs, targets):
        return targets * 0.0
"""


def test_a_run_says_what_came_of_it(cli, tmp_path: Path) -> None:
    ended = cli("run", "digits", *SHORT)
    assert ended.code == 0
    shown = re.sub(r"\d+\.\d+\s+s on .+", "0.1 s on cpu", ended.out.replace("\xa0", " "))
    # a model is 9,640 B. High: 2 rounds x 4 models up, then 3 x 4 times 12 B; a model down a turn until the round after
    # the pivot, then request and entry, 16 + 24 B. Low: 3 x 16 times 12 B up, a model each down, and requests.
    assert re.fullmatch(
        r"""digits, seed 0: 5 rounds in 0.1 s on cpu

accuracy +\d+\.\d %
low-held classes +\d+\.\d %
worst class +\d+\.\d %

 +high tier \(4\) +low tier \(16\)
sent +77\.3 kB +576 B
received +116 kB +156 kB
FedAvg, each way +193 kB +463 kB

report  runs/digits-seed0/report.html
""",
        re.sub(r" +\n", "\n", shown),
    ), shown
    assert sorted(path.name for path in (tmp_path / "runs" / "digits-seed0").iterdir()) == [
        "ledger.db",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "run.toml",
        "snapshots",
        "summary.json",
        "writer.lock",
    ]


def test_progress_is_a_line_an_evaluation_where_stderr_is_no_terminal(cli) -> None:
    lines = cli("run", "digits", *SHORT).err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["round 0/5", "initial weights"],
        ["round 2/5", "first-order"],
        ["round 5/5", "zeroth-order"],
    ]
    assert re.fullmatch(
        r"round 5/5  zeroth-order  accuracy \d+\.\d %  loss [\d.]+  low tier sent 576 B  [\d.]+ s", lines[-1]
    )


def test_json_is_the_summary_and_quiet_is_quiet(cli) -> None:
    ended = cli("run", "digits", *SHORT, "--json", "--quiet", "--seed", "7")
    summary = json.loads(ended.out)
    assert ended.err == ""
    assert summary["seed"] == 7
    assert summary["status"] == "finished"
    assert summary["report"] == "runs/digits-seed7/report.html"
    assert summary["final"] == zowarmup.load("runs/digits-seed7").summary["final"]


def test_an_earlier_run_is_replaced_by_force_alone(cli, tmp_path: Path) -> None:
    assert cli("run", "digits", *SHORT, "--quiet", "--out", "x").code == 0
    before = (tmp_path / "x" / "run.toml").read_text()
    ended = cli("run", "digits", *SHORT, "--quiet", "--out", "x", "--seed", "1")
    hint = "`zowarmup resume x` goes on with the run in it; --force replaces it"
    message = f"zowarmup: x: exists and is not empty\nhint: {hint}\n"
    assert ended == (2, "", message)
    assert (tmp_path / "x" / "run.toml").read_text() == before
    assert cli("run", "digits", *SHORT, "--quiet", "--out", "x", "--seed", "1", "--force").code == 0
    assert zowarmup.load(tmp_path / "x").summary["seed"] == 1


def test_a_full_disk_is_a_failed_run_that_keeps_its_rounds(cli, tmp_path: Path, monkeypatch) -> None:
    append, calls = rundir.RunDirectory.append, []

    def full(self, line):
        calls.append(line)
        with disk.writing(self.path / "metrics.jsonl"):
            if len(calls) > 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        append(self, line)

    monkeypatch.setattr(rundir.RunDirectory, "append", full)
    ended = cli("run", "digits", *SHORT, "--quiet", "--out", "x")
    assert ended == (
        1,
        "",
        "zowarmup: x/metrics.jsonl: cannot be written: No space left on device\n"
        "the rounds until then are in x; `zowarmup resume x` goes on\n"
        "hint: free some space; `zowarmup resume` goes on from the last round that was written\n",
    )
    assert json.loads((tmp_path / "x" / "summary.json").read_bytes())["status"] == "failed"


def test_a_failing_client_is_named(cli, tmp_path: Path) -> None:
    fault = "if torch.is_grad_enabled(): raise ValueError('out of paper')"
    (tmp_path / "failing_task.py").write_text(OWN_TASK.format(fault=fault))
    ended = cli("run", "digits", *SHORT, "--quiet", "--out", "x", "--set", "model.task=python:failing_task:Task")
    assert ended.code == 1
    assert ended.out == ""
    assert re.fullmatch(
        r"zowarmup: round 1, phase 0 \(first-order\), client \d+: ValueError: out of paper\n"
        r"the rounds until then are in x; `zowarmup resume x` goes on\n",
        ended.err,
    )
    assert zowarmup.load(tmp_path / "x").summary["status"] == "failed"


def test_a_fault_of_ones_own_code_is_told_without_a_traceback(cli, tmp_path: Path) -> None:
    (tmp_path / "broken_task.py").write_text(OWN_TASK.format(fault="raise KeyError('paper')"))
    arguments = ("run", "digits", *SHORT, "--quiet", "--out", "x", "--set", "model.task=python:broken_task:Task")
    ended = cli(*arguments)
    assert ended == (
        2,
        "",
        "zowarmup: mlp on samples of shape (3, 64): forward and loss fail: KeyError: 'paper'\n",
    )
    assert list(tmp_path.glob("x")) == []
    assert "Traceback" in cli(*arguments, "--debug", "--force").err


def test_ctrl_c_leaves_a_directory_that_can_be_read(cli, tmp_path: Path, monkeypatch) -> None:
    progress = recorder.Recorder._progress

    def interrupt(self, round, line):
        if round.number == 3:
            raise KeyboardInterrupt
        return progress(self, round, line)

    monkeypatch.setattr(recorder.Recorder, "_progress", interrupt)
    ended = cli("run", "digits", *SHORT, "--quiet", "--out", "x")
    assert ended == (130, "", "zowarmup: interrupted\nthe rounds until then are in x; `zowarmup resume x` goes on\n")
    summary = zowarmup.load(tmp_path / "x").summary
    assert (summary["status"], summary["rounds"]) == ("interrupted", 3)


def test_sigterm_is_ctrl_c(cli, tmp_path: Path, monkeypatch) -> None:
    progress = recorder.Recorder._progress

    def terminate(self, round, line):
        if round.number == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return progress(self, round, line)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(recorder.Recorder, "_progress", terminate)
    ended = cli("run", "digits", *SHORT, "--quiet", "--out", "x")
    assert ended == (130, "", "zowarmup: interrupted\nthe rounds until then are in x; `zowarmup resume x` goes on\n")
    assert zowarmup.load(tmp_path / "x").summary["status"] == "interrupted"
    assert signal.getsignal(signal.SIGTERM) == before


def test_ctrl_c_before_the_first_round_says_nothing_of_a_directory(cli, tmp_path: Path, monkeypatch) -> None:
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("zowarmup.loop.prepare", interrupt)
    assert cli("run", "digits", "--quiet", "--out", "x") == (130, "", "zowarmup: interrupted\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_teaches(cli, argument: str) -> None:
    ended = cli(argument)
    for command in ("run", "compare", "report", "plan", "fetch", "recipes", "resume", "verify"):
        assert re.search(rf"│ {command} +\w", ended.out)
        assert f"zowarmup {command} " in cli(command, argument).out
    assert (ended.code, ended.err) == (0, "")


def test_version(cli) -> None:
    assert cli("--version") == (0, f"{zowarmup.__version__}\n", "")
