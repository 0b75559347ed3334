"""What clients work with on a node: model, phases and samples, made from the recipe that the server sends."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup import chain, data, recipes
from zowarmup.data import ClientData, Dataset, Federation
from zowarmup.directions import Directions, check_denormals, select
from zowarmup.directions.torch_ops import TorchDirections
from zowarmup.engines.wire import Card, Welcome
from zowarmup.errors import DataError, ModelError, RecipeError
from zowarmup.experiment import Experiment, arithmetic, assemble, choose_device, data_digest
from zowarmup.phases import Client
from zowarmup.protocol import Report, Request, bits
from zowarmup.recipe import GIVEN, Own, Recipe
from zowarmup.state import State
from zowarmup.table import Table

Tier = Literal["high", "low"]
_FEW = 2**20  # parameters


@dataclass(frozen=True)
class Materials:
    """What a node has of its own.

    Args:
        data: a training set, where the recipe deals none out: see :func:`zowarmup.data.load_own`.
        path: where the recipe's data lies, in the place of ``data.path``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        allow_code: whether a recipe may name Python code of this machine (``python:module:function``). The server sends
            the recipe, so it would choose what runs here.
        pinned: the only recipe that this node takes part in, by identity; any where empty.
        alone: keep one client's samples and let go of the others'; otherwise any client may work here.
    """

    data: Path | None = None
    path: Path | None = None
    device: str = "auto"
    allow_code: bool = False
    pinned: bytes = b""
    alone: bool = True


def received(text: str, materials: Materials) -> Recipe:
    """The recipe that a server sent, as this node runs it.

    Raises:
        RecipeError: it is none; it is another than the one this node was told to take part in; or it names code, data
            or a model that only the server has.
        DataError: it deals data out and the node was given its own, or the other way round.
    """
    recipe = recipes.parse(text, name="the server's recipe")
    identity = chain.identity(tomllib.loads(text))
    if materials.pinned and identity != materials.pinned:
        mine, theirs = json.loads(materials.pinned), json.loads(identity)
        path, (expected, got) = next(chain.unlike(mine, theirs))
        raise RecipeError(f"the server runs another recipe: {path} is {got!r}, expected {expected!r}")
    named = {"data.source": recipe.data.source, "model.net": recipe.model.net, "model.task": recipe.model.task}
    for key, value in named.items():
        if value == GIVEN and not (key == "data.source" and materials.data):
            raise RecipeError(
                f'{key} = "given": this run got it from Python, and a node cannot', hint="name it in the recipe"
            )
        if value.startswith("python:") and not materials.allow_code:
            raise RecipeError(
                f'{key} = "{value}": the server names code of this machine, and this node does not allow that',
                hint="--allow-code, if you trust the server and know the code",
            )
    brings = isinstance(recipe.data.partition, Own)
    if brings != (materials.data is not None):
        said = "every node brings its own data" if brings else "the recipe deals its own data out"
        hint = "--data FILE" if brings else "leave --data out, or give the folder of the recipe's parquet files"
        raise DataError(f'data.partition = "{recipe.data.partition.__struct_config__.tag}": {said}', hint=hint)
    place = recipe.data.path if materials.path is None else str(materials.path)
    return msgspec.structs.replace(
        recipe,
        data=msgspec.structs.replace(recipe.data, path=place),
        model=msgspec.structs.replace(recipe.model, weights=None),
    )


@dataclass(frozen=True)
class Workshop:
    """Everything that clients on this node share.

    Args:
        experiment: the run, as far as it is known here.
        indices: of the training samples, by client; of those that may work here.
    """

    experiment: Experiment
    indices: Mapping[int, NDArray[np.int64]]

    def work(self, request: Request, state: State) -> Report:
        """What a client does when asked.

        Args:
            request: to a client of this node.
            state: before the round; on the CPU.
        """
        experiment, device = self.experiment, self.experiment.model.device
        buffers = {name: buffer.to(device) for name, buffer in state.buffers.items()}
        client = Client(
            index=request.client,
            seed=experiment.recipe.seed,
            samples=experiment.train,
            indices=self.indices[request.client],
            model=experiment.model,
            state=State(state.weights.to(device), buffers),
            task=experiment.task,
        )
        with arithmetic(experiment.recipe, device):
            return experiment.phases[request.phase].work(request, client)


def furnish(recipe: Recipe, welcome: Welcome, materials: Materials) -> Workshop:
    """Load what the recipe deals out, check that it is what the server has, and build what works on it.

    Args:
        recipe: see :func:`received`.
        welcome: what the server says of the run.
        materials: what the node has.

    Raises:
        DataError: the data is not the server's, or does not fit.
        ModelError: the model is not the server's.
        UsageError: another kind of it, for what does not fit.
    """
    device, table = choose_device(materials.device), Table.parse(welcome.table)
    directions = backend(device, table, threads=recipe.run.threads, alone=materials.alone)
    check_denormals(directions)
    if materials.data is not None:
        dataset, federation, indices = _own(recipe, welcome, materials.data)
    else:
        dataset = data.load(recipe.data, seed=recipe.seed)
        federation = data.federate(recipe.data, dataset, seed=recipe.seed)
        indices = {client.index: client.train for client in federation.clients}
        if materials.alone:
            dataset, federation, indices = _alone(dataset, federation, welcome.client)
    backprop = not materials.alone or federation.clients[welcome.client].tier == "high"
    experiment = assemble(recipe, dataset, federation, device=device, directions=directions, backprop=backprop)
    if fault := experiment.model.table.unlike(table):
        raise ModelError(
            f"model.net = {recipe.model.net}: is not the server's: {fault}",
            hint="both sides need the same versions of zowarmup and of the code that makes the net",
        )
    if (mine := data_digest(experiment)) != welcome.data:
        ours, theirs = chain.shortened(mine, welcome.data)
        raise DataError(
            f"the data is not the server's: this node has {ours}, the server {theirs}",
            hint="data, partition and tiers must be the same on both sides: other files, or another version?",
        )
    return Workshop(experiment, indices)


def backend(device: torch.device, table: Table, *, threads: int, alone: bool) -> Directions:
    """The backend of directions for a node: Numba takes 60 MB, and is worth it where there are many parameters, or
    many clients in one process."""
    if device.type == "cpu" and table.size <= _FEW and alone:
        return TorchDirections(device)
    return select(device, threads=threads)


Shelf = tuple[Dataset, Federation, dict[int, NDArray[np.int64]]]


def _alone(dataset: Dataset, federation: Federation, client: int) -> Shelf:
    """One client's samples; what is known of the others is how many they have."""
    own = federation.clients[client]
    indices = np.arange(len(own.train))
    clients = tuple(
        replace(other, train=indices if other.index == client else counted(len(other.train)), validation=counted(0))
        for other in federation.clients
    )
    test = dataset.test.rows(np.arange(1))
    kept = replace(dataset, train=dataset.train.rows(own.train), test=test)
    return kept, replace(federation, clients=clients, fixed_digest=federation.digest()), {client: indices}


def _own(recipe: Recipe, welcome: Welcome, path: Path) -> Shelf:
    """The node's own samples; of the other clients it knows tier and number."""
    train = data.load_own(path, recipe.data)
    if welcome.classes is not None and int(train.y.max()) >= welcome.classes:
        raise DataError(f"{path}: has label {int(train.y.max())}, the server's classes are 0 to {welcome.classes - 1}")
    if len(train) != (before := welcome.sizes[welcome.client]):
        raise DataError(f"{path}: holds {len(train)} samples, and held {before} when the run began")
    kept = np.arange(len(train))
    high = set(bits(welcome.high))
    clients = tuple(
        ClientData(
            index=index,
            tier="high" if index in high else "low",
            train=kept if index == welcome.client else counted(size),
            validation=counted(0),
        )
        for index, size in enumerate(welcome.sizes)
    )
    dataset = Dataset(train, train.rows(np.arange(1)), welcome.classes)
    federation = Federation(clients, welcome.classes, None, fixed_digest=welcome.data)
    return dataset, federation, {welcome.client: kept}


def enlisted(cards: Mapping[int, Card], classes: int | None) -> Federation:
    """The federation of nodes that bring their own data, as the server knows it.

    Args:
        cards: what each client's node says of itself.
        classes: number of classes; None where targets are not labels.

    Raises:
        DataError: a node holds a label that is no class.
    """
    told = [card for _, card in sorted(cards.items())]
    counts = None
    if classes is not None and all(card.counts for card in told):
        for client, card in enumerate(told):
            if len(card.counts) > classes:
                raise DataError(f"client {client}: holds label {len(card.counts) - 1}, classes are 0 to {classes - 1}")
        counts = [[*card.counts, *[0] * (classes - len(card.counts))] for card in told]
    return recalled([card.tier for card in told], [card.samples for card in told], counts, classes)


def recalled(
    tiers: Sequence[Tier], sizes: Sequence[int], counts: Sequence[Sequence[int]] | None, classes: int | None
) -> Federation:
    """The same from what a ledger says.

    Args:
        tiers: of every client.
        sizes: training samples of each.
        counts: of each class at each, or None.
        classes: number of classes, or None.
    """
    clients = tuple(
        ClientData(index, tier, counted(size), counted(0))
        for index, (tier, size) in enumerate(zip(tiers, sizes, strict=True))
    )
    said = json.dumps([list(tiers), list(sizes), counts], separators=(",", ":")).encode()
    held = None if counts is None else np.array(counts, np.int64)
    return Federation(clients, classes, held, fixed_digest=chain.digest(said).hex())


def counted(count: int) -> NDArray[np.int64]:
    """Indices of which only the number is known: they take no memory.

    >>> len(counted(1000)), counted(1000).strides
    (1000, (0,))
    """
    return np.broadcast_to(np.int64(0), (count,))
