"""A federation in one process: nodes that answer through a transport made of lists, which tests make fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zowarmup import loop, recipes
from zowarmup.engines import wire
from zowarmup.engines.board import Board
from zowarmup.engines.exchange import Exchange, Received
from zowarmup.engines.node import Node, Sized
from zowarmup.engines.rounds import Patience
from zowarmup.engines.workshop import Materials
from zowarmup.recipe import Recipe
from zowarmup.trained import Trained

Meddle = Callable[[int, bytes, bytes], Iterable[bytes | None]]
"""Node, question, its answer -> what arrives: that, others, several, None for the transport's error, or nothing."""


@dataclass
class Lists:
    """A transport: nodes answer when the server looks."""

    fleet: dict[int, Node] = field(default_factory=dict)
    meddle: Meddle = lambda node, question, answer: [answer]
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    pending: list[tuple[str, int, bytes]] = field(default_factory=list)

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
        for name, node, content in found:
            if node not in self.fleet:
                came.append(Received(name, node, None, "gone"))
                continue
            for answer in self.meddle(node, content, self.fleet[node].answer(content)):
                came.append(Received(name, node, answer, "lost" if answer is None else ""))
        return came


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
    """

    home: Path
    recipe: Recipe
    patience: Patience = field(default_factory=Patience)
    lists: Lists = field(default_factory=Lists)
    time: Time = field(default_factory=Time)
    said: list[str] = field(default_factory=list)
    status: dict[str, object] = field(default_factory=dict)

    def node(self, client: int | None, tier: str = "high", name: str | None = None, **more: object) -> Node:
        home = self.home / (name or f"node-{client}")
        materials = more.pop("materials", Materials())
        return Node(home, materials, lambda recipe: Sized(tier, "said so"), client=client, **more)

    def join(self, number: int, node: Node) -> None:
        self.lists.fleet[number] = node

    def everybody(self) -> Fleet:
        for client in range(self.recipe.data.clients or 0):
            self.join(100 + client, self.node(client))
        return self

    def exchange(self) -> Exchange:
        return Exchange(
            recipe=recipes.to_toml(self.recipe),
            transport=self.lists,
            board=Board(write=self.status.update, say=self.said.append, clock=self.time),
            patience=self.patience,
            clock=self.time,
            sleep=self.time.sleep,
            nodes=len(self.lists.fleet),
        )

    def run(self, out: Path | None = None, **more: object) -> Trained:
        self.last = self.exchange()
        return loop.run(self.recipe, out=out, engine=self.last.on, **more)

    def resume(self, out: Path, **more: object) -> Trained:
        self.last = self.exchange()
        return loop.resume(out, engine=self.last.on, **more)


def short(name: str = "digits", **more: object) -> Recipe:
    values = {"data.clients": 5, "data.high-resource": 0.4, "phase.0.rounds": 2, "phase.1.rounds": 4}
    overrides = values | {key.replace("__", "."): value for key, value in more.items()}
    return recipes.load(name, overrides=overrides)


def asked(content: bytes) -> type:
    """The kind of a question."""
    return type(wire.decode_question(content))
