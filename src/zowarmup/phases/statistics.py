r"""Running statistics of BatchNorm over everybody's data, from sums that clients make with forward passes alone.

For each channel of each layer, clients send how many values x there are, and the sums

.. math:: \sum (x - m), \qquad \sum (x - m)^2

with m the running mean that everybody has already: fp32 then carries the spread, and not the mean over and over. The
server sets mean and unbiased variance of all of them together. No sample is normalised with its batch, unless the
recipe says so of the first round, so neither micro-batches nor who holds what matter but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from zowarmup.errors import NonFiniteError, RunError
from zowarmup.norms import Moments, NormLayer, gather
from zowarmup.perturbed import BatchNormPolicy
from zowarmup.phases.apply import apply
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.protocol import Array, ChannelSums, Patch, Report, Request, members
from zowarmup.recipe import Statistics
from zowarmup.state import State


@dataclass(frozen=True)
class StatisticsPhase:
    """plan, work, close, apply of a statistics phase."""

    settings: Statistics
    scope: Scope
    layers: tuple[NormLayer, ...]

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """Each client of the cohort that holds enough samples."""
        return self.scope.requests(round, self.settings)

    def work(self, request: Request, client: Client) -> ChannelSums:
        """Sums over the inputs of every layer, normalised before it with the statistics before the round."""
        client.model.bind(client.state.weights)
        client.model.load_buffers(client.state.buffers)
        first = request.round == self.scope.first_round
        policy: BatchNormPolicy = "batch" if first and self.settings.begin == "batch" else "frozen"
        micro = self.scope.micro_batch
        found = gather(client.model, self.layers, client.samples, client.indices, micro, policy)
        with np.errstate(over="ignore"):  # a sum beyond fp32 becomes inf, which `close` refuses
            return ChannelSums(
                round=request.round,
                phase=self.scope.phase,
                client=client.index,
                counts=np.array([moments.count for moments in found], np.int64),
                sums=np.concatenate([moments.sums for moments in found]).astype(np.float32),
                squares=np.concatenate([moments.squares for moments in found]).astype(np.float32),
            )

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Add the sums up, and set mean and variance of every layer that was called; exact values for every replica.

        Raises:
            RunError: a channel has one value in all, or statistics that are not finite.
        """
        refused: dict[int, str] = {}
        participants: list[int] = []
        channels = sum(layer.channels for layer in self.layers)
        counts, sums, squares = np.zeros(len(self.layers), np.int64), np.zeros(channels), np.zeros(channels)
        cohort = self.scope.cohort(round, self.settings)
        for report in screen(reports, ChannelSums, cohort, round, self._fault, refused):
            counts += report.counts
            sums += report.sums
            squares += report.squares
            participants.append(report.client)
        buffers: dict[str, Array] = {}
        places = pairwise(accumulate((layer.channels for layer in self.layers), initial=0))
        for layer, count, place in zip(self.layers, counts, places, strict=True):
            if count:
                part = slice(*place)
                buffers |= _statistics(round, layer, Moments(int(count), sums[part], squares[part]), state)
        entry = Patch(
            round=round,
            phase=self.scope.phase,
            members=members(participants),
            refused=dict(sorted(refused.items())),
            buffers=buffers,
        )
        return Closed(entry, {})

    def apply(self, entry: Patch, blobs: Blobs, state: State) -> State:
        """See :func:`zowarmup.phases.apply.apply`."""
        return apply(state, entry, table=self.scope.table, directions=self.scope.directions)

    def passes(self, samples: int, client: int) -> Passes:
        """Every sample once."""
        return Passes(forward=samples, backward=0)

    def _fault(self, report: ChannelSums) -> str | None:
        """Why a client's sums do not count, or None."""
        channels = sum(layer.channels for layer in self.layers)
        forms = {
            "counts": (len(self.layers), np.int64),
            "sums": (channels, np.float32),
            "squares": (channels, np.float32),
        }
        for name, (length, kind) in forms.items():
            values = getattr(report, name)
            if values.shape != (length,) or values.dtype != kind:
                expected = f"expected {(length,)} and {np.dtype(kind)}"
                return f"{name} of shape {values.shape} and {values.dtype}, {expected}"
            if not np.isfinite(values).all():
                return f"non-finite {name}"
            if name != "sums" and (values < 0).any():
                return f"negative {name}"
        return None


def _statistics(round: int, layer: NormLayer, found: Moments, state: State) -> dict[str, NDArray[np.float32]]:
    """Mean and variance of one layer, as torch keeps them: the variance is the unbiased one."""
    if found.count < 2:
        raise RunError(
            f"round {round}: {layer.name}: its channels have one value each in all samples together, and no variance",
            round=round,
        )
    before = state.buffers[layer.mean].cpu().numpy()
    mean = before + found.sums / found.count
    variance = np.maximum(found.squares - np.square(found.sums) / found.count, 0.0) / (found.count - 1)
    with np.errstate(over="ignore"):
        values = {layer.mean: mean.astype(before.dtype), layer.variance: variance.astype(before.dtype)}
    for name, each in values.items():
        if not np.isfinite(each).all():
            raise NonFiniteError(f"round {round}: {name} from the clients' sums is not finite", round=round)
    return values
