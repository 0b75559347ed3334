"""Zeroth-order rounds: every client sends a few slopes, every replica applies the same integers.

arXiv:2509.03503v1, Alg. 1, with a pool of directions in place of per-client seeds: K directions a round, of which a
client serves S. K = S x cohort is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.directions import quantise
from zowarmup.draws import Draw
from zowarmup.errors import NonFiniteError
from zowarmup.estimators import slopes
from zowarmup.phases.apply import apply
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.protocol import Report, Slopes, SlopesRequest, Update, members
from zowarmup.recipe import ZerothOrder
from zowarmup.state import State

_TINY = 1e-20  # under the root of the RMS step: keeps a round of zero slopes from dividing by zero


@dataclass(frozen=True)
class ZerothOrderPhase:
    """plan, work, close, apply of a zeroth-order phase."""

    settings: ZerothOrder
    scope: Scope
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are: directions are 0 there."""

    def plan(self, round: int, state: State) -> Sequence[SlopesRequest]:
        """Each client of the cohort gets the round's seed and its rank, from which its directions follow."""
        seed = self._seed(round)
        cohort = self.scope.cohort(round, self.settings)
        return [
            SlopesRequest(round=round, phase=self.scope.phase, client=client, seed=seed, rank=rank)
            for rank, client in enumerate(cohort)
        ]

    def work(self, request: SlopesRequest, client: Client) -> Slopes:
        """Evaluate the slopes on the client's data, or on a batch of it; nothing is trained."""
        settings, state = self.settings, client.state
        client.model.bind(state.weights)
        client.model.load_buffers(state.buffers)
        augment = client.draw("augment", request.round) if settings.augment == "standard" else None
        x, y = client.samples.batch(self._batch(request.round, client), augment=augment)
        values = slopes(
            client.model,
            x,
            y,
            client.task,
            seed=request.seed,
            streams=self._streams(request.round, client.index, request.rank),
            eps=settings.eps,
            tau=settings.tau,
            difference=settings.difference,
            micro_batch=self.scope.micro_batch,
            frozen=self.frozen,
        )
        with np.errstate(over="ignore"):  # a slope beyond fp32 becomes inf, which `close` refuses
            sent = values.astype(np.float32)
        return Slopes(round=request.round, phase=self.scope.phase, client=client.index, slopes=sent)

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Average the slopes of each direction over the clients that serve it, and make the step's integers."""
        cohort = self.scope.cohort(round, self.settings)
        rank = {client: position for position, client in enumerate(cohort)}
        refused: dict[int, str] = {}
        participants = []
        total, gradient = 0, np.zeros(self._pool(len(cohort)))
        for report in screen(reports, Slopes, rank, round, self._fault, refused):
            n = self.scope.samples[report.client]
            streams = self._streams(round, report.client, rank[report.client])
            gradient[streams] += n * report.slopes.astype(np.float64)
            total += n
            participants.append(report.client)
        coefficients, exponent, phase = np.zeros(0, np.int32), 0, _numbers(state)
        if participants:
            a, phase = self._step(round, gradient / (total * self.settings.directions), phase)
            try:
                coefficients, exponent = quantise(a)
            except NonFiniteError as error:  # each slope is finite, but the step they make is not
                refused |= dict.fromkeys(participants, error.message)
                participants, phase = [], _numbers(state)
        entry = Update(
            round=round,
            phase=self.scope.phase,
            members=members(participants),
            refused=dict(sorted(refused.items())),
            seed=self._seed(round),
            coefficients=coefficients,
            exponent=exponent,
            state=phase,
            frozen=members(self.scope.table.names.index(name) for name in self.frozen),
        )
        return Closed(entry, {})

    def apply(self, entry: Update, blobs: Blobs, state: State) -> State:
        """See :func:`zowarmup.phases.apply.apply`."""
        return apply(state, entry, table=self.scope.table, directions=self.scope.directions)

    def passes(self, samples: int) -> Passes:
        """2 S forward passes over the batch, or S + 1."""
        settings = self.settings
        batch = samples if settings.batch == "all" else min(settings.batch, samples)
        evaluations = 2 * settings.directions if settings.difference == "two-sided" else settings.directions + 1
        return Passes(forward=evaluations * batch, backward=0)

    def _seed(self, round: int) -> int:
        return Draw(self.scope.seed, "directions", round).key()

    def _pool(self, cohort: int) -> int:
        """K, the number of directions of a round."""
        settings = self.settings
        if settings.pool == "distinct":
            return settings.directions * cohort
        return settings.directions if settings.pool == "shared" else settings.pool

    def _streams(self, round: int, client: int, rank: int) -> NDArray[np.int64]:
        """The S streams a client serves, shape ``(S,)``."""
        settings = self.settings
        if settings.pool == "distinct":
            return np.arange(rank * settings.directions, (rank + 1) * settings.directions)
        if settings.pool == "shared":
            return np.arange(settings.directions)
        return Draw(self.scope.seed, "pool", round, client).choose(settings.pool, settings.directions)

    def _batch(self, round: int, client: Client) -> NDArray[np.int64]:
        batch, count = self.settings.batch, len(client.indices)
        if batch == "all" or batch >= count:
            return client.indices
        return client.indices[client.draw("batch", round).choose(count, batch)]

    def _fault(self, report: Slopes) -> str | None:
        expected = (self.settings.directions,)
        if report.slopes.shape != expected or report.slopes.dtype != np.float32:
            return f"slopes of shape {report.slopes.shape} and {report.slopes.dtype}, expected {expected} and float32"
        return None if np.isfinite(report.slopes).all() else "non-finite slopes"

    def _step(
        self, round: int, gradient: NDArray[np.float64], phase: Mapping[str, float]
    ) -> tuple[NDArray[np.float64], dict[str, float]]:
        """What is added along each direction, shape ``(K,)``, and the phase state after it."""
        settings = self.settings
        a = -settings.lr_at(round - self.scope.first_round) * settings.tau * gradient
        if settings.step == "plain":
            return a, {}
        square = float(np.sum(gradient * gradient))
        v = settings.rms_decay * phase["v"] + (1.0 - settings.rms_decay) * square if "v" in phase else square
        return a / np.sqrt(v + _TINY), {"v": v}


def _numbers(state: State) -> dict[str, float]:
    return {name: float(value) for name, value in state.phase.items()}
