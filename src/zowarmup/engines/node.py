"""A node: answers a server's questions with what it keeps on its disk; knows no transport."""

from __future__ import annotations

import contextlib
import secrets
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch

from zowarmup import chain, data, protocol
from zowarmup.directions import Directions
from zowarmup.disk import Disk
from zowarmup.engines import wire
from zowarmup.engines.replica import Replica
from zowarmup.engines.wire import Answer, Card, Done, Enrol, Fault, Piece, Position, Question, Welcome, Work
from zowarmup.engines.workshop import Materials, Tier, Workshop, backend, furnish, received
from zowarmup.errors import (
    DataError,
    ModelError,
    RecipeError,
    ReplayMismatch,
    RunError,
    UsageError,
    WireError,
    ZOWarmUpError,
)
from zowarmup.memory import Peak
from zowarmup.recipe import Recipe
from zowarmup.state import State
from zowarmup.table import Table

_FAULTS: tuple[tuple[type[ZOWarmUpError], Fault], ...] = (
    (WireError, "version"),
    (RecipeError, "recipe"),
    (DataError, "data"),
    (ModelError, "model"),
)
Shops = Callable[[Recipe, Welcome, Materials], Workshop]
Replicas = Callable[[Path, bytes, Table, Directions], Replica]


@dataclass(frozen=True)
class Sized:
    """Which tier a device is of, and why."""

    tier: Tier
    why: str


class Enrolment(msgspec.Struct, frozen=True, array_like=True):
    """What a node keeps of a run it takes part in."""

    recipe: str
    welcome: Welcome


@dataclass
class Node:
    """One client's device.

    Everything that must outlive this object is below ``home``, so that a process that ends after every message, or is
    killed, is as good as one that stays.

    Args:
        home: the node's folder.
        materials: its data, device and settings.
        size: says which tier the device is of, once the recipe is known.
        client: the client it wants to be; any free one of its tier where left out.
        label: tells clients apart that share ``home``; their copy of the state is one.
        counter: bytes sent and received at the socket so far.
        shops: makes what clients work with, or has it already: clients in one process share it.
        replicas: likewise for the copy of the state.
    """

    home: Path
    materials: Materials
    size: Callable[[Recipe], Sized]
    client: int | None = None
    label: str = "node"
    counter: Callable[[], tuple[int, int]] = lambda: (0, 0)
    shops: Shops = furnish
    replicas: Replicas = Replica
    over: bool = field(default=False, init=False)
    """The server has said that the run has ended."""
    refused: ZOWarmUpError | None = field(default=None, init=False)
    """Why this node can take no part in the run; None where it can."""
    told: Callable[[str], None] = lambda text: None
    """Called with what a person at the node may want to read."""
    _counter: bytes = field(default_factory=lambda: secrets.token_bytes(8), init=False, repr=False)
    _place: Place | None = field(default=None, init=False, repr=False)
    _sized: tuple[str, Sized] | None = field(default=None, init=False, repr=False)

    def answer(self, content: bytes) -> bytes:
        """Answer a question. What goes wrong is an answer too."""
        try:
            answer = self._answer(wire.decode_question(content))
        except Exception as error:
            if isinstance(error, UsageError):
                self.refused = error  # a person has to do something first
            answer = self._failed(error)
        return wire.encode(msgspec.structs.replace(answer, wire=self.counter(), counter=self._counter))

    def _answer(self, question: Question) -> Answer:
        if isinstance(question, Enrol):
            return self._card(question)
        if isinstance(question, Welcome):
            return self._welcomed(question)
        if isinstance(question, wire.Over):
            self.over = True
            return wire.Bye()
        if isinstance(question, wire.Turned):
            self.refused = RunError(question.error, hint=question.hint)
            return wire.Bye()
        place = self._place_of(question.run)
        if place is None:
            return wire.Behind(position=Position(), enrolled=False)
        if isinstance(question, wire.Idle):
            return wire.Ready(position=place.replica.position)
        if isinstance(question, Piece):
            return self._received(question, place)
        return self._worked(question, place)

    def _card(self, question: Enrol) -> Answer:
        if question.version != wire.VERSION:
            raise WireError(
                f"the server speaks version {question.version} of the protocol, this node version {wire.VERSION}",
                hint="both sides need the same version of zowarmup",
            )
        recipe = received(question.recipe, self.materials)
        if self._sized is None or self._sized[0] != question.recipe:
            self._sized = question.recipe, self.size(recipe)
        tier = self._sized[1]
        samples, counts = 0, ()
        if self.materials.data is not None:
            labels = data.load_own(self.materials.data, recipe.data).y
            samples = len(labels)
            counts = tuple(np.bincount(labels).tolist()) if labels.ndim == 1 and labels.dtype == np.int64 else ()
        known = self._place_for(question.recipe)
        if known is None:
            return Card(client=self.client, tier=tier.tier, why=tier.why, samples=samples, counts=counts)
        self._place = known
        welcome = known.enrolment.welcome
        return Card(
            client=welcome.client,
            token=welcome.token,
            tier=tier.tier,
            why=tier.why,
            samples=samples,
            counts=counts,
            position=known.replica.position,
        )

    def _welcomed(self, welcome: Welcome) -> Answer:
        known = self._place
        enrolment = Enrolment(welcome.recipe, welcome)
        if known is None or known.enrolment != enrolment:
            recipe = received(welcome.recipe, self.materials)
            known = self._made(self._folder(welcome.run), recipe, enrolment)
            _ = known.shop  # refuses what does not fit before anything is kept
            disk = Disk(sync=False)
            disk.mkdir(known.folder)
            disk.write(known.folder / self._file, msgspec.msgpack.encode(enrolment))
            self._place = known
        self.refused = None
        self.told(f"takes part as client {welcome.client}")
        return wire.Ready(position=known.replica.position)

    def _received(self, piece: Piece, place: Place) -> Answer:
        try:
            return wire.Got(round=piece.round, offset=place.replica.receive(piece, self.label))
        except (WireError, ReplayMismatch) as error:
            return self._anew(error)

    def _anew(self, error: ZOWarmUpError) -> Answer:
        """Ask for a snapshot, as what came was changed on the way."""
        self.told(str(error))
        return wire.Behind(position=Position())

    def _worked(self, work: Work, place: Place) -> Answer:
        request = protocol.decode(work.request)
        if not isinstance(request, protocol.Request):
            raise WireError(f"round {work.round + 1}: the server sent a {type(request).__name__}, expected a request")
        own = place.enrolment.welcome.client
        if request.client != own:
            raise WireError(f"round {request.round}: is for client {request.client}, this is client {own}")
        if request.carried_bytes:
            state = State(place.shop.experiment.initial.weights)
        else:
            try:
                if work.snapshot is not None:
                    place.replica.receive(work.snapshot, self.label)
                held = place.replica.advance(work.steps, round=work.round, link=work.link)
            except (WireError, ReplayMismatch) as error:
                return self._anew(error)
            if held is None:
                return wire.Behind(position=place.replica.position)
            state = held.state
        self.told(f"round {request.round}: at work")
        began = time.perf_counter()
        report = place.shop.work(request, state)
        seconds = time.perf_counter() - began
        return Done(
            report=protocol.encode(report),
            position=place.replica.position,
            seconds=round(seconds, 4),
            peak_memory_bytes=place.peak.bytes(),
        )

    def _failed(self, error: Exception) -> wire.Failed:
        if not isinstance(error, ZOWarmUpError):
            return wire.Failed(fault="work", error=f"{type(error).__name__}: {error}")
        fault: Fault = next((name for kind, name in _FAULTS if isinstance(error, kind)), "work")
        self.told(str(error))
        return wire.Failed(fault=fault, error=error.message, hint=error.hint)

    @property
    def _file(self) -> str:
        return f"enrolment-{self.label}"

    def _folder(self, run: bytes) -> Path:
        return self.home / run.hex()[:16]

    def _place_of(self, run: bytes) -> Place | None:
        """The node's place in a run; None where it has none."""
        if self._place is None or self._place.enrolment.welcome.run != run:
            self._place = self._read(self._folder(run))
        return self._place

    def _place_for(self, text: str) -> Place | None:
        """The node's place in a run of this recipe; None where it has none, or was told to be another client."""
        wanted = chain.identity(tomllib.loads(text))
        for path in sorted(self.home.glob(f"*/{self._file}")):
            place = self._read(path.parent)
            if place is not None and chain.identity(tomllib.loads(place.enrolment.recipe)) == wanted:
                return place if self.client in (None, place.enrolment.welcome.client) else None
        return None

    def _read(self, folder: Path) -> Place | None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):  # torn by a power cut: enrol again
            enrolment = msgspec.msgpack.decode((folder / self._file).read_bytes(), type=Enrolment)
            return self._made(folder, received(enrolment.recipe, self.materials), enrolment)
        return None

    def _made(self, folder: Path, recipe: Recipe, enrolment: Enrolment) -> Place:
        return Place(folder, recipe, enrolment, self.materials, self.shops, self.replicas)


@dataclass
class Place:
    """A node's place in one run.

    Args:
        folder: of the run, below the node's.
        recipe: as this node runs it.
        enrolment: what the server said.
        materials: what the node has.
        shops: makes what it works with.
        replicas: makes its copy of the state.
    """

    folder: Path
    recipe: Recipe
    enrolment: Enrolment
    materials: Materials
    shops: Shops
    replicas: Replicas

    @cached_property
    def replica(self) -> Replica:
        """The node's copy of the state."""
        welcome = self.enrolment.welcome
        table = Table.parse(welcome.table)
        directions = backend(torch.device("cpu"), table, threads=self.recipe.run.threads, alone=self.materials.alone)
        return self.replicas(self.folder, welcome.run, table, directions)

    @cached_property
    def shop(self) -> Workshop:
        """What the client works with."""
        return self.shops(self.recipe, self.enrolment.welcome, self.materials)

    @cached_property
    def peak(self) -> Peak:
        """Memory, from the first work on."""
        return Peak(self.shop.experiment.model.device)
