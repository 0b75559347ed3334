"""`zowarmup status`: what a board wrote, from its folder or its server's page, in transcripts."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from zowarmup import certs
from zowarmup.cli import asking, standing, statuses
from zowarmup.cli.asking import Folder
from zowarmup.cli.standing import Look
from zowarmup.engines import board as boards
from zowarmup.engines.board import Board
from zowarmup.errors import ConnectionLost

from .conftest import Cli

NOW = datetime(2030, 3, 1, 12, 0, 0, tzinfo=UTC)
NODES = (3553260803050964942, 8211034859602345671, 3734012345678901234, 8904809824752349875, 4481890123456789012)


@pytest.fixture(autouse=True)
def noon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is noon in Greenwich, and two o'clock here."""
    monkeypatch.setattr(asking, "_now", lambda: NOW)
    with monkeypatch.context() as here:
        here.setenv("TZ", "EET-2")
        time.tzset()
        yield
    time.tzset()


def board(folder: Path, *, ago: float = 3.0) -> Board:
    """A board that writes into a run directory whatever changes; its time of day stands still."""
    folder.mkdir(exist_ok=True)
    ticks = itertools.count()

    def write(status: Mapping[str, Any]) -> None:
        (folder / "status.json").write_text(json.dumps(status, indent=1))

    then = NOW - timedelta(seconds=ago)
    return Board(write, say=lambda text: None, rounds=200, clock=lambda: float(next(ticks)), now=lambda: then)


def join(to: Board, count: int = 5) -> None:
    for client in range(count):
        node = NODES[client] if client < len(NODES) else 10**18 + client
        to.joined(client, node, "low" if client % 5 else "high", "as told")
        to.counted(client, b"", *((0, 0) if client == 3 else (9000, 21_000)))


def turn(of: Board, client: int, up: int, down: int, seconds: float) -> None:
    """A client is asked, and answers."""
    of.sent(client, down)
    of.answered(client, up, seconds, 386_000_000 + 10**6 * client)
    if client != 3:
        of.counted(client, secrets.token_bytes(8), up + 4000, down + 5000)


def running(folder: Path, *, ago: float = 3.0, clients: int = 5, seconds: float = 1.0) -> Board:
    """A run in its second phase that waits for clients 1 and 3; client 4 has failed, and a node was turned away."""
    made = board(folder, ago=ago)
    join(made, clients)
    made.opened(50, 0, "first-order", 1)
    turn(made, 0, 9640, 9640, 1.3 * seconds)
    made.closed([2])
    made.opened(57, 1, "zeroth-order", clients)
    for client in range(clients):
        if client in (1, 3):
            made.sent(client, 900)
        else:
            turn(made, client, 12, 900, 0.0041 * seconds)
    made.measured({"accuracy": 0.6154, "loss": 1.1461})
    made.failed(4, "the data has 11 classes, the recipe 10")
    made.turned(8469216845598671736, "this node speaks version 2 of the protocol, the server version 1")
    made.waiting([1, 3], 42.0)
    return made


def terminal(width: int, height: int = 30) -> Console:
    return Console(
        file=io.StringIO(), width=width, height=height, highlight=False, force_terminal=True, color_system=None
    )


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[?\d;]*[a-zA-Z]|\r", "", console.file.getvalue().replace("\xa0", " "))


def on_terminal(folder: Path, width: int) -> list[str]:
    console = terminal(width)
    statuses._print(Folder(folder).look(), console)
    return [line.rstrip() for line in shown(console).splitlines()]


RUNNING = """\
running: round 57 of 200, zeroth-order (phase 1), 3 of 5 have answered
waiting for 2 clients until 14:00:39: 1, 3
accuracy 61.5 %, loss 1.146; 1 drop-out, 0 late answers

                       last            last    peak  payload  payload     wire     wire
client  tier  node    round  missed    work  memory       up     down       up     down
     0  high  35532…     57       0  4.1 ms  386 MB  9.65 kB  10.5 kB  26.7 kB  41.5 kB
     1  low   82110…      –       0       –       –      0 B    900 B     9 kB    21 kB
     2  low   37340…     57       1  4.1 ms  388 MB     12 B    900 B    13 kB  26.9 kB
     3  low   89048…      –       0       –       –      0 B    900 B        –        –
     4  low   44818…     57       0  4.1 ms  390 MB     12 B    900 B    13 kB  26.9 kB
client 4: the data has 11 classes, the recipe 10

                      payload  payload     wire     wire
bytes of all clients       up     down       up     down
before round 1            0 B      0 B    36 kB    84 kB
0 first-order         9.64 kB  9.64 kB  13.6 kB  14.6 kB
1 zeroth-order           36 B   4.5 kB    12 kB  17.7 kB
in all                9.68 kB  14.1 kB  61.7 kB   116 kB
since 13:59:57, when counting began; wire for 4 of 5 clients

turned away: node 8469216845598671736: this node speaks version 2 of the protocol, the server version 1
"""


GOES_ON, _, SCORES = RUNNING.splitlines()[:3]


def test_a_run_that_goes_on(cli: Cli, tmp_path: Path) -> None:
    running(tmp_path / "a")
    code, out, err = cli("status", "a")
    assert (code, out.replace("\xa0", " "), err) == (0, RUNNING, "")


def test_a_wide_terminal_shows_the_same(tmp_path: Path) -> None:
    running(tmp_path / "a")
    assert on_terminal(tmp_path / "a", 140) == RUNNING.splitlines()


def test_80_columns_are_enough(tmp_path: Path) -> None:
    running(tmp_path / "a")
    lines = on_terminal(tmp_path / "a", 80)
    assert lines[4:8] == [
        "                    last          last   peak payload payload    wire    wire",
        "client tier node   round missed   work memory      up    down      up    down",
        "     0 high 35532…    57      0 4.1 ms 386 MB 9.65 kB 10.5 kB 26.7 kB 41.5 kB",
        "     1 low  82110…     –      0      –      –     0 B   900 B    9 kB   21 kB",
    ]
    assert lines[-2:] == [
        "turned away: node 8469216845598671736: this node speaks version 2 of the",
        "protocol, the server version 1",
    ]


@pytest.mark.parametrize(("width", "without"), [(80, ["node"]), (64, ["node", "missed", "memory"])])
def test_a_table_too_wide_leaves_columns_out(tmp_path: Path, width: int, without: list[str]) -> None:
    running(tmp_path / "a", seconds=184_000.0)
    lines = on_terminal(tmp_path / "a", width)
    assert all(len(line) <= width for line in lines)
    headings = next(line for line in lines if line.startswith("client "))
    assert not any(heading in headings for heading in without)
    assert "tier" in headings
    assert any("12 min 34 s" in line for line in lines)


def test_those_to_look_at_come_first_of_many(cli: Cli, tmp_path: Path) -> None:
    running(tmp_path / "a", clients=45)
    lines = cli("status", "a").out.splitlines()
    first = lines.index(next(line for line in lines if line.startswith("client "))) + 1
    end = lines.index("and 15 more; --json has all")
    assert [int(line.split()[0]) for line in lines[first:end]] == [1, 3, 4, 2, 0, *range(5, 30)]
    assert lines[end + 1] == "client 4: the data has 11 classes, the recipe 10"


def test_thirty_clients_stay_in_their_order(cli: Cli, tmp_path: Path) -> None:
    running(tmp_path / "a", clients=30)
    lines = cli("status", "a").out.splitlines()
    assert [int(line.split()[0]) for line in lines[6:36]] == list(range(30))
    assert "more; --json" not in "\n".join(lines)


def test_a_failed_run_says_why(cli: Cli, tmp_path: Path) -> None:
    made = running(tmp_path / "a", ago=900)
    made.closed([1, 3])
    made.ended("failed", "round 57: 3 of 5 clients answer\nhint: the same command goes on")
    code, out, err = cli("status", "a")
    assert (code, err) == (0, "")
    assert out.startswith(
        """\
failed: round 57 of 200, zeroth-order (phase 1)
accuracy 61.5 %, loss 1.146; 3 drop-outs, 0 late answers
round 57: 3 of 5 clients answer
hint: the same command goes on

"""
    )


def test_before_the_first_round(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a" / "server").mkdir(parents=True)
    assert cli("status", "a") == (0, "starting\n", "")
    made = board(tmp_path / "a")
    made.gathering(1, 5, 600.0)
    assert cli("status", "a") == (0, "waiting for nodes: 1 of 5 are there, until 14:09:57\n", "")
    made.ended("interrupted")
    assert cli("status", "a") == (0, "interrupted\n", "")


def test_a_wire_that_nobody_measures_is_undefined(cli: Cli, tmp_path: Path) -> None:
    made = board(tmp_path / "a")
    made.joined(0, NODES[0], "low", "")
    made.opened(1, 0, "zeroth-order", 1)
    made.sent(0, 900)
    made.answered(0, 12, 75.0, 0)
    assert cli("status", "a").out.replace("\xa0", " ").splitlines()[2:] == [
        "",
        "                       last                last    peak  payload  payload  wire  wire",
        "client  tier  node    round  missed        work  memory       up     down    up  down",
        "     0  low   35532…      1       0  1 min 15 s       –     12 B    900 B     –     –",
        "",
        "                      payload  payload  wire  wire",
        "bytes of all clients       up     down    up  down",
        "0 zeroth-order           12 B    900 B     –     –",
        "since 13:59:57, when counting began",
    ]


def test_phases_come_in_the_order_of_their_numbers(cli: Cli, tmp_path: Path) -> None:
    made = board(tmp_path / "a")
    for phase in (2, 10, 0):
        made.opened(phase + 1, phase, "mixed", 1)
        turn(made, 0, 1, 1, 1.0)
    phases = [line.split()[0] for line in cli("status", "a").out.splitlines() if " mixed " in f"{line} "]
    assert phases[1:] == ["0", "2", "10"]


def test_what_was_not_heard_of_for_long_is_marked(cli: Cli, tmp_path: Path) -> None:
    made = running(tmp_path / "a", ago=125)
    assert cli("status", "a").out.splitlines()[1] == "last heard 2 min 5 s ago"
    made.ended("finished")
    assert "last heard" not in cli("status", "a").out
    running(tmp_path / "a", ago=30)
    assert "last heard" not in cli("status", "a").out


def test_another_day_has_its_date(cli: Cli, tmp_path: Path) -> None:
    running(tmp_path / "a", ago=15 * 3600)
    lines = cli("status", "a").out.splitlines()
    assert lines[2] == "waiting for 2 clients until 2030-02-28 23:00:42: 1, 3"


def test_nobody_elses_words_move_the_cursor(cli: Cli, tmp_path: Path) -> None:
    made = board(tmp_path / "a")
    made.turned(7, "no\x1b[2J\x1b]0;title\x07")
    assert cli("status", "a").out.splitlines()[-1] == "turned away: node 7: no?[2J?]0;title?"


def test_json_is_what_was_written(cli: Cli, tmp_path: Path) -> None:
    made = running(tmp_path / "a")
    code, out, err = cli("status", "a", "--json")
    assert (code, json.loads(out), err) == (0, made.status(), "")
    assert list(json.loads(out)) == list(made.status())


def test_formats_agree() -> None:
    assert standing.FORMAT == boards.FORMAT


# of folders: mistakes


def test_a_run_without_nodes(cli: Cli, run_dir: Path) -> None:
    assert cli("status", "a") == (
        2,
        "",
        "zowarmup: a: this run has no nodes, so there is no status.json\n"
        "hint: `zowarmup inspect a` says how it stands, `zowarmup resume a` goes on with it\n",
    )


NAMED = "hint: a server is named HOST:PORT, for instance localhost:9092\n"
SAME = "hint: both sides need the same version of zowarmup\n"
REFUSED = [
    ("nowhere", f"nowhere: not a run directory: no such folder\n{NAMED}"),
    ("fl.example.org", f"fl.example.org: not a run directory: no such folder\n{NAMED}"),
    ("file", f"file: not a run directory: it is a file\n{NAMED}"),
    ("empty", "empty: not a run directory: it has no ledger.db\n"),
    ("folder", "folder/status.json: cannot be read: Is a directory\n"),
    ("newer", f"newer/status.json: not a status that can be read here: format 2, expected 1\n{SAME}"),
    ("none", f"none/status.json: not a status that can be read here: format none, expected 1\n{SAME}"),
    ("text", "text/status.json: not a federation's status: JSON is malformed: invalid character (byte 0)\n"),
    ("wrong", "wrong/status.json: not a federation's status: Expected `int`, got `str` - at `$.round`\n"),
    ("latin", "latin/status.json: not a federation's status: "),
    ("localhost:0", "localhost:0: port 0, expected 1 to 65534\n"),
    ("localhost:65535", "localhost:65535: port 65535, expected 1 to 65534\n"),
    ("nowhere --ca x", "nowhere: --ca goes with HOST:PORT, for instance localhost:9092\n"),
    ("empty --ca x", "empty: --ca goes with HOST:PORT, for instance localhost:9092\n"),
    ("localhost:1 --ca x", "x: cannot be read: No such file or directory\nhint: `zowarmup certs` makes it\n"),
    ("localhost:1 --ca empty", "empty: cannot be read: Is a directory\n"),
    ("localhost:1 --ca file", "file: is not a certificate in PEM\n"),
]
CONTENT = {
    "newer": b'{"format": 2, "state": "running", "round": {}}',
    "none": b'{"state": "running"}',
    "text": b"<html>",
    "wrong": b'{"format": 1, "state": "running", "round": "5"}',
    "latin": b'{"format": 1, "state": "\xe4"}',
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[arguments for arguments, _ in REFUSED])
@pytest.mark.parametrize("option", [[], ["--watch"], ["--json"]], ids=["once", "watch", "json"])
def test_mistakes(cli: Cli, tmp_path: Path, arguments: str, message: str, option: list[str]) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder" / "status.json").mkdir(parents=True)
    for name, content in CONTENT.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_bytes(content)
    code, out, err = cli("status", *arguments.split(), *option)
    assert (code, out) == (2, "")
    assert err.startswith(f"zowarmup: {message}")


# of servers

Answer = tuple[int, bytes]
BUSY = "hint: is `zowarmup server` running there, and is this what its --listen says?\n"


@contextlib.contextmanager
def page(answer: Callable[[str], Answer], tls: certs.Files | None = None, date: datetime = NOW) -> Iterator[str]:
    """A server's status page; the HOST:PORT that it belongs to."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, content = answer(self.path)
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return f"{date:%a, %d %b %Y %H:%M:%S} GMT"

        def log_message(self, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port - 1}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def listening(serve: Callable[[socket.socket], Any]) -> Iterator[str]:
    """Another program, which does with its first connection what it likes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1] - 1}"
        thread.join()


def said(folder: Path) -> Callable[[str], Answer]:
    """Answers as a server of ours does."""

    def answer(path: str) -> Answer:
        return (200, (folder / "status.json").read_bytes()) if path == "/status" else (404, b"")

    return answer


@pytest.fixture
def fed(tmp_path: Path) -> certs.Files:
    """What a server at 127.0.0.1 speaks TLS with."""
    return issued(tmp_path / "fed", "127.0.0.1")


def issued(folder: Path, *hosts: str) -> certs.Files:
    pytest.importorskip("cryptography", reason="the extra `flower` is not installed")
    certs.issue(folder, hosts=hosts)
    return certs.Files(folder / "ca.crt", folder / "server.crt", folder / "server.key")


def message(address: str, text: str) -> str:
    """An error, where ``{port}`` is that of the status page."""
    return f"zowarmup: {address}: {text.format(port=int(address.rpartition(':')[2]) + 1)}"


def test_a_server_is_asked(cli: Cli, tmp_path: Path) -> None:
    made = running(tmp_path / "a")
    with page(said(tmp_path / "a")) as address:
        code, out, err = cli("status", address)
        assert (code, out.replace("\xa0", " "), err) == (0, RUNNING, "")
        assert json.loads(cli("status", address, "--json").out) == made.status()


def test_a_server_with_tls_is_asked(cli: Cli, tmp_path: Path, fed: certs.Files) -> None:
    running(tmp_path / "a")
    with page(said(tmp_path / "a"), fed) as address:
        code, out, err = cli("status", address, "--ca", "fed/ca.crt")
    assert (code, out.replace("\xa0", " "), err) == (0, RUNNING, "")


def test_a_server_that_has_not_begun(cli: Cli) -> None:
    with page(lambda path: (200, b'{"state": "starting"}')) as address:
        assert cli("status", address) == (0, "starting\n", "")


def test_how_old_a_status_is_goes_by_the_servers_clock(cli: Cli, tmp_path: Path) -> None:
    running(tmp_path / "a")
    with page(said(tmp_path / "a"), date=NOW + timedelta(minutes=10)) as address:
        assert cli("status", address).out.splitlines()[1] == "last heard 10 min 3 s ago"
    running(tmp_path / "a", ago=600)
    with page(said(tmp_path / "a"), date=NOW - timedelta(minutes=10)) as address:
        assert "last heard" not in cli("status", address).out


def test_a_folder_that_looks_like_an_address_is_a_folder(cli: Cli, tmp_path: Path) -> None:
    running(tmp_path / "localhost:1")
    assert cli("status", "localhost:1").out.replace("\xa0", " ") == RUNNING


def test_nobody_is_there(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1] - 1}"
    for option in ([], ["--watch"], ["--json"]):
        text = "nobody is at its status page (port {port}): Connection refused\n"
        assert cli("status", address, *option) == (1, "", message(address, text) + BUSY)


def test_a_host_that_cannot_be(cli: Cli) -> None:
    assert cli("status", "a..b:9092") == (1, "", f"zowarmup: a..b:9092: no such host: a..b\n{BUSY}")


ANSWERS = [
    ((404, b""), "answers, but not with a status: HTTP 404\n" + BUSY),
    ((500, b"{}"), "answers, but not with a status: HTTP 500\n" + BUSY),
    ((200, b"hello"), "answers: not a federation's status: JSON is malformed: invalid character (byte 0)\n" + BUSY),
    ((200, b"[1]"), "answers: not a federation's status: Expected `object`, got `array`\n" + BUSY),
    ((200, CONTENT["newer"]), "answers: not a status that can be read here: format 2, expected 1\n" + SAME),
]


@pytest.mark.parametrize(("answer", "text"), ANSWERS)
def test_something_else_answers(cli: Cli, answer: Answer, text: str) -> None:
    with page(lambda path: answer) as address:
        assert cli("status", address) == (1, "", message(address, f"its status page (port {{port}}) {text}"))


NO_AUTHORITY = "hint: a server with TLS is asked with --ca DIR/ca.crt; or it is another program\n"
ENDS = "its status page (port {port}) ends the connection without an answer\n"


def test_another_program_breaks_off(cli: Cli) -> None:
    with listening(lambda connection: connection.recv(1000)) as address:
        assert cli("status", address) == (1, "", message(address, ENDS) + NO_AUTHORITY)


def test_another_program_speaks_something_else(cli: Cli) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"220 mail.example.org ESMTP\r\n")

    with listening(serve) as address:
        text = "its status page (port {port}) does not speak HTTP\n"
        assert cli("status", address) == (1, "", message(address, text) + NO_AUTHORITY)


def test_a_server_that_says_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_TIMEOUT_SECONDS", 0.1)
    with listening(lambda connection: [connection.recv(1000), connection.recv(1000)]) as address:
        text = "its status page (port {port}) has not answered in 0.1 seconds\n"
        assert cli("status", address) == (1, "", message(address, text) + BUSY)


def test_a_server_with_tls_wants_an_authority(cli: Cli, fed: certs.Files) -> None:
    with page(lambda path: (200, b"{}"), fed) as address:
        assert cli("status", address) == (1, "", message(address, ENDS) + NO_AUTHORITY)


def test_a_server_without_tls_wants_none(cli: Cli, fed: certs.Files) -> None:
    hint = "hint: a server without TLS is asked without --ca; or it is another program\n"
    with page(lambda path: (200, b"{}")) as address:
        text = "its status page (port {port}) does not speak TLS\n"
        assert cli("status", address, "--ca", str(fed.ca)) == (1, "", message(address, text) + hint)


CERTIFICATE = "hint: --ca is the ca.crt of the folder that `zowarmup certs` made; its --host names the server's hosts\n"


def test_a_certificate_for_another_host(cli: Cli, tmp_path: Path) -> None:
    files = issued(tmp_path / "fed", "fl.example.org")
    with page(lambda path: (200, b"{}"), files) as address:
        text = (
            "the server's certificate is not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'\n"
        )
        assert cli("status", address, "--ca", "fed/ca.crt") == (1, "", message(address, text) + CERTIFICATE)


def test_a_certificate_that_has_expired(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography", reason="the extra `flower` is not installed")
    with monkeypatch.context() as then:
        then.setattr(certs, "_now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
        files = issued(tmp_path / "fed", "127.0.0.1")
    with page(lambda path: (200, b"{}"), files) as address:
        text = "the server's certificate is not accepted: certificate has expired\n"
        assert cli("status", address, "--ca", "fed/ca.crt") == (1, "", message(address, text) + CERTIFICATE)


def test_a_certificate_of_another_authority(cli: Cli, tmp_path: Path, fed: certs.Files) -> None:
    issued(tmp_path / "other", "127.0.0.1")
    with page(lambda path: (200, b"{}"), fed) as address:
        code, out, err = cli("status", address, "--ca", "other/ca.crt")
    assert (code, out) == (1, "")
    assert err.startswith(message(address, "the server's certificate is not accepted: "))
    assert err.endswith(CERTIFICATE)


# watching


class Script:
    """Sleeps in no time, and does one thing after the other meanwhile."""

    def __init__(self, *steps: Callable[[], object], seconds: float = 1.0) -> None:
        self.steps, self.seconds, self.now = list(steps), seconds, 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds == 1.0
        self.now += self.seconds
        self.steps.pop(0)()

    def clock(self) -> float:
        return self.now


class Flaky(Folder):
    """A folder that is away at times, as a server is."""

    away = False

    def look(self) -> Look:
        if self.away:
            raise ConnectionLost("localhost:1: nobody is there", hint="wait", address="localhost:1")
        return super().look()


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda away: monkeypatch.setattr(Flaky, "away", away)


def test_a_line_for_each_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = board(tmp_path / "a")
    made.gathering(1, 2, 60.0)
    script = Script(
        lambda: made.gathering(2, 2, 60.0),
        lambda: made.opened(1, 0, "first-order", 2),
        lambda: None,
        lambda: made.waiting([0, 1], 40.0),
        lambda: made.answered(0, 12, 1.0, 1),
        lambda: made.measured({"accuracy": 0.5}),
        lambda: made.opened(2, 0, "first-order", 2),
        lambda: made.ended("failed", "round 2: nobody answers\nhint: wait"),
    )
    statuses.follow(Folder(tmp_path / "a"), clock=script.clock, sleep=script.sleep)
    assert capsys.readouterr() == (
        """\
waiting for nodes  1/2 are there
waiting for nodes  2/2 are there
round 1/200  first-order  0/2 answered  accuracy –
round 1/200  first-order  1/2 answered  accuracy –
round 1/200  first-order  1/2 answered  accuracy 50.0 %
round 2/200  first-order  0/2 answered  accuracy 50.0 %
failed  round 2/200  first-order  0/2 answered  accuracy 50.0 %  round 2: nobody answers
""",
        "",
    )
    assert script.steps == []


def test_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, written = running(tmp_path / "a"), []
    script = Script(lambda: None, lambda: (written.append(made.status()), made.ended("finished")))
    statuses.follow(Folder(tmp_path / "a"), as_json=True, console=terminal(80), sleep=script.sleep)
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == [*written, made.status()]
    assert err == ""


def test_a_run_that_has_ended_is_shown_once(cli: Cli, tmp_path: Path) -> None:
    for state in ("finished", "failed", "interrupted"):
        running(tmp_path / "a").ended(state)
        line = f"{state}  round 57/200  zeroth-order  3/5 answered  accuracy 61.5 %\n"
        assert cli("status", "a", "--watch") == (0, line, "")


def test_a_server_may_be_away_for_a_while(flaky, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = running(tmp_path / "a")
    away, back = lambda: flaky(True), lambda: flaky(False)
    nothing = [lambda: None] * 3
    script = Script(away, *nothing, back, away, *nothing, lambda: (back(), made.ended("finished")), seconds=20.0)
    statuses.follow(Flaky(tmp_path / "a"), clock=script.clock, sleep=script.sleep)
    line = "round 57/200  zeroth-order  3/5 answered  accuracy 61.5 %\n"
    assert capsys.readouterr() == (
        f"{line}finished  {line}",
        "zowarmup: note: no answer: localhost:1: nobody is there\n" * 2,
    )


def test_a_server_may_not_be_away_for_longer(flaky, tmp_path: Path) -> None:
    running(tmp_path / "a")
    script = Script(lambda: flaky(True), *[lambda: None] * 9, seconds=20.0)
    with pytest.raises(ConnectionLost, match="localhost:1: nobody is there"):
        statuses.follow(Flaky(tmp_path / "a"), clock=script.clock, sleep=script.sleep)
    assert script.now == 100.0


def test_a_screen_is_kept_up_to_date(flaky, tmp_path: Path) -> None:
    made, console, frames = running(tmp_path / "a"), terminal(140, 40), []

    def frame(then: Callable[[], object]) -> Callable[[], None]:
        """Note what was added to the screen since the last time, and go on."""

        def step() -> None:
            frames.append(shown(console))
            console.file.truncate(0)
            console.file.seek(0)
            then()

        return step

    steps = lambda: flaky(True), lambda: None, lambda: flaky(False), lambda: made.ended("finished")
    script = Script(*map(frame, steps), seconds=5.0)
    statuses.follow(Flaky(tmp_path / "a"), console=console, clock=script.clock, sleep=script.sleep)
    waits = "waiting for 2 clients until 14:00:39: 1, 3"
    assert [[line.strip() for line in each.splitlines()][:3] for each in [*frames, shown(console)]] == [
        [GOES_ON, waits, SCORES],
        [GOES_ON, "no answer for 0.0 s: localhost:1: nobody is there", waits],
        [GOES_ON, "no answer for 5.0 s: localhost:1: nobody is there", waits],
        [GOES_ON, waits, SCORES],
        ["finished: round 57 of 200, zeroth-order (phase 1)", SCORES, ""],
    ]


@pytest.mark.parametrize("height", [24, 30, 60])
def test_a_screen_shows_the_clients_that_there_is_room_for(tmp_path: Path, height: int) -> None:
    running(tmp_path / "a", clients=45)
    console = terminal(80, height)
    lines = console.render_lines(statuses._screen(Folder(tmp_path / "a").look(), None, console))
    assert len(lines) == min(height - 1, 49)


def test_ctrl_c_ends_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running(tmp_path / "a")

    looks = iter([Folder(tmp_path / "a").look()])

    def look(folder: Folder) -> Look:
        for each in looks:
            return each
        raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "look", look)
    monkeypatch.setattr(statuses, "_LOOK_SECONDS", 0.0)
    code, out, err = cli("status", "a", "--watch")
    assert (code, err) == (130, "zowarmup: interrupted\n")
    assert out == "round 57/200  zeroth-order  3/5 answered  accuracy 61.5 %\n"
