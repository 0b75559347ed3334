"""What a node is sent: the rounds that it lacks, or a snapshot."""

from __future__ import annotations

import pytest

from zowarmup.engines import supply as module
from zowarmup.engines.supply import Supply
from zowarmup.engines.wire import Position
from zowarmup.ledger import Ledger
from zowarmup.replay import Replay
from zowarmup.snapshots import Snapshots
from zowarmup.state import State

LAST = 12


@pytest.fixture
def state(record: Ledger) -> State:
    return Replay(record, Snapshots(record.path.parent, record.head.table)).state(LAST)


@pytest.fixture
def supply(record, state) -> Supply:
    made = Supply(record, state.model_bytes)
    made.stock(state)
    return made


def at(record: Ledger, round: int) -> Position:
    return Position(record.head.genesis(), round, record.row(round).chain)


def test_it_leads_to_the_last_round_of_the_ledger(supply, record):
    assert (supply.run, supply.round, supply.link) == (record.head.genesis(), LAST, record.row(LAST).chain)


@pytest.mark.parametrize("held", range(2, LAST + 1))
def test_a_node_is_sent_exactly_the_rounds_that_it_lacks(held, supply, record):
    delivery = supply.delivery(at(record, held))
    assert [step.entry for step in delivery.steps] == [row.entry for row in record.rows(held + 1, LAST)]
    assert not delivery.snapshot
    assert delivery.payload_bytes == (LAST - held) * (8 + 4 + 3 * 4)


@pytest.mark.parametrize("held", [0, 1])
def test_across_a_first_order_round_leads_a_snapshot_alone(held, supply, record, state):
    delivery = supply.delivery(at(record, held))
    assert delivery.snapshot and not delivery.steps and delivery.payload_bytes == state.model_bytes


STRANGE = {
    "nothing": lambda at: Position(),
    "another run": lambda at: Position(b"other", at.round, at.link),
    "another chain": lambda at: Position(at.run, at.round, b"other"),
    "a round that is not there yet": lambda at: Position(at.run, LAST + 1, at.link),
    "a round before the first": lambda at: Position(at.run, -5, at.link),
}


@pytest.mark.parametrize("change", STRANGE.values(), ids=STRANGE)
def test_who_holds_no_state_of_this_chain_gets_a_snapshot(change, supply, record):
    assert supply.delivery(change(at(record, 8))).snapshot


def test_least_work_prefers_the_snapshot(record, state):
    made = Supply(record, state.model_bytes, "work")
    made.stock(state)
    assert made.delivery(at(record, 5)).snapshot
    assert not made.delivery(at(record, LAST)).snapshot


def test_a_snapshot_is_made_once_and_a_delivery_too(supply, record):
    one, other = supply.delivery(Position()), supply.delivery(at(record, 1))
    assert one.snapshot is other.snapshot
    assert supply.delivery(at(record, 5)) is supply.delivery(at(record, 5))


def test_pieces_are_the_snapshot(supply, monkeypatch):
    monkeypatch.setattr(module, "PIECE_BYTES", 4000)
    whole = supply.delivery(Position()).snapshot
    pieces = [supply.piece(whole, offset) for offset in range(0, len(whole), 4000)]
    assert b"".join(piece.content for piece in pieces) == whole and len(pieces) == 3
    assert {(piece.round, piece.link, piece.total) for piece in pieces} == {(LAST, supply.link, len(whole))}
