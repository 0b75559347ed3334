"""A server in one command: Flower's SuperLink and SuperExec beside it, the run on them, and a page that says how it is.

OUT/           the run directory
OUT/server/    what belongs to the server and not to the run: Flower's home and logs, the recipe as given

Every process that is started here ends with this one. The run is in its ledger and nowhere else, so that the same
command goes on; Flower's own state is in memory, which makes a round four times as quick (docs/decisions/0010).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import IO, Any

import tomli_w

from zowarmup import certs, recipes
from zowarmup.disk import Disk
from zowarmup.engines.rounds import Patience
from zowarmup.errors import OutputError, RunError, UsageError
from zowarmup.recipe import Recipe
from zowarmup.rundir import SERVER, STATUS
from zowarmup.serving import fits, last_status

_APP = "flower-app"
_NAME = "zowarmup"  # of the connection, in Flower's configuration
_START_SECONDS = 60.0
_STOP_SECONDS = 10.0
_RESTARTS = 3
_PAGE_SECONDS = 10.0
_WATCHED = """
import os, runpy, signal, sys, threading, time
def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs a program that ends with its parent, whose id comes first, and takes along what it has started. Flower's own
`--parent-pid` asks kindly, and a SuperLink then waits for a minute for whoever reads a log."""
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """``HOST:PORT``.

        Raises:
            UsageError: it is not of that form.

        >>> Address.parse("0.0.0.0:9092").status
        'the status page is at port 9093'
        """
        host, colon, port = text.rpartition(":")
        if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65535:
            raise UsageError(f"{text}: expected HOST:PORT, for instance 0.0.0.0:9092")
        return cls(host.strip("[]"), int(port))

    @property
    def status(self) -> str:
        """Where the status page is, in words."""
        return f"the status page is at port {self.port + 1}"

    @property
    def local(self) -> str:
        """The same, for processes on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass
class Host:
    """Everything that `zowarmup server` runs.

    Args:
        recipe: what is run.
        out: the run directory.
        address: where nodes reach the server; its status page is at the next port.
        tls: a folder of `zowarmup certs`; without TLS where left out. Where it has node keys, only those get in.
        nodes: clients that must have a node before the first round; all where left out.
        patience: how long to wait.
        device: of the server's own evaluations.
        force: replace a run of another recipe.
        say: called with lines for people.
    """

    recipe: Recipe
    out: Path
    address: Address
    tls: Path | None
    nodes: int | None
    patience: Patience
    device: str
    force: bool
    say: Callable[[str], None]
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list, init=False, repr=False)

    def run(self) -> Mapping[str, Any]:
        """Run to the end.

        Returns:
            The last status.

        Raises:
            UsageError: ports are taken, certificates do not do, Flower is not installed; nothing was started.
            RunError: the run failed, or Flower's processes keep dying.
            KeyboardInterrupt: passed on when everything has been stopped.
        """
        files = None if self.tls is None else certs.server_files(self.tls)
        fits(self.recipe, self.out, force=self.force)
        self._check(files)
        self._furnish(files)
        self._outdate()
        with self._page(files):
            for attempt in range(_RESTARTS + 1):
                before = self._status().get("at")
                try:
                    self._once(files, force=self.force and attempt == 0)
                finally:
                    self._stop()
                status = self._status()
                if status.get("state") in ("finished", "failed") and status.get("at") != before:
                    break
                self.say("Flower's processes have ended before the run; starting them again")
        if status.get("state") != "finished":
            died = f"Flower's processes ended {_RESTARTS + 1} times; their logs are in {self._home}"
            error = status.get("error") or died
            message, _, hint = str(error).partition("\nhint: ")
            raise RunError(message, hint=hint or None)
        return status

    @property
    def _home(self) -> Path:
        return self.out / SERVER

    def _check(self, files: certs.Files | None) -> None:
        if shutil.which(_tool("flower-superlink")) is None:
            raise UsageError("a server needs `flwr`, which is not installed", hint="pip install 'zowarmup[flower]'")
        if files is not None:
            own, hosts = self.address.local.rpartition(":")[0].strip("[]"), certs.describe(files.certificate).hosts
            if own not in hosts:
                raise UsageError(
                    f"{files.certificate}: is for {', '.join(hosts)}, and this server reaches itself as {own}",
                    hint=f"`zowarmup certs {self.tls} --host {' '.join((*hosts, own))}` makes another",
                )
        for port in (self.address.port, self.address.port + 1):
            with socket.socket(socket.AF_INET6 if ":" in self.address.host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.address.host, port))
                except OSError as error:
                    raise UsageError(
                        f"{self.address.host}:{port}: cannot listen there: {error.strerror}",
                        hint="--listen HOST:PORT; the port behind it is the status page's",
                    ) from None

    def _furnish(self, files: certs.Files | None) -> None:
        """Write what the processes read."""
        disk = Disk(sync=False)
        try:
            self._home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.out}: cannot be written to: {error.strerror}", path=self.out) from error
        disk.write(self._home / "recipe.toml", recipes.to_toml(self.recipe).encode())
        app = self._home / "app"
        shutil.rmtree(app, ignore_errors=True)
        with resources.as_file(resources.files("zowarmup") / _APP) as source:
            shutil.copytree(source, app, ignore=shutil.ignore_patterns("__pycache__"))
        secure: dict[str, Any] = {"insecure": True}
        if files is not None:
            secure = {"root-certificates": str(files.ca.absolute())}
        connection = {"address": self.address.local, **secure}
        home = {"superlink": {"default": _NAME, _NAME: connection}}
        disk.write(self._home / "config.toml", tomli_w.dumps(home).encode())

    def _once(self, files: certs.Files | None, *, force: bool) -> None:
        """Start everything, and wait for the run, or for any process, to end."""
        host, port = self.address.host, str(self.address.port)
        link = [
            *("flower-superlink", "--host", host, "--port", port, "--isolation", "process"),
            *("--disable-runtime-dependency-installation", "--database", ":flwr-in-memory:"),
        ]
        if files is None:
            link.append("--insecure")
        else:
            link += ["--ssl-ca-certfile", str(files.ca), "--ssl-certfile", str(files.certificate)]
            link += ["--ssl-keyfile", str(files.key)]
        keys = [] if self.tls is None else sorted((self.tls / "nodes").glob("*.pub"))
        link += ["--enable-supernode-auth"] if keys else []
        superlink = self._start(link, "superlink.log")
        self._listening(superlink)
        executor = ["flower-superexec", "--runtime-api-address", self.address.local]
        executor += ["--insecure"] if files is None else ["--root-certificates", str(files.ca)]
        superexec = self._start(executor, "superexec.log")
        for key in keys:
            self._register(key)
        how = "without TLS" if files is None else "TLS, known keys alone" if keys else "TLS"
        self.say(f"listening on {self.address.host}:{self.address.port}, {how}; {self.address.status}")
        run = self._start(["flwr", "run", str(self._home / "app"), _NAME, "--stream", *self._config(force)], None)
        assert run.stdout is not None
        reader = threading.Thread(target=self._relay, args=(run.stdout,), daemon=True)
        reader.start()
        while run.poll() is None and superlink.poll() is None and superexec.poll() is None:
            time.sleep(0.2)
        if run.poll() is not None:
            reader.join(_STOP_SECONDS)

    def _config(self, force: bool) -> list[str]:
        values: dict[str, Any] = {
            "recipe": str((self._home / "recipe.toml").absolute()),
            "out": str(self.out.absolute()),
            "nodes": self.nodes or 0,
            "device": self.device,
            "force": force,
        }
        values |= {name.replace("_", "-"): getattr(self.patience, name) for name in Patience.__dataclass_fields__}
        Disk(sync=False).write(self._home / "run-config.toml", tomli_w.dumps(values).encode())
        return ["--run-config", str(self._home / "run-config.toml")]

    def _start(self, command: list[str], log: str | None) -> subprocess.Popen[bytes]:
        """Start one of Flower's programs, in a group of its own, so that Ctrl-C is heard here alone; it ends with this
        process, however that ends."""
        out: IO[bytes] | int = subprocess.PIPE if log is None else (self._home / log).open("ab")
        try:
            child = subprocess.Popen(
                [sys.executable, "-c", _WATCHED, str(os.getpid()), _tool(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )
        finally:
            if not isinstance(out, int):
                out.close()
        self._children.append(child)
        return child

    def _environment(self) -> dict[str, str]:
        """Of Flower's programs, which find each other on the path, also where this environment is not activated."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, **_QUIET, "PATH": path, "FLWR_HOME": str(self._home.absolute())}

    def _listening(self, superlink: subprocess.Popen[bytes]) -> None:
        host, _, port = self.address.local.rpartition(":")
        ends = time.monotonic() + _START_SECONDS
        while time.monotonic() < ends:
            if superlink.poll() is not None:
                raise RunError(f"flower-superlink has ended: {_last_line(self._home / 'superlink.log')}")
            with contextlib.suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=1):
                return
            time.sleep(0.1)
        raise RunError(f"flower-superlink does not listen on {self.address.local} after {_START_SECONDS:g} seconds")

    def _register(self, key: Path) -> None:
        """Let a node's key in; one that is known already is fine."""
        command = [_tool("flwr"), "supernode", "register", str(key), _NAME]
        done = subprocess.run(command, env=self._environment(), capture_output=True, text=True, timeout=_START_SECONDS)
        told = f"{done.stdout}\n{done.stderr}".strip()
        if done.returncode and "already" not in told.lower():
            raise RunError(f"{key}: cannot be registered: {told.splitlines()[-1] if told else 'no reason given'}")

    def _relay(self, stream: IO[bytes]) -> None:
        """Pass on what the run says; Flower's own lines go to a file."""
        with (self._home / "run.log").open("ab") as log:
            for line in stream:
                log.write(line)
                log.flush()
                text = line.decode(errors="replace").rstrip()
                if text.startswith(("client ", "round ", "waiting ", "node ")):
                    self.say(text)

    def _stop(self) -> None:
        """End every process that is still there, and what they started."""
        for child in reversed(self._children):
            _signal(child, signal.SIGTERM)
        ends = time.monotonic() + _STOP_SECONDS
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.1, ends - time.monotonic()))
        for child in self._children:
            _signal(child, signal.SIGKILL)
            child.wait()
        self._children.clear()

    def _outdate(self) -> None:
        """Let the status of an earlier session say that a new one begins."""
        if status := self._status():
            status["state"] = "starting"
            status.pop("error", None)
            Disk(sync=False).write(self.out / STATUS, json.dumps(status).encode())

    def _status(self) -> dict[str, Any]:
        return last_status(self.out)

    @contextlib.contextmanager
    def _page(self, files: certs.Files | None) -> Iterator[None]:
        """While open, the status is at the next port, as JSON."""
        context = None
        if files is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.certificate, files.key)
        with _Page(self.address, context, self._status) as page:
            thread = threading.Thread(target=page.serve_forever, daemon=True)
            thread.start()
            try:
                yield
            finally:
                page.shutdown()


class _Page(ThreadingHTTPServer):
    """Answers ``/status``; a connection that says nothing keeps nobody waiting.

    Args:
        address: of the server; the page is at the next port.
        context: for TLS; without where left out.
        read: gives the status.
    """

    def __init__(self, address: Address, context: ssl.SSLContext | None, read: Callable[[], Mapping[str, Any]]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self.read, self._context = read, context
        super().__init__((address.host, address.port + 1), _Asked)

    def get_request(self) -> tuple[Any, Any]:
        """The next connection; its handshake comes in a thread of its own."""
        connection, peer = super().get_request()
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, peer

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked has gone, or does not speak TLS: nothing of ours."""


class _Asked(BaseHTTPRequestHandler):
    timeout = _PAGE_SECONDS

    def do_GET(self) -> None:
        """The status."""
        if self.path != "/status":
            self.send_error(404)
            return
        assert isinstance(self.server, _Page)
        content = json.dumps(self.server.read()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing: who looks is nobody's business."""


def _tool(name: str) -> str:
    """A program of this environment."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, number)


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()] if path.exists() else []
    return lines[-1].strip() if lines else "it said nothing"
