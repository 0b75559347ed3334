"""Envelopes: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import msgspec
import pytest

from zowarmup.engines import wire
from zowarmup.errors import WireError

PIECE = wire.Piece(run=b"r", round=3, link=b"l", state=b"s", offset=1, total=9, content=b"part")
STEP = wire.Step(phase=1, entry=b"e", metrics=b"{}", state=b"s")
QUESTIONS = (
    wire.Enrol(recipe="name = 1"),
    wire.Welcome(
        recipe="", client=2, token=b"t", run=b"r", table=b"", data="d", high=b"\x05", sizes=(3, 4), classes=None
    ),
    PIECE,
    wire.Work(run=b"r", snapshot=PIECE, steps=(STEP, STEP), round=3, link=b"l", request=b"q"),
    wire.Turned(error="no", hint=None),
    wire.Over(run=b"r"),
)
ANSWERS = (
    wire.Card(client=None, tier="low", counts=(1, 0), position=wire.Position(b"r", 3, b"l"), wire=(5, 6)),
    wire.Ready(position=wire.Position()),
    wire.Got(round=3, offset=7),
    wire.Done(report=b"p", position=wire.Position(), seconds=0.5, peak_memory_bytes=1),
    wire.Behind(position=wire.Position(), enrolled=False),
    wire.Failed(fault="data", error="no", hint="yes"),
    wire.Bye(),
)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda each: type(each).__name__)
def test_a_question_comes_out_as_it_went_in_and_is_no_answer(question):
    assert wire.decode_question(wire.encode(question)) == question
    with pytest.raises(WireError, match=r"none that a node of protocol version 1 sends"):
        wire.decode_answer(wire.encode(question))


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda each: type(each).__name__)
def test_an_answer_comes_out_as_it_went_in_and_is_no_question(answer):
    assert wire.decode_answer(wire.encode(answer)) == answer
    with pytest.raises(WireError, match=r"none that a server of protocol version 1 sends"):
        wire.decode_question(wire.encode(answer))


def packed(**fields: object) -> bytes:
    return msgspec.msgpack.encode(fields)


ODD = {
    "nothing": b"",
    "noise": b"\xc1\x00\xff",
    "no UTF-8": b"\x81\xa4type\xa2\xff\xfe",
    "cut short": wire.encode(ANSWERS[0])[:-1],
    "more behind it": wire.encode(ANSWERS[0]) + b"\0",
    "no type": packed(round=3, offset=7),
    "an unknown type": packed(type="Gotten", round=3, offset=7),
    "a field is missing": packed(type="Got", round=3),
    "a field of another type": packed(type="Got", round=3, offset="7"),
    "an unknown tier": packed(type="Card", tier="middle"),
    "a client below zero": packed(type="Card", tier="low", client=-1),
    "an unknown fault": packed(type="Failed", fault="luck", error=""),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD)
def test_what_is_no_envelope_is_refused_and_never_unpickled(content):
    with pytest.raises(WireError, match=f"a message of {len(content)} bytes is none that a node") as caught:
        wire.decode_answer(content)
    assert caught.value.hint == "both sides need the same version of zowarmup"


def test_a_field_that_a_later_version_adds_is_passed_over():
    assert wire.decode_answer(packed(type="Got", round=3, offset=7, mood="good")) == wire.Got(round=3, offset=7)
