"""A command line in this process: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

import zowarmup
from zowarmup.cli import main

SHORT = ("--set", "phase.0.rounds=2", "--set", "phase.1.rounds=3")


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Ended:
        capsys.readouterr()
        code = main(arguments)
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 3 first-order and 6 zeroth-order rounds under constant schedules; not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "a"
    values = {"phase.0.rounds": 3, "phase.1.rounds": 6, "phase.1.schedule": "constant", "run.evaluate-every": 3}
    zowarmup.run("digits", out=out, overrides=values)
    return out


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, ``a`` in the current folder of commands."""
    return Path(shutil.copytree(finished, tmp_path / "a"))
