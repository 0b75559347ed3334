"""Partitions: which client holds which training sample.

Every method below returns the **owner** of each sample, shape ``(n,)``, and :func:`partition` turns owners into the
clients' indices. All but ``natural`` with ``clients`` give every sample to somebody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zowarmup.data.dataset import Split
from zowarmup.data.equal_size import bounded, equal_size_counts, near_equal
from zowarmup.draws import Draw
from zowarmup.errors import DataError
from zowarmup.recipe import Dirichlet, DirichletByClass, Iid, Natural, Own, Partition, Quantity, Shards

_TRIES = 1000
_NOBODY = -1


def partition(settings: Partition, train: Split, *, clients: int | None, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Deal the training samples out to clients.

    Args:
        settings: the recipe's partition.
        train: the training set.
        clients: how many; None only for a natural partition, where the number of values stands in.
        seed: the run seed.

    Returns:
        The indices of each client's samples: disjoint, ascending, none empty.

    Raises:
        DataError: more clients (or shards) than samples, targets that are not labels, a minimum that cannot be met,
            or a column that is missing.

    >>> train = Split(np.zeros((6, 1), np.float32), np.array([0, 1, 0, 1, 0, 1]))
    >>> [part.tolist() for part in partition(Shards(per_client=1), train, clients=2, seed=0)]
    [[0, 2, 4], [1, 3, 5]]
    """
    if isinstance(settings, Own):
        raise DataError(
            'data.partition = { kind = "own" }: every node brings its own data, and there are no nodes in one process',
            hint="`zowarmup server` runs it; `zowarmup join HOST:PORT --data FILE` brings data",
        )
    if isinstance(settings, Natural):
        owner = _natural(settings, train, clients, seed)
        return _indices(owner, int(owner.max()) + 1)
    if clients is None:
        raise DataError("data.clients is missing; only a natural partition does without it")
    if clients > len(train):
        raise DataError(f"{clients} clients, but only {len(train)} training samples")
    if isinstance(settings, Iid):
        owner = _by_sizes(near_equal(len(train), clients), seed)
    elif isinstance(settings, Quantity):
        owner = _by_sizes(_quantity(settings, len(train), clients, seed), seed)
    elif isinstance(settings, Shards):
        owner = _shards(settings, _labels(train), clients, seed)
    elif isinstance(settings, Dirichlet):
        labels = _labels(train)
        generator = Draw(seed, "partition-mix").generator()
        owner = _by_counts(equal_size_counts(settings.alpha, np.bincount(labels), clients, generator), labels, seed)
    else:
        labels = _labels(train)
        owner = _by_counts(_by_class(settings, np.bincount(labels), clients, seed), labels, seed)
    return _indices(owner, clients)


def _by_class(settings: DirichletByClass, stock: NDArray[np.int64], clients: int, seed: int) -> NDArray[np.int64]:
    """Counts ``(clients, classes)``: each class by its own Dirichlet draw, cut at rounded cumulative shares."""
    generator = Draw(seed, "partition-mix").generator()

    def draw() -> NDArray[np.int64]:
        shares = generator.dirichlet(bounded(np.full(clients, settings.alpha)), size=len(stock))
        return _cut(shares, stock[:, None]).T

    return _until_enough(draw, settings.min_samples, int(stock.sum()), clients)


def _quantity(settings: Quantity, total: int, clients: int, seed: int) -> NDArray[np.int64]:
    """Sizes, shape ``(clients,)``."""
    generator = Draw(seed, "partition-mix").generator()

    def draw() -> NDArray[np.int64]:
        return _cut(generator.dirichlet(bounded(np.full(clients, settings.alpha))), total)

    return _until_enough(draw, settings.min_samples, total, clients)


def _cut(shares: NDArray[np.float64], total: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers near ``shares * total`` along the last axis, which add up to ``total``."""
    edges = np.rint(np.minimum(shares.cumsum(axis=-1), 1.0) * total).astype(np.int64)
    edges[..., -1:] = total
    return np.asarray(np.diff(edges, axis=-1, prepend=0))


def _until_enough(draw: Callable[[], NDArray[np.int64]], minimum: int, total: int, clients: int) -> NDArray[np.int64]:
    hint = "lower `min-samples`, raise `alpha`, or take fewer clients"
    if minimum * clients > total:
        raise DataError(
            f"{clients} clients of at least {minimum} samples, but only {total} training samples", hint=hint
        )
    best = 0
    for _ in range(_TRIES):
        counts: NDArray[np.int64] = draw()
        smallest = int(counts.reshape(clients, -1).sum(axis=1).min())
        if smallest >= minimum:
            return counts
        best = max(best, smallest)
    raise DataError(
        f"no partition in {_TRIES} draws gives every client {minimum} samples; the best smallest client has {best}",
        hint=hint,
    )


def _shards(settings: Shards, labels: NDArray[np.int64], clients: int, seed: int) -> NDArray[np.int64]:
    shards = clients * settings.per_client
    if shards > len(labels):
        raise DataError(f"{clients} clients x {settings.per_client} shards, but only {len(labels)} training samples")
    shuffled = Draw(seed, "partition").permutation(len(labels))
    by_label = shuffled[np.argsort(labels[shuffled], kind="stable")]
    dealt = np.empty(shards, np.int64)
    dealt[Draw(seed, "partition-mix").permutation(shards)] = np.arange(shards) // settings.per_client
    owner = np.empty(len(labels), np.int64)
    owner[by_label] = np.repeat(dealt, near_equal(len(labels), shards))
    return owner


def _natural(settings: Natural, train: Split, clients: int | None, seed: int) -> NDArray[np.int64]:
    """One client a value, in the order of the values; with ``clients``, so many values drawn by the seed."""
    if settings.column not in train.columns:
        raise missing_column("training data", settings.column, train.columns)
    column = train.columns[settings.column]
    if column.dtype.kind == "f" and np.isnan(column).any():
        row = int(np.flatnonzero(np.isnan(column))[0])
        raise DataError(f"column `{settings.column}` names no client for sample {row}: it is NaN")
    values, owner = np.unique(column, return_inverse=True)
    if clients is None:
        return owner.astype(np.int64)
    if clients > len(values):
        raise DataError(f"{clients} clients, but column `{settings.column}` has only {len(values)} values")
    number = np.full(len(values), _NOBODY)
    number[Draw(seed, "partition").choose(len(values), clients)] = np.arange(clients)
    return number[owner]


def missing_column(where: str, column: str, names: Iterable[str]) -> DataError:
    """What a natural partition says where its column is missing."""
    listed = ", ".join(names) or "none"
    return DataError(f"{where}: there is no column `{column}` to partition by; columns: {listed}")


def _by_sizes(sizes: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    owner = np.empty(int(sizes.sum()), np.int64)
    owner[Draw(seed, "partition").permutation(len(owner))] = np.repeat(np.arange(len(sizes)), sizes)
    return owner


def _by_counts(counts: NDArray[np.int64], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Which samples of a class a client gets is a random draw too."""
    owner = np.empty(len(labels), np.int64)
    for label in range(counts.shape[1]):
        mine = np.flatnonzero(labels == label)
        order = Draw(seed, "partition", index=label).permutation(len(mine))
        owner[mine[order]] = np.repeat(np.arange(len(counts)), counts[:, label])
    return owner


def _indices(owner: NDArray[np.int64], clients: int) -> tuple[NDArray[np.int64], ...]:
    order = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[order], np.arange(clients + 1))
    parts = tuple(order[start:end].astype(np.int64) for start, end in pairwise(edges))
    assert all(len(part) for part in parts), "every method gives every client a sample"
    return parts


def _labels(train: Split) -> NDArray[np.int64]:
    if train.y.ndim != 1 or train.y.dtype.kind not in "iu" or train.y.min() < 0:
        raise DataError(
            f"this partition goes by class labels, but y has shape {train.y.shape} and type {train.y.dtype}",
            hint='partition = { kind = "iid" }, "quantity" or "natural" do without labels',
        )
    return train.y
