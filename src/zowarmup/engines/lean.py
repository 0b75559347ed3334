"""A node as one process: our `Node` on Flower's own fleet connection, without a process a message.

Flower's stock SuperNode starts a ClientApp process for every message and looks for messages every three seconds. This
does what it does, over the same HTTP interface, and stays. It uses parts of flwr 1.41.0 that are not public; all of
them are imported here, and tests/engines/test_lean.py holds them to what is expected.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from zowarmup.engines.flower import reply, unpack, within
from zowarmup.engines.node import Node
from zowarmup.errors import ConnectionLost, UsageError

try:
    import httpx
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.app import Message
    from flwr.app.message import remove_content_from_message
    from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, TIMESTAMP_HEADER
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        DeactivateNodeRequest,
        PullMessagesRequest,
        PushMessagesRequest,
        RegisterNodeFleetRequest,
        UnregisterNodeFleetRequest,
    )
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
    from flwr.proto.node_pb2 import Node as FlowerNode
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
    from flwr.supercore.date import now
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        iterate_object_tree,
        no_object_id_recompute,
    )
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (
        make_confirm_message_received_fn_protobuf,
        make_pull_object_fn_protobuf,
        make_push_object_fn_protobuf,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPullError,
        ObjectPushError,
        inflate_object_from_contents,
        pull_objects,
        push_objects,
    )
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes, sign_message
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.supernode.fleet_http_client import FleetHttpClient
except ImportError as error:
    raise UsageError(
        f"a node needs flwr 1.41.0, and it is not as expected: {error}", hint="pip install 'zowarmup[flower]'"
    ) from error

_SOFT_STATUSES = (429, 500, 502, 503, 504)
_PRECONDITION = 412  # Flower's word for a node that has no key, for one that is there already, and for an unknown key
_ACTIVE_SECONDS = 0.05
_AGAIN_SECONDS = 1.0
_CONTENT_SECONDS = 60.0
"""How long a message may be there without its content: a server that was killed while it sent never sends the rest."""
_GOODBYE_SECONDS = 5.0
_FORGET_SECONDS = 2.0 * HEARTBEAT_DEFAULT_INTERVAL + 10.0
"""After that long without a sign of it, a server no longer takes a node to be connected."""
_LOST = (httpx.HTTPError, OSError, ObjectPullError, ObjectPushError, ValueError)
"""What comes of a network, of a server that was started anew, and of something else at a server's address."""
_TCP_INFO_COUNTS = struct.Struct("<120xQQ")  # linux/tcp.h: tcpi_bytes_acked, tcpi_bytes_received


@dataclass(frozen=True)
class _Signs:
    """Signs a node's requests with its key, as Flower's own interceptor does, whose module brings 18 MB."""

    private: ec.EllipticCurvePrivateKey
    public: bytes

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """See flwr.supernode.node_auth_http_interceptor."""
        timestamp = now().isoformat()
        signature = sign_message(self.private, timestamp.encode("ascii"))
        context.request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = b64encode(self.public).decode("ascii")
        context.request.headers[TIMESTAMP_HEADER] = timestamp
        context.request.headers[FLEET_HTTP_SIGNATURE_HEADER] = b64encode(signature).decode("ascii")
        return call_next(context)


@dataclass(frozen=True)
class Link:
    """How a node reaches its server.

    Args:
        address: ``HOST:PORT`` of the server.
        root_certificates: PEM of the authority that signed the server's certificate; without TLS where left out.
        key: the node's own OpenSSH key (ECDSA P-384), where the server asks for one.
        connect_seconds: after that long without a server, give up.
        patience_seconds: likewise for a server that was there and is gone.
        idle_seconds: between two looks for messages, where there have been none for a while.
    """

    address: str
    root_certificates: Path | None = None
    key: Path | None = None
    connect_seconds: float = 20.0
    patience_seconds: float = 600.0
    idle_seconds: float = 3.0

    def __post_init__(self) -> None:
        host, colon, port = self.address.rpartition(":")
        if not host or not colon or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"{self.address}: expected HOST:PORT, for instance 192.168.0.5:9092")
        if self.key is not None and self.root_certificates is None:
            raise UsageError("--key goes with --ca: a node with a key talks TLS alone")
        for name in ("root_certificates", "key"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise UsageError(f"{path}: there is no such file", hint="`zowarmup certs` makes it")


@dataclass
class Lean:
    """Answers a server's messages until the run is over.

    Args:
        node: what answers.
        link: where to.
        say: called with lines for people.
    """

    node: Node
    link: Link
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _counts: dict[int, tuple[int, int]] = field(default_factory=dict, init=False, repr=False)
    _forgotten: bool = field(default=False, init=False, repr=False)
    _gone: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    _before: Any = field(default=None, init=False, repr=False)

    def run(self) -> None:
        """Connect, and answer until the server says that the run has ended.

        Raises:
            ConnectionLost: there is no server, it does not let this node in, or it was gone for too long.
            RunError: this node cannot take part in the run.
        """
        self.node.counter = self.counted
        lost: float | None = None
        connected, said = False, ""
        while not self.node.over:
            try:
                with self._session() as (client, node):
                    self.say(f"connected to {self.link.address} as node {node.node_id}")
                    connected, lost, said = True, None, ""
                    self._answer(client, node)
            except _LOST as error:
                now = self.clock()
                lost = now if lost is None else lost
                limit = self.link.patience_seconds if connected else self.link.connect_seconds
                fault = self._fault(error, limit)
                limit = max(limit, fault.seconds)
                if (fault.final and not connected) or now - lost > limit:
                    raise ConnectionLost(
                        f"{self.link.address}: {fault.what}", hint=fault.hint, address=self.link.address
                    ) from error
                if (fault.now or fault.what) != said:
                    said = fault.now or fault.what
                    self.say(f"no connection to {self.link.address}: {said}; trying for {limit:g} seconds")
                self.sleep(_AGAIN_SECONDS)

    def counted(self) -> tuple[int, int]:
        """Bytes sent and received at the socket since the start, TLS and headers of HTTP included; 0 off Linux."""
        sent, received = zip(self._gone, *self._counts.values(), strict=True)
        return sum(sent), sum(received)

    def _keys(self) -> Any:
        if self.link.key is None:
            return generate_key_pairs()
        try:
            private = load_ssh_private_key(self.link.key.read_bytes(), None)
        except (ValueError, TypeError, OSError) as error:
            raise UsageError(f"{self.link.key}: not an OpenSSH private key without a passphrase: {error}") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise UsageError(f"{self.link.key}: expected an ECDSA key", hint="`zowarmup certs --node NAME` makes one")
        return private, private.public_key()

    @contextlib.contextmanager
    def _session(self) -> Iterator[tuple[FleetHttpClient, FlowerNode]]:
        """A connection on which this node is known to the server; without a key of its own, each time as another node,
        because a server lets a key in once."""
        private, public = self._keys()
        signs = _Signs(private, public_key_to_bytes(public))
        roots = None if self.link.root_certificates is None else str(self.link.root_certificates)
        with FleetHttpClient.from_server_address(self.link.address, roots is None, roots, [signs]) as client:
            client._client.event_hooks = {"response": [self._count]}
            own = public_key_to_bytes(public)
            if self.link.key is None:
                client.RegisterNode(RegisterNodeFleetRequest(public_key=own))
            else:
                _register_if_open(client, own)
            activation = ActivateNodeRequest(public_key=own, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
            self._forgotten, self._before = False, None
            node = FlowerNode(node_id=client.ActivateNode(activation).node_id)
            TaskIdentity.task_id = TaskIdentity.run_id = 1  # Message() asks for them, outside Flower's processes too
            TaskIdentity.node_id = node.node_id
            stop = threading.Event()
            beats = threading.Thread(target=self._beats, args=(client, node, stop), daemon=True)
            beats.start()
            try:
                yield client, node
            finally:
                stop.set()
                beats.join()
                client._client.timeout = httpx.Timeout(_GOODBYE_SECONDS)
                with contextlib.suppress(httpx.HTTPError, RuntimeError, OSError):
                    client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))
                    if self.link.key is None:
                        client.UnregisterNode(UnregisterNodeFleetRequest(node_id=node.node_id))

    def _beats(self, client: FleetHttpClient, node: FlowerNode, stop: threading.Event) -> None:
        """Tell the server that this node is there, however long its work takes. (Flower's own sender brings 14 MB.)"""
        alive = SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        wait = HEARTBEAT_DEFAULT_INTERVAL / 2
        while not stop.wait(wait):
            wait = HEARTBEAT_DEFAULT_INTERVAL / 2
            try:
                self._forgotten = not client.SendNodeHeartbeat(alive).success
            except httpx.HTTPStatusError as error:
                self._forgotten = error.response.status_code not in _SOFT_STATUSES
            except httpx.HTTPError:
                wait = _AGAIN_SECONDS

    def _answer(self, client: FleetHttpClient, node: FlowerNode) -> None:
        """Look for messages and answer them; less often while there are none."""
        pause = _ACTIVE_SECONDS
        while not self.node.over:
            if self._forgotten:
                raise OSError("the server does not know this node any more")
            pulled = client.PullMessages(PullMessagesRequest(node=node))
            if pulled.messages_list:
                self._one(client, node, pulled.messages_list[0], pulled.message_object_trees[0])
                pause = _ACTIVE_SECONDS
                continue
            if self.node.refused is not None:
                raise self.node.refused
            self.sleep(pause)
            pause = min(pause * 1.3, self.link.idle_seconds)

    def _one(self, client: FleetHttpClient, node: FlowerNode, message: Any, tree: Any) -> None:
        """Fetch a message, answer it, and send the answer.

        A confirmation removes a message's objects. One that is complete without them is confirmed with the next one:
        until then the server may still be pushing them.
        """
        run = message.metadata.run_id
        if within(message.metadata.group_id) is None:
            asked, received = self._pulled(client, node, message, tree), message
        else:
            asked, received = message_from_proto(message), self._before
            self._before = message
        if received is not None and received.metadata.run_id == run:
            confirm = make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, run)
            confirm(received.metadata.message_id)
        began = self.clock()
        answer = reply(self.node.answer(unpack(asked)), asked)
        with no_object_id_recompute():
            answer.metadata.__dict__["_message_id"] = answer.object_id
            objects = get_all_nested_objects(answer)
            response = client.PushMessages(
                PushMessagesRequest(
                    node=node,
                    messages_list=[message_to_proto(remove_content_from_message(answer))],
                    message_object_trees=[get_object_tree(answer)],
                    clientapp_runtime_list=[self.clock() - began],
                )
            )
            push = make_push_object_fn_protobuf(client.PushObject, node, run, response.session_id)
            push_objects(objects, push, object_ids_to_push=set(response.objects_to_push))

    def _pulled(self, client: FleetHttpClient, node: FlowerNode, message: Any, tree: Any) -> Message:
        """A message whose content is in objects."""
        name = message.metadata.message_id
        contents = pull_objects(
            [each.object_id for each in iterate_object_tree(tree)],
            make_pull_object_fn_protobuf(client.PullObject, node, message.metadata.run_id),
            initial_backoff=_ACTIVE_SECONDS,
            backoff_cap=_AGAIN_SECONDS,
            max_time=_CONTENT_SECONDS,
        )
        asked = cast(Message, inflate_object_from_contents(name, contents))
        asked.metadata.__dict__["_message_id"] = name
        return asked

    def _count(self, response: Any) -> None:
        """After each response: what the kernel has counted on its connection."""
        stream = response.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if connection is None or sys.platform != "linux":
            return
        with contextlib.suppress(OSError):
            port = connection.getsockname()[1]
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_COUNTS.size)
            sent, received = _TCP_INFO_COUNTS.unpack(info)
            before = self._counts.get(port, (0, 0))
            if sent < before[0]:  # a new connection from the same port
                self._gone = self._gone[0] + before[0], self._gone[1] + before[1]
            self._counts[port] = sent, received

    def _fault(self, error: Exception, seconds: float) -> _Fault:
        """What is wrong, in words, after it has been so for some seconds."""
        cause = _certificate_fault(error)
        if cause is not None:
            what = f"the server's certificate is not accepted: {cause}"
            hint = "--ca is the ca.crt of the folder that `zowarmup certs` made; its --host names the server's hosts"
            return _Fault(what, hint, final=True)
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in _SOFT_STATUSES:
            return self._denied(error)
        if isinstance(error, httpx.RemoteProtocolError | httpx.UnsupportedProtocol | ValueError):
            secure = "without TLS (leave --ca out)" if self.link.root_certificates else "TLS (--ca DIR/ca.crt)"
            what = f"answers, but does not speak HTTP with this node: {_reason(error)}"
            return _Fault(what, f"a server that talks {secure}, or another program", final=True)
        what = f"no server answers for {seconds:g} seconds: {_reason(error)}"
        hint = "is `zowarmup server` running there, and is this its address?"
        return _Fault(what, hint, now=_reason(error))

    def _denied(self, error: httpx.HTTPStatusError) -> _Fault:
        """What a server means that answers, but not as hoped."""
        status, detail = error.response.status_code, _detail(error)
        known = "`zowarmup server --tls DIR` knows DIR/nodes/*.pub"
        if status == _PRECONDITION and self.link.key is None:
            what = "the server does not let this node in: it asks for a key"
            return _Fault(what, f"--key DIR/nodes/NAME.key; {known}", final=True)
        if status == _PRECONDITION:
            what = "the server does not let this node in: it does not know its key, or takes it to be there already"
            hint = f"{known}; a node that died is forgotten after a minute"
            return _Fault(what, hint, seconds=_FORGET_SECONDS)
        if status in (401, 403):
            what = f"the server does not let this node in (HTTP {status}): {detail}"
            return _Fault(what, f"is the clock right? --key is a key that the server knows: {known}")
        what = f"answers, but not as a server of ours (HTTP {status}): {detail}"
        hint = "is it the address that `zowarmup server` listens on, with the same version of Flower?"
        return _Fault(what, hint, final=True)


@dataclass(frozen=True)
class _Fault:
    """What keeps a node from its server.

    Args:
        what: for the error in the end.
        hint: likewise.
        now: for the line in the meantime; ``what`` where empty.
        final: trying again does not help a node that has never been connected.
        seconds: it may well pass within so many.
    """

    what: str
    hint: str
    now: str = ""
    final: bool = False
    seconds: float = 0.0


def _register_if_open(client: FleetHttpClient, own: bytes) -> None:
    """Register a key with a server that lets anybody in; others know it already, and say no."""
    try:
        client.RegisterNode(RegisterNodeFleetRequest(public_key=own))
    except httpx.HTTPStatusError as error:
        if error.response.status_code != _PRECONDITION:
            raise


def _certificate_fault(error: BaseException | None) -> str | None:
    """What is wrong with a certificate, where that is what is wrong."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error.verify_message
        error = error.__cause__ or error.__context__
    return None


def _detail(error: Any) -> str:
    return str(error.response.text).strip()[:200] or error.response.reason_phrase


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
