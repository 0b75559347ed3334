"""Who is there: nodes, the clients that they are, and what each of them holds."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from zowarmup.engines.wire import Card, Position
from zowarmup.engines.workshop import Tier

_TOKEN_BYTES = 16


@dataclass
class Seat:
    """A client, and the node that is it at present.

    Args:
        client: the client.
        tier: its tier; None where its node says.
        node: the node's id; None where nobody has come yet.
        token: what a node shows that has been this client before.
        position: the state that the node holds.
        ready: the node knows which client it is.
    """

    client: int
    tier: Tier | None
    node: int | None = None
    token: bytes = field(default_factory=lambda: secrets.token_bytes(_TOKEN_BYTES))
    position: Position = field(default_factory=Position)
    ready: bool = False
    card: Card | None = None


class Turned(Exception):  # noqa: N818
    """A node that cannot take part; says why, and what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Roster:
    """Seats for the clients of a run.

    Args:
        tiers: of every client; None where nodes say.
        there: the nodes that are connected; the caller keeps it up to date.
    """

    def __init__(
        self,
        tiers: Iterable[Tier | None],
        there: Collection[int],
    ) -> None:
        self.seats = [Seat(client, tier) for client, tier in enumerate(tiers)]
        self._there = there
        self._by_node: dict[int, Seat] = {}
        self.turned: dict[int, str] = {}
        """Nodes that cannot take part, and why."""

    def of(self, node: int) -> Seat | None:
        """The seat of a node."""
        return self._by_node.get(node)

    def take(self, node: int, card: Card) -> Seat:
        """The seat that a node gets.

        One that has been there before gets its own back. A client that another connected node is goes to no second one.

        Raises:
            Turned: there is none for it.
        """
        seat = self._wanted(node, card) if card.client is not None else self._free(node, card.tier)
        if seat.tier == "high" and card.tier == "low":
            raise Turned(
                f"client {seat.client} is of the high tier in this run and this node of the low one ({card.why})",
                hint="more memory, another client, or data.high-resource in the recipe",
            )
        if seat.node is not None:
            self._by_node.pop(seat.node, None)
        if (before := self._by_node.get(node)) is not None:
            before.node, before.ready = None, False
        seat.node, seat.card, seat.position, seat.ready = node, card, card.position, False
        self._by_node[node] = seat
        self.turned.pop(node, None)
        return seat

    def turn(self, node: int, why: str) -> None:
        """Note that a node cannot take part; its seat is free again."""
        self.turned[node] = why
        if (seat := self._by_node.pop(node, None)) is not None:
            seat.node, seat.ready = None, False

    def connected(self, seat: Seat) -> bool:
        """Whether a seat's node is there."""
        return seat.node is not None and seat.node in self._there

    def _wanted(self, node: int, card: Card) -> Seat:
        client = card.client
        assert client is not None
        if client >= len(self.seats):
            raise Turned(
                f"there is no client {client}: clients are 0 to {len(self.seats) - 1}",
                hint="--client, or leave it out to get any free one",
            )
        seat = self.seats[client]
        back = secrets.compare_digest(card.token, seat.token)
        if not back and seat.node not in (None, node) and self.connected(seat):
            raise Turned(
                f"client {client} is another node at present",
                hint="--client, or leave it out to get any free one; a node that died is forgotten after a minute",
            )
        return seat

    def _free(self, node: int, tier: Tier) -> Seat:
        """A free seat of the tier; a high-resource node takes a low-resource client where no other is left."""
        own = self._by_node.get(node)
        if own is not None:
            return own
        free = [seat for seat in self.seats if not self.connected(seat)]
        fitting = [seat for seat in free if seat.tier in (tier, None)] or [
            seat for seat in free if (tier, seat.tier) == ("high", "low")
        ]
        fitting.sort(key=lambda seat: (seat.node is not None, seat.client))  # first those that nobody ever was
        if not fitting:
            raise Turned(
                f"there is no free client of the {tier} tier among {len(self.seats)}",
                hint="the run is full; data.clients and data.high-resource in the recipe say how many there are",
            )
        return fitting[0]
