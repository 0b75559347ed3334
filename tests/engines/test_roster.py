"""Seats: who gets which, who gets it back, and who is turned away."""

from __future__ import annotations

import pytest

from zowarmup.engines.roster import Roster, Seat, Turned
from zowarmup.engines.wire import Card, Position


def card(client: int | None = None, tier: str = "high", token: bytes = b"", **more: object) -> Card:
    return Card(client=client, tier=tier, token=token, **more)


@pytest.fixture
def there() -> set[int]:
    return {10, 11, 12, 13}


@pytest.fixture
def roster(there) -> Roster:
    return Roster(["high", "low", "low"], there)


def refusal(roster: Roster, node: int, card: Card) -> str:
    with pytest.raises(Turned) as caught:
        roster.take(node, card)
    assert caught.value.hint
    return str(caught.value)


def test_a_node_gets_the_client_that_it_asks_for_and_brings_what_it_holds(roster):
    at = Position(b"run", 3, b"link")
    seat = roster.take(10, card(2, position=at))
    assert (seat.client, seat.node, seat.position, seat.ready) == (2, 10, at, False)
    assert roster.of(10) is seat and roster.of(11) is None and roster.connected(seat)


def test_nodes_without_a_wish_get_free_clients_of_their_tier(roster):
    taken = [roster.take(10, card(tier="low")), roster.take(11, card(tier="high")), roster.take(12, card(tier="low"))]
    assert [seat.client for seat in taken] == [1, 0, 2]
    assert refusal(roster, 13, card(tier="low")) == "there is no free client of the low tier among 3"


def test_a_high_node_takes_a_low_client_where_no_other_is_left_but_no_low_one_a_high(roster):
    assert [roster.take(node, card()).client for node in (10, 11)] == [0, 1]
    assert "client 0 is of the high tier in this run and this node of the low one (little memory)" in refusal(
        Roster(["high"], {10}), 10, card(0, tier="low", why="little memory")
    )
    assert "no free client of the low tier" in refusal(Roster(["high"], {10}), 10, card(tier="low"))


def test_where_nodes_say_their_tier_every_seat_fits_every_node(there):
    roster = Roster([None, None], there)
    assert [roster.take(10, card(tier="low")).client, roster.take(11, card(tier="high")).client] == [0, 1]


def test_a_client_that_a_connected_node_is_goes_to_no_second_one(roster, there):
    seat = roster.take(10, card(1))
    assert refusal(roster, 11, card(1)) == "client 1 is another node at present"
    assert refusal(roster, 11, card(1, token=b"guessed")) == "client 1 is another node at present"
    assert roster.of(10) is seat and roster.of(11) is None


def test_who_shows_the_token_gets_its_client_back_whoever_is_connected(roster):
    token = roster.take(10, card(1)).token
    seat = roster.take(11, card(1, token=token))
    assert (seat.client, seat.node) == (1, 11) and roster.of(10) is None


def test_a_client_whose_node_is_gone_is_free(roster, there):
    roster.take(10, card(1))
    there.discard(10)
    assert not roster.connected(roster.seats[1])
    assert roster.take(11, card(1)).node == 11


def test_seats_that_nobody_ever_had_go_first(roster, there):
    roster.take(10, card(1, tier="low"))
    there.discard(10)
    assert [roster.take(node, card(tier="low")).client for node in (11, 12)] == [2, 1]


def test_a_node_that_asks_again_keeps_its_seat_and_has_never_two(roster):
    first = roster.take(10, card(tier="low"))
    assert roster.take(10, card(tier="low")) is first
    other = roster.take(10, card(2, tier="low"))
    assert [seat.client for seat in roster.seats if seat.node == 10] == [2] and roster.of(10) is other
    assert not first.ready and not roster.connected(first)


def test_a_node_starts_from_nothing_in_its_seat(roster):
    seat = roster.take(10, card(1))
    seat.ready = True
    roster.take(10, card(1, token=seat.token))
    assert not seat.ready


def test_a_client_that_is_not_there(roster):
    assert refusal(roster, 10, card(3)) == "there is no client 3: clients are 0 to 2"


def test_who_is_turned_away_leaves_its_seat_and_may_come_again(roster):
    roster.take(10, card(1))
    roster.turn(10, "no")
    assert roster.turned == {10: "no"} and roster.of(10) is None and roster.seats[1].node is None
    roster.take(10, card(1))
    assert roster.turned == {}


def test_tokens_are_secrets_of_their_own():
    assert len({Seat(client, None).token for client in range(100)}) == 100 and len(Seat(0, None).token) == 16
