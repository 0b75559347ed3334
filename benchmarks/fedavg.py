"""Cost of a FedAvg round against a loop written by hand; results in benchmarks/results/fedavg.csv.

    python benchmarks/fedavg.py [--repeats 15] [--out benchmarks/results/fedavg.csv]

50 clients of 50 images each (1 x 28 x 28, random), batches of 10, one epoch, LeNet. By hand: one module,
``load_state_dict`` for every client, ``torch.optim.SGD``, a weighted sum of ``state_dict``s, data a tensor a client.
Ours: plan, the in-process engine, close, apply. The two take turns; the figure is the median of the ratios of
neighbours. One thread.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import zowarmup
from zowarmup import nets
from zowarmup.experiment import Experiment, arithmetic, prepare
from zowarmup.loop import local

CLIENTS, IMAGES, BATCH, LR = 50, 50, 10, 0.05
RECIPE = f"""
name = "benchmark"
[data]
source = "given"
clients = {CLIENTS}
high-resource = 1.0
partition = {{ kind = "iid" }}
[model]
net = "lenet"
[[phase]]
kind = "first-order"
rounds = 1000
lr = {LR}
batch = {BATCH}
"""


def main() -> None:
    """Measure, print and write the ratio."""
    parser = argparse.ArgumentParser(description="Cost of a FedAvg round against a loop written by hand.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fedavg.csv")
    options = parser.parse_args()
    experiment = prepare(zowarmup.parse_recipe(RECIPE), device="cpu", dataset=images())
    with arithmetic(experiment.recipe, torch.device("cpu")):
        ours, by_hand = our_round(experiment), plain_round(experiment)
        ours(), by_hand()
        pairs = [(seconds(ours), seconds(by_hand)) for _ in range(options.repeats)]
    row = {
        "case": f"{CLIENTS} clients x {IMAGES} images, batch {BATCH}, lenet",
        "ours_ms": f"{statistics.median(a for a, _ in pairs) * 1e3:.1f}",
        "by_hand_ms": f"{statistics.median(b for _, b in pairs) * 1e3:.1f}",
        "ratio": f"{statistics.median(a / b for a, b in pairs):.3f}",
        "limit": "1.15",
        "repeats": options.repeats,
        "machine": f"{platform.machine()}, 1 thread",
        "torch": torch.__version__,
    }
    print(row)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)


def images() -> zowarmup.Dataset:
    """Random images, as many as the clients hold."""
    rng = np.random.default_rng(0)
    count = CLIENTS * IMAGES
    x = rng.integers(0, 256, size=(count, 1, 28, 28), dtype=np.uint8)
    y = np.arange(count) % 10
    return zowarmup.from_arrays((x, y), (x[:100], y[:100]))


def our_round(experiment: Experiment) -> Callable[[], None]:
    """A round of the package, each from where the last one ended."""
    engine, phase, state, number = local(experiment), experiment.phases[0], experiment.initial, 0

    def one() -> None:
        nonlocal state, number
        number += 1
        reports = engine.reports(phase, phase.plan(number, state), state)
        state = phase.apply(*phase.close(number, reports, state), state)

    return one


def plain_round(experiment: Experiment) -> Callable[[], None]:
    """The same round as one would write it down."""
    net = nets.build("lenet", input_shape=(1, 28, 28), classes=10, args={})
    server = {name: value.clone() for name, value in net.state_dict().items()}
    data = [experiment.train.batch(client.train) for client in experiment.federation.clients]
    loss = torch.nn.CrossEntropyLoss()

    def one() -> None:
        nonlocal server
        total = {name: torch.zeros_like(value) for name, value in server.items()}
        for x, y in data:
            net.load_state_dict(server)
            optimiser = torch.optim.SGD(net.parameters(), lr=LR)
            order = torch.randperm(len(x))
            for start in range(0, len(x), BATCH):
                chosen = order[start : start + BATCH]
                optimiser.zero_grad()
                loss(net(x[chosen]), y[chosen]).backward()
                optimiser.step()
            for name, value in net.state_dict().items():
                total[name] += value * (len(x) / (CLIENTS * IMAGES))
        server = total

    return one


def seconds(work: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
