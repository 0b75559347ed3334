"""Sub-network rounds: each client trains as much of the network as its tier holds; HeteroFL.

Diao, Ding, Tarokh, ICLR 2021 (arXiv:2010.01264). A weight becomes the mean over the clients that hold it, and stays as
it is where nobody does. Rows of the head are averaged over the clients that hold their class, as in the authors' code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zowarmup.errors import ModelError
from zowarmup.head import HeadLayer
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.phases.first_order import FirstOrderPhase
from zowarmup.protocol import Array, Part, PartRequest, Replacement, Report, Request, bits, members
from zowarmup.recipe import FirstOrder, SubNetwork
from zowarmup.state import State
from zowarmup.subnetwork import Cut, Masked, Narrow, held, static_statistics


@dataclass(frozen=True)
class SubNetworkPhase:
    """plan, work, close, apply of a sub-network phase."""

    settings: SubNetwork
    scope: Scope
    narrow: Narrow | None = None
    """What low-resource clients train; None where that is the whole network."""
    head: HeadLayer | None = None
    """Whose rows are masked; None where none are."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are."""

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """High-resource clients train from the state before the round; the others get their part of it."""
        cohort, place = self.scope.cohort(round, self.settings), {"round": round, "phase": self.scope.phase}
        if self.narrow is None:
            return [Request(**place, client=client) for client in cohort]
        weights = self.narrow.cut.take(state.weights).cpu().numpy()
        buffers = {name: _array(buffer) for name, buffer in self.narrow.buffers(state.buffers).items()}
        return [
            PartRequest(**place, client=client, weights=weights, buffers=buffers)
            if client in self.scope.low
            else Request(**place, client=client)
            for client in cohort
        ]

    def work(self, request: Request, client: Client) -> Part:
        """Train a copy of what the client holds on its data, and send it.

        Raises:
            ModelError: the module changed a buffer.
        """
        if isinstance(request, PartRequest):
            client = self._narrowed(request, client)
        classes = b""
        if self.head is not None:
            own = held(client.samples.targets(client.indices), self.head.classes)
            client = dataclasses.replace(client, task=Masked(client.task, own))
            classes = members(own.nonzero().flatten().tolist())
        scope = dataclasses.replace(self.scope, table=client.model.table)
        with static_statistics(client.model.module):
            sent = FirstOrderPhase(_local(self.settings), scope, self.frozen).work(request, client)
        for name, buffer in client.state.buffers.items():
            if not np.array_equal(sent.buffers[name], _array(buffer)):
                raise ModelError(f"buffer {name} changes in training; a sub-network phase leaves buffers as they are")
        return Part(
            round=request.round, phase=self.scope.phase, client=client.index, weights=sent.weights, classes=classes
        )

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Average each weight over the clients that hold it, in float64; one that nobody holds stays."""
        cohort = self.scope.cohort(round, self.settings)
        refused: dict[int, str] = {}
        participants = []
        total, count = (torch.zeros(state.weights.shape, dtype=torch.float64) for _ in range(2))
        for report in screen(reports, Part, cohort, round, self._fault, refused):
            n = self.scope.samples[report.client] if self.settings.average == "samples" else 1
            self._fold(report, n, total, count)
            participants.append(report.client)
        after = state
        if participants:
            mean = torch.where(count > 0, total.div_(count), state.weights.cpu().double())
            after = State(mean.float().to(state.weights.device), state.buffers)
        snapshot = after.digest()
        entry = Replacement(
            round=round,
            phase=self.scope.phase,
            members=members(participants),
            refused=dict(sorted(refused.items())),
            snapshot=snapshot,
        )
        return Closed(entry, {snapshot: after})

    def apply(self, entry: Replacement, blobs: Blobs, state: State) -> State:
        """The snapshot that the entry names."""
        return blobs[entry.snapshot]

    def passes(self, samples: int, client: int) -> Passes:
        """Every sample forward and backward, once an epoch, through whatever the client holds."""
        return Passes(forward=self.settings.epochs * samples, backward=self.settings.epochs * samples)

    def _narrowed(self, request: PartRequest, client: Client) -> Client:
        """The client with the narrower net, and with what the request brings in the place of the state."""
        assert self.narrow is not None
        device = client.model.device
        buffers = {name: torch.from_numpy(buffer).to(device) for name, buffer in request.buffers.items()}
        state = State(torch.from_numpy(request.weights).to(device), buffers)
        return dataclasses.replace(client, model=self.narrow.model, state=state)

    def _cut(self, client: int) -> Cut:
        """How what a client trains lies in the whole."""
        if self.narrow is not None and client in self.scope.low:
            return self.narrow.cut
        return Cut(self.scope.table, self.scope.table)

    def _fold(self, report: Part, n: int, total: Tensor, count: Tensor) -> None:
        """Add a client's weights, ``n`` times, to the sums of all it holds."""
        cut, sent = self._cut(report.client), torch.from_numpy(report.weights)
        masked = () if self.head is None else self.head.parameters
        rows = list(bits(report.classes))
        for (name, sums, values), (_, counts, _) in zip(cut.blocks(total, sent), cut.blocks(count, sent), strict=True):
            if name in masked:
                sums[rows] += n * values[rows].double()
                counts[rows] += n
            else:
                sums.add_(values, alpha=n)
                counts.add_(n)

    def _fault(self, report: Part) -> str | None:
        """Why a client's part does not count, or None."""
        expected = (self._cut(report.client).part.size,)
        if report.weights.shape != expected or report.weights.dtype != np.float32:
            return (
                f"weights of shape {report.weights.shape} and {report.weights.dtype}, expected {expected} and float32"
            )
        if not np.isfinite(report.weights).all():
            return "non-finite weights"
        classes = bits(report.classes)
        if self.head is None:
            return f"classes {classes}, expected none" if classes else None
        if not classes or classes[-1] >= self.head.classes:
            return f"classes {classes}, expected some of 0 to {self.head.classes - 1}"
        return None


def _local(settings: SubNetwork) -> FirstOrder:
    """What each client does, as a first-order phase says it."""
    shared = set(FirstOrder.__struct_fields__) & set(SubNetwork.__struct_fields__)
    return FirstOrder(**{name: getattr(settings, name) for name in shared})


def _array(buffer: Tensor) -> Array:
    return buffer.cpu().numpy()
