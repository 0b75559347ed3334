"""A lean node: what it takes from Flower is there, it answers through it, and it says why it has no server."""

from __future__ import annotations

import ast
import contextlib
import inspect
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

import httpx
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse, PushMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import ConfirmMessageReceivedResponse, PullObjectResponse, PushObjectResponse

from zowarmup import certs
from zowarmup.engines import flower, grid, lean, wire
from zowarmup.engines.lean import Lean, Link
from zowarmup.engines.node import Node
from zowarmup.errors import ConnectionLost, RunError, UsageError

from .fleet import Fleet, Time, short

SOURCES = [Path(module.__file__) for module in (lean, flower, grid)]

# what is taken from Flower


def imported() -> list[tuple[str, str]]:
    """Every name that is imported from flwr: module, name."""
    nodes = [node for path in SOURCES for node in ast.walk(ast.parse(path.read_text()))]
    found = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr")]
    return [(node.module or "", alias.name) for node in found for alias in node.names]


def test_flower_is_the_one_that_this_is_written_for():
    assert version("flwr") == "1.41.0"
    assert all("1.41" in path.read_text() for path in SOURCES)


def test_every_name_of_flowers_is_there():
    names = imported()
    assert len(names) > 30
    for module, name in names:
        assert hasattr(__import__(module, fromlist=[name]), name), f"{module}.{name}"


CALLS: dict[str, tuple[Callable[..., object], tuple[object, ...], dict[str, object]]] = {
    "pull_objects": (
        lean.pull_objects,
        (["id"], print),
        {"initial_backoff": 0.05, "backoff_cap": 1.0, "max_time": 60.0},
    ),
    "push_objects": (lean.push_objects, ({}, print), {"object_ids_to_push": set()}),
    "inflate_object_from_contents": (lean.inflate_object_from_contents, ("id", {}), {}),
    "remove_content_from_message": (lean.remove_content_from_message, ("message",), {}),
    "message_to_proto": (lean.message_to_proto, ("message",), {}),
    "message_from_proto": (lean.message_from_proto, ("proto",), {}),
    "get_all_nested_objects": (lean.get_all_nested_objects, ("message",), {}),
    "get_object_tree": (lean.get_object_tree, ("message",), {}),
    "iterate_object_tree": (lean.iterate_object_tree, ("tree",), {}),
    "no_object_id_recompute": (lean.no_object_id_recompute, (), {}),
    "make_pull": (lean.make_pull_object_fn_protobuf, (print, "node", 1), {}),
    "make_push": (lean.make_push_object_fn_protobuf, (print, "node", 1, "session"), {}),
    "make_confirm": (lean.make_confirm_message_received_fn_protobuf, (print, "node", 1), {}),
    "generate_key_pairs": (lean.generate_key_pairs, (), {}),
    "public_key_to_bytes": (lean.public_key_to_bytes, ("key",), {}),
    "sign_message": (lean.sign_message, ("key", b"message"), {}),
    "from_server_address": (lean.FleetHttpClient.from_server_address, ("host:1", True, None, []), {}),
    "push_messages": (grid.Grid.push_messages, ("self", ["message"]), {}),
    "pull_messages": (grid.Grid.pull_messages, ("self", ["id"]), {}),
    "get_node_ids": (grid.Grid.get_node_ids, ("self",), {}),
}


@pytest.mark.parametrize(("function", "given", "named"), CALLS.values(), ids=CALLS)
def test_a_function_of_flowers_takes_what_it_is_given(function, given, named):
    inspect.signature(function).bind(*given, **named)


@pytest.mark.parametrize(
    "name",
    [
        "RegisterNode",
        "ActivateNode",
        "DeactivateNode",
        "UnregisterNode",
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
        "SendNodeHeartbeat",
    ],
)
def test_the_client_of_flowers_asks_what_a_node_asks(name):
    assert list(inspect.signature(getattr(lean.FleetHttpClient, name)).parameters) == ["self", "request"]


def test_the_client_of_flowers_has_an_httpx_client_that_can_be_listened_to():
    with lean.FleetHttpClient.from_server_address("127.0.0.1:1", True, None, []) as client:
        assert isinstance(client._client, httpx.Client)
        client._client.event_hooks = {"response": [print]}
        client._client.timeout = httpx.Timeout(1.0)


# how it reaches its server


@pytest.mark.parametrize(
    "address", ["localhost", "localhost:", ":9092", "localhost:http", "localhost:0", "h:65536", ""]
)
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(UsageError, match="expected HOST:PORT, for instance"):
        Link(address)


@pytest.mark.parametrize("address", ["localhost:1", "192.168.0.5:9092", "[::1]:65535"])
def test_addresses_that_are_some(address):
    assert Link(address).address == address


def test_a_key_goes_with_an_authority_and_both_are_files(tmp_path):
    (tmp_path / "key").write_text("key")
    with pytest.raises(UsageError, match="--key goes with --ca"):
        Link("h:1", key=tmp_path / "key")
    with pytest.raises(UsageError, match=r"ca\.crt: there is no such file") as caught:
        Link("h:1", root_certificates=tmp_path / "ca.crt")
    assert caught.value.hint == "`zowarmup certs` makes it"


def node(tmp_path: Path) -> Node:
    return Fleet(tmp_path, short()).node(0)


def made(tmp_path: Path, link: Link | None = None, **more: object) -> Lean:
    """A node on a clock that runs when it sleeps; the lines that it says are its `said`."""
    time, said = Time(), []
    lines = Lean(node(tmp_path), link or Link("far.example:9092"), said.append, clock=time, sleep=time.sleep, **more)
    lines.said, lines.time = said, time
    return lines


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception | None) -> None:
    """Each session ends with the next of these, the last one again and again; None is a session that comes about."""
    left = list(errors)

    @contextlib.contextmanager
    def session(self: Lean) -> Iterator[tuple[object, object]]:
        error = left.pop(0) if len(left) > 1 else left[0]
        if error is None:
            yield None, SimpleNamespace(node_id=7)
        else:
            raise error

    monkeypatch.setattr(Lean, "_session", session)
    monkeypatch.setattr(Lean, "_answer", lambda self, client, node: (_ for _ in ()).throw(OSError("cut")))


def status(code: int, text: str = "") -> httpx.HTTPStatusError:
    request = httpx.Request("POST", "http://far.example:9092/v1/fleet/register-node")
    return httpx.HTTPStatusError("", request=request, response=httpx.Response(code, text=text, request=request))


def untrusted() -> httpx.ConnectError:
    error = httpx.ConnectError("TLS")
    error.__cause__ = ssl.SSLCertVerificationError("self-signed")
    error.__cause__.verify_message = "self-signed certificate"
    return error


FAULTS = {
    "nobody is there": (
        httpx.ConnectError("refused"),
        20,
        "no server answers for 20 seconds: refused",
        "server` running",
    ),
    "it is starting": (status(503), 20, "no server answers for 20 seconds", "`zowarmup server` running there"),
    "it takes too long": (httpx.ReadTimeout(""), 20, "no server answers for 20 seconds: ReadTimeout", "its address?"),
    "another certificate": (
        untrusted(),
        0,
        "certificate is not accepted: self-signed certificate",
        "--ca is the ca.crt",
    ),
    "a key is asked for": (status(412), 0, "does not let this node in: it asks for a key", "--key DIR/nodes/NAME.key"),
    "it is not let in": (status(401, "who?"), 20, "does not let this node in (HTTP 401): who?", "is the clock right?"),
    "another program": (
        status(404, "no page"),
        0,
        "answers, but not as a server of ours (HTTP 404): no page",
        "Flower?",
    ),
    "no words": (status(404), 0, "answers, but not as a server of ours (HTTP 404): Not Found", "Flower?"),
    "TLS": (
        httpx.RemoteProtocolError("odd"),
        0,
        "does not speak HTTP with this node: odd",
        "talks TLS (--ca DIR/ca.crt)",
    ),
}


@pytest.mark.parametrize(("error", "seconds", "what", "hint"), FAULTS.values(), ids=FAULTS)
def test_without_a_server_it_gives_up_and_says_why(error, seconds, what, hint, tmp_path, monkeypatch):
    failing(monkeypatch, error)
    tried = made(tmp_path)
    with pytest.raises(ConnectionLost) as caught:
        tried.run()
    assert caught.value.message.startswith("far.example:9092: ") and what in caught.value.message
    assert hint in caught.value.hint and caught.value.address == "far.example:9092"
    assert seconds <= tried.time.seconds <= seconds + 2


def secured(tmp_path: Path) -> Link:
    for name in ("ca.crt", "key"):
        (tmp_path / name).write_text("")
    return Link("far.example:9092", root_certificates=tmp_path / "ca.crt", key=tmp_path / "key")


def test_a_server_without_tls_is_told_from_one_with(tmp_path, monkeypatch):
    failing(monkeypatch, httpx.RemoteProtocolError("odd"))
    with pytest.raises(ConnectionLost, match="a server that talks without TLS \\(leave --ca out\\)"):
        made(tmp_path, secured(tmp_path)).run()


def test_a_server_that_takes_its_key_to_be_there_already_is_waited_for(tmp_path, monkeypatch):
    failing(monkeypatch, status(412))
    tried = made(tmp_path, secured(tmp_path))
    with pytest.raises(ConnectionLost, match="it does not know its key, or takes it to be there already"):
        tried.run()
    assert 60 < tried.time.seconds < 80


def test_a_server_that_was_there_is_waited_for_longer_and_one_line_says_so(tmp_path, monkeypatch):
    failing(monkeypatch, None, httpx.ConnectError("refused"))
    tried = made(tmp_path, Link("far.example:9092", patience_seconds=100.0))
    with pytest.raises(ConnectionLost, match="no server answers for 100 seconds: refused"):
        tried.run()
    assert 100 < tried.time.seconds < 103
    assert tried.said == [
        "connected to far.example:9092 as node 7",
        "no connection to far.example:9092: cut; trying for 100 seconds",
        "no connection to far.example:9092: refused; trying for 100 seconds",
    ]


def test_what_passes_is_no_end_once_it_was_connected(tmp_path, monkeypatch):
    failing(monkeypatch, None, status(404), untrusted(), None, httpx.ConnectError("refused"))
    tried = made(tmp_path)
    with pytest.raises(ConnectionLost, match="no server answers for 600 seconds"):
        tried.run()
    assert sum(line.startswith("connected") for line in tried.said) == 2


def test_a_port_that_nobody_listens_on(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tried = made(tmp_path, Link(f"127.0.0.1:{port}", connect_seconds=3.0))
    with pytest.raises(ConnectionLost, match=rf"^127\.0\.0\.1:{port}: no server answers for 3 seconds: .*refused"):
        tried.run()
    assert 3 < tried.time.seconds < 6


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_a_key_that_is_none(content, tmp_path):
    link = secured(tmp_path)
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UsageError, match="key: not an OpenSSH private key without a passphrase"):
        made(tmp_path, link).run()


def test_the_keys_that_are_made_for_nodes_are_read(tmp_path):
    certs.issue(tmp_path / "tls", hosts=("localhost",), nodes=("one",))
    link = Link("h:1", root_certificates=tmp_path / "tls" / "ca.crt", key=tmp_path / "tls" / "nodes" / "one.key")
    private, public = made(tmp_path, link)._keys()
    assert private.curve.name == "secp384r1"
    assert lean.public_key_to_bytes(public) == lean.public_key_to_bytes(private.public_key())


# on a connection


class Server(lean.FleetHttpClient):
    """Flower's fleet interface in one process: hands out messages, and keeps the answers."""

    def __init__(self, *contents: bytes) -> None:
        self._client = SimpleNamespace()
        self.contents, self.objects, self.answers, self.heard = list(contents), {}, [], []
        self.asked, self.confirmed, self.pulled = [], [], 0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.heard.append("close")

    def _unary_unary(self, *, rpc_method: str, response_type: type, **more: object) -> object:
        self.heard.append(rpc_method.rpartition("/")[2])
        return response_type()

    def ActivateNode(self, request: object) -> ActivateNodeResponse:  # noqa: N802
        return ActivateNodeResponse(node_id=7)

    def PullMessages(self, request: object) -> PullMessagesResponse:  # noqa: N802
        if not self.contents:
            return PullMessagesResponse()
        message = flower.letter(self.contents.pop(0), 7, seconds=60.0)
        with lean.no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            self.asked.append(message.object_id)
            self.objects = {name: part.deflate() for name, part in lean.get_all_nested_objects(message).items()}
            proto = lean.message_to_proto(lean.remove_content_from_message(message))
            return PullMessagesResponse(messages_list=[proto], message_object_trees=[lean.get_object_tree(message)])

    def PullObject(self, request: object) -> PullObjectResponse:  # noqa: N802
        content = self.objects[request.object_id]
        self.pulled += 1
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request: object) -> ConfirmMessageReceivedResponse:  # noqa: N802
        self.confirmed.append((request.message_object_id, len(self.asked)))
        return ConfirmMessageReceivedResponse()

    def PushMessages(self, request: object) -> PushMessagesResponse:  # noqa: N802
        tree, self.objects = request.message_object_trees[0], {}
        self.root = tree.object_id
        return PushMessagesResponse(
            session_id="session", objects_to_push=[each.object_id for each in lean.iterate_object_tree(tree)]
        )

    def PushObject(self, request: object) -> PushObjectResponse:  # noqa: N802
        self.objects[request.object_id] = request.object_content
        if request.object_id == self.root:
            reply = lean.inflate_object_from_contents(self.root, dict(self.objects))
            self.answers.append(wire.decode_answer(flower.unpack(reply)))
        return PushObjectResponse(stored=True)


def on(monkeypatch: pytest.MonkeyPatch, server: Server) -> None:
    monkeypatch.setattr(lean.FleetHttpClient, "from_server_address", lambda *given, **named: server)


def test_it_answers_message_after_message_until_the_run_is_over(tmp_path, monkeypatch):
    recipe = wire.Enrol(recipe=lean_recipe())
    server = Server(wire.encode(recipe), b"noise", wire.encode(wire.Over(run=b"")))
    on(monkeypatch, server)
    tried = made(tmp_path)
    tried.run()
    assert [type(answer) for answer in server.answers] == [wire.Card, wire.Failed, wire.Bye]
    assert tried.node.over and tried.said == ["connected to far.example:9092 as node 7"]
    assert server.heard == ["RegisterNode", "DeactivateNode", "UnregisterNode", "close"]


def test_a_small_message_needs_no_object_and_is_confirmed_with_the_next(tmp_path, monkeypatch):
    """A confirmation removes the objects, which the server may still be pushing."""
    server = Server(b"small", b"small too", b"%" * 100_000, wire.encode(wire.Over(run=b"")))
    on(monkeypatch, server)
    made(tmp_path).run()
    first, second, large, _ = server.asked
    assert server.confirmed == [(first, 2), (large, 3), (second, 4)]
    assert server.pulled == 3, "the large one: message, record and value"


def lean_recipe() -> str:
    from zowarmup import recipes

    return recipes.to_toml(short())


def test_a_node_that_cannot_take_part_says_so_to_both_sides(tmp_path, monkeypatch):
    server = Server(wire.encode(wire.Turned(error="the run is full", hint=None)))
    on(monkeypatch, server)
    with pytest.raises(RunError, match=r"^the run is full$"):
        made(tmp_path).run()
    assert [type(answer) for answer in server.answers] == [wire.Bye] and server.heard[-1] == "close"


def test_while_there_is_nothing_to_do_it_looks_less_and_less_often(tmp_path, monkeypatch):
    tried, pauses = made(tmp_path, Link("far.example:9092", idle_seconds=2.0)), []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        tried.node.over = len(pauses) == 20

    tried.sleep = sleep
    on(monkeypatch, Server())
    tried.run()
    assert pauses == sorted(pauses) and (pauses[0], pauses[-1]) == (0.05, 2.0)


class Beats(threading.Event):
    """Lets so many heartbeats through, and keeps how long they are apart."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.waits = count, []

    def wait(self, seconds: float | None = None) -> bool:
        self.waits.append(seconds)
        return len(self.waits) > self.count


BEATS = {
    "it is known": (SendNodeHeartbeatResponse(success=True), False, 15),
    "it is not": (SendNodeHeartbeatResponse(success=False), True, 15),
    "it is denied": (status(404), True, 15),
    "the server is busy": (status(503), False, 15),
    "the network is gone": (httpx.ConnectError(""), False, 1),
}


@pytest.mark.parametrize(("answer", "forgotten", "next_seconds"), BEATS.values(), ids=BEATS)
def test_a_heartbeat_that_finds_no_server_is_tried_again_soon(answer, forgotten, next_seconds, tmp_path):
    def beat(request: object) -> SendNodeHeartbeatResponse:
        if isinstance(answer, Exception):
            raise answer
        return answer

    tried, beats = made(tmp_path), Beats(1)
    server = Server()
    server.SendNodeHeartbeat = beat
    tried._beats(server, lean.FlowerNode(node_id=7), beats)
    assert (tried._forgotten, beats.waits) == (forgotten, [15, next_seconds])


def test_a_node_that_is_forgotten_connects_anew(tmp_path, monkeypatch):
    tried, sessions = made(tmp_path), []
    server = Server()
    on(monkeypatch, server)
    activate = server.ActivateNode

    def counted(request: object) -> ActivateNodeResponse:
        sessions.append(request)
        tried.node.over = len(sessions) == 3
        return activate(request)

    server.ActivateNode = counted
    server.PullMessages = lambda request: setattr(tried, "_forgotten", True) or PullMessagesResponse()
    tried.run()
    assert len(sessions) == 3
    assert "no connection to far.example:9092: the server does not know this node any more; trying" in tried.said[1]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a socket's bytes")
def test_bytes_are_what_the_kernel_has_counted(tmp_path):
    tried = made(tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.create_connection(listening.getsockname()) as one,
        listening.accept()[0] as other,
    ):
        stream = SimpleNamespace(get_extra_info=lambda name: one)
        one.sendall(b"x" * 1000)
        assert len(other.recv(1000, socket.MSG_WAITALL)) == 1000
        other.sendall(b"y" * 500)
        assert len(one.recv(500, socket.MSG_WAITALL)) == 500
        tried._count(SimpleNamespace(extensions={"network_stream": stream}))
        tried._count(SimpleNamespace(extensions={"network_stream": stream}))
    sent, received = tried.counted()
    assert (sent - 1000, received - 500) in {(0, 0), (1, 0), (1, 1)}  # the handshake may count as a byte
