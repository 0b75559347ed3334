"""Directions against torch's own memory traffic: ``pytest benchmarks/test_directions.py --benchmark-only``.

Everything runs on one thread. Times of one machine mean little; what counts are ratios within one run, and they go
to ``benchmarks/results/directions.csv``.
"""

from __future__ import annotations

import csv
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from zowarmup.directions import Directions, Step, segments, select

D = 11_173_962  # ResNet18
K = 30
STEPS, PART = 100, D // 10
"""A replay of 100 steps, on a tenth of the elements: what it takes an element and step does not depend on either."""
SIZES = (432, 16, 16, 4608, 32, 32, 18432, 64, 64, 640, 10)
SMALL, SMALL_D = segments(SIZES), sum(SIZES)
"""A CNN of 24,346 parameters, where what a call takes beside its arithmetic shows."""
RESULTS = Path(__file__).parent / "results" / "directions.csv"
ROUNDS = 25
Seconds = dict[str, float]


def _perturb(backend: Directions, w: torch.Tensor, out: torch.Tensor) -> None:
    backend.perturb(w, out, base=0, seed=1, stream=0, c=2.0**-14)


def _update(backend: Directions, w: torch.Tensor, _: torch.Tensor) -> None:
    backend.update(w, w, segments=segments([D]), **_directions(), coefficients=_coefficients(), exponent=40)


def _replay(backend: Directions, w: torch.Tensor, out: torch.Tensor) -> None:
    steps = [Step(**_directions(), coefficients=_coefficients(), exponent=40)] * STEPS
    backend.replay(w[:PART], out[:PART], segments=segments([PART]), steps=steps)


def _dots(backend: Directions, v: torch.Tensor, _: torch.Tensor) -> None:
    backend.dots(v, segments=segments([D]), **_directions())


def _small(backend: Directions, w: torch.Tensor, out: torch.Tensor) -> None:
    piece = w[:10]
    for _ in range(1000):
        backend.perturb(piece, piece, base=0, seed=1, stream=0, c=2.0**-14)


def _small_update(backend: Directions, w: torch.Tensor, _: torch.Tensor) -> None:
    piece = w[:SMALL_D]
    seeds, streams, coefficients = np.array([1], np.uint64), np.zeros(1, np.uint32), np.array([1_000_003], np.int32)
    for _ in range(100):
        backend.update(
            piece, piece, segments=SMALL, seeds=seeds, streams=streams, coefficients=coefficients, exponent=40
        )


def _small_add(_: Directions, w: torch.Tensor, out: torch.Tensor) -> None:
    here, there = out[:SMALL_D], w[:SMALL_D]
    for _ in range(100):
        here.add_(there, alpha=1e-9)


def _directions() -> dict[str, np.ndarray]:
    return {"seeds": np.arange(K, dtype=np.uint64), "streams": np.zeros(K, np.uint32)}


def _coefficients() -> np.ndarray:
    return np.arange(-K // 2, K // 2, dtype=np.int32) * 1_000_003


Case = Callable[[Directions, torch.Tensor, torch.Tensor], object]
CASES: dict[str, Case] = {
    "add_": lambda _, w, out: out.add_(1e-9),
    "copy_": lambda _, w, out: out.copy_(w),
    "perturb in place": lambda backend, w, out: _perturb(backend, out, out),
    "perturb out of place": _perturb,
    "update": _update,
    "replay": _replay,
    "dots": _dots,
    "perturb of 10 elements, 1000 times": _small,
    "update of a CNN, 100x": _small_update,
    "add_ of a CNN, 100x": _small_add,
}


def test_numba(benchmark: Any) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _write(benchmark.pedantic(_measure, rounds=1))
    finally:
        torch.set_num_threads(before)


def _measure() -> Seconds:
    """Best time of each case; cases take turns, so that what else the machine does meets them all."""
    generator = torch.Generator().manual_seed(0)
    w, out = torch.rand(D, generator=generator), torch.rand(D, generator=generator)
    backend, best = select("cpu", threads=1), dict.fromkeys(CASES, float("inf"))
    for _ in range(ROUNDS):
        for name, case in CASES.items():
            start = time.perf_counter()
            case(backend, w, out)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _write(seconds: Seconds) -> None:
    per_seed = 1e12 / (D * K)
    row = {
        "perturb in place / add_": f"{seconds['perturb in place'] / seconds['add_']:.2f}",
        "perturb out of place / copy_": f"{seconds['perturb out of place'] / seconds['copy_']:.2f}",
        "update ps per element and seed": f"{seconds['update'] * per_seed:.1f}",
        "replay ps per element and seed": f"{seconds['replay'] * 1e12 / (PART * STEPS * K):.1f}",
        "dots ps per element and seed": f"{seconds['dots'] * per_seed:.1f}",
        "perturb of 10 elements us": f"{seconds['perturb of 10 elements, 1000 times'] * 1e3:.2f}",
        "update of a small CNN / add_": f"{seconds['update of a CNN, 100x'] / seconds['add_ of a CNN, 100x']:.1f}",
        "add_ ps per element": f"{seconds['add_'] * 1e12 / D:.0f}",
        "d": D,
        "K": K,
        "replay steps": STEPS,
        "threads": 1,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "numba": numba.__version__,
    }
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerow(row)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
