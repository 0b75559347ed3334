"""One process that makes doomed processes, and one that fails system calls, for all tests here."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
collect_ignore = ["crashes.py", "driver.py"]
sys.path.insert(0, str(HERE))

from crashes import Driver, Outcome, Overrides, run_whole  # noqa: E402

Whole = Callable[[Overrides], tuple[Path, Outcome]]


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    """Does jobs in processes that may die."""
    with Driver() as made:
        yield made


@pytest.fixture(scope="session")
def failing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """The same, with a library that lets system calls fail."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux, to make system calls fail")
    library = tmp_path_factory.mktemp("shim") / "failing.so"
    source = str(HERE / "failing_calls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), source, "-ldl"], check=True)
    with Driver(preload=library) as made:
        yield made


@pytest.fixture(scope="session")
def whole(driver: Driver, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs that were never interrupted, made once for each recipe."""
    made: dict[str, tuple[Path, Outcome]] = {}

    def run(overrides: Overrides) -> tuple[Path, Outcome]:
        key = repr(sorted(overrides.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            made[key] = folder, run_whole(driver, folder, overrides)
        return made[key]

    return run
