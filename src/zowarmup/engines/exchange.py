"""The engine beyond one process: asks nodes, waits for them within bounds, hands their reports on in client order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import msgspec

from zowarmup import protocol
from zowarmup.engines import wire
from zowarmup.engines.board import Board
from zowarmup.engines.roster import Roster, Seat, Turned
from zowarmup.engines.rounds import TRIES, Asked, OpenRound, Patience
from zowarmup.engines.supply import Delivery, Supply
from zowarmup.engines.transport import Received, Transport
from zowarmup.engines.wire import Card, Enrol, Piece, Question, Welcome, Work
from zowarmup.engines.workshop import Tier
from zowarmup.errors import QuorumError, RecipeError, RunError, WireError
from zowarmup.experiment import Experiment
from zowarmup.ledger import Ledger
from zowarmup.phases import Phase
from zowarmup.protocol import Report, Request, members
from zowarmup.recipe import FirstOrder, Mixed, SubNetwork
from zowarmup.state import State

_LOOK_SECONDS = 1.0
_FAREWELL_SECONDS = 4.0


class _Flying(NamedTuple):
    """A message that waits for its answer."""

    node: int
    kind: Literal["enrol", "welcome", "work", "idle", "end"]
    round: int = 0
    client: int = -1
    tries: int = 0


@dataclass
class Exchange:
    """Runs a recipe's clients on nodes.

    Args:
        recipe: as it is sent to nodes, TOML.
        transport: what carries messages.
        patience: how long to wait.
        nodes: how many clients must have a node before the first round; all where left out.
        board: told of everything that happens.
        clock: seconds, monotonic.
        sleep: waits so many seconds.
    """

    recipe: str
    transport: Transport
    board: Board
    patience: Patience = field(default_factory=Patience)
    nodes: int | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    roster: Roster = field(init=False, repr=False)
    _there: set[int] = field(default_factory=set, init=False, repr=False)
    _experiment: Experiment = field(init=False, repr=False)
    _welcome: Welcome | None = field(default=None, init=False, repr=False)
    _supply: Supply | None = field(default=None, init=False, repr=False)
    _flying: dict[str, _Flying] = field(default_factory=dict, init=False, repr=False)
    _outbox: list[tuple[_Flying, bytes]] = field(default_factory=list, init=False, repr=False)
    _round: OpenRound | None = field(default=None, init=False, repr=False)
    _looked: float = field(default=-math.inf, init=False, repr=False)
    _pause: float = field(default=0.0, init=False, repr=False)

    def on(self, experiment: Experiment) -> Exchange:
        """The engine of an experiment.

        Raises:
            RecipeError: rounds that nobody can run again would have no snapshot.
        """
        trains = any(isinstance(phase, FirstOrder | Mixed | SubNetwork) for phase in experiment.recipe.phase)
        if trains and experiment.recipe.run.snapshot_every != 1:
            raise RecipeError(
                f"run.snapshot-every is {experiment.recipe.run.snapshot_every}: nodes do not run a round again",
                hint="run.snapshot-every = 1",
            )
        self._experiment = experiment
        if not hasattr(self, "roster"):
            self.seat([client.tier for client in experiment.federation.clients])
        return self

    def seat(self, tiers: Iterable[Tier | None]) -> None:
        """Make a seat for each client; its tier is None where its node says it."""
        self.roster = Roster(tiers, self._there)

    def follow(self, ledger: Ledger) -> None:
        """See :class:`Engine`: the ledger that nodes are caught up from."""
        experiment, federation = self._experiment, self._experiment.federation
        least = experiment.recipe.run.catch_up
        self._supply = supply = Supply(ledger, experiment.initial.model_bytes, least)
        self._welcome = Welcome(
            recipe=self.recipe,
            client=0,
            token=b"",
            run=supply.run,
            table=ledger.head.table.canonical(),
            data=ledger.head.data,
            high=members(federation.members("high")),
            sizes=tuple(int(n) for n in federation.sizes),
            classes=federation.classes,
        )
        for seat in self.roster.seats:
            if seat.node is not None:
                self._welcome_to(seat)
        self.gather(len(self.roster.seats) if self.nodes is None else self.nodes)

    def gather(self, count: int) -> dict[int, Card]:
        """Wait until so many clients have a node.

        Returns:
            What the nodes say of themselves, by client.

        Raises:
            QuorumError: they do not come in time.
        """
        began = self.clock()
        while len(come := {s.client: s.card for s in self.roster.seats if s.card and self.roster.connected(s)}) < count:
            if self.clock() - began > self.patience.join_seconds:
                turned = "".join(f"; node {node}: {why}" for node, why in self.roster.turned.items())
                raise QuorumError(
                    f"{len(come)} of {count} nodes have come in {self.patience.join_seconds:g} seconds{turned}",
                    hint="`zowarmup join` on each device; --nodes says how many a run begins with",
                    round=0,
                )
            self.board.gathering(len(come), count, self.patience.join_seconds - (self.clock() - began))
            self._step()
        return come

    def reports(self, phase: Phase, requests: Sequence[Request], state: State) -> Iterator[Report]:
        """See :class:`Engine`.

        Raises:
            QuorumError: too few clients answer, for too long.
        """
        supply = self._supplied()
        supply.stock(state)
        opened = OpenRound(supply.round + 1, requests, self.patience, self.clock())
        self._round = opened
        self.board.opened(opened.number, phase.scope.phase, phase.settings.kind, len(requests))
        try:
            for asked in opened.asked.values():
                while not asked.settled and not self._closed(opened):
                    self._step()
                if (report := asked.take()) is not None:
                    yield report
            opened.check()
        finally:
            self._round = None
            opened.drop()
            self.board.closed(opened.missing)

    def finish(self) -> None:
        """Tell everybody that the run has ended, and give them a moment to hear it."""
        ends = self.clock() + _FAREWELL_SECONDS
        for seat in self.roster.seats:
            if self.roster.connected(seat):
                self._send(wire.Over(run=self._supplied().run), _Flying(seat.node or 0, "end"))
        self._flush()
        while self.clock() < ends and any(each.kind == "end" for each in self._flying.values()):
            self._receive()
            self.sleep(self.patience.poll_seconds)

    # one step of the loop: what came, who is new, who can be asked

    def _step(self) -> None:
        came = self._receive()
        self._look()
        self._ask()
        sent = bool(self._outbox)
        self._flush()
        if came or sent:
            self._pause = self.patience.poll_seconds
        else:
            self._pause = min(max(self._pause, self.patience.poll_seconds) * 1.5, 8 * self.patience.poll_seconds)
        self.sleep(self._pause)

    def _receive(self) -> bool:
        came = False
        for received in self.transport.receive():
            came = True
            flying = self._flying.pop(received.message, None)
            if flying is not None:  # else of an earlier session
                self._heard(received, flying)
        return came

    def _look(self) -> None:
        """Ask who is there, now and then; ask newcomers who they are, and tell them who they are until they know. Ask
        those that have long been silent whether they are at work."""
        now = self.clock()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        before = set(self._there)
        self._there.clear()
        self._there.update(self.transport.nodes())
        waiting = [*self._flying.values(), *(flying for flying, _ in self._outbox)]
        asked = {each.node for each in waiting if each.kind in ("enrol", "welcome")}
        for node in sorted(self._there - asked):
            seat = self.roster.of(node)
            if seat is not None and not seat.ready:
                self._welcome_to(seat)
            elif seat is None and (node not in self.roster.turned or node not in before):
                self._send(Enrol(recipe=self.recipe), _Flying(node, "enrol"))
        self._wonder()

    def _wonder(self) -> None:
        """What a node was asked can be lost without a word: it was killed and came back before we saw it gone, or the
        message was cut off on its way to it. Such a node has nothing to do; one at work says so when it has done it."""
        if self._round is None or not self.transport.ordered:
            return
        now = self.clock()
        for client, asked in self._round.asked.items():
            seat = self.roster.seats[client]
            silent = asked.state == "asked" and now - asked.since > self.patience.deadline_seconds / 2
            if silent and asked.tries < TRIES and self.roster.connected(seat):
                self._say(wire.Idle(run=self._supplied().run), asked, seat, "idle")

    def _ask(self) -> None:
        """Ask the clients that have not been asked yet, and whose nodes are ready."""
        opened = self._round
        for client, asked in opened.asked.items() if opened is not None else ():
            seat = self.roster.seats[client]
            if asked.state == "asked" and not self.roster.connected(seat):
                asked.state = "waiting"
            if asked.state != "waiting" or self.clock() < asked.after:
                continue
            if not seat.ready or not self.roster.connected(seat):
                continue
            asked.tries += 1
            if asked.tries > TRIES:
                self._fail(asked, f"was asked {TRIES} times")
                continue
            asked.state = "asked"
            self._work(asked, seat)

    def _work(self, asked: Asked, seat: Seat) -> None:
        """Send a client its request, with what its node lacks of the state before the round."""
        supply, request = self._supplied(), asked.request
        delivery = Delivery() if request.carried_bytes else supply.delivery(seat.position)
        snapshot = supply.piece(delivery.snapshot, 0) if delivery.snapshot else None
        question: Question
        if snapshot is not None and snapshot.total > len(snapshot.content):
            asked.snapshot, question = delivery.snapshot, snapshot
        else:
            question = self._request(asked, delivery, snapshot)
        self.board.sent(request.client, request.payload_bytes + delivery.payload_bytes)
        self._say(question, asked, seat)

    def _request(self, asked: Asked, delivery: Delivery, snapshot: Piece | None = None) -> Work:
        supply = self._supplied()
        return Work(
            run=supply.run,
            snapshot=snapshot,
            steps=delivery.steps,
            round=supply.round,
            link=supply.link,
            request=protocol.encode(asked.request),
        )

    def _say(self, question: Question, asked: Asked, seat: Seat, kind: Literal["work", "idle"] = "work") -> None:
        """Send a node something of this round."""
        asked.since = self.clock()
        round, client = self._supplied().round + 1, asked.request.client
        self._send(question, _Flying(seat.node or 0, kind, round, client, asked.tries))

    def _send(self, question: Question, flying: _Flying) -> None:
        self._outbox.append((flying, wire.encode(question)))

    def _flush(self) -> None:
        """Send what is to be sent, in one go."""
        outbox, self._outbox = self._outbox, []
        if not outbox:
            return
        batch = [(flying.node, content) for flying, content in outbox]
        names = self.transport.send(batch, seconds=self.patience.give_up_seconds)
        for (flying, _), name in zip(outbox, names, strict=True):
            if name is None:
                self._unheard(flying, "the message could not be sent")
            else:
                self._flying[name] = flying

    def _welcome_to(self, seat: Seat) -> None:
        if self._welcome is None:  # until the run has a ledger, a seat is all there is to say
            return
        seat.ready = False
        welcome = msgspec.structs.replace(self._welcome, client=seat.client, token=seat.token)
        self._send(welcome, _Flying(seat.node or 0, "welcome"))

    # what came

    def _heard(self, received: Received, flying: _Flying) -> None:
        seat, asked = self.roster.of(flying.node), self._current(flying)
        if received.content is None:
            self._unheard(flying, received.error)
            return
        try:
            answer = wire.decode_answer(received.content)
        except WireError as error:
            self._turn(flying.node, error.message, None)
            return
        if seat is not None:
            self.board.counted(seat.client, answer.counter, *answer.wire)
        if isinstance(answer, wire.Failed):
            self._failed(answer, flying, asked)
        elif isinstance(answer, Card):
            self._carded(answer, flying.node)
        elif seat is None or isinstance(answer, wire.Bye):
            return
        elif isinstance(answer, wire.Ready):
            seat.ready, seat.position = True, answer.position
            if asked is not None:
                self._unheard(flying, "what it was asked is lost")
        elif asked is None:
            if flying.kind == "work":
                self.board.late(flying.client, flying.round)
            if isinstance(answer, wire.Done):
                seat.position = answer.position
        elif isinstance(answer, wire.Got):
            self._got(answer, asked, seat)
        elif isinstance(answer, wire.Done):
            seat.position = answer.position
            self._done(answer, asked)
        else:
            seat.position, asked.state = answer.position, "waiting"
            if not answer.enrolled:
                self._welcome_to(seat)

    def _unheard(self, flying: _Flying, why: str) -> None:
        """A message has no answer: ask again when we have looked who is there; newcomers are asked by and by anyway."""
        if flying.kind == "end":
            return
        self.board.unheard(flying.node, why)
        asked = self._current(flying)
        if asked is not None and self.roster.of(flying.node) is not None:  # else another node is the client by now
            asked.state, asked.after = "waiting", self.clock() + _LOOK_SECONDS

    def _current(self, flying: _Flying) -> Asked | None:
        """The client that a message asked, where its round is still open and it has not answered."""
        opened = self._round
        if flying.kind not in ("work", "idle") or opened is None or opened.closed or opened.number != flying.round:
            return None
        asked = opened.asked[flying.client]
        again = flying.kind == "idle" and asked.tries != flying.tries  # asked once more since
        return None if asked.settled or again else asked

    def _carded(self, card: Card, node: int) -> None:
        if card.version != wire.VERSION:
            error = f"this node speaks version {card.version} of the protocol, the server version {wire.VERSION}"
            self._turn(node, error, "both sides need the same version of zowarmup")
            return
        try:
            seat = self.roster.take(node, card)
        except Turned as turned:
            self._turn(node, str(turned), turned.hint)
            return
        self.board.joined(seat.client, node, seat.tier or card.tier, card.why)
        asked = None if self._round is None else self._round.asked.get(seat.client)
        if asked is not None and asked.state == "asked":  # by a message to a node that is gone
            asked.state = "waiting"
        self._welcome_to(seat)

    def _turn(self, node: int, why: str, hint: str | None) -> None:
        self.roster.turn(node, why)
        self.board.turned(node, why)
        self._send(wire.Turned(error=why, hint=hint), _Flying(node, "end"))

    def _failed(self, answer: wire.Failed, flying: _Flying, asked: Asked | None) -> None:
        if answer.fault != "work" or flying.kind != "work":
            self._turn(flying.node, answer.error, answer.hint)
        if asked is not None:
            self._fail(asked, answer.error)

    def _fail(self, asked: Asked, why: str) -> None:
        asked.fail(why)
        self.board.failed(asked.request.client, why)

    def _got(self, answer: wire.Got, asked: Asked, seat: Seat) -> None:
        """Send the next part of a snapshot, or, behind the last one, the request."""
        if answer.offset < len(asked.snapshot):
            self._say(self._supplied().piece(asked.snapshot, answer.offset), asked, seat)
        else:
            self._say(self._request(asked, Delivery()), asked, seat)

    def _done(self, answer: wire.Done, asked: Asked) -> None:
        client = asked.request.client
        try:
            report = protocol.decode(answer.report)
        except RunError as error:
            self._fail(asked, error.message)
            return
        if isinstance(report, Request) or report.client != client:
            self._fail(asked, f"sent a {type(report).__name__} of client {report.client}")
            return
        self.board.answered(client, report.payload_bytes, answer.seconds, answer.peak_memory_bytes)
        asked.keep(answer.report)

    def _closed(self, opened: OpenRound) -> bool:
        """Whether the round waits for nobody any more; says so while it does."""
        now, awaited = self.clock(), opened.awaited
        away = [client for client in awaited if not self.roster.connected(self.roster.seats[client])]
        if not opened.close(now, away):
            self.board.waiting(awaited, opened.remaining(now))
        return opened.closed

    def _supplied(self) -> Supply:
        assert self._supply is not None, "follow() comes first"
        return self._supply
