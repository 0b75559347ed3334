"""A process that makes doomed processes: it imports everything once, then forks a child for every job.

Jobs come as JSON lines on stdin, outcomes go as JSON lines to stdout; crashes.py is the other end. A child tells of
every round that was acknowledged, and of every operation on files, through a pipe, so that what it said before it was
killed is known. It has one thread, so forking is safe.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from crashes import Job, Outcome

LIMIT_SECONDS = 120.0


def serve() -> None:
    """Do jobs until stdin ends."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        _warm_up()
        answers.write("ready\n")
        for line in sys.stdin:
            answers.write(json.dumps(asdict(attempt(Job(**json.loads(line))))) + "\n")


def attempt(job: Job) -> Outcome:
    """Fork a child for a job, kill it when the job says so, and say what became of it."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as told:
        start = time.perf_counter()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _child(job, writer, told)
        os.close(writer)
        events, kill_at = _listen(job, reader, child, start)
        _, status = os.waitpid(child, 0)
        told.seek(0)
        return Outcome(
            code=os.waitstatus_to_exitcode(status),
            acknowledged=max((int(event[6:]) for event in events if event.startswith("round ")), default=-1),
            operations=dict(Counter(event[3:] for event in events if event.startswith("op "))),
            events=len(events),
            killed=kill_at,
            said=next((json.loads(event[5:]) for event in events if event.startswith("said ")), {}),
            printed=told.read().decode(errors="replace"),
            seconds=time.perf_counter() - start,
        )


def _listen(job: Job, reader: int, child: int, start: float) -> tuple[list[str], bool]:
    """Everything that a child says until it ends, and whether it was killed from here."""
    due = start + job.kill_seconds if job.kill_seconds is not None and job.kill_event is None else None
    limit, content, killed = start + LIMIT_SECONDS, b"", False
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            wait = min(limit if due is None or killed else due, limit) - time.perf_counter()
            if select.select([pipe], [], [], max(wait, 0))[0]:
                if not (more := pipe.read(65536)):
                    return content.decode().splitlines(), killed
                content += more
                if due is None and job.kill_event is not None and content.count(b"\n") >= job.kill_event:
                    due = time.perf_counter() + (job.kill_seconds or 0.0)
            elif not killed:
                os.kill(child, signal.SIGKILL)
                killed = True


def _child(job: Job, writer: int, told: IO[bytes]) -> None:
    """Do a job and end; never returns."""
    code = 99
    try:
        os.dup2(told.fileno(), 1)
        os.dup2(told.fileno(), 2)
        if job.limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (job.limit_bytes, job.limit_bytes))
        if job.user is not None:
            os.setresgid(job.user, job.user, job.user)
            os.setresuid(job.user, job.user, job.user)
        said: dict[str, Any] = {}
        with _armed(job, said):
            code = _do(job, writer, said)
        _say(writer, f"said {json.dumps(said)}")
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _do(job: Job, writer: int, said: dict[str, Any]) -> int:
    """A job in the child; the exit code."""
    import zowarmup
    from zowarmup import ledger, loop, report
    from zowarmup.cli import main
    from zowarmup.disk import Disk
    from zowarmup.errors import ZOWarmUpError

    if job.network:
        ledger.network_file_system = lambda path: "nfs"
    if not job.figures:
        report.render = lambda records: "<!doctype html><title>a page</title>"
    disk = Disk(sync=job.sync, watch=_Watch(job, writer))

    def acknowledge(progress: Any) -> None:
        _say(writer, f"round {progress.round}")
        if job.hold is not None and progress.round == job.hold_round:
            Path(job.hold).touch()
            while Path(job.hold).exists():
                time.sleep(0.01)

    out, more = Path(job.out), {"callbacks": [acknowledge], "disk": disk, "device": "cpu"}
    try:
        if job.do == "run":
            zowarmup.run("digits", out=out, overrides=job.overrides, force=job.force, **more)
        elif job.do == "resume":
            zowarmup.resume(out, rounds=job.rounds, overrides=job.overrides, **more)
        elif job.do == "read":
            proof, trained = zowarmup.verify(out), zowarmup.load(out)
            said |= {"holds": proof.holds, "rounds": proof.rounds, "chain": proof.chain}
            said |= {"same": zowarmup.diff(out, out).identical, "status": trained.summary["status"]}
        else:
            loop.Disk = lambda sync: disk
            return main(job.arguments)
    except ZOWarmUpError as error:
        said |= {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        return error.exit_code
    return 0


class _Watch:
    """Tells of every operation on files, and strikes at one of them."""

    def __init__(self, job: Job, writer: int) -> None:
        self._job, self._writer, self._count = job, writer, 0

    def __call__(self, name: str, when: str, path: Path) -> None:
        job = self._job
        _say(self._writer, f"op {name} {when}")
        if job.strike not in (f"{name} {when}", f"any {when}"):
            return
        self._count += 1
        if self._count == job.nth or (job.lasting and self._count > job.nth):
            if job.error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                raise OSError(job.error, os.strerror(job.error), str(path))


@contextlib.contextmanager
def _armed(job: Job, said: dict[str, Any]) -> Iterator[None]:
    """Let the preloaded library strike at a system call, or count them."""
    if job.calls is None:
        yield
        return
    shim = ctypes.CDLL(None)
    shim.fault_count.restype = ctypes.c_long
    folder = os.fsencode(os.path.realpath(job.out))
    shim.fault_arm(folder, job.calls.encode(), ctypes.c_long(job.nth), job.error or 0, int(job.lasting))
    try:
        yield
    finally:
        said["calls"] = shim.fault_count()
        shim.fault_disarm()


def _say(writer: int, text: str) -> None:
    os.write(writer, f"{text}\n".encode())


def _warm_up() -> None:
    """Import and compile all that a run needs, in one thread."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        short = {"phase.0.rounds": 1, "phase.1.rounds": 1, "phase.0.server": "fedadam", "phase.0.server-lr": 0.01}
        job, said = Job(do="run", out=f"{folder}/run", overrides=short, figures=True), {}
        if _do(job, os.open(os.devnull, os.O_WRONLY), said):
            raise SystemExit(f"cannot run at all: {said}")
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "forking with several threads is not safe"


if __name__ == "__main__":
    serve()
