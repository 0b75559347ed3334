"""When a round waits for nobody any more."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from zowarmup import protocol
from zowarmup.engines import rounds
from zowarmup.engines.rounds import AWAY_SECONDS, OpenRound, Patience
from zowarmup.errors import QuorumError, UsageError


def opened(count: int = 4, **patience: float) -> OpenRound:
    requests = [protocol.Request(round=7, phase=0, client=client) for client in range(count)]
    return OpenRound(7, requests, Patience(**patience), since=100.0)


def report(client: int, size: int = 3) -> bytes:
    slopes = np.arange(size, dtype=np.float32)
    return protocol.encode(protocol.Slopes(round=7, phase=0, client=client, slopes=slopes))


def done(made: OpenRound, *clients: int) -> OpenRound:
    for client in clients:
        made.asked[client].keep(report(client))
    return made


def closes(made: OpenRound, after: float, away: tuple[int, ...] = ()) -> bool:
    return made.close(100.0 + after, away)


def test_it_closes_when_everybody_has_answered():
    made = done(opened(), 0, 1, 2)
    assert not closes(made, 1) and not made.closed
    assert (made.done, made.missing, made.awaited) == (3, [3], [3])
    assert closes(done(made, 3), 2) and made.closed


def test_it_closes_without_those_who_failed():
    made = done(opened(), 0, 1)
    made.asked[2].fail("no memory")
    assert not closes(made, 1)
    made.asked[3].fail("no disk")
    assert closes(made, 1) and made.missing == [2, 3] and made.awaited == []


def test_at_its_deadline_it_closes_with_a_quorum_and_not_without():
    assert not closes(done(opened(deadline_seconds=60.0), 0, 1), 59.9)
    assert closes(done(opened(deadline_seconds=60.0), 0, 1), 60)
    late = done(opened(deadline_seconds=60.0), 0)
    assert not closes(late, 400) and closes(done(late, 1), 401)


@pytest.mark.parametrize(
    ("quorum", "count", "needed"), [(0.5, 4, 2), (0.5, 5, 3), (1.0, 4, 4), (0.01, 4, 1), (0.75, 3, 3)]
)
def test_a_quorum_is_rounded_up_and_at_least_one(quorum, count, needed):
    assert opened(count, quorum=quorum).quorum == needed


def test_enough_reports_close_it_at_once():
    made = opened(quorum=0.5, enough=0.75)
    assert not closes(done(made, 0, 1), 0)
    assert closes(done(made, 2), 0)


def test_where_all_that_it_waits_for_are_away_it_waits_a_moment_alone():
    made = done(opened(), 0, 1)
    assert not closes(made, AWAY_SECONDS / 2, (2, 3))
    assert not closes(made, 2 * AWAY_SECONDS, (2,))
    assert closes(made, 2 * AWAY_SECONDS, (2, 3))
    assert not closes(done(opened(), 0), 2 * AWAY_SECONDS, (1, 2, 3))  # without a quorum they may come back


def test_once_closed_it_stays_closed():
    made = done(opened(deadline_seconds=1.0), 0, 1)
    assert closes(made, 1) and made.closed
    made.asked[0].state = "waiting"
    assert made.closed


def test_it_gives_up_and_says_who_did_not_report_and_why():
    made = done(opened(5, give_up_seconds=600.0), 4)
    made.asked[1].fail("no memory")
    assert not closes(made, 599)
    with pytest.raises(QuorumError) as caught:
        closes(made, 600)
    assert caught.value.round == 7
    assert caught.value.message == (
        "round 7: 1 of 5 clients reported, the quorum is 3; client 0: no answer; client 1: no memory; "
        "client 2: no answer; ..."
    )


def test_it_gives_up_at_its_deadline_where_that_is_later():
    made = done(opened(deadline_seconds=60.0, give_up_seconds=30.0), 0, 1)
    assert not closes(made, 31) and closes(made, 60)


def test_a_round_that_asks_nobody_is_closed_and_has_its_quorum():
    made = opened(0)
    assert closes(made, 0)
    made.check()


def test_what_remains_of_the_wait():
    made = opened(deadline_seconds=60.0, give_up_seconds=600.0)
    assert (made.remaining(110.0), made.remaining(170.0)) == (50, 530)
    assert done(made, 0, 1).remaining(110.0) == 50


@pytest.mark.parametrize("large", [False, True])
def test_a_report_is_kept_and_taken_once(large, monkeypatch):
    if large:
        monkeypatch.setattr(rounds, "_LARGE_BYTES", 10)
    asked = opened().asked[2]
    assert asked.take() is None
    asked.keep(report(2))
    assert asked.settled
    taken = asked.take()
    assert taken.client == 2 and taken.slopes.tolist() == [0, 1, 2]
    assert asked.take() is None


def test_large_reports_that_nobody_takes_leave_no_open_file(monkeypatch):
    monkeypatch.setattr(rounds, "_LARGE_BYTES", 10)
    made = done(opened(), 0, 1)
    made.drop()
    del made
    gc.collect()  # an open file would warn, which is an error


BAD = {
    "deadline_seconds": (0.0, "deadline-seconds is 0.0, expected a number > 0"),
    "give_up_seconds": (float("inf"), "give-up-seconds is inf, expected a number > 0"),
    "join_seconds": (-1.0, "join-seconds is -1.0, expected a number > 0"),
    "poll_seconds": (float("nan"), "poll-seconds is nan, expected a number > 0"),
    "quorum": (0.0, "quorum is 0.0, expected more than 0 and at most 1"),
    "enough": (1.5, "enough is 1.5, expected more than 0 and at most 1"),
}


@pytest.mark.parametrize(("name", "value", "message"), [(name, *values) for name, values in BAD.items()], ids=BAD)
def test_no_wait_is_without_end_and_no_share_beyond_all(name, value, message):
    with pytest.raises(UsageError) as caught:
        Patience(**{name: value})
    assert caught.value.message == message


def test_enough_is_no_less_than_a_quorum():
    with pytest.raises(UsageError, match=r"enough is 0\.4, less than quorum, which is 0\.5"):
        Patience(enough=0.4)
