"""Flower's part, in one process: the apps as plain callables over a grid of calls."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

import zowarmup
from zowarmup import recipes
from zowarmup.engines import flower, wire
from zowarmup.engines.grid import GridTransport, server_app
from zowarmup.engines.replica import Replica
from zowarmup.engines.transport import Received
from zowarmup.errors import UsageError
from zowarmup.serving import serve_config

from .fleet import short
from .grid import InProcess

SHORT = {"phase.0.rounds": 2, "phase.1.rounds": 3}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated nodes keep their state below a folder of the test's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forget()
    flower._SHOPS.clear()
    flower._REPLICAS.clear()


def forget() -> None:
    """Be a process that no node has been asked in."""
    flower._node.cache_clear()
    flower._sibling.cache_clear()


def simulated(clients: int) -> InProcess:
    configs = {100 + client: {"partition-id": client, "num-partitions": clients} for client in range(clients)}
    return InProcess(flower.client_app(), configs)


def test_twenty_simulated_nodes_give_the_local_engines_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    made: list[int] = []
    stepped = Replica._stepped
    monkeypatch.setattr(Replica, "_stepped", lambda *given: made.append(len(given[2])) or stepped(*given))
    grid = simulated(20)
    context = grid.context(100)
    context.run_config = {
        "recipe": "digits",
        "set": " ".join(f"{key}={value}" for key, value in SHORT.items()),
        "out": str(tmp_path / "run"),
        "device": "cpu",
    }
    server_app(serve_config)(grid, context)
    expected = zowarmup.run("digits", overrides=SHORT, device="cpu").summary
    got = zowarmup.load(tmp_path / "run").summary
    assert (got["state_digest"], got["chain"]) == (expected["state_digest"], expected["chain"])
    assert grid.count < 90, "messages travel together; alone they are 128"
    assert sum(made) == SHORT["phase.1.rounds"] - 1, "a round is replayed once, and not by each of them"


def test_a_message_comes_back_as_it_was_answered() -> None:
    grid = simulated(1)
    transport = GridTransport(grid)
    assert transport.nodes() == {100}
    (name,) = transport.send([(100, b"no envelope")], seconds=5.0)
    (received,) = transport.receive()
    assert isinstance(received, Received)
    assert (received.message, received.node, received.error) == (name, 100, "")
    assert received.content is not None and b"is none that a server" in received.content
    assert list(transport.receive()) == []


def test_a_process_answers_for_nodes_that_another_was_asked_in() -> None:
    grid, recipe = simulated(3), recipes.to_toml(short())
    transport = GridTransport(grid)
    transport.send([(102, wire.encode(wire.Enrol(recipe=recipe)))], seconds=5.0)
    (received,) = transport.receive()
    assert received.content is not None
    forget()
    asked = [(node, wire.encode(wire.Enrol(recipe=recipe))) for node in (100, 101, 102)]
    transport.send([(100, msgspec.msgpack.encode(("parcel", asked)))], seconds=5.0)
    (received,) = transport.receive()
    assert received.content is not None
    kind, answers = msgspec.msgpack.decode(received.content)
    assert kind == "answers" and answers[1] is None, "nobody knows 101 yet"
    cards = [wire.decode_answer(answers[number]) for number in (0, 2)]
    assert [isinstance(card, wire.Card) and card.client for card in cards] == [0, 2]


LARGE = b"%" * 8193


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)), LARGE[:-1], LARGE, LARGE * 30])
def test_what_is_small_is_within_a_message_and_needs_no_object(content: bytes) -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    asked = flower.letter(content, 7, seconds=5.0)
    answer = flower.reply(content, asked)
    for message in (asked, answer):
        assert flower.unpack(message) == content
        small = content != LARGE * 30 and content != LARGE
        assert flower.within(message.metadata.group_id) == (content if small else None)
        assert len(message.content) == (0 if small else 1)
    assert answer.metadata.dst_node_id == 1 and asked.metadata.ttl == 5.0


def test_an_answer_does_not_carry_its_question() -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    answer = flower.reply(LARGE, flower.letter(b"question", 7, seconds=5.0))
    assert flower.unpack(answer) == LARGE and answer.metadata.group_id == ""


@pytest.mark.parametrize(
    ("group", "record"),
    [
        ("", {}),
        ("3", {}),
        ("zo:&", {}),
        ("zo:abc", {"z": flower.ConfigRecord({"z": b"not this"})}),
        ("", {"z": flower.ConfigRecord({"z": 3})}),
    ],
)
def test_what_is_no_message_of_ours_is_empty(group: str, record: dict[str, flower.ConfigRecord]) -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    message = Message(flower.RecordDict(record), dst_node_id=1, message_type="query.zo", group_id=group)
    assert flower.unpack(message) == b""


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tier": "middle"}, "tier is 'middle', expected 'high' or 'low'"),
        ({}, "tier is None, expected 'high' or 'low'"),
        ({"tier": "low", "colour": 1}, "unknown colour; known are allow-code, client, data, device, home, path, tier"),
    ],
)
def test_a_stock_node_says_what_its_configuration_lacks(config: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        flower.stock_node(1, config)


def test_a_stock_node_has_what_its_configuration_says(tmp_path: Path) -> None:
    node = flower.stock_node(1, {"tier": "low", "client": 3, "home": str(tmp_path), "path": "data", "allow-code": True})
    assert (node.client, node.home, node.size(short()).tier) == (3, tmp_path, "low")
    assert (node.materials.path, node.materials.allow_code) == (Path("data"), True)


class Link:
    """A SuperLink, as far as a grid asks it: replies and objects, some of which have not come yet."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[Message, dict[str, bytes]]] = {}
        self.absent: set[str] = set()
        self.expired: set[str] = set()
        self.asked: list[str] = []
        self.confirmed: list[str] = []

    def add(self, number: int, content: bytes, *, node: int = 1) -> tuple[str, list[str]]:
        """A node's reply to message ``number``, and the objects that it is made of."""
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        asked = flower.letter(b"question", number, seconds=60.0)
        asked.metadata.__dict__["_message_id"] = name = f"message-{number}"
        reply = flower.reply(content, asked)
        reply.metadata.__dict__["_src_node_id"] = node
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            contents = {each.object_id: each.deflate() for each in get_all_nested_objects(reply).values()}
        self.replies[name] = (reply, contents)
        return name, list(contents)

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        found = [self.replies[name][0] for name in request.message_ids if name in self.replies]
        self.asked += request.message_ids
        with no_object_id_recompute():
            return PullAppMessagesResponse(
                messages_list=[message_to_proto(remove_content_from_message(each)) for each in found],
                message_object_trees=[get_object_tree(each) for each in found],
            )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        name = request.object_id
        content = next((held[name] for _, held in self.replies.values() if name in held), None)
        there = name not in self.absent
        return PullObjectResponse(
            object_found=content is not None and name not in self.expired,
            object_available=there,
            object_content=content if there else b"",
        )

    def ConfirmMessageReceived(self, request: ConfirmMessageReceivedRequest) -> ConfirmMessageReceivedResponse:  # noqa: N802
        self.confirmed.append(request.message_object_id)
        return ConfirmMessageReceivedResponse()


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    made = Link()
    monkeypatch.setattr(HttpGrid, "_runtime_client", made)
    return made


def replies(link: Link, names: list[str]) -> GridTransport:
    made = HttpGrid(token="token")
    made.set_run(Run.create_empty(1))
    transport = GridTransport(made)
    transport._waiting = {name: number for number, name in enumerate(names)}
    return transport


def test_a_reply_whose_content_has_not_come_keeps_no_other_waiting(link: Link) -> None:
    (slow, objects), (quick, _), (small, _) = link.add(0, LARGE), link.add(1, LARGE + b"!"), link.add(2, b"small")
    link.absent = set(objects[:1])
    transport = replies(link, [slow, quick, small])
    got = sorted((each.message, each.content) for each in transport.receive())
    assert got == [(quick, LARGE + b"!"), (small, b"small")]
    assert list(transport.receive()) == []
    assert link.asked == [slow, quick, small], "what has been seen is not asked for again"
    link.absent.clear()
    came: list[Received] = []
    ends = time.monotonic() + 10
    while not came and time.monotonic() < ends:
        came += transport.receive()
    assert [(each.message, each.node, each.content) for each in came] == [(slow, 0, LARGE)]
    assert len(link.confirmed) == 2, "not the small one, whose node may still be pushing it"


def test_a_small_reply_is_confirmed_when_its_node_has_answered_again(link: Link) -> None:
    """A confirmation removes the objects that a node pushes behind its reply, and would make it fail."""
    names = [link.add(number, b"small %d" % number, node=node)[0] for number, node in enumerate((5, 6, 5))]
    transport = replies(link, names[:2])
    assert len(list(transport.receive())) == 2 and link.confirmed == []
    transport._waiting = {names[2]: 5}
    assert [each.content for each in transport.receive()] == [b"small 2"]
    assert link.confirmed == [link.replies[names[0]][0].metadata.message_id]


def test_a_reply_that_is_never_sent_to_its_end_is_an_error(link: Link) -> None:
    name, objects = link.add(0, LARGE)
    transport = replies(link, [name])
    link.absent = set(objects)
    assert list(transport.receive()) == []
    link.expired = set(objects)
    time.sleep(0.05)
    (received,) = transport.receive()
    assert (received.message, received.content) == (name, None)
    assert received.error.startswith("the reply was not sent to its end: ")
    assert list(transport.receive()) == [] and link.confirmed == []
