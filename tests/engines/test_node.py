"""A node: what it answers, what it keeps, and what it takes no part in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from zowarmup import chain, protocol, recipes
from zowarmup.engines import wire
from zowarmup.engines.node import Node
from zowarmup.engines.wire import Position
from zowarmup.engines.workshop import Materials
from zowarmup.errors import DataError, RecipeError, RunError, UsageError
from zowarmup.table import Table

from .fleet import Fleet, own, short

Talk = list[wire.Question]


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Talk:
    """All that the server of a short run asks the node of client 0: who it is, and then five rounds."""
    made = Fleet(tmp_path_factory.mktemp("talk"), short()).everybody()
    made.run()
    return made.lists.asked(100)


@pytest.fixture
def node(tmp_path) -> Callable[..., Node]:
    """A node with a home of its own; the same home each time."""
    made = Fleet(tmp_path, short(), apart=True)
    return lambda client=0, **more: made.node(client, name="home", **more)


def ask(node: Node, question: wire.Question) -> wire.Answer:
    return wire.decode_answer(node.answer(wire.encode(question)))


def said(node: Node, *questions: wire.Question) -> list[wire.Answer]:
    return [ask(node, question) for question in questions]


def failed(node: Node, question: wire.Question) -> wire.Failed:
    answer = ask(node, question)
    assert isinstance(answer, wire.Failed), answer
    return answer


def changed(question: wire.Question, **changes: object) -> wire.Question:
    return msgspec.structs.replace(question, **changes)


def enrol(**overrides: object) -> wire.Enrol:
    return wire.Enrol(recipe=recipes.to_toml(short(**overrides)))


def test_it_says_who_it_is_takes_its_place_and_works(talk, node):
    card, ready, *done = said(node(), *talk)
    assert (card.client, card.tier, card.why, card.token, card.position) == (0, "high", "said so", b"", Position())
    assert ready.position == Position() and len(done) == 5
    reports = [protocol.decode(each.report) for each in done]
    assert [(report.round, report.client) for report in reports] == [(round, 0) for round in range(1, 6)]
    assert [each.position.round for each in done] == [0, 1, 2, 3, 4]
    assert all(each.peak_memory_bytes > 0 and each.seconds >= 0 for each in done)


def test_the_same_work_is_the_same_report(talk, node):
    made = node()
    *_, last = said(made, *talk)
    assert ask(made, talk[-1]).report == last.report


def test_started_anew_it_shows_what_it_has(talk, node):
    first = said(node(), *talk)
    enrolled, welcome = talk[:2]
    card = ask(node(client=None), enrolled)
    assert (card.client, card.token, card.position) == (0, welcome.token, first[-1].position)
    assert ask(node(client=None), talk[-1]).report == first[-1].report  # work may come first


def test_told_to_be_another_client_it_is_that(talk, node):
    said(node(), *talk[:2])
    card = ask(node(client=3), talk[0])
    assert (card.client, card.token) == (3, b"")


def test_of_a_run_that_it_does_not_know_it_says_so(talk, node):
    for question in (talk[2], wire.Piece(run=b"x", round=1, link=b"", state=b"", offset=0, total=1, content=b"")):
        answer = ask(node(), question)
        assert isinstance(answer, wire.Behind) and (answer.position, answer.enrolled) == (Position(), False)


@pytest.mark.parametrize("content", [b"", b"torn", b"\xc1"], ids=["empty", "torn", "noise"])
def test_a_place_that_was_torn_by_a_power_cut_is_taken_anew(content, talk, node, tmp_path):
    said(node(), *talk)
    (path,) = tmp_path.glob("home/*/enrolment-node")
    path.write_bytes(content)
    assert ask(node(), talk[0]).token == b""
    assert not ask(node(), talk[-1]).enrolled
    made = node()
    assert ask(made, talk[1]).position.round == 4
    assert isinstance(ask(made, talk[-1]), wire.Done)


def test_what_it_keeps_is_no_code(talk, node, tmp_path):
    said(node(), *talk)
    assert {path.name for path in tmp_path.glob("home/*/*")} == {"base.safetensors", "enrolment-node", "lock", "steps"}


def test_bytes_at_the_socket_go_with_every_answer(talk, node):
    made = node(counter=lambda: (7, 9))
    answers = said(made, *talk[:3], wire.Over(run=b""))
    assert {answer.wire for answer in answers} == {(7, 9)}
    assert len({answer.counter for answer in answers}) == 1 and ask(node(), talk[0]).counter != answers[0].counter


def test_it_hears_that_the_run_is_over_and_that_it_takes_no_part(talk, node):
    made = node()
    assert isinstance(ask(made, wire.Over(run=b"x")), wire.Bye) and made.over and made.refused is None
    assert isinstance(ask(made, wire.Turned(error="full", hint="come later")), wire.Bye)
    assert isinstance(made.refused, RunError) and str(made.refused) == "full\nhint: come later"
    said(made, *talk[:2])
    assert made.refused is None


# what it does not do


def test_noise_is_answered(node):
    answer = wire.decode_answer(node().answer(b"\xc1 noise"))
    assert (answer.fault, answer.hint) == ("version", "both sides need the same version of zowarmup")
    assert answer.error.startswith("a message of 7 bytes is none that a server of protocol version 1 sends")


def test_another_version_of_the_protocol(talk, node):
    answer = failed(node(), changed(talk[0], version=2))
    assert (answer.fault, answer.error) == (
        "version",
        "the server speaks version 2 of the protocol, this node version 1",
    )


def test_work_of_another_client_or_no_work_at_all(talk, node):
    made = node()
    said(made, *talk[:2])
    odd = protocol.encode(protocol.Request(round=1, phase=0, client=3))
    assert failed(made, changed(talk[2], request=odd)).error == "round 1: is for client 3, this is client 0"
    report = protocol.encode(protocol.Slopes(round=1, phase=0, client=0, slopes=np.zeros(3, np.float32)))
    assert (
        failed(made, changed(talk[2], request=report)).error == "round 1: the server sent a Slopes, expected a request"
    )
    answer = failed(made, changed(talk[2], request=b"\xc1"))
    assert (answer.fault, made.refused) == ("work", None) and "does not decode" in answer.error


def test_what_goes_wrong_at_work_is_told_and_does_not_end_the_node(talk, node, monkeypatch):
    made = node()
    said(made, *talk[:2])

    def fail(*_: object) -> None:
        raise MemoryError("8 GB")

    with monkeypatch.context() as patch:
        patch.setattr("zowarmup.engines.workshop.Workshop.work", fail)
        answer = failed(made, talk[2])
    assert (answer.fault, answer.error, made.refused) == ("work", "MemoryError: 8 GB", None)
    assert isinstance(ask(made, talk[2]), wire.Done)


PYTHON = {
    "model.net": "python:torch.nn:Linear",
    "model.task": "python:own_task:Task",
    "data.source": "python:own_data:load",
}


@pytest.mark.parametrize("key", PYTHON)
def test_a_server_names_no_code_to_run_here_unless_that_is_allowed(key, node):
    asked = enrol(**{key.replace(".", "__"): PYTHON[key]})
    made = node()
    answer = failed(made, asked)
    assert answer.error == (
        f'{key} = "{PYTHON[key]}": the server names code of this machine, and this node does not allow that'
    )
    assert answer.fault == "recipe" and isinstance(made.refused, RecipeError)
    allowed = node(materials=Materials(device="cpu", allow_code=True))
    assert isinstance(ask(allowed, asked), wire.Card)


@pytest.mark.parametrize("key", ["data.source", "model.net"])
def test_what_a_server_got_from_python_no_node_can_get(key, node):
    answer = failed(node(), enrol(**{key.replace(".", "__"): "given"}))
    assert answer.error == f'{key} = "given": this run got it from Python, and a node cannot'


def test_what_is_no_recipe(node):
    assert failed(node(), wire.Enrol(recipe="seed = 'x'")).fault == "recipe"


def test_a_node_that_was_told_a_recipe_takes_part_in_no_other(talk, node):
    pinned = chain.identity(recipes.tomllib.loads(recipes.to_toml(short(phase__1__lr=0.5))))
    made = node(materials=Materials(device="cpu", pinned=pinned))
    answer = failed(made, talk[0])
    assert answer.error == "the server runs another recipe: phase.1.lr is 0.04, expected 0.5"
    assert isinstance(made.refused, RecipeError)
    assert isinstance(ask(made, enrol(phase__1__lr=0.5)), wire.Card)


def test_data_that_is_not_the_servers(talk, node, tmp_path):
    made = node()
    answer = failed(made, changed(talk[1], data="0" * 64))
    assert answer.fault == "data" and answer.error.startswith("the data is not the server's: this node has blake2b:")
    assert isinstance(made.refused, DataError)
    assert not list(tmp_path.glob("home/*/enrolment-*"))  # nothing is kept of it


def test_a_model_that_is_not_the_servers(talk, node):
    other = Table(("1.weight", "1.bias"), ((10, 64), (10,)))
    answer = failed(node(), changed(talk[1], table=other.canonical()))
    assert answer.fault == "model" and answer.error.startswith("model.net = mlp: is not the server's")


# data of its own


def test_it_tells_how_much_it_holds_of_each_class_and_of_which_tier_it_is(node, tmp_path):
    paths = own(tmp_path, 2)
    made = node(client=None, tier="low", materials=Materials(data=paths[1], device="cpu"))
    card = ask(made, enrol(data__partition={"kind": "own"}, data__clients=2))
    labels = np.load(paths[1])["y"]
    assert (card.samples, card.tier, card.client) == (60, "low", None)
    assert card.counts == tuple(np.bincount(labels).tolist())


BRINGS = {
    "data, where the recipe deals it out": ("iid", True, 'data.partition = "iid": the recipe deals its own data out'),
    "no data, where every node does": ("own", False, 'data.partition = "own": every node brings its own data'),
}


@pytest.mark.parametrize(("kind", "has", "message"), BRINGS.values(), ids=BRINGS)
def test_it_brings_data_where_that_is_asked_for_and_only_there(kind, has, message, node, tmp_path):
    made = node(materials=Materials(data=own(tmp_path, 1)[0] if has else None, device="cpu"))
    answer = failed(made, enrol(data__partition={"kind": kind}))
    assert (answer.fault, answer.error) == ("data", message)


def welcomed(tmp_path: Path, node: Callable[..., Node], talk: Talk, **changes: object) -> tuple[Node, wire.Question]:
    """A node with data of its own, and a place for it."""
    recipe = recipes.to_toml(short(data__partition={"kind": "own"}, data__clients=2))
    made = node(client=1, tier="low", materials=Materials(data=own(tmp_path, 2)[1], device="cpu"))
    fields = {"recipe": recipe, "client": 1, "sizes": (60, 60), "high": protocol.members([0]), "data": "0" * 64}
    return made, changed(talk[1], **fields | changes)


def test_its_own_data_stays_with_it(talk, node, tmp_path):
    made, welcome = welcomed(tmp_path, node, talk)
    assert isinstance(ask(made, welcome), wire.Ready)
    shop = made._place.shop
    assert shop.indices.keys() == {1} and len(shop.experiment.train) == 60
    assert [(client.tier, len(client.train)) for client in shop.experiment.federation.clients] == [
        ("high", 60),
        ("low", 60),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 5}, "has label 9, the server's classes are 0 to 4"),
        ({"sizes": (60, 80)}, "holds 60 samples, and held 80 when the run began"),
    ],
    ids=["a label that is no class", "other data than at first"],
)
def test_its_own_data_that_does_not_fit(changes, message, talk, node, tmp_path):
    made, welcome = welcomed(tmp_path, node, talk, **changes)
    answer = failed(made, welcome)
    assert answer.fault == "data" and answer.error.endswith(message)
    assert isinstance(made.refused, UsageError)
