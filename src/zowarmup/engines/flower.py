"""Flower carries the messages: what is in one of its messages, and the app that a node runs. Written for flwr 1.41.

One message type, ``query.zo``, with one value each way. What is in it is ours: see :mod:`zowarmup.engines.wire`. Flower
carries the content of a message as objects, each of which is pushed and pulled by a request of its own; what is small
is in the message's metadata instead, and there as soon as the message is. The server's half is
:mod:`zowarmup.engines.grid`, which takes more memory.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zowarmup.directions import Directions
from zowarmup.disk import Disk
from zowarmup.engines import parcels
from zowarmup.engines.node import Node, Sized
from zowarmup.engines.replica import Replica
from zowarmup.engines.wire import Welcome
from zowarmup.engines.workshop import Materials, Workshop, furnish
from zowarmup.errors import UsageError
from zowarmup.recipe import Recipe
from zowarmup.table import Table

try:
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "flwr":
        raise
    raise UsageError(
        "a federation over a network needs `flwr`, which is not installed", hint="pip install 'zowarmup[flower]'"
    ) from None

QUERY = "zo"
"""Of the message type ``query.zo``."""
_RECORD = _VALUE = "z"
_WITHIN = "zo:"
"""Begins a group id that is a message of ours; nothing of Flower's reads group ids."""
_WITHIN_BYTES = 8192
"""What is larger is carried as objects."""


def letter(content: bytes, node: int, *, seconds: float) -> Message:
    """A message to a node, worth answering for so many seconds."""
    message = Message(RecordDict(), dst_node_id=node, message_type=f"query.{QUERY}", ttl=seconds)
    return _fill(message, content)


def reply(content: bytes, asked: Message) -> Message:
    """The answer to a message."""
    return _fill(Message(RecordDict(), reply_to=asked), content)


def unpack(message: Message) -> bytes:
    """What is in a message; empty where it is none of ours, which then does not decode."""
    content = within(message.metadata.group_id)
    if content is not None:
        return content
    try:
        value = message.content[_RECORD][_VALUE]
    except (KeyError, TypeError):
        return b""
    return value if isinstance(value, bytes) else b""


def within(group: str) -> bytes | None:
    """What is in a message with this group id, where that is all there is to it; None where its objects have it."""
    if not group.startswith(_WITHIN):
        return None
    try:
        return base64.b64decode(group[len(_WITHIN) :], validate=True)
    except binascii.Error:
        return b""


def _fill(message: Message, content: bytes) -> Message:
    small = len(content) <= _WITHIN_BYTES
    message.metadata.group_id = _WITHIN + base64.b64encode(content).decode("ascii") if small else ""
    if not small:
        message.content[_RECORD] = ConfigRecord({_VALUE: content})
    return message


def client_app() -> ClientApp:
    """The ClientApp of `flwr run`: of simulated nodes, and of Flower's stock SuperNodes."""
    app = ClientApp()

    @app.query(QUERY)
    def answer(message: Message, context: Context) -> Message:
        node = _node(context.run_id, context.node_id, tuple(sorted(context.node_config.items())))
        content = unpack(message)
        answers = parcels.answer(content, functools.partial(_ask, context.run_id))
        return reply(node.answer(content) if answers is None else answers, message)

    return app


@functools.lru_cache(maxsize=4096)
def _node(run: int, node: int, config: tuple[tuple[str, Any], ...]) -> Node:
    """The node that this process is in a run; it may be several, which share a copy of the state and what they work
    with. What a process that ends after each message cannot keep, the folder keeps."""
    given = dict(config)
    if (partition := given.get("partition-id")) is not None:  # simulated
        home, disk = _home(run), Disk(sync=False)
        disk.mkdir(home)
        disk.write(home / f"node-{node}.json", json.dumps(given).encode())
        materials = Materials(device=str(given.get("device", "cpu")), allow_code=True, alone=False)
        client, label = int(partition), f"client-{partition}"
        return Node(home, materials, _simulated, client=client, label=label, shops=_shop, replicas=_replica)
    return stock_node(node, given)


def _home(run: int) -> Path:
    """The folder of all simulated nodes."""
    return Path(tempfile.gettempdir()) / f"zowarmup-{os.getuid() if hasattr(os, 'getuid') else 'simulation'}-{run}"


@functools.lru_cache(maxsize=4096)
def _sibling(run: int, node: int) -> Node:
    """A simulated node that has been asked before, here or in another process.

    Raises:
        FileNotFoundError: it has not.
    """
    config = json.loads((_home(run) / f"node-{node}.json").read_bytes())
    return _node(run, node, tuple(sorted(config.items())))


def _ask(run: int, node: int, content: bytes) -> bytes | None:
    try:
        return _sibling(run, node).answer(content)
    except FileNotFoundError:
        return None


def stock_node(node: int, config: Mapping[str, Any]) -> Node:
    """The node of a stock SuperNode, whose configuration says what `zowarmup join` says with flags.

    Args:
        node: its id.
        config: ``home``, ``client``, ``tier`` (``"high"`` or ``"low"``), ``data`` (own samples), ``path`` (where the
            recipe's data lies), ``device``, ``allow-code``.

    Raises:
        UsageError: a tier is missing, or a key is unknown.
    """
    known = {"home", "client", "tier", "data", "path", "device", "allow-code"}
    if unknown := sorted(config.keys() - known):
        raise UsageError(f"--node-config: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    tier = config.get("tier")
    if tier not in ("high", "low"):
        raise UsageError(
            f"--node-config: tier is {tier!r}, expected 'high' or 'low'", hint="`zowarmup join` measures it"
        )
    home = Path(str(config.get("home") or Path.home() / ".zowarmup" / f"node-{node}"))
    materials = Materials(
        data=Path(str(config["data"])) if "data" in config else None,
        path=Path(str(config["path"])) if "path" in config else None,
        device=str(config.get("device", "auto")),
        allow_code=bool(config.get("allow-code", False)),
    )
    sized = Sized("high" if tier == "high" else "low", "as configured")
    client = config.get("client")
    return Node(home, materials, lambda recipe: sized, client=None if client is None else int(client))


def _simulated(recipe: Recipe) -> Sized:
    return Sized("high", "simulated")


_SHOPS: dict[bytes, Workshop] = {}
_REPLICAS: dict[Path, Replica] = {}


def _shop(recipe: Recipe, welcome: Welcome, materials: Materials) -> Workshop:
    """One workshop for all simulated clients in this process; of the last run."""
    if welcome.run not in _SHOPS:
        _SHOPS.clear()
        _SHOPS[welcome.run] = furnish(recipe, welcome, materials)
    return _SHOPS[welcome.run]


def _replica(folder: Path, run: bytes, table: Table, directions: Directions) -> Replica:
    """Likewise, one copy of the state: a round is replayed once in a process."""
    if folder not in _REPLICAS:
        _REPLICAS.clear()
        _REPLICAS[folder] = Replica(folder, run, table, directions)
    return _REPLICAS[folder]
