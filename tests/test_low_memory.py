"""Under one memory cap a client that runs backprop dies, and one that runs zeroth-order rounds completes its run."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

if sys.platform != "linux":
    pytest.skip("only Linux limits the private memory of a process", allow_module_level=True)

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "low_memory.py"
SMALL = {"args": {"norm": "group", "rate": 0.25}, "batch": 128, "rounds": 2}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark, as a module."""
    spec = importlib.util.spec_from_file_location("low_memory", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "low_memory", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def forward(script):
    """A zeroth-order client, and what it takes."""
    job = script.Job(work="zeroth-order", micro_batch=16, **SMALL)
    return job, script.measured(job)


@pytest.fixture(scope="module")
def backprop(script):
    """A client that runs SGD on a batch, and what it takes."""
    job = script.Job(work="first-order", **SMALL)
    return job, script.measured(job)


def test_a_cap_stops_backprop_and_not_zeroth_order(script, forward, backprop):
    assert forward[1].work < backprop[1].work / 2
    cap = script.Cap(by="rlimit", bytes=script.between(forward[1], backprop[1]))
    stopped, completed = script.ended(backprop[0], cap), script.ended(forward[0], cap)
    assert stopped.used is None
    assert "round 1, phase 0 (first-order), client 0" in stopped.message and "can't allocate memory" in stopped.message
    assert completed.used.rounds == 2
    assert completed.used.data <= cap.bytes


def test_a_control_group_kills_backprop_and_not_zeroth_order(script, forward, backprop):
    if "cgroup" not in script.kinds():
        pytest.skip("this machine allows no control group of memory")
    cap = script.Cap(by="cgroup", bytes=script.between(forward[1], backprop[1], "cgroup"))
    assert script.ended(backprop[0], cap) == script.Ended(used=None, message="killed")
    assert script.ended(forward[0], cap).used.rounds == 2
    assert not list(Path("/sys/fs/cgroup").glob("**/low-memory-*"))


def test_where_a_control_group_is_made(script, tmp_path):
    with script.control_group(script.ENOUGH, tmp_path) as group:
        assert group is None  # no control groups here
    (tmp_path / "cgroup.controllers").touch()
    assert {group.limit for group in script.groups(tmp_path)} == {"memory.max"}
    (tmp_path / "memory").mkdir()
    places = list(script.groups(tmp_path))
    assert {group.limit for group in places} == {"memory.limit_in_bytes"}
    assert places[-1].folder.parent == tmp_path / "memory"
    with script.control_group(script.ENOUGH, tmp_path) as group:
        assert group is None  # nobody puts files into it
    assert not list((tmp_path / "memory").iterdir())


def test_a_failure_that_is_not_for_lack_of_memory_is_told_apart(script):
    with pytest.raises(script.JobError, match=r'(?s)exit code 1\n.*model\.net = "nothing": no such net'):
        script.ended(script.Job(work="zeroth-order", net="nothing"))


def test_a_process_that_does_not_end_is_given_up(script, monkeypatch):
    monkeypatch.setattr(script, "PATIENCE", 0.1)
    with pytest.raises(script.JobError, match="does not end in 0 s"):
        script.ended(script.Job(work="zeroth-order"))


def test_no_cap_lies_between_a_job_and_one_that_takes_no_more(script):
    used = script.Used(imports=1, process=2, work=1, data=2 * script.MIB, weights=1, rounds=1, seconds=1.0)
    with pytest.raises(script.JobError, match="no cap lies between 2 and 2 MiB"):
        script.between(used, used)


@pytest.mark.slow
def test_the_benchmark_at_full_size(tmp_path):
    out = tmp_path / "low-memory.csv"
    subprocess.run([sys.executable, SCRIPT, "--rounds", "1", "--out", out], check=True, timeout=1500)
    with out.open(newline="") as file:
        rows = {row["what"]: row for row in csv.DictReader(file)}
    assert {name: row["under_rlimit"] for name, row in rows.items()} == {
        "runtime": "",
        "inference": "",
        "zeroth-order": "completed 1 rounds",
        "zeroth-order, micro-batch 1": "completed 1 rounds",
        "backprop, micro-batch 1": "completed 1 rounds",
        "backprop": "out of memory",
    }
    assert rows["zeroth-order"]["parameters"] == "11173962"
    assert float(rows["backprop"]["work_mib"]) > 2 * float(rows["zeroth-order"]["work_mib"])
