from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zowarmup.data import ClientData, Dataset, Federation, digits, federate, from_arrays
from zowarmup.errors import DataError
from zowarmup.recipe import Data, Iid

DIGITS = digits()


def _federate(seed: int = 0, dataset: Dataset = DIGITS, **settings: Any) -> Federation:
    return federate(Data(source="digits", **({"clients": 20} | settings)), dataset, seed=seed)


def test_what_clients_hold() -> None:
    federation = _federate(validation=0.1)
    everything = np.concatenate([np.concatenate([c.train, c.validation]) for c in federation.clients])
    assert sorted(everything.tolist()) == list(range(1200))
    assert {(len(c.train), len(c.validation)) for c in federation.clients} == {(54, 6)}
    assert federation.sizes.tolist() == [54] * 20
    assert federation.class_counts is not None
    for client in federation.clients:
        counts = np.bincount(DIGITS.train.y[client.train], minlength=10)
        assert (federation.class_counts[client.index] == counts).all()
    assert all((np.diff(c.train) > 0).all() and (np.diff(c.validation) > 0).all() for c in federation.clients)


def test_validation_is_drawn_for_each_client_on_its_own() -> None:
    """What one client holds back does not depend on how many others there are."""
    small = from_arrays((DIGITS.train.x[:60], DIGITS.train.y[:60]), (DIGITS.test.x, DIGITS.test.y), 10)
    alone = _federate(dataset=small, clients=1, validation=0.5).clients[0].validation
    first = _federate(clients=20, validation=0.5).clients[0]
    whole = np.sort(np.concatenate([first.train, first.validation]))
    assert (whole[alone] == first.validation).all()
    assert (_federate(seed=1, dataset=small, clients=1, validation=0.5).clients[0].validation != alone).any()


@pytest.mark.parametrize(("share", "count", "held"), [(0.1, 1000, 100), (0.29, 100, 29), (0.99, 3, 2), (0.9, 1, 0)])
def test_validation_sizes(share: float, count: int, held: int) -> None:
    x, y = np.zeros((count, 1)), np.zeros(count, int)
    dataset = from_arrays((x, y), (x, y))
    client = _federate(dataset=dataset, clients=1, validation=share, partition=Iid()).clients[0]
    assert (len(client.train), len(client.validation)) == (count - held, held)


@pytest.mark.parametrize(("share", "high"), [(0.2, 4), (0.0, 0), (1.0, 20), (0.01, 0), (0.99, 20), (0.13, 3)])
def test_a_share_of_high_resource_clients(share: float, high: int) -> None:
    federation = _federate(high_resource=share)
    assert len(federation.members("high")) == high
    assert sorted(federation.members("high") + federation.members("low")) == list(federation.members("all"))
    assert federation.members("all") == tuple(range(20))


def test_tiers_are_drawn_from_the_seed() -> None:
    drawn = [_federate(seed=seed, high_resource=0.2).members("high") for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 4
    assert drawn[0] == _federate(high_resource=0.2, partition=Iid()).members("high")


def test_a_list_of_high_resource_clients() -> None:
    assert _federate(high_resource=(3, 0, 19)).members("high") == (0, 3, 19)
    assert _federate(high_resource=()).members("high") == ()


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ((0, 20), "data.high-resource lists client 20; clients are 0 to 19"),
        ((-1,), "data.high-resource lists client -1; clients are 0 to 19"),
        ((4, 4), "data.high-resource lists client 4 twice"),
    ],
)
def test_wrong_lists(listed: tuple[int, ...], message: str) -> None:
    with pytest.raises(DataError) as caught:
        _federate(high_resource=listed)
    assert caught.value.message == message


def _of_counts(counts: list[list[int]], high: int) -> Federation:
    """A federation in which the first ``high`` clients are high-resource."""
    edges = np.cumsum([0] + [sum(row) for row in counts])
    clients = tuple(
        ClientData(j, "high" if j < high else "low", np.arange(edges[j], edges[j + 1]), np.empty(0, np.int64))
        for j in range(len(counts))
    )
    return Federation(clients, len(counts[0]), np.array(counts))


def test_low_held_classes() -> None:
    # High-resource clients hold 100 of 300 samples: a class is low-held where they hold under a sixth of it.
    counts = [[10, 90, 0, 0], [50, 50, 0, 0], [0, 40, 60, 0]]
    assert _of_counts(counts, 1).low_held_classes() == (2,)
    assert _of_counts([[9, 91, 0, 0], [51, 49, 0, 0], [0, 40, 60, 0]], 1).low_held_classes() == (0, 2)
    assert _of_counts(counts, 0).low_held_classes() == ()
    assert _of_counts(counts, 3).low_held_classes() == ()


def test_no_classes() -> None:
    x = np.zeros((10, 2))
    federation = _federate(dataset=from_arrays((x, x), (x, x)), clients=2, partition=Iid())
    assert federation.class_counts is None
    assert federation.low_held_classes() == ()


def test_digest_covers_data_indices_and_tiers() -> None:
    other = from_arrays((DIGITS.train.x * 0.5, DIGITS.train.y), (DIGITS.test.x, DIGITS.test.y), 10)
    federations = [
        _federate(),
        _federate(seed=1),
        _federate(dataset=other),
        _federate(validation=0.1),
        _federate(high_resource=(0,)),
        _federate(high_resource=(1,)),
    ]
    assert len({federation.digest() for federation in federations}) == len(federations)
    assert federations[0].digest() == _federate().digest()
    assert len(federations[0].digest()) == 64
