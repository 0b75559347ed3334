"""What a board says and writes, and how often."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from zowarmup.engines.board import Board

from .fleet import Time

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


class Noted:
    """A board, what it wrote and what it said, on a clock that stands still."""

    def __init__(self) -> None:
        self.time, self.written, self.said = Time(), [], []
        self.board = Board(
            write=lambda status: self.written.append(msgspec.json.encode(status)),
            say=self.said.append,
            rounds=9,
            clock=self.time,
            now=lambda: NOON + timedelta(seconds=self.time.seconds),
        )


@pytest.fixture
def noted() -> Noted:
    return Noted()


def test_a_status_is_json_and_says_what_there_is_before_anything_happened(noted):
    status = noted.board.status()
    assert msgspec.json.decode(msgspec.json.encode(status)) == status
    assert (status["format"], status["state"], status["round"], status["rounds"]) == (1, "starting", 0, 9)
    assert status["since"] == status["at"] == "2026-01-02T12:00:00+00:00"
    assert status["clients"] == {} and set(status["bytes"].values()) == {0}


def test_a_round_from_beginning_to_end(noted):
    board = noted.board
    board.joined(3, 77, "low", "as told")
    board.opened(5, 1, "zeroth-order", 2)
    board.sent(3, 40)
    board.answered(3, 12, 0.25, 10**6)
    board.failed(4, "no memory")
    noted.time.seconds = 2.0
    board.waiting([4], 30.0)
    status = board.status()
    assert (status["state"], status["round"], status["phase"], status["kind"]) == ("running", 5, 1, "zeroth-order")
    assert (status["cohort"], status["answered"], status["awaited"]) == (2, 1, [4])
    assert status["until"] == "2026-01-02T12:00:32+00:00"
    board.closed([4])
    board.measured({"accuracy": 0.5, "loss": 1.5, "seconds": 1})
    board.measured({"seconds": 2})
    status = board.status()
    assert (status["drop_outs"], status["awaited"], status["until"]) == (1, [], None)
    assert (status["accuracy"], status["loss"]) == (0.5, 1.5)
    three = {key: status["clients"]["3"][key] for key in ("node", "tier", "why", "round", "seconds")}
    assert three == {"node": "77", "tier": "low", "why": "as told", "round": 5, "seconds": 0.25}
    assert status["clients"]["4"] == {"error": "no memory", "missed": 1, "bytes": {}}
    assert noted.said == ["client 3 is node 77, low tier (as told)", "round 5: client 4: no memory"]


def test_bytes_are_counted_by_client_and_phase_and_add_up(noted):
    board = noted.board
    for phase, kind in ((0, "first-order"), (1, "zeroth-order")):
        board.opened(1 + phase, phase, kind, 2)
        for client in (0, 1):
            board.sent(client, 100)
            board.answered(client, 10, 0.1, 1)
    status = board.status()
    assert status["bytes"] == {"payload_up": 40, "payload_down": 400, "wire_up": 0, "wire_down": 0}
    assert set(status["clients"]["0"]["bytes"]) == {"0 first-order", "1 zeroth-order"}
    assert status["clients"]["1"]["bytes"]["1 zeroth-order"]["payload_down"] == 100


def test_a_node_that_was_started_anew_counts_its_socket_from_zero(noted):
    for counter, up, down in ((b"a", 100, 200), (b"a", 150, 260), (b"b", 30, 40)):
        noted.board.counted(0, counter, up, down)
    assert noted.board.status()["bytes"] == {"payload_up": 0, "payload_down": 0, "wire_up": 180, "wire_down": 300}


def test_a_server_that_is_started_again_goes_on_counting(noted):
    board = noted.board
    board.joined(0, 7, "low", "as told")
    board.opened(1, 0, "zeroth-order", 1)
    board.sent(0, 100)
    board.answered(0, 10, 0.25, 10**6)
    board.counted(0, b"a", 1000, 2000)
    board.failed(0, "no memory")
    board.closed([0])
    board.late(0, 1)
    last = msgspec.json.decode(msgspec.json.encode(board.status()))
    again = Board(write=lambda status: None, say=lambda text: None, before=last, now=lambda: NOON + timedelta(days=1))
    status = again.status()
    assert {key: status[key] for key in ("since", "bytes", "drop_outs", "late")} == {
        key: last[key] for key in ("since", "bytes", "drop_outs", "late")
    }
    kept = {"tier": "low", "round": 1, "missed": 1}
    counts = {key: last["clients"]["0"][key] for key in ("bytes", "socket")}
    assert status["clients"] == {"0": kept | counts}
    again.opened(2, 0, "zeroth-order", 1)
    again.counted(0, b"a", 1500, 2600)  # the same process of the node, which has been there all the time
    assert again.status()["bytes"] == {"payload_up": 10, "payload_down": 100, "wire_up": 1500, "wire_down": 2600}
    again.counted(0, b"b", 1600, 2700)
    assert again.status()["bytes"]["wire_up"] == 3100


def test_a_status_of_another_format_is_not_gone_on_from(noted):
    other = noted.board.status() | {"format": 0, "late": 3}
    assert Board(write=lambda status: None, say=lambda text: None, before=other).status()["late"] == 0


def test_who_was_turned_away_is_told_until_it_joins(noted):
    noted.board.turned(7, "the data is not the server's")
    assert noted.board.status()["turned"] == {"7": "the data is not the server's"}
    noted.board.joined(0, 7, "high", "")
    assert noted.board.status()["turned"] == {}
    assert noted.said == [
        "node 7 can take no part: the data is not the server's",
        "client 0 is node 7, high tier",
    ]


def test_it_writes_at_most_twice_a_second_but_at_once_where_something_changes_for_good(noted):
    for _ in range(5):
        noted.board.waiting([1], 10.0)
        noted.time.seconds += 0.25
    assert len(noted.written) == 3
    noted.board.joined(1, 2, "high", "")
    noted.board.ended("failed", "no quorum")
    assert len(noted.written) == 5
    assert b'"error":"no quorum"' in noted.written[-1] and b'"state":"failed"' in noted.written[-1]


def test_a_wait_is_told_after_five_seconds_and_every_five_from_then_on(noted):
    noted.board.opened(1, 0, "first-order", 20)
    for _ in range(23):
        noted.board.waiting(list(range(10)), 60.0)
        noted.time.seconds += 0.5
    assert len(noted.said) == 2
    assert noted.said[0].startswith("round 1: waiting for 10 of 20 clients (0, 1, 2, 3, 4, 5, 6, 7, ...), until ")
    noted.board.waiting([1], 60.0)
    assert len(noted.said) == 2  # others are awaited: another wait


def test_that_nodes_are_awaited_is_told_at_once(noted):
    for _ in range(8):
        noted.board.gathering(1, 4, 60.0)
        noted.time.seconds += 1.0
    assert len(noted.said) == 2 and noted.said[0].startswith("waiting for nodes: 1 of 4 are there, until ")


def test_an_answer_takes_back_the_error_before(noted):
    noted.board.failed(1, "no disk")
    noted.board.answered(1, 1, 0.1, 1)
    assert "error" not in noted.board.status()["clients"]["1"]


def test_late_answers_are_counted(noted):
    noted.board.late(1, 3)
    noted.board.late(1, 3)
    assert noted.board.status()["late"] == 2
