"""What the ledger costs: commits, bytes, digests, replay, and its share of a round; benchmarks/results/ledger.csv.

    python benchmarks/ledger.py [--folder DIR] [--steps 1000] [--out benchmarks/results/ledger.csv]

Each figure stands beside something of the same run: a commit beside a bare SQLite transaction with the same settings in
the same folder, a digest beside one BLAKE2b over the same bytes, replay beside as many updates one by one, the ledger's
part of a round beside the round. One thread, but for the digest, which takes up to four (and is given with one, too).
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import platform
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import zowarmup
from zowarmup import nets, recipes, recorder, state
from zowarmup.directions import Step, select
from zowarmup.disk import Disk
from zowarmup.experiment import ledger_head, prepare
from zowarmup.ledger import Clock, Ledger
from zowarmup.loop import local, rounds
from zowarmup.model import Model
from zowarmup.protocol import encode
from zowarmup.state import State

ROUNDS = 1000
DIRECTIONS = 30


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What the ledger costs.")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where to write: the disk is measured too")
    parser.add_argument("--steps", type=int, default=ROUNDS, help="rounds to replay; 1000 takes about a minute")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "ledger.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        rows = [*commits(folder), *sizes(folder), *digests(), *replays(options.steps), *shares(folder)]
    finally:
        shutil.rmtree(folder)
    machine = f"{platform.machine()}, torch {torch.__version__}, SQLite {sqlite3.sqlite_version}"
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["what", "measured", "unit", "limit", "beside", "ratio", "machine"])
        for row in rows:
            writer.writerow([*row, machine])


def row(what: str, measured: float, unit: str, limit: float | None, beside: str, ratio: float | None) -> list[Any]:
    """A line of the table, printed."""
    line = [
        what,
        f"{measured:.4g}",
        unit,
        "" if limit is None else limit,
        beside,
        "" if ratio is None else f"{ratio:.3g}",
    ]
    print("  ".join(map(str, line)), flush=True)
    return line


def commits(folder: Path) -> Iterator[list[Any]]:
    """Median time of a commit with synchronous=FULL."""
    experiment = prepare(recipes.load("digits"))
    update = next(made for made in rounds(experiment, local(experiment)) if made.number > 50)
    assert update.entry is not None
    entry, counts = encode(update.entry), update.traffic.counts()
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    bare.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (i INTEGER PRIMARY KEY, b BLOB)"
    )
    with Ledger.create(folder, ledger_head(experiment), disk=Disk()) as ledger:
        digest = update.state.digest()

        def ours() -> None:
            ledger.append(0, entry, counts, digest, Clock(seconds=1.0, peak_memory_bytes=1))

        def plain() -> None:
            bare.execute("BEGIN IMMEDIATE")
            bare.execute("INSERT INTO t (b) VALUES (?)", (b"x" * 250,))
            bare.execute("COMMIT")

        took = [(seconds(ours), seconds(plain)) for _ in range(ROUNDS)]
    bare.close()
    mine, theirs = (statistics.median(column) for column in zip(*took, strict=True))
    yield row("commit, median", 1e3 * mine, "ms", 10, "bare SQLite transaction", mine / theirs)
    yield row("commit, 99 of 100", 1e3 * sorted(one for one, _ in took)[int(0.99 * ROUNDS)], "ms", None, "", None)


def sizes(folder: Path) -> Iterator[list[Any]]:
    """Bytes of ledgers at rest, above 12 a direction: what a round adds, and what a run has besides."""
    found = []
    for more in (0, 300):
        recipe = recipes.load("digits", overrides={"phase.1.rounds": 150 + more})
        zowarmup.run(recipe, out=folder / f"digits-{more}")
        found.append((folder / f"digits-{more}" / "ledger.db").stat().st_size)
    yield row("ledger of digits, 200 rounds", found[0], "bytes", None, "", None)
    each = (found[1] - found[0]) / 300
    yield row("bytes that a zeroth-order round adds", each, "bytes", 300 + 12 * 3, "", None)
    yield row("bytes besides", found[0] - 200 * each, "bytes", None, "", None)


def digests() -> Iterator[list[Any]]:
    """Time of the digest of a ResNet18's weights."""
    weights = torch.from_numpy(np.random.default_rng(0).standard_normal(11_173_962, np.float32))
    content = weights.numpy().data.cast("B")
    for threads, limit in ((4, 60), (1, None)):
        with mock.patch.object(state, "_THREADS", threads):
            took = [
                (seconds(lambda: State(weights).digest()), seconds(lambda: hashlib.blake2b(content).digest()))
                for _ in range(15)
            ]
        mine, theirs = (statistics.median(column) for column in zip(*took, strict=True))
        name = f"digest of ResNet18, up to {threads} thread{'s' * (threads > 1)}"
        yield row(name, 1e3 * mine, "ms", limit, "one BLAKE2b over the bytes", mine / theirs)


def replays(steps: int) -> Iterator[list[Any]]:
    """Time of a fused replay of a ResNet18, and of the same updates one by one."""
    directions = select("cpu", threads=1)
    model = Model(nets.build("resnet18", input_shape=(3, 32, 32), classes=10, args={}), batch_norm="frozen")
    segments, before, after = model.table.segments, model.weights(), model.weights()
    rng = np.random.default_rng(0)
    made = [
        Step(
            seeds=np.full(DIRECTIONS, rng.integers(2**63), np.uint64),
            streams=np.arange(DIRECTIONS, dtype=np.uint32),
            coefficients=rng.integers(-(2**25), 2**25, DIRECTIONS).astype(np.int32),
            exponent=38,
        )
        for _ in range(steps)
    ]
    fused = seconds(lambda: directions.replay(before, after, segments=segments, steps=made))
    some = made[: max(1, steps // 20)]

    def one_by_one() -> None:
        for step in some:
            directions.replay(before, after, segments=segments, steps=[step])

    single = seconds(one_by_one) * steps / len(some)
    ps = 1e12 / (steps * DIRECTIONS * model.size)
    name = f"replay of {steps} x {DIRECTIONS}, ResNet18"
    yield row(
        name, fused * ps, "ps per element, direction and thread", 80, "one update after the other", fused / single
    )
    yield row(name, fused, "s", None, "", None)


def shares(folder: Path) -> Iterator[list[Any]]:
    """The ledger's part of a zeroth-order round of a ResNet18: four clients with 64 images, three directions each."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((260, 3, 32, 32)).astype(np.float32)
    data = zowarmup.from_arrays((images[:256], rng.integers(0, 10, 256)), (images[256:], np.arange(4)), classes=10)
    recipe = recipes.load(
        "paper/cifar10-resnet18-10-90",
        overrides={
            "data.clients": 4,
            "data.high-resource": 0.5,
            "data.partition": {"kind": "iid"},
            "data.validation": 0.0,
            "phase.0.rounds": 1,
            "phase.0.cohort": "all",
            "phase.0.augment": "none",
            "phase.1.rounds": 3,
            "phase.1.cohort": "all",
            "run.evaluate-every": 1000,
        },
    )
    spent, ended = [], []
    add = recorder.Recorder._add

    def timed(self: Any, round: Any) -> Any:
        started = time.perf_counter()
        line = add(self, round)
        spent.append(time.perf_counter() - started)
        ended.append(time.perf_counter())
        return line

    with mock.patch.object(recorder.Recorder, "_add", timed):
        zowarmup.run(recipe, data=data, out=folder / "resnet18")
    parts = [part / (end - before) for part, before, end in zip(spent[2:], ended[1:-1], ended[2:], strict=True)]
    inside = [1e3 * part for part in spent[2:-1]]
    yield row(
        "ledger's part of a zeroth-order round, ResNet18", 100 * statistics.median(parts), "%", 2, "the round", None
    )
    yield row("digest and commit of such a round", statistics.median(inside), "ms", None, "", None)


def seconds(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
