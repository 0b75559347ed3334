"""Catching up: what a client that missed rounds is sent, and what it costs; docs/spec/ledger.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from zowarmup.protocol import Entry, Replacement, Update

NOTHING = -1
"""What a client holds that holds no state yet."""


class CatchUp(NamedTuple):
    """What brings a client to the state after a round.

    Args:
        snapshot: the round whose snapshot comes first; None where entries alone will do.
        first: the first entry that is sent, a round; none where it lies behind ``last``.
        last: the last one.
        bytes: payload of all that is sent.
        directions: directions that the client regenerates, each over all parameters.
    """

    snapshot: int | None
    first: int
    last: int
    bytes: int
    directions: int


class Costs:
    """What every entry of a run costs; grows by a round at a time.

    Args:
        model_bytes: payload of a snapshot: weights and buffers.

    >>> import numpy as np
    >>> costs = Costs(model_bytes=100)
    >>> update = Update(round=1, phase=0, seed=1, coefficients=np.ones(3, np.int32), exponent=0)
    >>> costs.add(update)
    >>> costs.choose(0, 1, snapshots=[1])
    CatchUp(snapshot=None, first=1, last=1, bytes=24, directions=3)
    >>> costs.choose(0, 1, snapshots=[1], least="work")
    CatchUp(snapshot=1, first=2, last=1, bytes=100, directions=0)
    """

    def __init__(self, model_bytes: int) -> None:
        self._model_bytes = model_bytes
        self._bytes, self._directions = [0], [0]  # of all entries up to a round
        self._barriers = [0]  # the last round, up to a round, that only a snapshot brings across

    def add(self, entry: Entry) -> None:
        """The next round's entry."""
        step = not isinstance(entry, Replacement)
        self._bytes.append(self._bytes[-1] + (entry.payload_bytes if step else 0))
        self._directions.append(self._directions[-1] + (len(entry.coefficients) if isinstance(entry, Update) else 0))
        self._barriers.append(self._barriers[-1] if step else len(self._barriers))

    def choose(
        self, held: int, target: int, *, snapshots: Iterable[int], least: Literal["bytes", "work"] = "bytes"
    ) -> CatchUp:
        """The cheapest way from one state to another.

        Args:
            held: the round whose state the client holds; -1 for none.
            target: the round to get to, at least ``held``.
            snapshots: rounds of which there are snapshots.
            least: what to have least of; the other one decides between equals.

        Raises:
            ValueError: no way leads there; ``target`` lies before ``held``, or is not known yet.
        """
        if not held <= target < len(self._bytes):
            raise ValueError(f"round {target}, expected {held} to {len(self._bytes) - 1}")
        barrier = self._barriers[target]
        ways = [self._way(None, held, target)] if held >= barrier and held != NOTHING else []
        ways += [self._way(start, start, target) for start in snapshots if barrier <= start <= target]
        if not ways:
            raise ValueError(f"no snapshot of rounds {barrier} to {target}, and entries alone do not lead there")
        if least == "bytes":
            return min(ways, key=lambda way: (way.bytes, way.directions))
        return min(ways, key=lambda way: (way.directions, way.bytes))

    def _way(self, snapshot: int | None, start: int, target: int) -> CatchUp:
        model = 0 if snapshot is None else self._model_bytes
        return CatchUp(
            snapshot=snapshot,
            first=start + 1,
            last=target,
            bytes=model + self._bytes[target] - self._bytes[start],
            directions=self._directions[target] - self._directions[start],
        )
