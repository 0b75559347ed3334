"""Flower carries the messages: a grid as our transport, and the apps for `flwr run`. Written for flwr 1.41.

One message type, ``query.zo``; one record with one value each way, as that is the least on the wire. What is in it is
ours: see :mod:`zowarmup.engines.wire`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from zowarmup.engines.exchange import Received, Transport
from zowarmup.engines.node import Node, Sized
from zowarmup.engines.wire import Welcome
from zowarmup.engines.workshop import Materials, Workshop, furnish
from zowarmup.errors import UsageError
from zowarmup.recipe import Recipe

try:
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.supercore.inflatable.inflatable_utils import pull_objects
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "flwr":
        raise
    raise UsageError(
        "a federation over a network needs `flwr`, which is not installed", hint="pip install 'zowarmup[flower]'"
    ) from None

QUERY = "zo"
"""Of the message type ``query.zo``."""
_RECORD = _VALUE = "z"
_AGAIN_SECONDS = 0.03


def hurry() -> None:
    """Let this process look for a message's content again after hundredths of a second.

    A message can be seen some hundredths of a second before its content has come in. Flower then waits a second, which
    is longer than a zeroth-order round takes, and has no setting for it: the default of its function is changed.
    """
    defaults = pull_objects.__kwdefaults__
    assert defaults is not None, "flwr 1.41.0 has defaults there"
    defaults.update(initial_backoff=_AGAIN_SECONDS, backoff_cap=1.0)


class GridTransport:
    """A transport over a grid.

    Args:
        grid: what Flower hands to a ServerApp.
    """

    def __init__(self, grid: Grid) -> None:
        hurry()
        self._grid = grid
        self._waiting: dict[str, int] = {}

    def nodes(self) -> Collection[int]:
        """See :class:`Transport`."""
        return set(self._grid.get_node_ids())

    def send(self, batch: Sequence[tuple[int, bytes]], *, seconds: float) -> Sequence[str | None]:
        """See :class:`Transport`."""
        messages = [
            Message(pack(content), dst_node_id=node, message_type=f"query.{QUERY}", ttl=seconds)
            for node, content in batch
        ]
        names: list[str | None] = list(self._grid.push_messages(messages)) or [None] * len(batch)
        self._waiting |= {name: node for name, (node, _) in zip(names, batch, strict=True) if name is not None}
        return names

    def receive(self) -> Iterator[Received]:
        """See :class:`Transport`."""
        if not self._waiting:
            return
        for message in list(self._grid.pull_messages(list(self._waiting))):
            name = message.metadata.reply_to_message_id
            node = self._waiting.pop(name, None)
            if node is None:
                continue
            if message.has_error():
                yield Received(name, node, None, f"{message.error.reason} (Flower's code {message.error.code})")
            else:
                yield Received(name, node, unpack(message.content))


def pack(content: bytes) -> RecordDict:
    """One of our messages as a record."""
    return RecordDict({_RECORD: ConfigRecord({_VALUE: content})})


def unpack(record: RecordDict) -> bytes:
    """The message in a record; empty where there is none, which then does not decode."""
    try:
        value = record[_RECORD][_VALUE]
    except (KeyError, TypeError):
        return b""
    return value if isinstance(value, bytes) else b""


Serve = Callable[[Transport, Mapping[str, Any]], object]


def server_app(serve: Serve) -> ServerApp:
    """The ServerApp of `flwr run`.

    Args:
        serve: runs a recipe over a transport, as the run's configuration says.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        with _speaking():
            serve(GridTransport(grid), context.run_config)

    return app


def client_app() -> ClientApp:
    """The ClientApp of `flwr run`: of simulated nodes, and of Flower's stock SuperNodes."""
    app = ClientApp()

    @app.query(QUERY)
    def answer(message: Message, context: Context) -> Message:
        node = _node(context.run_id, context.node_id, tuple(sorted(context.node_config.items())))
        return Message(pack(node.answer(unpack(message.content))), reply_to=message)

    return app


@functools.lru_cache(maxsize=4096)
def _node(run: int, node: int, config: tuple[tuple[str, Any], ...]) -> Node:
    """The node that this process is in a run; it may be several, which share a copy of the state and what they work
    with. What a process that ends after each message cannot keep, the folder keeps."""
    given = dict(config)
    if (partition := given.get("partition-id")) is not None:  # simulated
        home = Path(tempfile.gettempdir()) / f"zowarmup-{os.getuid() if hasattr(os, 'getuid') else 'simulation'}-{run}"
        materials = Materials(device=str(given.get("device", "cpu")), allow_code=True, alone=False)
        return Node(home, materials, _simulated, client=int(partition), label=f"client-{partition}", shops=_shared)
    return stock_node(node, given)


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


def _shared(recipe: Recipe, welcome: Welcome, materials: Materials) -> Workshop:
    """One workshop for all simulated clients in this process; of the last run."""
    if welcome.run not in _SHOPS:
        _SHOPS.clear()
        _SHOPS[welcome.run] = furnish(recipe, welcome, materials)
    return _SHOPS[welcome.run]


@contextlib.contextmanager
def _speaking() -> Iterator[None]:
    """While open, what the server has to say goes to stderr, where Flower's logs go."""
    logger, handler = logging.getLogger("zowarmup"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
