"""Where a federation's status is: in a run directory, or on the page of a server."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import re
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from zowarmup.cli import standing
from zowarmup.cli.standing import Look
from zowarmup.errors import ConnectionLost, OutputError, UsageError
from zowarmup.ledger import NAME as LEDGER
from zowarmup.rundir import SERVER, STATUS

_TIMEOUT_SECONDS = 10.0
_ADDRESS = re.compile(r"(?P<host>[^\s/\\]+):(?P<port>[0-9]{1,5})")
_LAST_PORT = 65534  # the status page is at the one behind it
_EXAMPLE = "HOST:PORT, for instance localhost:9092"
_RUNNING = "is `zowarmup server` running there, and is this what its --listen says?"


@dataclass(frozen=True)
class Folder:
    """A run directory.

    Args:
        path: where it is.
    """

    path: Path

    def look(self) -> Look:
        """What it says now.

        Raises:
            OutputError: it is none, its run has no nodes, or its status cannot be read.
        """
        path = self.path / STATUS
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            content = self._unwritten()
        except OSError as error:
            raise OutputError(f"{path}: cannot be read: {error.strerror}", path=path) from error
        try:
            return Look(standing.decode(content), content, _now())
        except standing.NoStatusError as error:
            raise OutputError(f"{path}: {error}", hint=error.hint, path=path) from error

    def _unwritten(self) -> bytes:
        """What there is to say where there is no status."""
        path = self.path
        if (path / LEDGER).is_file():
            hint = f"`zowarmup inspect {path}` says how it stands, `zowarmup resume {path}` goes on with it"
            raise OutputError(f"{path}: this run has no nodes, so there is no {STATUS}", hint=hint, path=path)
        if (path / SERVER).is_dir():
            return standing.BEGUN
        if path.is_dir():
            raise OutputError(f"{path}: not a run directory: it has no {LEDGER}", path=path)
        problem = "it is a file" if path.exists() else "no such folder"
        raise OutputError(f"{path}: not a run directory: {problem}", hint=f"a server is named {_EXAMPLE}", path=path)


@dataclass(frozen=True)
class Server:
    """The status page of a server.

    Args:
        name: its address, as it was given.
        host: where nodes reach it.
        port: the same; its page is at the next one.
        context: which certificates to trust; without TLS where None.
    """

    name: str
    host: str
    port: int
    context: ssl.SSLContext | None

    def look(self) -> Look:
        """What it says now.

        Raises:
            ConnectionLost: there is no server, TLS does not come about, or what answers is no status.
        """
        try:
            code, date, content = self._get()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            self._explain(error)
        if code != http.HTTPStatus.OK:
            self._refuse(f"{self._page} answers, but not with a status: HTTP {code}", _RUNNING)
        try:
            return Look(standing.decode(content), content, _time(date))
        except standing.NoStatusError as error:
            self._refuse(f"{self._page} answers: {error}", error.hint or _RUNNING, error)

    @property
    def _page(self) -> str:
        return f"its status page (port {self.port + 1})"

    def _get(self) -> tuple[int, str | None, bytes]:
        """HTTP's code, the server's time, and what it answers."""
        port = self.port + 1
        if self.context is None:
            connection = http.client.HTTPConnection(self.host, port, timeout=_TIMEOUT_SECONDS)
        else:
            connection = http.client.HTTPSConnection(self.host, port, timeout=_TIMEOUT_SECONDS, context=self.context)
        with contextlib.closing(connection):
            connection.request("GET", "/status")
            response = connection.getresponse()
            return response.status, response.headers["Date"], response.read()

    def _explain(self, error: OSError | http.client.HTTPException | UnicodeError) -> NoReturn:
        """Say what keeps this program from the page."""
        problem, hint = f"nobody is at {self._page}: {getattr(error, 'strerror', None) or error}", _RUNNING
        if isinstance(error, ssl.SSLCertVerificationError):
            problem = f"the server's certificate is not accepted: {error.verify_message.rstrip('.')}"
            hint = "--ca is the ca.crt of the folder that `zowarmup certs` made; its --host names the server's hosts"
        elif isinstance(error, TimeoutError):
            problem = f"{self._page} has not answered in {_TIMEOUT_SECONDS:g} seconds"
        elif isinstance(error, socket.gaierror | UnicodeError):
            problem = f"no such host: {self.host}"
        elif isinstance(error, ssl.SSLError):
            problem = f"{self._page} does not speak TLS"
            hint = "a server without TLS is asked without --ca; or it is another program"
        elif isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
            broken = isinstance(error, OSError)
            problem = f"{self._page} {'ends the connection without an answer' if broken else 'does not speak HTTP'}"
            if self.context is None:
                hint = "a server with TLS is asked with --ca DIR/ca.crt; or it is another program"
        self._refuse(problem, hint, error)

    def _refuse(self, problem: str, hint: str, error: Exception | None = None) -> NoReturn:
        raise ConnectionLost(f"{self.name}: {problem}", hint=hint, address=self.name) from error


def source(where: str, ca: Path | None) -> Folder | Server:
    """What is meant by a run directory or HOST:PORT; a folder that is there is a folder.

    Args:
        where: either.
        ca: the only authority to trust, for a server with TLS.

    Raises:
        UsageError: the port is none, the authority cannot be read, or there is no use for it.
    """
    address = None if Path(where).exists() else _ADDRESS.fullmatch(where)
    if address is None:
        if ca is not None:
            raise UsageError(f"{where}: --ca goes with {_EXAMPLE}")
        return Folder(Path(where))
    port = int(address["port"])
    if not 0 < port <= _LAST_PORT:
        raise UsageError(f"{where}: port {port}, expected 1 to {_LAST_PORT}")
    return Server(where, address["host"].strip("[]"), port, None if ca is None else _trusting(ca))


def _trusting(ca: Path) -> ssl.SSLContext:
    """A context that trusts one authority."""
    try:
        return ssl.create_default_context(cafile=ca)
    except ssl.SSLError as error:
        raise UsageError(f"{ca}: is not a certificate in PEM", path=ca) from error
    except OSError as error:
        hint = "`zowarmup certs` makes it" if isinstance(error, FileNotFoundError) else None
        raise UsageError(f"{ca}: cannot be read: {error.strerror}", hint=hint, path=ca) from error


def _now() -> datetime:
    return datetime.now(UTC)


def _time(date: str | None) -> datetime:
    """The server's own time, as clocks differ; ours where it does not say."""
    parsed = email.utils.parsedate_tz(date)
    return _now() if parsed is None else datetime.fromtimestamp(email.utils.mktime_tz(parsed), UTC)
