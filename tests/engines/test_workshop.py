"""What a server knows of nodes that bring their own data; what they work with is held by tests of the node."""

from __future__ import annotations

import msgspec
import pytest
import torch

from zowarmup.directions.torch_ops import TorchDirections
from zowarmup.engines.wire import Card
from zowarmup.engines.workshop import backend, enlisted, recalled
from zowarmup.errors import DataError
from zowarmup.table import Table

HIGH = Card(client=0, tier="high", samples=4, counts=(0, 0, 4))
LOW = Card(client=1, tier="low", samples=3, counts=(1, 2))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("size", "alone", "light"), [(2**20, True, True), (2**20 + 1, True, False), (2**20, False, False)]
)
def test_one_client_with_a_small_net_needs_no_compiled_kernels(size, alone, light):
    table = Table(("w",), ((size,),))
    assert isinstance(backend(torch.device("cpu"), table, threads=1, alone=alone), TorchDirections) is light


def test_nodes_are_known_by_what_they_say_of_themselves():
    federation = enlisted({1: LOW, 0: HIGH}, 3)
    assert [(client.index, client.tier) for client in federation.clients] == [(0, "high"), (1, "low")]
    assert federation.sizes.tolist() == [4, 3]
    assert federation.class_counts.tolist() == [[0, 0, 4], [1, 2, 0]]
    assert federation.low_held_classes() == (0, 1)


def test_a_federation_is_another_one_when_anybody_holds_something_else():
    first = enlisted({0: HIGH, 1: LOW}, 3).digest()
    assert enlisted({1: LOW, 0: HIGH}, 3).digest() == first
    assert recalled(["high", "low"], [4, 3], [[0, 0, 4], [1, 2, 0]], 3).digest() == first
    others = [{"tier": "high"}, {"samples": 5}, {"counts": (2, 1)}]
    changed = [enlisted({0: HIGH, 1: msgspec.structs.replace(LOW, **other)}, 3).digest() for other in others]
    assert len({first, *changed}) == 4


def test_where_somebody_counts_no_classes_nobody_does():
    silent = msgspec.structs.replace(LOW, counts=())
    assert enlisted({0: HIGH, 1: silent}, 3).class_counts is None
    assert enlisted({0: HIGH, 1: LOW}, None).class_counts is None


def test_a_label_that_is_no_class():
    with pytest.raises(DataError, match="client 0: holds label 2, classes are 0 to 1"):
        enlisted({0: HIGH, 1: LOW}, 2)
