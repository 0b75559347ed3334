"""Catching up: the cheapest way, against every way there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from zowarmup.catchup import NOTHING, CatchUp, Costs
from zowarmup.protocol import Replacement, Update

MODEL = 100
KINDS = [None, 3, 0, 8, None, 2, 2, 30, 1]  # directions of rounds 1 to 9; None: a first-order round

SNAPSHOTS = [chosen for n in range(4) for chosen in itertools.combinations(range(0, 10, 3), n)]


def entry(round: int, directions: int | None) -> Update | Replacement:
    if directions is None:
        return Replacement(round=round, phase=0, snapshot="ab")
    coefficients = np.ones(directions, np.int32)
    return Update(round=round, phase=0, seed=1, coefficients=coefficients, exponent=0)


@pytest.fixture(scope="module")
def costs() -> Costs:
    made = Costs(MODEL)
    for round, directions in enumerate(KINDS, start=1):
        made.add(entry(round, directions))
    return made


def ways(held: int, target: int, snapshots):
    """Every way, by walking it."""
    for start, model in [(held, 0), *((round, MODEL) for round in snapshots)]:
        steps = KINDS[start:target] if start != NOTHING else [None]
        if start <= target and None not in steps:
            yield model + sum(12 + 4 * k for k in steps), sum(steps), start if model else None


@pytest.mark.parametrize("least", ["bytes", "work"])
def test_the_cheapest_way_is_taken(costs, least):
    tried = 0
    for target in range(len(KINDS) + 1):
        for held in range(NOTHING, target + 1):
            for snapshots in itertools.chain.from_iterable(
                itertools.combinations(range(0, 10, 3), n) for n in range(4)
            ):
                found = list(ways(held, target, snapshots))
                if not found:
                    with pytest.raises(ValueError, match="entries alone do not lead there"):
                        costs.choose(held, target, snapshots=snapshots, least=least)
                    continue
                way = costs.choose(held, target, snapshots=snapshots, least=least)
                order = (lambda each: each[:2]) if least == "bytes" else (lambda each: (each[1], each[0]))
                assert (way.bytes, way.directions) == min(found, key=order)[:2], (held, target, snapshots)
                assert (way.bytes, way.directions, way.snapshot) in found
                assert (way.first, way.last) == ((held if way.snapshot is None else way.snapshot) + 1, target)
                tried += 1
    assert tried > 200


def test_who_holds_it_needs_nothing(costs):
    assert costs.choose(7, 7, snapshots=[7]) == CatchUp(None, 8, 7, 0, 0)


@pytest.mark.parametrize("held, target", [(3, 2), (0, 10)])
def test_a_round_that_is_not_known_is_refused(costs, held, target):
    with pytest.raises(ValueError, match=f"round {target}, expected {held} to 9"):
        costs.choose(held, target, snapshots=[0])
