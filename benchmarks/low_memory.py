"""Memory of a client by what it does, and what a cap stops; results in benchmarks/results/low-memory.csv.

    python benchmarks/low_memory.py [--net resnet18] [--batch 64] [--rounds 3] [--cap MIB] [--by rlimit|cgroup]
                                    [--quick] [--out CSV]

A run with one client on random 3 x 32 x 32 images, GroupNorm, one thread, client and server in one process; a fresh
process for every line of the table:

    runtime                      a zeroth-order run of a net of a 16th of the width, on one image: libraries
    inference                    a forward pass over the batch
    zeroth-order                 slopes along 3 directions, two-sided, forward passes over the batch (64 images at most)
    zeroth-order, micro-batch 1  the same, image by image
    backprop, micro-batch 1      exact slopes, gradients accumulated image by image: the fair baseline
    backprop                     a first-order phase, SGD on the batch, as capable clients do it

Then each of the last four runs again under one cap, by default half-way between zeroth-order and backprop; where the
machine allows it, under a cap of both kinds. The exit code is 1 where backprop completes under one, or zeroth-order
does not.

Columns, in MiB: ``imports``, resident when everything is imported; ``process``, the peak of resident memory (VmHWM) of
the whole process; ``net``, that less the ``process`` of runtime; ``work``, the most that is resident while the client
works, less what was resident before, the weights among it; ``data``, the peak of private writable memory. A cap is a
limit on ``data`` (RLIMIT_DATA, set from outside by prlimit), which any process may set and which makes an allocation
fail; or on ``charged``, what the kernel charges to a control group, which takes root or a delegated group, and kills.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import zowarmup
from zowarmup.engines import Local
from zowarmup.estimators import loss
from zowarmup.experiment import Experiment, arithmetic, prepare
from zowarmup.ledger import Ledger
from zowarmup.loop import local, run
from zowarmup.memory import Peak
from zowarmup.phases import Phase
from zowarmup.protocol import Report, Request
from zowarmup.recipe import Recipe
from zowarmup.state import State

MIB = 2**20
CPU = torch.device("cpu")
NETS = ("resnet18", "resnet8", "cnn")
PHASES = {
    "zeroth-order": 'kind = "zeroth-order"',
    "exact": 'kind = "zeroth-order"\ndifference = "exact"',
    "first-order": 'kind = "first-order"',
}
RECIPE = """
name = "low-memory"
[data]
source = "given"
clients = 1
high-resource = 1.0
partition = {{ kind = "iid" }}
[model]
net = "{net}"
args = {{ {args} }}
[run]
micro-batch = {micro_batch}
evaluate-every = {rounds}
[[phase]]
{phase}
rounds = {rounds}
batch = {batch}
lr = 1e-3
"""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
"""For glibc: tensors that are freed go back to the system at once, and no thread reserves address space."""
ENOUGH = 2**40
"""Bytes: a limit that is none."""
PATIENCE = 600.0
"""Seconds until a process is given up: under a cap that is too small for the libraries some wait for ever."""
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc", "MemoryError")
"""What torch, the C++ library and Python say; one of them is in what a process leaves that a cap has stopped."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does."""

    work: Literal["inference", "zeroth-order", "exact", "first-order"]
    net: str = "resnet18"
    args: dict[str, Any] = field(default_factory=lambda: {"norm": "group"})
    batch: int = 64
    micro_batch: int = 64
    rounds: int = 3

    @property
    def recipe(self) -> Recipe:
        """The run; of an inference, one with the same model and data."""
        args = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.args.items())
        phase = PHASES.get(self.work, PHASES["zeroth-order"])
        return zowarmup.parse_recipe(RECIPE.format(**(asdict(self) | {"args": args, "phase": phase})))


@dataclass(frozen=True, kw_only=True)
class Used:
    """Peaks of a process that completed, in bytes."""

    imports: int
    """Resident when everything is imported and nothing is made."""
    process: int
    """Resident, of the whole process."""
    work: int
    """Resident, while the client works, above what is resident before."""
    data: int
    """Private writable memory, which a cap limits."""
    weights: int
    """Of the model, as it is sent."""
    rounds: int
    seconds: float
    charged: int = 0
    """Resident, and charged to the control group that the process was in: not the libraries that others have read; 0
    where there was none."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended, under a cap or without one."""

    used: Used | None
    """None where it ran out of memory."""
    message: str = ""
    """Of the error that stopped it."""


@dataclass(frozen=True, kw_only=True)
class Cap:
    """A limit on a process, and who keeps it."""

    by: Literal["rlimit", "cgroup"]
    bytes: int

    @property
    def words(self) -> str:
        """What is limited."""
        what = {"rlimit": "private writable memory (RLIMIT_DATA)", "cgroup": "resident memory (control group)"}
        return f"{self.bytes / MIB:.0f} MiB of {what[self.by]}"


class JobError(Exception):
    """A process failed, and not for lack of memory."""


class Watch:
    """Peaks of this process; ``work`` apart from the rest."""

    def __init__(self) -> None:
        self._peak = Peak(CPU)
        self.imports = self.process = self._peak.bytes()
        self.work = 0

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """While open, the client works."""
        self.note()
        self._peak.reset()
        before = self._peak.bytes()
        yield
        self.work = max(self.work, self._peak.bytes() - before)
        self.note()

    def note(self) -> None:
        """Keep the peak before it is reset."""
        self.process = max(self.process, self._peak.bytes())


@dataclass(frozen=True)
class Watched:
    """The in-process engine, with a watch on its clients."""

    inner: Local
    watch: Watch

    def follow(self, ledger: Ledger) -> None:
        """See :class:`zowarmup.engines.Engine`."""
        self.inner.follow(ledger)

    def reports(self, phase: Phase, requests: Sequence[Request], state: State) -> Iterator[Report]:
        """See :class:`zowarmup.engines.Engine`."""
        for request in requests:
            with self.watch.working():
                (report,) = self.inner.reports(phase, [request], state)
            yield report


def main() -> int:
    """Measure, choose a cap, run under it, print and write."""
    options = arguments()
    jobs = planned(options.net, options.batch, options.rounds, quick=options.quick)
    used = {name: measured(job) for name, job in jobs.items()}
    caps = [
        Cap(by=by, bytes=options.cap * MIB if options.cap else between(used["zeroth-order"], used["backprop"], by))
        for by in ([options.by] if options.by else kinds())
    ]
    ends: dict[str, dict[str, Ended]] = {
        cap.by: {name: ended(job, cap) for name, job in jobs.items() if name not in ("runtime", "inference")}
        for cap in caps
    }
    rows = [row(name, jobs[name], used[name], used["runtime"], caps, ends) for name in jobs]
    show(rows)
    for cap in caps:
        print(f"\nunder a cap of {cap.words}:")
        for name, end in ends[cap.by].items():
            print(f"{name}: {outcome(end)}{': ' if end.message else ''}{end.message}")
    if options.out is not None:
        write(rows, options.out)
    holds = all(end["backprop"].used is None and end["zeroth-order"].used is not None for end in ends.values())
    return 0 if holds else 1


@functools.cache
def kinds() -> list[Literal["rlimit", "cgroup"]]:
    """The kinds of cap that this machine allows."""
    with control_group(ENOUGH) as group:
        return ["rlimit"] if group is None else ["rlimit", "cgroup"]


def planned(net: str, batch: int, rounds: int, *, quick: bool) -> dict[str, Job]:
    """What is measured, by name."""
    args: dict[str, Any] = {"norm": "group", "rate": 0.25 if quick else 1.0}
    many = Job(work="zeroth-order", net=net, args=args, batch=batch, micro_batch=min(batch, 64), rounds=rounds)
    one = replace(many, micro_batch=1)
    return {
        "runtime": replace(one, args={"norm": "group", "rate": 1 / 16}, batch=1),
        "inference": replace(many, work="inference"),
        "zeroth-order": many,
        "zeroth-order, micro-batch 1": one,
        "backprop, micro-batch 1": replace(one, work="exact"),
        "backprop": replace(many, work="first-order"),
    }


def arguments() -> argparse.Namespace:
    """The options; a child never gets here."""
    parser = argparse.ArgumentParser(description="Memory of a client by what it does, and what a cap stops.")
    parser.add_argument("--net", choices=NETS, default="resnet18")
    parser.add_argument("--batch", type=int, default=64, help="images of the client, and of a step of SGD")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cap", type=int, help="MiB")
    parser.add_argument("--by", choices=("rlimit", "cgroup"), help="default: whatever the machine allows")
    parser.add_argument("--quick", action="store_true", help="a quarter of the width; writes no file without --out")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/low-memory.csv")
    options = parser.parse_args()
    if options.out is None and not options.quick:
        options.out = Path(__file__).parent / "results" / "low-memory.csv"
    return options


def measured(job: Job) -> Used:
    """What a job takes without a cap."""
    end = ended(job, Cap(by="cgroup", bytes=ENOUGH) if "cgroup" in kinds() else None)
    if end.used is None:
        raise JobError(f"{job}: out of memory without a cap: {end.message}")
    return end.used


def between(less: Used, more: Used, by: str = "rlimit") -> int:
    """A cap that one job fits under and another does not.

    Raises:
        JobError: there is none.
    """
    low, high = (used.data if by == "rlimit" else used.charged for used in (less, more))
    if low >= high:
        raise JobError(f"no cap lies between {low / MIB:.0f} and {high / MIB:.0f} MiB: take a larger batch")
    return (low + high) // 2


def ended(job: Job, cap: Cap | None = None) -> Ended:
    """Do a job in a process of its own, under a cap if there is one.

    Raises:
        JobError: it failed, and not for lack of memory; it does not end; or the machine allows no control group.
    """
    command = [sys.executable, __file__, "--child"]
    with (
        control_group(cap.bytes if cap is not None and cap.by == "cgroup" else None) as group,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **ALLOCATOR},
        ) as process,
    ):
        try:  # the process waits for its job
            if cap is not None and cap.by == "rlimit":
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (cap.bytes, cap.bytes))
            elif cap is not None:
                if group is None:
                    raise JobError("this machine allows no control group of memory: take --by rlimit")
                group.enter(process.pid)
            out, errors = process.communicate(json.dumps(asdict(job)), timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise JobError(f"{job}: does not end in {PATIENCE:.0f} s") from error
        finally:
            process.kill()  # without effect on one that has ended
        charged = 0 if group is None else group.peak()
    if process.returncode == 0:
        return Ended(used=replace(Used(**json.loads(out)), charged=charged))
    if process.returncode == -signal.SIGKILL:
        return Ended(used=None, message="killed")
    for line in reversed(errors.splitlines()):
        if any(words in line for words in OUT_OF_MEMORY):
            return Ended(used=None, message=line)
    raise JobError(f"{job}: exit code {process.returncode}\n{errors}")


@dataclass(frozen=True)
class Group:
    """A control group of memory, and what its files are called, which depends on the version.

    Args:
        folder: of the group.
        limit, swap, most: files with the limit, that on swap, and the most that was charged.
        swapped: what ``swap`` is to hold, or the limit.
    """

    folder: Path
    limit: str
    swap: str
    most: str
    swapped: int | None

    def make(self, limit: int) -> bool:
        """Make it; False where the machine does not allow it."""
        try:
            self.folder.mkdir()
        except OSError:
            return False
        try:
            self._write(self.limit, limit)
            with contextlib.suppress(FileNotFoundError):  # where there is no swap
                self._write(self.swap, limit if self.swapped is None else self.swapped)
            self.peak()
        except OSError:
            self.remove()
            return False
        return True

    def enter(self, process: int) -> None:
        """Let a process be in it from now on."""
        self._write("cgroup.procs", process)

    def peak(self) -> int:
        """The most that was charged to it, in bytes."""
        return int((self.folder / self.most).read_text())

    def remove(self) -> None:
        """Remove it; its last process may just be on its way out."""
        for _ in range(50):
            try:
                self.folder.rmdir()
            except OSError:
                time.sleep(0.1)
            else:
                return

    def _write(self, name: str, value: int) -> None:
        with (self.folder / name).open("r+") as file:  # the kernel puts the files there
            file.write(str(value))


@contextlib.contextmanager
def control_group(limit: int | None, root: Path = Path("/sys/fs/cgroup")) -> Iterator[Group | None]:
    """A control group that holds nobody yet; None where the machine allows none, or no limit is asked for.

    Args:
        limit: bytes that may be charged to it, and nothing of it swapped out.
        root: where control groups are.
    """
    group = None if limit is None else next((each for each in groups(root) if each.make(limit)), None)
    try:
        yield group
    finally:
        if group is not None:
            group.remove()


def groups(root: Path) -> Iterator[Group]:
    """Groups that might be made: below that of this process, or beside it."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    places = {controllers: path.strip("/") for _, controllers, path in lines}
    name = f"low-memory-{os.getpid()}"
    if (root / "memory").is_dir():
        files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max_usage_in_bytes")
        yield from (Group(root / "memory" / place / name, *files, None) for place in (places.get("memory", ""), ""))
    elif (root / "cgroup.controllers").is_file():
        place = root / places.get("", "")
        yield from (
            Group(each / name, "memory.max", "memory.swap.max", "memory.peak", 0) for each in (place, place.parent)
        )


def child() -> int:
    """Do the job that stdin has; say on stdout what it took."""
    watch = Watch()
    job, started = Job(**json.load(sys.stdin)), time.perf_counter()
    parameters, rounds = infer(job, watch) if job.work == "inference" else train(job, watch)
    used = Used(
        imports=watch.imports,
        process=watch.process,
        work=watch.work,
        data=data_peak(),
        weights=4 * parameters,
        rounds=rounds,
        seconds=time.perf_counter() - started,
    )
    print(json.dumps(asdict(used)))
    return 0


def train(job: Job, watch: Watch) -> tuple[int, int]:
    """A run; the number of its parameters and of its rounds."""

    def engine(experiment: Experiment) -> Watched:
        watch.note()  # what it took to prepare; the run resets the peak, and keeps its own
        return Watched(local(experiment), watch)

    trained = run(job.recipe, data=images(job.batch), device="cpu", engine=engine)
    watch.process = max(watch.process, trained.summary["peak_memory_bytes"])
    return trained.summary["parameters"], trained.summary["rounds"]


def infer(job: Job, watch: Watch) -> tuple[int, int]:
    """A forward pass over the batch; the number of parameters, and no round."""
    experiment = prepare(job.recipe, device="cpu", dataset=images(job.batch))
    with arithmetic(experiment.recipe, CPU), watch.working():
        x, y = experiment.train.batch(np.arange(job.batch))
        loss(experiment.model, x, y, experiment.task, micro_batch=job.micro_batch)
    return experiment.model.size, 0


def images(count: int) -> zowarmup.Dataset:
    """Random images; the test set is small, as it goes through the net at once."""
    x = np.random.default_rng(0).integers(0, 256, size=(count, 3, 32, 32), dtype=np.uint8)
    y = np.arange(count) % 10
    return zowarmup.from_arrays((x, y), (x[:1], y[:1]))


def data_peak() -> int:
    """The peak of this process's private writable memory, in bytes.

    Linux keeps the peak of the address space alone; what of it is not private and writable, libraries above all, has
    hardly changed since.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kib = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if key[:2] == "Vm"}
    return 1024 * (kib["VmPeak"] - kib["VmSize"] + kib["VmData"])


def row(
    name: str, job: Job, used: Used, runtime: Used, caps: Sequence[Cap], ends: dict[str, dict[str, Ended]]
) -> dict[str, object]:
    """A line of the table."""
    under: dict[str, object] = {}
    for cap in caps:
        end = ends[cap.by].get(name)
        under |= {f"{cap.by}_mib": mib(cap.bytes) if end else "", f"under_{cap.by}": outcome(end) if end else ""}
    return {
        "what": name,
        "net": job.net,
        "parameters": used.weights // 4,
        "batch": job.batch,
        "micro_batch": job.micro_batch,
        "imports_mib": mib(used.imports),
        "runtime_mib": mib(runtime.process),
        "process_mib": mib(used.process),
        "net_mib": mib(used.process - runtime.process),
        "weights_mib": mib(used.weights),
        "work_mib": mib(used.work),
        "data_mib": mib(used.data),
        "charged_mib": mib(used.charged) if used.charged else "",
        **under,
        "rounds": used.rounds,
        "seconds": f"{used.seconds:.1f}",
        "machine": f"{platform.machine()}, CPU, 1 thread",
        "torch": torch.__version__,
    }


def outcome(end: Ended) -> str:
    """In words."""
    if end.used is None:
        return end.message if end.message == "killed" else "out of memory"
    return f"completed {end.used.rounds} rounds"


def mib(count: int) -> str:
    """Bytes as MiB."""
    return f"{count / MIB:.1f}"


def show(rows: Sequence[dict[str, object]]) -> None:
    """Print the columns that differ."""
    keys = [key for key in rows[0] if key.endswith("_mib")]
    ends = [key for key in rows[0] if key.startswith("under_")]
    print(f"{'MiB':28s}" + "".join(f"{key.removesuffix('_mib'):>9s}" for key in keys))
    for line in rows:
        print(
            f"{line['what']:28s}" + "".join(f"{line[key]:>9s}" for key in keys), *(line[key] for key in ends), sep="  "
        )


def write(rows: Sequence[dict[str, object]], path: Path) -> None:
    """Write the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(child() if sys.argv[1:] == ["--child"] else main())
