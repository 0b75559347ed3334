"""Zeroth-order rounds: every client sends a few slopes, every replica applies the same integers.

arXiv:2509.03503v1, Alg. 1, with a pool of directions in place of per-client seeds: K directions a round, of which a
client serves S. K = S x cohort is the paper's. Local steps are those of DeComFL (arXiv:2405.15861) and FedKSeed
(arXiv:2312.06353): a client moves weights of its own between slopes, and the server repeats the mean of the moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zowarmup.directions import quantise
from zowarmup.errors import NonFiniteError
from zowarmup.estimators import slopes
from zowarmup.phases.apply import apply
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.phases.pool import Pool
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

    @cached_property
    def pool(self) -> Pool:
        """The directions, and who serves which."""
        return Pool(self.settings, self.scope)

    def plan(self, round: int, state: State) -> Sequence[SlopesRequest]:
        """Each client of the cohort gets the round's seed and its rank, from which its directions follow."""
        seed = self.pool.seed(round)
        cohort = self.scope.cohort(round, self.settings)
        return [
            SlopesRequest(round=round, phase=self.scope.phase, client=client, seed=seed, rank=rank)
            for rank, client in enumerate(cohort)
        ]

    def work(self, request: SlopesRequest, client: Client) -> Slopes:
        """Evaluate slopes on the client's data, or on batches of it; local steps move a copy of the weights."""
        streams = self.pool.streams(request.round, client.index, request.rank)
        slopes = self._slopes(request, client, streams)
        with np.errstate(over="ignore"):  # a slope beyond fp32 becomes inf, which `close` refuses
            sent = self.pool.packed(client.index, streams, slopes).astype(np.float32)
        return Slopes(round=request.round, phase=self.scope.phase, client=client.index, slopes=sent)

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Average the slopes of each direction over the clients that serve it, and make the step's integers."""
        cohort = self.scope.cohort(round, self.settings)
        rank = {client: position for position, client in enumerate(cohort)}
        refused: dict[int, str] = {}
        participants = []
        total, gradient = 0, np.zeros(self.pool.size(len(cohort)))
        for report in screen(reports, Slopes, rank, round, self._fault, refused):
            n = self.scope.samples[report.client]
            streams = self.pool.streams(round, report.client, rank[report.client])
            weight = n * (self.settings.directions / streams.shape[1])  # a mean over m counts as much as one over S
            self.pool.fold(gradient, streams, weight * report.slopes.astype(np.float64))
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
            seed=self.pool.seed(round),
            coefficients=coefficients,
            exponent=exponent,
            state=phase,
            frozen=members(self.scope.table.names.index(name) for name in self.frozen),
        )
        return Closed(entry, {})

    def apply(self, entry: Update, blobs: Blobs, state: State) -> State:
        """See :func:`zowarmup.phases.apply.apply`."""
        return apply(state, entry, table=self.scope.table, directions=self.scope.directions)

    def passes(self, samples: int, client: int) -> Passes:
        """Each local step: 2 S forward passes over the batch, or S + 1; or one forward and one backward."""
        settings = self.settings
        batch = samples if settings.batch == "all" else min(settings.batch, samples)
        difference = self.pool.difference(client)
        forward = {"two-sided": 2 * settings.directions, "one-sided": settings.directions + 1, "exact": 1}[difference]
        backward = batch if difference == "exact" else 0
        return Passes(forward=settings.local_steps * forward * batch, backward=settings.local_steps * backward)

    def _slopes(self, request: SlopesRequest, client: Client, streams: NDArray[np.int64]) -> NDArray[np.float64]:
        """Slopes along ``streams``, shape ``(T, m)``; NaN from the step on in which the client's weights break down."""
        settings, model, weights = self.settings, client.model, client.state.weights
        found = np.full(streams.shape, np.nan)
        model.load_buffers(client.state.buffers)
        for step, row in enumerate(streams):
            model.bind(weights)
            augment = client.draw("augment", request.round, step) if settings.augment == "standard" else None
            x, y = client.samples.batch(self._batch(request.round, step, client), augment=augment)
            found[step] = slopes(
                model,
                x,
                y,
                client.task,
                seed=request.seed,
                streams=row,
                eps=settings.eps,
                tau=settings.tau,
                difference=self.pool.difference(client.index),
                micro_batch=self.scope.micro_batch,
                frozen=self.frozen,
            )
            if step + 1 < len(streams):
                try:
                    weights = self._moved(weights, request, row, found[step])
                except NonFiniteError:
                    break
        return found

    def _moved(
        self, weights: Tensor, request: SlopesRequest, streams: NDArray[np.int64], found: NDArray[np.float64]
    ) -> Tensor:
        """A client's weights after a local step: the plain step of a round with this client alone."""
        lr = self.settings.local_lr_at(request.round - self.scope.first_round)
        coefficients, exponent = quantise(-lr * self.settings.tau * (found / len(found)))
        after = weights.clone()
        self.scope.directions.update(
            after,
            after,
            segments=self.scope.table.moving(self.frozen),
            seeds=np.full(len(streams), request.seed, np.uint64),
            streams=streams.astype(np.uint32),
            coefficients=coefficients,
            exponent=exponent,
        )
        return after

    def _batch(self, round: int, step: int, client: Client) -> NDArray[np.int64]:
        batch, count = self.settings.batch, len(client.indices)
        if batch == "all" or batch >= count:
            return client.indices
        return client.indices[client.draw("batch", round, step).choose(count, batch)]

    def _fault(self, report: Slopes) -> str | None:
        expected = (self.pool.numbers(report.client),)
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
