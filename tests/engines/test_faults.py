"""Whatever goes wrong between a server and its nodes: who is counted then, what is said, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from zowarmup import protocol
from zowarmup.engines import wire
from zowarmup.engines.rounds import Patience

from .fleet import Fleet, Later, at_work, counted, refused, reporting, short, work, works

EVERYBODY, HIGH, WITHOUT_2 = (0, 1, 2, 3), (0, 2), (0, 1, 3)
FIRST, ZEROTH = 2, 4
"""A first-order round of `short()`, and a zeroth-order one."""


def once(round: int, change: Callable[[bytes], object], node: int = 102):
    """Meddle with the first answer that a node gives in a round."""
    left = [True]

    def meddle(number: int, question: bytes, answer: bytes):
        if left[0] and (number, at_work(question)) == (node, round):
            left[0] = False
            return change(answer)
        return [answer]

    return meddle


def test_an_answer_that_comes_after_its_round_does_not_count(tmp_path, fleet):
    made = fleet(short())
    made.lists.meddle = once(ZEROTH, lambda answer: [Later(61, answer)])
    made.lists.meddle = both(made.lists.meddle, once(ZEROTH + 1, lambda answer: [Later(5, answer)], node=101))
    made.run(tmp_path / "run")
    assert counted(tmp_path / "run") == {1: HIGH, 2: HIGH, 3: EVERYBODY, 4: WITHOUT_2, 5: EVERYBODY}
    assert [made.last.board.status()[key] for key in ("late", "drop_outs")] == [1, 1]
    assert 60 < made.time.seconds < 70  # the deadline, once


def both(one, other):
    """One after the other: what the first lets through unchanged, the second may change."""

    def meddle(node: int, question: bytes, answer: bytes):
        came = list(one(node, question, answer))
        return other(node, question, answer) if came == [answer] else came

    return meddle


@pytest.mark.parametrize("round", [FIRST, ZEROTH])
def test_an_answer_that_comes_twice_counts_once(round, alone, fleet):
    made = fleet(short())
    made.lists.meddle = once(round, lambda answer: [answer, answer])
    assert made.run().summary["chain"] == alone(short())["chain"]


def test_two_answers_to_two_messages_of_one_round_count_once(alone, fleet):
    """The node does not seem to answer and is asked again; then both answers come."""
    made = fleet(short())
    meddle = once(ZEROTH, lambda answer: [Later(3, answer)])
    made.lists.meddle = lambda node, question, answer: (
        [Later(4, answer)] if (node, at_work(question)) == (100, ZEROTH) else meddle(node, question, answer)
    )
    away = made.lists.fleet[102]
    made.time.at = {0.25: lambda: made.lists.fleet.pop(102), 1.5: lambda: made.join(102, away)}
    assert made.run().summary["chain"] == alone(short())["chain"]


ODD_REPORTS = {
    "not finite": ({"slopes": np.full(3, np.nan, np.float32)}, "non-finite slopes"),
    "too many": ({"slopes": np.zeros(4, np.float32)}, "slopes of shape (4,) and float32, expected (3,) and float32"),
    "another type": ({"slopes": np.zeros(3)}, "slopes of shape (3,) and float64, expected (3,) and float32"),
    "another round": ({"round": ZEROTH - 1}, f"reported for round {ZEROTH - 1}"),
}


@pytest.mark.parametrize(("changes", "why"), ODD_REPORTS.values(), ids=ODD_REPORTS)
def test_a_report_that_cannot_count_is_refused_and_the_ledger_says_why(changes, why, tmp_path, fleet):
    made = fleet(short())
    made.lists.meddle = once(ZEROTH, lambda answer: [reporting(answer, **changes)])
    made.run(tmp_path / "run")
    assert refused(tmp_path / "run") == {ZEROTH: {2: why}}
    assert counted(tmp_path / "run")[ZEROTH] == WITHOUT_2
    assert counted(tmp_path / "run")[ZEROTH + 1] == EVERYBODY


def as_report(answer: bytes, report: bytes) -> bytes:
    return wire.encode(msgspec.structs.replace(wire.decode_answer(answer), report=report))


ODD_ANSWERS = {
    "of another client": (lambda answer: reporting(answer, client=3), "sent a Slopes of client 3"),
    "a request": (
        lambda answer: as_report(answer, protocol.encode(protocol.Request(round=ZEROTH, phase=1, client=2))),
        "sent a Request of client 2",
    ),
    "no report": (lambda answer: as_report(answer, b"\xc1"), "message of 1 bytes does not decode"),
    "a failure": (lambda answer: wire.encode(wire.Failed(fault="work", error="out of memory")), "out of memory"),
}


@pytest.mark.parametrize(("change", "why"), ODD_ANSWERS.values(), ids=ODD_ANSWERS)
def test_a_node_that_answers_something_else_is_left_out_of_the_round(change, why, tmp_path, fleet):
    made = fleet(short())
    made.lists.meddle = once(ZEROTH, lambda answer: [change(answer)])
    made.run(tmp_path / "run")
    assert counted(tmp_path / "run")[ZEROTH] == WITHOUT_2
    assert counted(tmp_path / "run")[ZEROTH + 1] == EVERYBODY
    assert any(said.startswith(f"round {ZEROTH}: client 2: {why}") for said in made.said)
    assert made.time.seconds < 5  # nobody waits for it


UNREADABLE = {"nothing": b"", "noise": b"\xc1 noise", "a question": wire.encode(wire.Over(run=b"x"))}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_node_whose_bytes_do_not_decode_is_told_and_takes_no_part(content, tmp_path, fleet):
    made = fleet(short())
    made.lists.meddle = once(ZEROTH, lambda answer: [content])
    made.run(tmp_path / "run")
    assert [clients for round, clients in counted(tmp_path / "run").items() if round >= ZEROTH] == [WITHOUT_2] * 2
    assert isinstance(made.lists.asked(102)[-1], wire.Turned)
    assert "none that a node of protocol version 1 sends" in made.last.board.status()["turned"]["102"]
    assert made.time.seconds < 5


def test_a_transport_error_is_tried_again(alone, fleet):
    made = fleet(short())
    made.lists.meddle = once(ZEROTH, lambda answer: [None])
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert "node 102 does not answer: lost" in made.said


def test_an_error_for_the_last_one_that_a_long_round_waits_for_is_tried_again(alone, fleet):
    made = fleet(short())
    made.lists.meddle = once(ZEROTH, lambda answer: [Later(5, None)])
    assert made.run().summary["chain"] == alone(short())["chain"]


@pytest.mark.parametrize("round", [FIRST, ZEROTH])
def test_a_client_is_asked_three_times_in_a_round(round, tmp_path, fleet):
    made = fleet(short())
    made.lists.change = lambda node, question: None if (node, at_work(question)) == (102, round) else question
    made.run(tmp_path / "run")
    assert [asked.round + 1 for asked in works(made, 102)].count(round) == 3
    assert 2 not in counted(tmp_path / "run")[round] and 2 in counted(tmp_path / "run")[round + 1]
    assert f"round {round}: client 2: was asked 3 times" in made.said
    assert made.time.seconds < 5


def idles(made: Fleet, node: int) -> int:
    """How often a node was asked whether it is at work."""
    return sum(isinstance(question, wire.Idle) for question in made.lists.asked(node))


@pytest.mark.parametrize("round", [FIRST, ZEROTH])
def test_a_message_that_is_lost_without_a_word_is_sent_again_at_half_the_deadline(round, alone, fleet):
    """As when a node is killed and comes back before anybody has seen it gone."""
    made = fleet(short(), patience=Patience(quorum=1.0))
    made.lists.ordered = True
    made.lists.meddle = once(round, lambda answer: [])
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert "node 102 does not answer: what it was asked is lost" in made.said
    assert (idles(made, 102), idles(made, 100)) == (1, 0)
    assert 30 < made.time.seconds < 35


def test_a_node_that_comes_back_without_its_folder_while_it_seems_at_work_is_welcomed_again(alone, fleet):
    made = fleet(short(), patience=Patience(quorum=1.0))
    made.lists.ordered = True

    def anew(answer: bytes) -> list[bytes]:
        made.join(102, made.node(2, name="another"))
        return []

    made.lists.meddle = once(ZEROTH, anew)
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert idles(made, 102) == 1
    assert made.said.count("node 102 does not answer: what it was asked is lost") == 0


def test_a_node_that_is_long_at_work_is_not_asked_for_it_twice(alone, fleet):
    """It answers in turn: first for its work, then that it has nothing to do."""
    made = fleet(short())
    made.lists.ordered = True
    busy = once(ZEROTH, lambda answer: [Later(50, answer)])
    ends: list[float] = []

    def meddle(node: int, question: bytes, answer: bytes):
        if isinstance(wire.decode_question(question), wire.Idle):
            return [Later(ends[0] - made.time.seconds, answer)]
        came = list(busy(node, question, answer))
        if came != [answer]:
            ends.append(made.time.seconds + 50)
        return came

    made.lists.meddle = meddle
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert [asked.round + 1 for asked in works(made, 102)].count(ZEROTH) == 1
    assert idles(made, 102) == 1
    assert 50 < made.time.seconds < 55


def test_a_node_is_never_left_out_because_it_says_that_it_is_idle(tmp_path, fleet):
    """Where the order of messages is another than was thought, that is no word about its work."""
    made = fleet(short(), patience=Patience(quorum=1.0))
    made.lists.ordered = True
    made.lists.meddle = lambda node, question, answer: (
        [Later(300, answer)] if (node, at_work(question)) == (102, ZEROTH) else [answer]
    )
    made.run(tmp_path / "run")
    assert counted(tmp_path / "run")[ZEROTH] == EVERYBODY
    assert [asked.round + 1 for asked in works(made, 102)].count(ZEROTH) == 3
    assert 300 < made.time.seconds < 305


# what is changed on the way is noticed, and sent again


def changed_snapshot(question: wire.Work, change: Callable[[bytes], bytes]) -> wire.Work | None:
    if question.snapshot is None:
        return None
    snapshot = msgspec.structs.replace(question.snapshot, content=change(question.snapshot.content))
    return msgspec.structs.replace(question, snapshot=snapshot)


def changed_step(question: wire.Work, **changes: Callable[[bytes], bytes]) -> wire.Work | None:
    if not question.steps:
        return None
    last = question.steps[-1]
    last = msgspec.structs.replace(last, **{name: change(getattr(last, name)) for name, change in changes.items()})
    return msgspec.structs.replace(question, steps=(*question.steps[:-1], last))


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


CHANGES = {
    "a weight of a snapshot": lambda question: changed_snapshot(question, flipped),
    "the length of a snapshot's header": lambda question: changed_snapshot(question, lambda old: b"\0" + old[1:]),
    **{
        f"{what} of a snapshot": lambda question, what=what: changed_snapshot(
            question, lambda old: old.replace(f'"{what}"'.encode(), f'"{what[:-1]}_"'.encode())
        )
        for what in ("run", "round", "link", "state", "1.weight")
    },
    "the shape of a tensor": lambda question: changed_snapshot(
        question, lambda old: old.replace(b"[32,64]", b"[64,32]")
    ),
    "a coefficient": lambda question: changed_step(question, entry=flipped),
    "a round that does not decode": lambda question: changed_step(question, entry=lambda entry: entry[:-1]),
    "a state": lambda question: changed_step(question, state=flipped),
    "metrics": lambda question: changed_step(question, metrics=flipped),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_changed_on_the_way_is_sent_again(change, alone, fleet):
    made, changed = fleet(short()), []

    def meddle(node: int, question: bytes) -> bytes:
        asked = work(question)
        other = change(asked) if asked and node == 102 and not changed else None
        if other is None:
            return question
        changed.append(asked.round + 1)
        return wire.encode(other)

    made.lists.change = meddle
    assert made.run().summary["chain"] == alone(short())["chain"]
    assert len(changed) == 1
    again = [asked for asked in works(made, 102) if asked.round + 1 == changed[0]]
    assert len(again) == 2 and (again[1].snapshot or again[1].steps)
