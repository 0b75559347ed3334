"""The command line as real processes: signals, pipes, limits, and what start-up imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import zowarmup
import zowarmup.recipes
from zowarmup import comparison as comparing

ENDLESS = "phase.1.rounds=100000"
COMMAND = [sys.executable, "-W", "error", "-m", "zowarmup"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*COMMAND, *arguments], cwd=folder, env=environment, text=True, **pipes)


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.05)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stopped_run_can_be_read(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "run", "digits", "--set", ENDLESS, "--out", "x")
    wait_for(process, lambda: lines(tmp_path / "x" / "metrics.jsonl") > 60)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert err.endswith("zowarmup: interrupted\nthe rounds until then are in x; `zowarmup resume x` goes on\n")
    assert "Traceback" not in err
    summary = zowarmup.load(tmp_path / "x").summary
    assert summary["status"] == "interrupted"
    assert summary["rounds"] > 50
    assert (tmp_path / "x" / "report.html").is_file()


def test_a_stopped_comparison_keeps_what_is_finished(tmp_path: Path) -> None:
    """The short recipe ends, the endless one is stopped: its worker does not hear Ctrl-C, but writes its summary."""
    (tmp_path / "endless.toml").write_text(
        zowarmup.recipes.shipped_text("digits")
        .replace('name = "digits"', 'name = "endless"')
        .replace("rounds = 150", "rounds = 100000")
    )
    arguments = "compare digits-high-res-only endless.toml --seeds 0 --workers 2 --out x --set phase.0.rounds=20"
    process = start(tmp_path, *arguments.split())
    endless = tmp_path / "x" / "endless" / "seed-0"
    assert process.stderr is not None
    assert process.stderr.readline().startswith("1/2  digits-high-res-only, seed 0  accuracy ")
    wait_for(process, lambda: lines(endless / "metrics.jsonl") > 30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "digits-high-res-only" in out
    assert "no finished run: endless" in out
    assert err.endswith("zowarmup: interrupted\nwhat is finished is in x; the same command goes on\n")
    assert "Traceback" not in err
    assert [cell.method for cell in comparing.read(tmp_path / "x").finished] == ["digits-high-res-only"]
    assert (tmp_path / "x" / "compare.html").is_file()
    assert zowarmup.load(endless).summary["status"] == "interrupted"


@pytest.mark.slow
def test_a_full_disk_is_told_cleanly(tmp_path: Path) -> None:
    script = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    script += "from zowarmup.cli import main; sys.exit(main(['run', 'digits', '--quiet', '--out', 'x']))"
    ended = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.stderr == "zowarmup: x/ledger.db: cannot be written: disk I/O error\n"
    assert (ended.returncode, ended.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["recipes", "--keys"], ["export", "a"]], ids=" ".join)
def test_a_reader_that_goes_away_is_no_error(run_dir, tmp_path: Path, arguments: list[str]) -> None:
    process = start(tmp_path, *arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == ""
    assert process.wait(timeout=60) == 0


def test_module_and_exit_code(tmp_path: Path) -> None:
    process = start(tmp_path, "--version")
    assert process.communicate(timeout=60) == (f"{zowarmup.__version__}\n", "")
    assert process.returncode == 0


LIGHT = [
    ["--help"],
    ["run", "digts"],
    ["recipes"],
    ["run", "digits", "--out", "."],
    ["inspect", "a"],
    ["inspect", "a", "--round", "2"],
    ["export", "a"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_what_only_looks_and_mistakes_import_nothing_heavy(run_dir, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "something").touch()
    heavy = ["torch", "numba", "scipy", "sklearn", "matplotlib", "pyarrow", "PIL", "datasets"]
    script = f"import json, sys; from zowarmup.cli import main; main({arguments}); "
    script += f"json.dump([name for name in {heavy} if name in sys.modules], open('loaded.json', 'w'))"
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert json.loads((tmp_path / "loaded.json").read_text()) == []
