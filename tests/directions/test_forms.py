"""The two forms of a sum over directions, by tests and by look-ups: the same bits, and the same known answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zowarmup.directions as public
from zowarmup.directions import Segment, Step, cpu, kernels, segments
from zowarmup.directions.cpu import NumbaDirections
from zowarmup.directions.philox import NumpyDirections, bits

from .cases import step

SPEC = Path(__file__).parents[2] / "docs" / "spec"
VECTORS: dict[str, Any] = json.loads((SPEC / "directions-vectors.json").read_text())
BATCH = kernels._BATCH


def expected_sums(one: Step, g: int, size: int) -> np.ndarray:
    """``sum_k +-A_k`` modulo 2^32 from the reference's bits."""
    total = np.zeros(size, np.int64)
    for seed, stream, a in zip(one.seeds.tolist(), one.streams.tolist(), one.coefficients.tolist(), strict=True):
        total += np.where(bits(seed, stream, g, size), -a, a)
    return total.astype(np.uint32)


def by_tests(g: int, size: int, one: Step) -> np.ndarray:
    total, words = np.full(4096, 7, np.uint32), np.zeros(3 * kernels._WORDS, np.uint32)
    twice = np.empty(3, np.uint32)
    kernels._write_by_tests(total, words, twice, g, size, 0, one.seeds.size, *one[:3])
    return total[g & 4095 :][:size]


def by_look_ups(g: int, size: int, one: Step) -> np.ndarray:
    total, words = np.zeros(4096, np.uint32), np.zeros(3 * kernels._WORDS, np.uint32)
    signs, table = np.empty(512 * kernels._TRIPLES, np.uint32), np.empty(8 * kernels._TRIPLES, np.uint32)
    for batch in range(0, one.seeds.size, BATCH):
        kernels._add_by_look_ups(total, words, signs, table, g, size, batch, *one[:3])
    return total[g & 4095 :][:size]


@pytest.mark.parametrize("form", [by_tests, by_look_ups])
@pytest.mark.parametrize(
    ("g", "size"), [(0, 4096), (0, 1), (4095, 1), (2**39 + 130, 500), (127, 2), (2**61 + 64, 3000)]
)
@pytest.mark.parametrize("batches", [1, 3])
def test_both_forms_side_by_side(form: Callable[..., np.ndarray], g: int, size: int, batches: int) -> None:
    one = step(batches * BATCH)
    assert form(g, size, one).tolist() == expected_sums(one, g, size).tolist()


@pytest.mark.parametrize("count", [*range(1, 8), 13, BATCH - 1])
def test_tests_of_any_number_of_directions(count: int) -> None:
    one = step(count)
    assert by_tests(4096 + 200, 300, one).tolist() == expected_sums(one, 4096 + 200, 300).tolist()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, BATCH + 4, 2 * BATCH, 3 * BATCH + 2])
def test_batches_and_what_is_left_of_them(count: int, threads: int) -> None:
    w = torch.from_numpy(np.random.default_rng(0).standard_normal(20 * 4096 + 77).astype(np.float32))
    arguments: dict[str, Any] = {
        "segments": [Segment(0, 10, 0), Segment(11, 19 * 4096, 2**39 + 4001)],
        "steps": [step(count), step(2, seed=1), step(count + 1, 37, seed=2)],
    }
    expected, out = torch.empty_like(w), torch.empty_like(w)
    NumpyDirections().replay(w, expected, **arguments)
    NumbaDirections(threads=threads).replay(w, out, **arguments)
    assert torch.equal(out.view(torch.int32), expected.view(torch.int32))


# Prints the digests of known answers, with as many directions of coefficient 0 as a batch lacks, or with none.
GOLDEN = """
import hashlib, json, sys
import numpy as np, torch
from zowarmup.directions import Step, kernels, segments
from zowarmup.directions.cpu import NumbaDirections

def step(one, least):
    more = max(0, least - len(one["seeds"])) if one["seeds"] else 0
    return Step(
        np.array([int(seed, 16) for seed in one["seeds"]] + [3] * more, np.uint64),
        np.array(one.get("streams", [0] * len(one["seeds"])) + [5] * more, np.uint32),
        np.array(one["coefficients"] + [0] * more, np.int32),
        one["exponent"],
    )

def digest(sizes, steps):
    w = torch.from_numpy(np.arange(10_000, dtype=np.float32) / np.float32(1e4))
    NumbaDirections().replay(w, w, segments=segments(sizes), steps=steps)
    return hashlib.sha256(w.numpy().tobytes()).hexdigest()

vectors = json.load(open(sys.argv[1]))
for least in (0, 15, 34):
    print(digest([10_000], [step(vectors["update"], least)]))
    print(digest(vectors["replay"]["sizes"], [step(one, least) for one in vectors["replay"]["steps"]]))
print(kernels.LOOKS_UP, kernels.__file__)
print(sum(kernels.replay.stats.cache_hits.values()), sum(kernels.replay.stats.cache_misses.values()))
"""


def golden(folder: Path, **environment: str) -> list[str]:
    """The lines of GOLDEN from the package in ``folder``."""
    command = [sys.executable, "-c", GOLDEN, str(SPEC / "directions-vectors.json")]
    variables = {**os.environ, "PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": "", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_known_answers_on_two_processors_that_share_a_cache(tmp_path: Path) -> None:
    # With what this processor has in the cache: the other one must not take it, nor push it out.
    other = {"NUMBA_CPU_FEATURES": "-avx2,-avx2"}  # said twice: a key that the cache which is copied has no entry for
    shutil.copytree(Path(public.__file__).parents[1], tmp_path / "zowarmup")
    without = golden(tmp_path, **other)
    here = golden(tmp_path)
    answers = [VECTORS["update"]["sha256"], VECTORS["replay"]["sha256"]] * 3
    assert without[:6] == answers
    assert here[:6] == answers
    copy = tmp_path / "zowarmup" / "directions" / "kernels.py"
    assert without[6:] == [f"False {copy}", "0 1"]
    assert here[6] == f"{kernels.LOOKS_UP} {copy}"
    assert golden(tmp_path, **other)[6:] == [f"False {copy}", "1 0"]


@pytest.mark.parametrize(
    ("processor", "features", "expected"),
    [
        ("haswell", "", True),
        ("haswell", "-avx2", False),
        ("nehalem", "", False),
        ("nehalem", "+avx2", True),
        ("sandybridge", "+avx", False),
        ("x86-64", "", False),
        ("skylake-avx512", "", True),
    ],
)
def test_the_target_of_numba_decides(
    monkeypatch: pytest.MonkeyPatch, processor: str, features: str, expected: bool
) -> None:
    triple = kernels.cpu_target.target_context.codegen().magic_tuple()[0]
    if not triple.startswith("x86_64"):
        pytest.skip(f"look-ups are for x86-64, this is {triple}")
    monkeypatch.setattr(
        type(kernels.cpu_target.target_context.codegen()), "magic_tuple", lambda self: (triple, processor, features)
    )
    assert kernels._looks_up() is expected


# --- calls short enough for Ctrl-C ------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("directions", [0, 1, 30_000, 2**21])
def test_no_call_is_long(threads: int, directions: int) -> None:
    calls: list[tuple[int, int]] = []
    NumbaDirections(threads=threads)._pool.share(lambda *part: calls.append(part), 100, directions=directions)
    calls.sort()
    assert [number for part in calls for number in range(*part)] == list(range(100))
    assert all((stop - start) * directions <= cpu._CALL_WORK or stop - start == 1 for start, stop in calls)
    assert len(calls) <= 7 or directions > 1  # little work is not cut into small pieces


@pytest.mark.parametrize("threads", [1, 3])
def test_ctrl_c_ends_a_long_replay(threads: int) -> None:
    pool, main = NumbaDirections(threads=threads)._pool, threading.current_thread()
    seen, never = [], threading.Event()

    def work(start: int, stop: int) -> None:
        seen.append(start)
        if threading.current_thread() is main:
            signal.raise_signal(signal.SIGINT)
        never.wait(0.01)

    with pytest.raises(KeyboardInterrupt):
        pool.share(work, 10_000, directions=2**20)
    assert len(seen) < 10_000  # the other threads left their work, too


def test_long_and_short_calls_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    w, where = torch.linspace(-1, 1, 30_000), segments([10_000, 20_000])
    found = []
    for limit in (1, 40, 2**20):
        monkeypatch.setattr(cpu, "_CALL_WORK", limit)
        for threads in (1, 2):
            out = torch.empty_like(w)
            NumbaDirections(threads=threads).replay(w, out, segments=where, steps=[step(20), step(3, seed=1)])
            found.append(hashlib.sha256(out.numpy().tobytes()).hexdigest())
    assert len(set(found)) == 1
