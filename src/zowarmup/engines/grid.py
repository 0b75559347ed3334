"""A Flower grid as our transport, and the server's app. Written for flwr 1.41, parts of which are not public."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from zowarmup.engines.flower import letter, unpack, within
from zowarmup.engines.parcels import Parcels
from zowarmup.engines.transport import Received, Transport
from zowarmup.errors import UsageError

try:
    from flwr.app import Context, Message
    from flwr.common.serde import message_from_proto
    from flwr.proto.runtime_pb2 import PullAppMessagesRequest
    from flwr.serverapp import Grid, ServerApp
    from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (
        make_confirm_message_received_fn_protobuf,
        make_pull_object_fn_protobuf,
    )
    from flwr.supercore.inflatable.inflatable_utils import (
        ObjectPullError,
        ObjectUnavailableError,
        inflate_object_from_contents,
    )
    from flwr.superlink.grid import HttpGrid
except ImportError as error:
    raise UsageError(
        f"a server needs flwr 1.41.0, and it is not as expected: {error}", hint="pip install 'zowarmup[flower]'"
    ) from error

_AGAIN_SECONDS, _AGAIN_SECONDS_AT_MOST = 0.03, 1.0
"""Between two looks for content that has not come yet."""

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
            serve(transport(grid), context.run_config)

    return app


@dataclass
class _Coming:
    """A reply whose content is not all there yet."""

    message: str
    lacking: list[str]
    contents: dict[str, bytes] = field(default_factory=dict)
    pause: float = _AGAIN_SECONDS
    after: float = 0.0


class _Replies:
    """Fetches replies from a SuperLink without waiting for any of them.

    A reply can be seen before its objects have come in. Flower's `pull_messages` waits for them, reply by reply and for
    up to three minutes, so that a node which is cut off while it sends would keep everybody waiting. What is within a
    reply needs no object.

    Args:
        grid: of a ServerApp.
    """

    def __init__(self, grid: HttpGrid) -> None:
        self._client, node, run = grid._runtime_client, grid.node, grid.run.run_id
        self._pull = make_pull_object_fn_protobuf(self._client.PullObject, node, run)
        self._confirm = make_confirm_message_received_fn_protobuf(self._client.ConfirmMessageReceived, node, run)
        self._coming: dict[str, _Coming] = {}
        self._unconfirmed: dict[int, str] = {}

    def pull(self, names: Collection[str]) -> Iterator[tuple[str, Message | str]]:
        """The replies to these messages that are complete, or why there will be none."""
        unseen = [name for name in names if name not in self._coming]
        if unseen:
            seen = self._client.PullMessages(PullAppMessagesRequest(message_ids=unseen))
            for proto, tree in zip(seen.messages_list, seen.message_object_trees, strict=True):
                name, reply = proto.metadata.reply_to_message_id, proto.metadata.message_id
                if within(proto.metadata.group_id) is None or proto.HasField("error"):
                    self._coming[name] = _Coming(reply, [each.object_id for each in iterate_object_tree(tree)])
                else:
                    self._heard(proto.metadata.src_node_id, reply)
                    yield name, message_from_proto(proto)
        for name, coming in list(self._coming.items()):
            try:
                message = self._complete(coming)
            except ObjectPullError as error:
                del self._coming[name]
                yield name, f"the reply was not sent to its end: {error}"
            else:
                if message is not None:
                    del self._coming[name]
                    yield name, message

    def _heard(self, node: int, reply: str) -> None:
        """Confirm the reply of this node before this one. A confirmation removes the objects of a reply, and a node is
        still pushing those of one that was complete at once, until it answers again."""
        if node in self._unconfirmed:
            self._confirm(self._unconfirmed[node])
        self._unconfirmed[node] = reply

    def _complete(self, coming: _Coming) -> Message | None:
        if time.monotonic() < coming.after:
            return None
        try:
            while coming.lacking:
                coming.contents[coming.lacking[-1]] = self._pull(coming.lacking[-1])
                coming.lacking.pop()
        except ObjectUnavailableError:
            coming.after = time.monotonic() + coming.pause
            coming.pause = min(2 * coming.pause, _AGAIN_SECONDS_AT_MOST)
            return None
        self._confirm(coming.message)
        return cast(Message, inflate_object_from_contents(coming.message, coming.contents))


class GridTransport:
    """A transport over a grid.

    Args:
        grid: what Flower hands to a ServerApp.
    """

    ordered = True

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._replies = _Replies(grid) if isinstance(grid, HttpGrid) else None
        self._waiting: dict[str, int] = {}

    def nodes(self) -> Collection[int]:
        """See :class:`Transport`."""
        return set(self._grid.get_node_ids())

    def send(self, batch: Sequence[tuple[int, bytes]], *, seconds: float) -> Sequence[str | None]:
        """See :class:`Transport`."""
        messages = [letter(content, node, seconds=seconds) for node, content in batch]
        names: list[str | None] = list(self._grid.push_messages(messages)) or [None] * len(batch)
        self._waiting |= {name: node for name, (node, _) in zip(names, batch, strict=True) if name is not None}
        return names

    def receive(self) -> Iterator[Received]:
        """See :class:`Transport`."""
        if not self._waiting:
            return
        for name, message in self._pulled():
            node = self._waiting.pop(name, None)
            if node is None:
                continue
            if isinstance(message, str):
                yield Received(name, node, None, message)
            elif message.has_error():
                yield Received(name, node, None, f"{message.error.reason} (Flower's code {message.error.code})")
            else:
                yield Received(name, node, unpack(message))

    def _pulled(self) -> Iterator[tuple[str, Message | str]]:
        if self._replies is not None:
            yield from self._replies.pull(self._waiting.keys())
        else:
            for message in list(self._grid.pull_messages(list(self._waiting))):
                yield message.metadata.reply_to_message_id, message


def transport(grid: Grid) -> Transport:
    """The transport over a grid: of real nodes, or of simulated ones."""
    return GridTransport(grid) if isinstance(grid, HttpGrid) else Parcels(GridTransport(grid))


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
