"""A federation in one process: nodes that answer through a transport made of lists, which tests make fail."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from zowarmup import loop, protocol, recipes
from zowarmup.data import load
from zowarmup.engines import wire
from zowarmup.engines.board import Board
from zowarmup.engines.exchange import Exchange
from zowarmup.engines.node import Node, Sized
from zowarmup.engines.rounds import Patience
from zowarmup.engines.transport import Received
from zowarmup.engines.workshop import Materials, Workshop, furnish
from zowarmup.ledger import Ledger
from zowarmup.recipe import Recipe
from zowarmup.trained import Trained


class Later(NamedTuple):
    """An answer that takes so many seconds."""

    seconds: float
    answer: bytes | None


Arrives = Iterable[bytes | Later | None]
"""What the server hears: an answer, several, None for the transport's error, or nothing."""
Change = Callable[[int, bytes], bytes | None]
"""Node, question -> what the node gets of it; None where it never comes, and the transport says so."""
Meddle = Callable[[int, bytes, bytes], Arrives]
"""Node, question, its answer -> what arrives."""


@dataclass
class Lists:
    """A transport: nodes answer when the server looks."""

    fleet: dict[int, Node] = field(default_factory=dict)
    change: Change = lambda node, question: question
    meddle: Meddle = lambda node, question, answer: [answer]
    clock: Callable[[], float] = lambda: 0.0
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)
    late: list[tuple[float, str, int, bytes | None]] = field(default_factory=list)
    ordered: bool = False

    def nodes(self) -> list[int]:
        return list(self.fleet)

    def send(self, batch: Sequence[tuple[int, bytes]], *, seconds: float) -> list[str | None]:
        names: list[str | None] = []
        for node, content in batch:
            names.append(f"m{len(self.sent)}")
            self.sent.append((node, content))
            self.pending.append((f"m{len(self.sent) - 1}", node, content))
        return names

    def receive(self) -> list[Received]:
        found, self.pending = self.pending, []
        came = []
        while self.late and self.late[0][0] <= self.clock():
            _, name, node, answer = heapq.heappop(self.late)
            came.append(Received(name, node, answer))
        for name, node, content in found:
            question = self.change(node, content) if node in self.fleet else None
            if question is None:
                came.append(Received(name, node, None, "gone"))
                continue
            for answer in self.meddle(node, question, self.fleet[node].answer(question)):
                if isinstance(answer, Later):
                    heapq.heappush(self.late, (self.clock() + answer.seconds, name, node, answer.answer))
                else:
                    came.append(Received(name, node, answer, "lost" if answer is None else ""))
        return came

    def asked(self, node: int) -> list[wire.Question]:
        """Everything that a node was sent."""
        return [wire.decode_question(content) for number, content in self.sent if number == node]


class Time:
    """A clock that runs when somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.at: dict[float, Callable[[], None]] = {}

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        for when in [when for when in self.at if when <= self.seconds]:
            self.at.pop(when)()


@dataclass
class Fleet:
    """A server and its nodes.

    Args:
        home: nodes keep their state below it.
        recipe: what is run.
        patience: how long the server waits.
        nodes: how many of them it waits for before it begins; all where left out.
        apart: each node makes what it works with, as on a device of its own; otherwise they share it, which is quicker.
    """

    home: Path
    recipe: Recipe
    patience: Patience = field(default_factory=Patience)
    lists: Lists = field(default_factory=Lists)
    time: Time = field(default_factory=Time)
    said: list[str] = field(default_factory=list)
    status: dict[str, object] = field(default_factory=dict)
    nodes: int | None = None
    apart: bool = False
    made: dict[bytes, Workshop] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lists.clock = self.time

    def node(self, client: int | None, tier: str = "high", name: str | None = None, **more: object) -> Node:
        home = self.home / (name or f"node-{client}")
        if not self.apart:
            more = {"shops": self._furnish} | more
        materials = more.pop("materials", Materials(device="cpu"))
        return Node(home, materials, lambda recipe: Sized(tier, "said so"), client=client, **more)

    def join(self, number: int, node: Node) -> None:
        self.lists.fleet[number] = node

    def everybody(self) -> Fleet:
        for client in range(self.recipe.data.clients or 0):
            self.join(100 + client, self.node(client))
        return self

    def _furnish(self, recipe: Recipe, welcome: wire.Welcome, materials: Materials) -> Workshop:
        if welcome.run not in self.made:
            self.made[welcome.run] = furnish(recipe, welcome, replace(materials, alone=False))
        return self.made[welcome.run]

    def exchange(self) -> Exchange:
        return Exchange(
            recipe=recipes.to_toml(self.recipe),
            transport=self.lists,
            board=Board(write=self.status.update, say=self.said.append, clock=self.time),
            patience=self.patience,
            clock=self.time,
            sleep=self.time.sleep,
            nodes=self.nodes,
        )

    def run(self, out: Path | None = None, **more: object) -> Trained:
        self.last = self.exchange()
        return loop.run(self.recipe, out=out, engine=self.last.on, device="cpu", **more)

    def resume(self, out: Path, **more: object) -> Trained:
        self.last = self.exchange()
        return loop.resume(out, engine=self.last.on, device="cpu", **more)


def short(name: str = "digits", **more: object) -> Recipe:
    """A shipped recipe with four clients, 0 and 2 of the high tier, and few rounds: two, and three."""
    values = {"data.clients": 4, "data.high-resource": 0.5, "phase.0.rounds": 2, "phase.1.rounds": 3}
    overrides = values | {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    return recipes.load(name, overrides=overrides)


def own(folder: Path, clients: int, *, rows: int = 60) -> list[Path]:
    """The digits, dealt out in files that nodes hold by themselves."""
    train = load(recipes.load("digits").data, seed=0).train
    paths = [folder / f"own-{client}.npz" for client in range(clients)]
    for client, path in enumerate(paths):
        mine = slice(client * rows, (client + 1) * rows)
        np.savez(path, x=train.x[mine], y=train.y[mine])
    return paths


def work(content: bytes) -> wire.Work | None:
    """The question, where it asks for work."""
    question = wire.decode_question(content)
    return question if isinstance(question, wire.Work) else None


def works(made: Fleet, node: int) -> list[wire.Work]:
    """All the work that a node was asked for."""
    return [question for question in made.lists.asked(node) if isinstance(question, wire.Work)]


def at_work(content: bytes) -> int:
    """The round that work is asked for; 0 where none is."""
    question = work(content)
    return 0 if question is None else question.round + 1


def reporting(answer: bytes, **changes: object) -> bytes:
    """The same answer with other values in its report."""
    done = wire.decode_answer(answer)
    assert isinstance(done, wire.Done)
    report = msgspec.structs.replace(protocol.decode(done.report), **changes)
    return wire.encode(msgspec.structs.replace(done, report=protocol.encode(report)))


def stop_after(round: int) -> Callable[[object], None]:
    """Stops a run, as Ctrl+C does."""

    def stop(progress: object) -> None:
        if progress.round == round:
            raise KeyboardInterrupt

    return stop


def counted(out: Path) -> dict[int, tuple[int, ...]]:
    """The clients whose reports count, by round, as the ledger says."""
    with Ledger.open(out) as ledger:
        return {row.round: row.decoded().participants for row in ledger.rows(1)}


def refused(out: Path) -> dict[int, dict[int, str]]:
    """The clients whose reports do not, and why, by round."""
    with Ledger.open(out) as ledger:
        return {row.round: dict(row.decoded().refused) for row in ledger.rows(1) if row.decoded().refused}
