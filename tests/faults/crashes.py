"""Runs that are killed or whose files fail, and what must be true of them afterwards.

The other end of driver.py; used by the tests beside it and by benchmarks/crash.py.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

Overrides = Mapping[str, Any]

SHORT: Overrides = {"phase.0.rounds": 2, "phase.1.rounds": 3, "run.evaluate-every": 2}
FEDADAM: Overrides = {**SHORT, "phase.0.rounds": 3, "phase.0.server": "fedadam", "phase.0.server-lr": 0.01}
SPARSE: Overrides = {**SHORT, "phase.0.rounds": 5, "run.snapshot-every": 3}
"""Some first-order rounds have no snapshot and are run again."""
LONGER: Overrides = {"phase.0.rounds": 10, "phase.1.rounds": 30}

_TIMES = ("seconds", "peak_memory_bytes", "sessions")
"""What of a summary differs from run to run."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a child does, and what happens to it.

    Args:
        do: run or resume the digits recipe in ``out``, read what is there, or call the command line.
        out: the run directory.
        overrides: recipe values by path.
        rounds: of a resume.
        force: of a run.
        arguments: of the command line.
        sync: whether to sync; off, a killed process loses nothing all the same.
        figures: draw the figures of the report; they take longer than a short run.
        strike: an operation as ``"commit before"`` or ``"any after"``; at its ``nth`` occurrence it kills itself.
        nth: which occurrence of ``strike``, or of a system call, from 1.
        error: fail with this errno, do not kill.
        lasting: fail from the ``nth`` occurrence on.
        calls: system calls below ``out`` to strike at, by the preloaded library: ``"all"``, or a name; they are counted
            where ``nth`` is 0.
        kill_event: kill from outside when the child has told of so many events.
        kill_seconds: how long after that, or after the start, to kill.
        limit_bytes: no file may grow beyond.
        hold: a file that the child makes after round ``hold_round``; it goes on when the file is gone.
        user: become this user first.
        network: do without WAL, as on a network file system.
    """

    do: Literal["run", "resume", "read", "cli"]
    out: str
    overrides: Overrides = field(default_factory=dict)
    rounds: str | None = None
    force: bool = False
    arguments: tuple[str, ...] = ()
    sync: bool = True
    figures: bool = False
    strike: str = ""
    nth: int = 0
    error: int | None = None
    lasting: bool = False
    calls: str | None = None
    kill_event: int | None = None
    kill_seconds: float | None = None
    limit_bytes: int | None = None
    hold: str | None = None
    hold_round: int = 0
    user: int | None = None
    network: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a child.

    Args:
        code: its exit code; minus the signal that ended it.
        acknowledged: the last round that a callback saw.
        operations: how often it came to each operation, ``"commit before"`` for instance.
        events: operations and rounds that it told of.
        killed: it was killed from outside.
        said: how its job ended, in its own words.
        printed: stdout and stderr.
        seconds: how long it took.
    """

    code: int
    acknowledged: int
    operations: dict[str, int]
    events: int
    killed: bool
    said: dict[str, Any]
    printed: str
    seconds: float


class Driver:
    """The process that does jobs; a context manager that ends it.

    Args:
        preload: a library to preload, which fails system calls.
    """

    def __init__(self, *, preload: Path | None = None) -> None:
        self.preloaded = preload is not None
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        if preload is not None:
            environment["LD_PRELOAD"] = str(preload)
        command = [sys.executable, "-W", "error", str(Path(__file__).with_name("driver.py"))]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        if self._answer() != "ready":
            self.close()
            raise RuntimeError("the driver did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, job: Job) -> Outcome:
        """Do a job and wait for its end."""
        self.start(job)
        return self.finish()

    def start(self, job: Job) -> None:
        """Begin a job; one at a time."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Outcome:
        """Wait for the job that was begun."""
        return Outcome(**json.loads(self._answer()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@dataclass(frozen=True)
class Kill:
    """One kill, and what it left.

    Args:
        stage: where the run was.
        lost: acknowledged rounds that the ledger does not have.
    """

    stage: str
    lost: int


def broken_run(
    driver: Driver, folder: Path, overrides: Overrides, draws: random.Random, *, whole: Outcome, most: int
) -> Iterator[Kill]:
    """Run until finished, killed up to ``most`` times at random moments; yields every kill.

    Half of the moments are spread over the time a run takes, half over what happens in it, so that the short stages at
    both ends are hit as well.

    Args:
        driver: does the jobs.
        folder: the run directory, not there yet.
        overrides: of the recipe.
        draws: decides when to kill; seeded.
        whole: an uninterrupted run; says how long to wait.
        most: kills at most; then it is left in peace.
    """
    known = -1
    for _ in range(most):
        last, due = ledger_last(folder), overrides["phase.0.rounds"] + overrides["phase.1.rounds"]
        rest = 1 - max(last, 0) / due
        job = replace(_next(folder, overrides), **_moment(draws, whole, max(rest, 0.05)))
        outcome = driver(job)
        if not outcome.killed:
            if outcome.code:
                raise AssertionError(f"{job.do} failed: {outcome.said} {outcome.printed}")
            return
        known = max(known, outcome.acknowledged)
        yield Kill(stage(folder, overrides), max(0, known - ledger_last(folder)))
    finish(driver, folder, overrides)


def run_whole(driver: Driver, folder: Path, overrides: Overrides) -> Outcome:
    """A run that nobody interrupts."""
    outcome = driver(Job(do="run", out=str(folder), overrides=overrides))
    assert outcome.code == 0, outcome
    return outcome


def finish(driver: Driver, folder: Path, overrides: Overrides, *, rounds: str | None = None) -> Outcome:
    """Go on with a run to its end, however far it came; fails loudly."""
    outcome = driver(replace(_next(folder, overrides), rounds=rounds if ledger_there(folder) else None))
    if outcome.code:
        raise AssertionError(f"cannot go on: {outcome.said} {outcome.printed}")
    return outcome


def stage(folder: Path, overrides: Overrides) -> str:
    """Where a run is that has just been killed."""
    if not ledger_there(folder):
        return "creating the ledger" if folder.is_dir() else "before the ledger"
    last, pivot = ledger_last(folder), overrides["phase.0.rounds"]
    if last < pivot:
        return "before round 0" if last < 0 else "first-order rounds"
    return "zeroth-order rounds" if last < pivot + overrides["phase.1.rounds"] else "writing results"


def ledger_there(folder: Path) -> bool:
    """Whether the folder has a ledger."""
    return (folder / "ledger.db").is_file()


def ledger_last(folder: Path) -> int:
    """The last round in the ledger; -1 where there is none."""
    from zowarmup.ledger import Ledger

    if not ledger_there(folder):
        return -1
    with Ledger.open(folder) as ledger:
        return ledger.last


def differences(folder: Path, reference: Path, *, snapshots: bool = True) -> list[str]:
    """In what a finished run differs from one that was never interrupted; times and sessions aside.

    Args:
        folder: the run.
        reference: the other one.
        snapshots: compare which ones are kept, too.
    """
    import zowarmup

    found = [] if (between := zowarmup.diff(folder, reference)).identical else [f"diff: {between}"]
    found += [f"verify: {problem.message}" for problem in zowarmup.verify(folder).problems]
    for name in ("run.toml", "model.safetensors"):
        if (folder / name).read_bytes() != (reference / name).read_bytes():
            found.append(name)
    if _untimed(folder / "metrics.jsonl") != _untimed(reference / "metrics.jsonl"):
        found.append("metrics.jsonl")
    ours, theirs = (timeless(json.loads((each / "summary.json").read_text())) for each in (folder, reference))
    found += [f"summary.json: {key}" for key in ours if ours[key] != theirs.get(key)]
    if (here := names(folder, snapshots=snapshots)) != (there := names(reference, snapshots=snapshots)):
        found.append(f"files: {sorted(here ^ there)}")
    return found


def timeless(value: Any) -> Any:
    """A summary without what differs from run to run."""
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if key not in _TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def names(folder: Path, *, snapshots: bool = True) -> set[str]:
    """Files of a run directory; without snapshots, also without what SQLite leaves where it could not tidy up."""
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return found if snapshots else {name for name in found if not name.startswith(("snapshots/", "ledger.db-"))}


def _untimed(path: Path) -> list[Any]:
    return [timeless(json.loads(line)) for line in path.read_text().splitlines()]


def _next(folder: Path, overrides: Overrides) -> Job:
    """Begin, or go on where there is a ledger."""
    if ledger_there(folder):
        return Job(do="resume", out=str(folder))
    return Job(do="run", out=str(folder), overrides=overrides)


def _moment(draws: random.Random, whole: Outcome, rest: float) -> dict[str, Any]:
    """When to kill, in what is left of a run."""
    if draws.random() < 0.5:
        return {"kill_seconds": draws.uniform(0, whole.seconds * rest)}
    return {"kill_event": draws.randint(1, max(int(whole.events * rest), 30)), "kill_seconds": draws.uniform(0, 0.005)}
