"""The federation: clients, what each holds, and which of them can run backprop."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from zowarmup.data.dataset import Dataset
from zowarmup.data.partition import partition
from zowarmup.draws import Draw
from zowarmup.errors import DataError
from zowarmup.recipe import Data


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds.

    Args:
        index: the client.
        tier: ``"high"``: can run backprop and send weights; ``"low"``: forward passes and scalars alone.
        train: indices of its training samples, ascending, shape ``(n_j,)``; at least one.
        validation: indices it holds back for choosing settings, ascending; never trained on.
    """

    index: int
    tier: Literal["high", "low"]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Federation:
    """Everybody who takes part.

    Args:
        clients: in order of their index.
        classes: number of classes; None where targets are not classes.
        class_counts: training samples of each class at each client, shape ``(clients, classes)``, or None.
        dataset_digest: of the dataset that the indices point into.
        fixed_digest: of the federation, where it was worked out before indices were let go of.
    """

    clients: tuple[ClientData, ...]
    classes: int | None
    class_counts: NDArray[np.int64] | None
    dataset_digest: str = ""
    fixed_digest: str = ""

    def members(self, tier: Literal["high", "low", "all"]) -> tuple[int, ...]:
        """The clients of a tier, ascending."""
        return self._members[tier]

    @cached_property
    def sizes(self) -> Int[np.ndarray, " clients"]:
        """Training samples of each client, n_j."""
        return np.array([len(client.train) for client in self.clients], np.int64)

    def low_held_classes(self) -> tuple[int, ...]:
        """Classes of which high-resource clients hold less than half their proportional share.

        Those with (held by high / all of the class) < 1/2 (training samples of high / all); none where either tier is
        empty. A method that leaves low-resource clients out learns these worst.
        """
        high = list(self.members("high"))
        if self.class_counts is None or not high or not self.members("low"):
            return ()
        of_class, held = self.class_counts.sum(axis=0), self.class_counts[high].sum(axis=0)
        # In whole numbers, so that a share of exactly one half is not a matter of rounding.
        less = 2 * held * self.sizes.sum() < self.sizes[high].sum() * of_class
        return tuple(int(label) for label in np.flatnonzero(less))

    def digest(self) -> str:
        """blake2b-256, in hex, of the dataset's digest and of every client's indices and tier."""
        return self.fixed_digest or self._digest

    @cached_property
    def _members(self) -> dict[str, tuple[int, ...]]:
        tiers = {tier: tuple(c.index for c in self.clients if c.tier == tier) for tier in ("high", "low")}
        return {**tiers, "all": tuple(client.index for client in self.clients)}

    @cached_property
    def _digest(self) -> str:
        state = hashlib.blake2b(digest_size=32)
        state.update(f"dataset {self.dataset_digest}\n".encode())
        for client in self.clients:
            header = f"client {client.index} {client.tier} {len(client.train)} {len(client.validation)}\n"
            state.update(header.encode())
            state.update(client.train.astype("<i8").tobytes() + client.validation.astype("<i8").tobytes())
        return state.hexdigest()


def federate(settings: Data, dataset: Dataset, *, seed: int) -> Federation:
    """Deal the training set out, hold validation samples back, and draw tiers.

    Args:
        settings: the recipe's ``data`` table.
        dataset: what :func:`zowarmup.data.load` gave.
        seed: the run seed.

    Raises:
        DataError: the partition cannot be made (see :func:`zowarmup.data.partition`), or ``high-resource`` lists a
            client twice, or one there is not.
    """
    parts = partition(settings.partition, dataset.train, clients=settings.clients, seed=seed)
    high = _high(settings.high_resource, len(parts), seed)
    clients = []
    for index, part in enumerate(parts):
        held = _held_back(len(part), settings.validation, Draw(seed, "validation", client=index))
        clients.append(ClientData(index, "high" if index in high else "low", part[~held], part[held]))
    counts = None
    if dataset.classes is not None:
        counts = np.stack([np.bincount(dataset.train.y[c.train], minlength=dataset.classes) for c in clients])
    return Federation(tuple(clients), dataset.classes, counts, dataset.digest())


def _held_back(count: int, share: float, draw: Draw) -> NDArray[np.bool_]:
    """Which samples are for validation: the share, rounded; at least one is left to train on."""
    held = np.zeros(count, np.bool_)
    size = min(round(share * count), count - 1)
    if size:
        held[draw.choose(count, size)] = True
    return held


def _high(setting: float | tuple[int, ...], clients: int, seed: int) -> frozenset[int]:
    if not isinstance(setting, tuple):
        return frozenset(Draw(seed, "tiers").choose(clients, round(setting * clients)).tolist())
    for index in setting:
        if not 0 <= index < clients:
            raise DataError(f"data.high-resource lists client {index}; clients are 0 to {clients - 1}")
        if setting.count(index) > 1:
            raise DataError(f"data.high-resource lists client {index} twice")
    return frozenset(setting)
