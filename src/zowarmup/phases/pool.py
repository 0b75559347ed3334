"""The pool of a zeroth-order round: which directions there are, which of them a client serves, and what it sends."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.draws import Draw
from zowarmup.phases.base import Scope
from zowarmup.recipe import Difference, ZerothOrder

_RUN = -1  # the round of a draw that belongs to the whole run


@dataclass(frozen=True)
class Pool:
    """K directions a round; in each of T local steps a client serves m of them.

    m is S; or K, where the pool has a number of directions and the client answers with exact slopes, as one backward
    pass serves them all. Everything follows from the run seed, so that server and client agree without a message.
    """

    settings: ZerothOrder
    scope: Scope

    def seed(self, round: int) -> int:
        """The seed of the round's directions, or of the run's."""
        return Draw(self.scope.seed, "directions", _RUN if self.settings.pool_seed == "run" else round).key()

    def size(self, cohort: int) -> int:
        """K, for a cohort of that many clients."""
        settings = self.settings
        if isinstance(settings.pool, int):
            return settings.pool
        own = settings.local_steps * settings.directions
        return own * cohort if settings.pool == "distinct" else own

    def difference(self, client: int) -> Difference:
        """How a client measures slopes."""
        settings = self.settings
        if client in self.scope.high and settings.high_difference is not None:
            return settings.high_difference
        return settings.difference

    def served(self, client: int) -> int:
        """m, the directions that a client serves in a local step."""
        settings = self.settings
        if isinstance(settings.pool, int) and self.difference(client) == "exact":
            return settings.pool
        return settings.directions

    def streams(self, round: int, client: int, rank: int) -> NDArray[np.int64]:
        """The streams that a client serves, a row for each local step, shape ``(T, m)``.

        With a pool of K and one local step, S different ones; with more, drawn uniformly and with replacement, as in
        FedKSeed (arXiv:2312.06353, Alg. 1).

        Args:
            round: the round.
            client: the client.
            rank: its place in the cohort.
        """
        steps, served, pool = self.settings.local_steps, self.served(client), self.settings.pool
        if pool == "distinct":
            return (rank * steps * served + np.arange(steps * served)).reshape(steps, served)
        if pool == "shared":
            return np.arange(steps * served).reshape(steps, served)
        if served == pool:
            return np.tile(np.arange(pool), (steps, 1))
        draw = Draw(self.scope.seed, "pool", round, client)
        if steps == 1:
            return draw.choose(pool, served).reshape(1, served)
        return draw.integers(pool, steps * served).reshape(steps, served)

    def numbers(self, client: int) -> int:
        """How many numbers a client sends: T m, and never more than K."""
        slopes = self.settings.local_steps * self.served(client)
        return slopes if not isinstance(self.settings.pool, int) else min(slopes, self.settings.pool)

    def packed(self, client: int, streams: NDArray[np.int64], slopes: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a client sends: its slopes in the order of its streams, or their sums by direction where K is less.

        Args:
            client: the client.
            streams: its streams, shape ``(T, m)``.
            slopes: along each, shape ``(T, m)``.
        """
        if self.numbers(client) == slopes.size:
            return slopes.ravel()
        sums = np.zeros(self.numbers(client))
        np.add.at(sums, streams.ravel(), slopes.ravel())
        return sums

    def fold(self, gradient: NDArray[np.float64], streams: NDArray[np.int64], sent: NDArray[np.float64]) -> None:
        """Add what a client sent to the sums by direction, shape ``(K,)``; undoes :meth:`packed`."""
        if sent.size == streams.size:
            np.add.at(gradient, streams.ravel(), sent)
        else:
            gradient += sent
