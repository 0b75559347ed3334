r"""Mixed rounds: high-resource clients train first-order and low-resource ones answer with slopes, in one round.

The paper's hi+lo (arXiv:2509.03503v1), in which high-resource clients keep FedAvg after the pivot. It does not say how
the two are put together; here each part's step counts by its share of the samples n of the round's participants:

.. math:: w \leftarrow w + \frac{n_{high}}{n} (w_{high} - w) + \frac{n_{low}}{n} \Delta_{low}

where w_high is what a first-order round of the high-resource clients alone would make of w (FedAvg: the mean of their
weights), and Delta_low what a zeroth-order round of the low-resource ones would add. With FedAvg that is the mean by
samples over all clients, of which each low-resource one has taken the common zeroth-order step. Buffers are those that
the high-resource clients' round leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope
from zowarmup.phases.first_order import FirstOrderPhase
from zowarmup.phases.zeroth_order import ZerothOrderPhase
from zowarmup.protocol import Replacement, Report, Request, SlopesRequest, Update, members
from zowarmup.recipe import Mixed
from zowarmup.state import State, moments_digest

_HIGH, _LOW = "high.", "low."


@dataclass(frozen=True)
class MixedPhase:
    """plan, work, close, apply of a mixed phase; each part is a phase whose scope is one tier of the cohort."""

    settings: Mixed
    scope: Scope
    high: FirstOrderPhase
    low: ZerothOrderPhase

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """Both parts' requests, ascending by client."""
        requests = [*self.high.plan(round, state), *self.low.plan(round, state)]
        return sorted(requests, key=lambda request: request.client)

    def work(self, request: Request, client: Client) -> Report:
        """What the client's tier does."""
        return self.low.work(request, client) if isinstance(request, SlopesRequest) else self.high.work(request, client)

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Close both parts' rounds from the state before, and add their steps by samples.

        Models are folded as they come. Slopes wait for the last of them: they are few.
        """
        before = {prefix: _part(state, prefix) for prefix in (_HIGH, _LOW)}
        slopes: list[Report] = []
        trained, blobs = self.high.close(round, self._divided(reports, slopes), before[_HIGH])
        probed, nothing = self.low.close(round, slopes, before[_LOW])
        assert isinstance(trained, Replacement) and isinstance(probed, Update)
        high = self.high.apply(trained, blobs, before[_HIGH])
        low = self.low.apply(probed, nothing, before[_LOW])
        counts = [sum(self.scope.samples[client] for client in part.participants) for part in (trained, probed)]
        after = State(
            _combined(state.weights, (high.weights, low.weights), counts),
            high.buffers,
            {
                **{f"{_HIGH}{name}": value for name, value in high.phase.items()},
                **{f"{_LOW}{name}": torch.tensor(value, dtype=torch.float64) for name, value in low.phase.items()},
            },
        )
        snapshot = after.digest()
        entry = Replacement(
            round=round,
            phase=self.scope.phase,
            members=members([*trained.participants, *probed.participants]),
            refused=dict(sorted({**trained.refused, **probed.refused}.items())),
            snapshot=snapshot,
            moments=moments_digest(after.moments()),
        )
        return Closed(entry, {snapshot: after})

    def apply(self, entry: Replacement, blobs: Blobs, state: State) -> State:
        """The snapshot that the entry names."""
        return blobs[entry.snapshot]

    def passes(self, samples: int, client: int) -> Passes:
        """Those of the client's tier."""
        return (self.high if client in self.scope.high else self.low).passes(samples, client)

    def _divided(self, reports: Iterable[Report], others: list[Report]) -> Iterator[Report]:
        """Pass on the reports of high-resource clients, and put the others aside."""
        for report in reports:
            if report.client in self.scope.high:
                yield report
            else:
                others.append(report)


def _part(state: State, prefix: str) -> State:
    """The state as one part sees it: what the other remembers is not there."""
    own = {name.removeprefix(prefix): value for name, value in state.phase.items() if name.startswith(prefix)}
    return State(state.weights, state.buffers, own)


def _combined(before: Tensor, afters: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """``before``, and each part's step by its share of the samples; in float64, rounded to fp32 once."""
    total = sum(counts)
    if not total:
        return before
    wide = before.cpu().double()
    steps = [n / total * (after.cpu().double() - wide) for after, n in zip(afters, counts, strict=True)]
    return (wide + sum(steps)).float().to(before.device)
