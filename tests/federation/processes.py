"""A federation of real processes in a folder: started, watched, cut off and killed; none of them outlives its test."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from reaper import MARK, marked, reap

import zowarmup
from zowarmup.ledger import Ledger

CLIENTS = 3
START_SECONDS, RUN_SECONDS, END_SECONDS = 120.0, 300.0, 60.0
"""What is waited for at most; much more than it takes, as machines that test are often busy."""
BASE = {"data.clients": CLIENTS, "data.high-resource": 0.34, "phase.0.rounds": 4, "phase.1.rounds": 10}
_TAIL_LINES = 40
_LOOK_SECONDS = 0.1

Overrides = dict[str, Any]


def tool(name: str) -> str:
    """A program of this environment."""
    return str(Path(sys.executable).parent / name)


def free_ports() -> int:
    """The first of two ports beside each other that nobody listens on."""
    draws = random.SystemRandom()
    while True:
        port = draws.randrange(20_000, 32_000, 2)
        with contextlib.suppress(OSError), socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


def to_set(overrides: Overrides) -> list[str]:
    """Overrides as flags."""
    return [part for key, value in overrides.items() for part in ("--set", f"{key}={value}")]


@dataclass
class Process:
    """A program in a group of its own; what it says is in a file.

    Args:
        name: of the file.
        popen: the process.
        log: stdout and stderr.
    """

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.popen.poll() is None

    @property
    def said(self) -> str:
        """Everything so far."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it and its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.popen.wait(END_SECONDS)

    def wait(self, seconds: float) -> int:
        """Its exit code; fails where it does not end in time."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} has not ended after {seconds:g} seconds") from None


@dataclass
class Federation:
    """A server and its nodes; a context manager that ends all of them.

    Args:
        folder: everything is in here; the run directory is ``run``.
        overrides: of the recipe `digits`.
    """

    folder: Path
    overrides: Overrides = field(default_factory=lambda: dict(BASE))
    port: int = field(default_factory=free_ports)
    processes: list[Process] = field(default_factory=list)
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))
    _reaper: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Federation:
        command = [sys.executable, str(Path(__file__).with_name("reaper.py")), self._mark]
        self._reaper = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.end()
        finally:
            assert self._reaper is not None
            self._reaper.communicate()

    @property
    def out(self) -> Path:
        """The run directory."""
        return self.folder / "run"

    @property
    def address(self) -> str:
        """Where the server listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def rounds(self) -> int:
        """Of the whole run."""
        return int(self.overrides["phase.0.rounds"]) + int(self.overrides["phase.1.rounds"])

    def environment(self) -> dict[str, str]:
        """Of every process: what is started by any of them can be told by it."""
        own = {MARK: self._mark, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return {**os.environ, **own, **quiet, "PATH": path}

    def start(self, name: str, command: list[str], **settings: Any) -> Process:
        """Start a program in the folder."""
        log = self.folder / f"{name}.log"
        environment = {**self.environment(), **settings.pop("env", {})}
        with log.open("ab") as out:
            popen = subprocess.Popen(
                command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **settings,
            )
        self.processes.append(Process(name, popen, log))
        return self.processes[-1]

    def serve(self, *arguments: str, **settings: Any) -> Process:
        """`zowarmup server`; the same again goes on."""
        command = [tool("zowarmup"), "server", "digits", *to_set(self.overrides), "--listen", self.address]
        return self.start("server", [*command, "--out", "run", *arguments], **settings)

    def join(self, client: int, *arguments: str, address: str | None = None, name: str | None = None) -> Process:
        """`zowarmup join` as a client; the same again comes back with what it had."""
        usual = {"--client": str(client), "--tier": "high", "--home": f"home-{client}", "--poll": "0.5"}
        flags = [
            *arguments,
            *(word for flag, value in usual.items() if flag not in arguments for word in (flag, value)),
        ]
        return self.start(name or f"node-{client}", [tool("zowarmup"), "join", address or self.address, *flags])

    def join_all(self, *arguments: str) -> list[Process]:
        """A node for each client."""
        return [self.join(client, *arguments) for client in range(int(self.overrides["data.clients"]))]

    def ended(self, server: Process, nodes: list[Process], *, seconds: float = RUN_SECONDS) -> None:
        """Wait until server and nodes have ended as they should."""
        assert server.wait(seconds) == 0
        for node in nodes:
            assert node.wait(END_SECONDS) == 0, node.name
            assert node.said.rstrip().endswith("the run is over"), node.name

    def until(self, condition: Callable[[], object], what: str, *, alive: Process, seconds: float) -> None:
        """Wait for something, as long as a process is alive."""
        ends = time.monotonic() + seconds
        while not condition():
            assert alive.alive, f"{alive.name} has ended with code {alive.popen.returncode}, awaited was: {what}"
            assert time.monotonic() < ends, f"after {seconds:g} seconds not yet: {what}"
            time.sleep(_LOOK_SECONDS)

    def until_round(self, round: int, server: Process, *, seconds: float = START_SECONDS) -> None:
        """Wait until a round is in the ledger."""
        self.until(lambda: self.last >= round, f"round {round}", alive=server, seconds=seconds)

    def until_said(self, process: Process, text: str, *, times: int = 1, seconds: float = START_SECONDS) -> None:
        """Wait until a process has said something, so many times."""
        self.until(lambda: process.said.count(text) >= times, f"{process.name}: {text}", alive=process, seconds=seconds)

    @property
    def last(self) -> int:
        """The last round in the ledger; -1 where there is none."""
        if not (self.out / "ledger.db").is_file():
            return -1
        with contextlib.suppress(zowarmup.errors.LedgerError), Ledger.open(self.out) as ledger:
            return ledger.last
        return -1

    @property
    def status(self) -> dict[str, Any]:
        """What the server has written of itself."""
        path = self.out / "status.json"
        return dict(json.loads(path.read_text())) if path.is_file() else {}

    def survivors(self) -> list[psutil.Process]:
        """Every process that belongs to this federation, children of children that nobody knows of included."""
        return list(marked(self._mark))

    def named(self, program: str) -> list[psutil.Process]:
        """Those of them that run a program, `flower-superlink` for instance."""
        return [process for process in self.survivors() if any(Path(part).name == program for part in _line(process))]

    def kill_server(self, server: Process) -> None:
        """kill -9 everything at once that the server has started, and itself."""
        own = psutil.Process(server.popen.pid)
        family = [own, *own.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        server.popen.wait(END_SECONDS)
        psutil.wait_procs(family, END_SECONDS)

    def end(self) -> None:
        """End everything that is left, and see that it has."""
        for process in self.processes:
            if process.alive:
                process.signal(signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.popen.wait(END_SECONDS)
        assert reap(self._mark, END_SECONDS) == [], "cannot be ended"

    def tails(self) -> Iterator[tuple[str, str]]:
        """The ends of all logs, Flower's too."""
        for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("**/server/*.log")]):
            lines = path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            yield str(path.relative_to(self.folder)), "\n".join(lines)


def _line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
