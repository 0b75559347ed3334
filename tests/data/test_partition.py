from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from zowarmup.data import Split, partition
from zowarmup.data.equal_size import _first_come, equal_size_counts, near_equal
from zowarmup.draws import Draw
from zowarmup.errors import DataError
from zowarmup.recipe import Dirichlet, DirichletByClass, Iid, Natural, Quantity, Shards

EVERY = [
    Iid(),
    Dirichlet(alpha=0.1),
    Dirichlet(alpha=1e-9),
    Dirichlet(alpha=1e300),
    DirichletByClass(alpha=1.0, min_samples=1),
    Shards(per_client=2),
    Quantity(alpha=1.0, min_samples=1),
    Natural(column="writer"),
]


def _train(labels: Any) -> Split:
    y = np.asarray(labels, np.int64)
    return Split(np.zeros((len(y), 1), np.float32), y, {"writer": y % 7})


def _counts(parts: tuple[NDArray[np.int64], ...], train: Split) -> NDArray[np.int64]:
    return np.stack([np.bincount(train.y[part], minlength=int(train.y.max()) + 1) for part in parts])


TRAIN = _train(np.arange(1000) % 10)


@pytest.mark.parametrize("kind", EVERY, ids=repr)
@given(
    labels=st.lists(st.sampled_from([0, 0, 0, 1, 2, 5]), min_size=40, max_size=120),
    clients=st.integers(1, 8),
    seed=st.integers(0, 2**63 - 1),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_disjoint_complete_ascending(kind: Any, labels: list[int], clients: int, seed: int) -> None:
    train = _train(labels)
    parts = partition(kind, train, clients=None if isinstance(kind, Natural) else clients, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    assert all(len(part) and (np.diff(part) > 0).all() and part.dtype == np.int64 for part in parts)
    if isinstance(kind, Iid | Dirichlet):
        assert [len(part) for part in parts] == near_equal(len(labels), clients).tolist()


@pytest.mark.parametrize("kind", EVERY[:-1], ids=repr)
def test_the_seed_decides(kind: Any) -> None:
    a, b, c = (partition(kind, TRAIN, clients=10, seed=seed) for seed in (0, 0, 1))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert any(x.shape != y.shape or (x != y).any() for x, y in zip(a, c, strict=True))


@pytest.mark.parametrize("kind", [Iid(), Dirichlet(alpha=0.1), Shards(per_client=2)], ids=repr)
def test_as_many_clients_as_samples_can_be(kind: Any) -> None:
    clients = len(TRAIN) // 2 if isinstance(kind, Shards) else len(TRAIN)
    assert len(partition(kind, TRAIN, clients=clients, seed=0)) == clients


# --- dirichlet


def test_alpha_to_zero_is_one_class_a_client() -> None:
    """Clients that want the same class share it evenly; the rest of what they hold is what nobody wanted."""
    wanted = Draw(0, "test").generator().dirichlet(np.full(10, 1e-6), size=10).argmax(axis=1)
    counts = equal_size_counts(1e-9, np.full(10, 10_000), 10, Draw(0, "test").generator())
    rivals = np.bincount(wanted, minlength=10)[wanted]
    got = counts[np.arange(10), wanted] / 10_000
    assert rivals.max() > 1
    for number in set(rivals.tolist()):
        assert np.ptp(got[rivals == number]) < 0.05  # turns are random: standard deviations are below .01
    assert (got[rivals == 1] > 0.7).all()


def test_alpha_to_infinity_is_the_prior() -> None:
    stock = np.array([5000, 2500, 2500, 0])
    counts = equal_size_counts(1e300, stock, 10, Draw(0, "test").generator())
    # Hypergeometric-like counts: standard deviations are below sqrt(1000 x .25) = 16; six of them.
    assert np.abs(counts - np.array([500, 250, 250, 0])).max() < 96


def test_mixes_are_as_concentrated_as_drawn() -> None:
    """Dealing without replacement does not water the mixes down: as many classes a client as plain Dirichlet draws.

    The number of classes is the exponential of a mix's entropy: 2.5 on average for ten classes at alpha 0.1. One
    sample a turn without scaling gives 3.0, clients one after the other 2.3, with 50 clients of 1,000 samples.
    """
    generator = Draw(0, "test").generator()
    drawn = _effective_classes(generator.dirichlet(np.full(10, 0.1), size=2000))
    dealt = [equal_size_counts(0.1, np.full(10, 2000), 50, generator) / 400 for _ in range(10)]
    # Standard errors are .03 and .06.
    assert abs(np.mean([_effective_classes(mix) for mix in dealt]) - drawn) < 0.2


def _effective_classes(mixes: NDArray[np.float64]) -> float:
    return float(np.exp(-(mixes * np.log(np.maximum(mixes, 1e-300))).sum(axis=1)).mean())


def test_no_client_is_served_last() -> None:
    """Distance of what clients got from what they wanted does not grow with their number, as it does one by one."""
    stock, clients, seeds = np.full(10, 500), 20, 60
    distance = np.zeros(clients)
    for seed in range(seeds):
        wanted = Draw(seed, "test").generator().dirichlet(np.full(10, 0.1), size=clients)
        got = equal_size_counts(0.1, stock, clients, Draw(seed, "test").generator()) / 250
        distance += np.abs(got - wanted).sum(axis=1) / 2 / seeds
    first, last = distance[:10].mean(), distance[10:].mean()
    # The standard error of either mean is about .3 / sqrt(600) = .012; one by one, the halves differ by about .2.
    assert abs(first - last) < 0.05


def test_first_come_first_served() -> None:
    labels, left = np.array([2, 0, 2, 2, 1]), np.array([5, 0, 2])
    assert _first_come(labels, left).tolist() == [True, True, True, False, False]


# --- the others


def test_dirichlet_by_class_goes_by_class() -> None:
    even = _counts(partition(DirichletByClass(alpha=1e300), TRAIN, clients=10, seed=0), TRAIN)
    assert (even == 10).all()
    uneven = _counts(partition(DirichletByClass(alpha=0.3, min_samples=20), TRAIN, clients=10, seed=0), TRAIN)
    assert uneven.sum(axis=1).min() >= 20
    assert uneven.max() > 30


def test_quantity_has_other_sizes_and_the_same_labels() -> None:
    train = _train(np.arange(20_000) % 10)
    parts = partition(Quantity(alpha=0.5, min_samples=50), train, clients=20, seed=0)
    sizes = np.array([len(part) for part in parts])
    assert sizes.min() >= 50
    assert sizes.max() > 2 * sizes.mean()
    shares = _counts(parts, train)[sizes > 1000] / sizes[sizes > 1000, None]
    assert np.abs(shares - 0.1).max() < 6 * np.sqrt(0.09 / 1000)  # six standard deviations


def test_shards_hold_few_classes() -> None:
    counts = _counts(partition(Shards(per_client=2), TRAIN, clients=20, seed=0), TRAIN)
    assert (counts.sum(axis=1) == 50).all()
    assert (counts > 0).sum(axis=1).max() <= 2


def test_natural_goes_by_value() -> None:
    train = Split(TRAIN.x[:5], TRAIN.y[:5], {"writer": np.array(["bob", "ada", "bob", "cyd", "ada"])})
    parts = partition(Natural(column="writer"), train, clients=None, seed=0)
    assert [part.tolist() for part in parts] == [[1, 4], [0, 2], [3]]
    some = partition(Natural(column="writer"), train, clients=2, seed=0)
    assert len(some) == 2
    assert {tuple(part.tolist()) for part in some} < {(1, 4), (0, 2), (3,)}
    assert len({str(partition(Natural(column="writer"), train, clients=1, seed=seed)) for seed in range(20)}) == 3


# --- what cannot be


FLOATS = Split(TRAIN.x, TRAIN.y * 0.5, {"writer": np.full(1000, np.nan)})


@pytest.mark.parametrize(
    ("kind", "train", "clients", "message"),
    [
        (Iid(), TRAIN, 1001, "1001 clients, but only 1000 training samples"),
        (Dirichlet(), TRAIN, 1001, "1001 clients, but only 1000 training samples"),
        (Shards(per_client=3), TRAIN, 500, "500 clients x 3 shards, but only 1000 training samples"),
        (Quantity(min_samples=11), TRAIN, 100, "100 clients of at least 11 samples, but only 1000 training samples"),
        (
            DirichletByClass(alpha=1e-3),
            TRAIN,
            100,
            "no partition in 1000 draws gives every client 10 samples; the best",
        ),
        (Iid(), TRAIN, None, "data.clients is missing"),
        (Dirichlet(), FLOATS, 10, "goes by class labels, but y has shape (1000,) and type float64"),
        (Shards(), FLOATS, 10, "goes by class labels"),
        (DirichletByClass(), FLOATS, 10, "goes by class labels"),
        (Natural(column="device"), TRAIN, None, "there is no column `device` to partition by; columns: writer"),
        (Natural(column="device"), Split(TRAIN.x, TRAIN.y), None, "columns: none"),
        (Natural(column="writer"), TRAIN, 8, "8 clients, but column `writer` has only 7 values"),
        (Natural(column="writer"), FLOATS, None, "column `writer` names no client for sample 0: it is NaN"),
    ],
)
def test_wrong(kind: Any, train: Split, clients: int | None, message: str) -> None:
    with pytest.raises(DataError) as caught:
        partition(kind, train, clients=clients, seed=0)
    assert message in caught.value.message


def test_without_labels() -> None:
    assert len(partition(Iid(), FLOATS, clients=3, seed=0)) == 3
    assert len(partition(Quantity(), FLOATS, clients=3, seed=0)) == 3
