"""Runs in worker processes: jobs out, progress in, as JSON over pipes; nothing of a run is pickled.

A worker is started with ``spawn`` and takes one job after the other. It does not hear Ctrl-C, which a terminal sends to
every process: the parent tells it to stop with SIGTERM, once, and it leaves a readable run directory behind.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from zowarmup import recipes
from zowarmup.errors import ZOWarmUpError
from zowarmup.jobs import Job
from zowarmup.recipe import Recipe

_PATIENCE_SECONDS = 20.0  # what a stopped worker has for writing its summary and report
_EVERY_SECONDS = 0.2  # between two steps of a run that are told

State = Literal["running", "finished", "failed"]


@dataclass(frozen=True)
class Step:
    """News of a job."""

    job: Job
    state: State
    round: int = 0
    metrics: Mapping[str, Any] | None = None
    """The round's line in metrics.jsonl, while running."""
    error: str | None = None
    """What went wrong, where it failed."""
    traceback: str | None = None
    """Where it went wrong, if that was not foreseen."""
    died: bool = False
    """Whether it took its worker with it."""


def work(jobs: Sequence[Job], *, workers: int, device: str) -> Generator[Step]:
    """Do the jobs on ``workers`` processes, in order as far as they go; tell what happens as it happens.

    A job that comes after another of them waits until that one has run the rounds they share, or has ended, however.
    However the iteration ends, no worker outlives it.
    """
    waiting = _Waiting(jobs)
    busy: dict[Connection, tuple[BaseProcess, Job]] = {}
    idle: list[tuple[BaseProcess, Connection]] = []
    processes: list[BaseProcess] = []
    ended = False
    try:
        while True:
            while len(busy) < workers and (job := waiting.take()) is not None:
                process, connection = idle.pop() if idle else _start(processes)
                busy[connection] = (process, job)
                _hand(connection, job, device)
            if not busy:
                break
            for connection in cast(list[Connection], wait(list(busy))):
                process, job = busy[connection]
                step = _receive(connection, process, job)
                waiting.heard(step)
                yield step
                if step.state == "running":
                    continue
                del busy[connection]
                if step.died or not len(waiting):
                    connection.close()  # the worker ends
                else:
                    idle.append((process, connection))
        for _, connection in idle:
            connection.close()
        ended = True
    finally:
        _stop(processes, ask=not ended)


class _Waiting:
    """Jobs that nobody has begun.

    Args:
        jobs: all of them.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = deque(jobs)
        self._rounds: dict[Job, float] = dict.fromkeys(jobs, -1)
        """How far each is; infinitely far where it has ended."""

    def __len__(self) -> int:
        return len(self._jobs)

    def take(self) -> Job | None:
        """The first job that need not wait; None where there is none now."""
        for job in self._jobs:
            if job.after is None or self._rounds.get(job.after, math.inf) >= job.shares:
                self._jobs.remove(job)
                return job
        return None

    def heard(self, step: Step) -> None:
        """Note how far a job is."""
        self._rounds[step.job] = step.round if step.state == "running" else math.inf


def _start(processes: list[BaseProcess]) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(theirs,), daemon=True)
    with _deaf():  # what a worker begins with it keeps: no Ctrl-C from the terminal
        process.start()
        processes.append(process)
    theirs.close()
    return process, ours


def _hand(connection: Connection, job: Job, device: str) -> None:
    order = {
        "recipe": recipes.to_toml(job.recipe),
        "out": str(job.out),
        "device": device,
        "start": job.start,
        "changes": job.changes,
        "beginning": None if job.after is None else str(job.after.out),
    }
    with contextlib.suppress(OSError):  # a worker that is gone is noticed when its news is awaited
        connection.send_bytes(msgspec.json.encode(order))


def _receive(connection: Connection, process: BaseProcess, job: Job) -> Step:
    try:
        news = msgspec.json.decode(connection.recv_bytes())
    except (EOFError, OSError):
        process.join(5.0)
        code = process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        killed = "; killed, perhaps for want of memory" if code == -9 else ""
        return Step(job, "failed", error=f"the worker process ended with {how}{killed}", died=True)
    return Step(job, **news)


def _stop(processes: Sequence[BaseProcess], *, ask: bool) -> None:
    """End every worker: ask, wait, insist. One that has no more work goes unasked."""
    for process in processes if ask else ():
        process.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    try:
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """While open, Ctrl-C waits."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker(connection: Connection) -> None:
    """Do jobs until the parent closes its end or says stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_once)
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        while True:
            order = msgspec.json.decode(connection.recv_bytes())
            connection.send_bytes(msgspec.json.encode(_do(order, connection)))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # on its way out anyway


def _raise_once(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one must not cut short what the first began
    raise KeyboardInterrupt


def _beginning(recipe: Recipe, folder: str | None) -> str | None:
    """The run whose rounds are taken over; None where it has none after all, as it failed early."""
    from zowarmup.beginnings import check

    if folder is not None:
        with contextlib.suppress(ZOWarmUpError):
            check(recipe, Path(folder))
            return folder
    return None


def _do(order: Mapping[str, Any], connection: Connection) -> dict[str, Any]:
    from zowarmup.loop import resume, run  # heavy: after the signals are set

    last = 0.0

    def tell(progress: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if "accuracy" in progress.metrics or now - last > _EVERY_SECONDS:
            last = now
            news = {"state": "running", "round": progress.round, "metrics": progress.metrics}
            try:
                connection.send_bytes(msgspec.json.encode(news))
            except OSError:
                raise KeyboardInterrupt from None  # the parent is gone: leave a readable directory and go too

    try:
        where, force = {"device": order["device"], "callbacks": (tell,)}, order["start"] == "replace"
        if order["start"] == "resume":
            trained = resume(order["out"], overrides=order["changes"], **where)
        else:
            recipe = recipes.parse(order["recipe"])
            beginning = _beginning(recipe, order["beginning"])
            trained = run(recipe, out=order["out"], force=force, beginning=beginning, **where)
    except ZOWarmUpError as error:
        return {"state": "failed", "error": str(error)}
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return {"state": "failed", "error": text, "traceback": traceback.format_exc()}
    return {"state": "finished", "round": trained.summary["rounds"], "metrics": trained.metrics[-1]}
