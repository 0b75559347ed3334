"""Cost of slopes against the same number of bare forward passes; results in benchmarks/results/forward.csv.

    python benchmarks/forward.py [--net resnet18 cnn mlp] [--repeats 15] [--out benchmarks/results/forward.csv]

Bare: the module in inference mode and cross-entropy in fp32, read once a pass. Ours: ``slopes`` two-sided, one
micro-batch, so 2 S passes with perturbed weights, losses in float64. The two take turns, and the figure is the median
of the ratios of neighbours, as the machine's speed drifts. One thread.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zowarmup import nets
from zowarmup.estimators import slopes
from zowarmup.model import Model, initialise
from zowarmup.task import Classification


class Case(NamedTuple):
    """A net, its input, and the ratio that must hold."""

    net: str
    input_shape: tuple[int, ...]
    batch: int
    directions: int
    limit: float | None
    args: dict[str, Any] = {}  # noqa: RUF012 (never changed)


CASES = {
    "resnet18": Case("resnet18", (3, 32, 32), 64, 1, 1.15),
    "resnet18-group": Case("resnet18", (3, 32, 32), 64, 1, None, {"norm": "group"}),
    "resnet8": Case("resnet8", (3, 32, 32), 64, 1, None),
    "vit": Case("vit", (3, 32, 32), 64, 1, None),
    "cnn": Case("cnn", (3, 32, 32), 64, 10, 1.5),
    "lenet": Case("lenet", (1, 28, 28), 64, 10, None),
    "mlp": Case("mlp", (1, 8, 8), 16, 100, None),
}


def main() -> None:
    """Measure the chosen nets, print and write the ratios."""
    parser = argparse.ArgumentParser(description="Cost of slopes against bare forward passes.")
    parser.add_argument("--net", nargs="+", choices=CASES, default=["resnet18", "cnn", "mlp"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "forward.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(name, CASES[name], options.repeats) for name in options.net]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def measure(name: str, case: Case, repeats: int) -> dict[str, object]:
    """One row of the table."""
    module = initialise(lambda: nets.build(case.net, input_shape=case.input_shape, classes=10, args=case.args), seed=0)
    model = Model(module, batch_norm="frozen")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(case.batch, *case.input_shape, generator=generator)
    y = torch.randint(10, (case.batch,), generator=generator)
    count = 2 * case.directions

    def ours() -> None:
        slopes(
            model,
            x,
            y,
            Classification(),
            seed=1,
            streams=range(case.directions),
            eps=1e-4,
            tau=0.75,
            difference="two-sided",
            micro_batch="all",
        )

    model.module.eval()
    for work in (lambda: bare(model, x, y, count), ours):  # warm up: compile kernels, fill caches
        work()
        work()
    pairs = [(seconds(lambda: bare(model, x, y, count)), seconds(ours)) for _ in range(repeats)]
    ratio = statistics.median(b / a for a, b in pairs)
    bare_seconds, our_seconds = (statistics.median(column) / count for column in zip(*pairs, strict=True))
    limit = "" if case.limit is None else f", limit {case.limit}"
    print(f"{name}: {ratio:.3f}x ({bare_seconds * 1e3:.3f} ms bare, {our_seconds * 1e3:.3f} ms ours a pass{limit})")
    return {
        "net": name,
        "parameters": model.size,
        "batch": case.batch,
        "passes": count,
        "repeats": repeats,
        "bare_seconds": f"{bare_seconds:.3e}",
        "slopes_seconds": f"{our_seconds:.3e}",
        "median_ratio": f"{ratio:.3f}",
        "limit": case.limit,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def bare(model: Model, x: Tensor, y: Tensor, count: int) -> None:
    """``count`` forward passes and losses."""
    with torch.inference_mode():
        for _ in range(count):
            float(F.cross_entropy(model.module(x), y))


def seconds(work: Callable[[], None]) -> float:
    """Wall time of ``work``."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
