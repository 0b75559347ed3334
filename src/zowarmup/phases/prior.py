r"""The head phase with ``form = "prior"``: corrects the head for labels that were rare where it was trained.

.. math:: b_y \leftarrow b_y + \log p_{\mathrm{all}}(y) - \log p_{\mathrm{trained}}(y),
    \qquad p(y) = \frac{n_y + s}{\sum_{y'} (n_{y'} + s)}

where n counts labels among all clients that answered, or among the high-resource ones of them, who trained; s is
``smoothing``. Bayes' rule for a classifier that meets other label shares than it was trained on (Saerens et al. 2002,
Neural Computation 14:21; arXiv:2007.07314 adjusts logits so for balanced classes). Clients send 4 bytes a class and run
nothing: what this gains needs neither slopes nor sums of features.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zowarmup.phases.apply import apply
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.protocol import Array, Patch, Report, Request, Sums, members
from zowarmup.recipe import Head
from zowarmup.state import State


@dataclass(frozen=True)
class PriorPhase:
    """plan, work, close, apply of a head phase that only adds to the bias."""

    settings: Head
    scope: Scope
    bias: str
    """Name of the head's bias in the table."""
    classes: int

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """Each client of the cohort that holds enough samples."""
        return self.scope.requests(round, self.settings)

    def work(self, request: Request, client: Client) -> Sums:
        """How many of the client's samples have each label; fp32 holds numbers up to 2**24 exactly."""
        counts = np.zeros(self.classes)
        for _, y in client.samples.chunks(client.indices):
            counts += np.bincount(y.cpu().numpy(), minlength=self.classes)
        return Sums(
            round=request.round,
            phase=self.scope.phase,
            client=client.index,
            features=np.zeros(0, np.float32),
            targets=counts.astype(np.float32),
        )

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Add the logs of shares to the bias; nothing where no high-resource client answered."""
        refused: dict[int, str] = {}
        participants = []
        everybody, trained = np.zeros(self.classes), np.zeros(self.classes)
        for report in screen(reports, Sums, self.scope.cohort(round, self.settings), round, self._fault, refused):
            everybody += report.targets
            if report.client in self.scope.high:
                trained += report.targets
            participants.append(report.client)
        values: dict[str, Array] = {}
        if trained.any():
            before = state.weights[self.scope.table.place(self.bias)].cpu().double().numpy()
            added = self._log_shares(everybody) - self._log_shares(trained)
            values = {self.bias: (before + added).astype(np.float32)}
        entry = Patch(
            round=round,
            phase=self.scope.phase,
            members=members(participants if values else ()),
            refused=dict(sorted(refused.items())),
            values=values,
        )
        return Closed(entry, {})

    def apply(self, entry: Patch, blobs: Blobs, state: State) -> State:
        """See :func:`zowarmup.phases.apply.apply`."""
        return apply(state, entry, table=self.scope.table, directions=self.scope.directions)

    def passes(self, samples: int, client: int) -> Passes:
        """None: labels are counted."""
        return Passes(forward=0, backward=0)

    def _log_shares(self, counts: NDArray[np.float64]) -> NDArray[np.float64]:
        smooth = counts + self.settings.smoothing
        return np.asarray(np.log(smooth / smooth.sum()))

    def _fault(self, report: Sums) -> str | None:
        """Why a client's counts do not count, or None."""
        values = report.targets
        if values.shape != (self.classes,) or values.dtype != np.float32:
            return f"counts of shape {values.shape} and {values.dtype}, expected {(self.classes,)} and float32"
        if not np.isfinite(values).all():
            return "non-finite counts"
        return "negative counts" if (values < 0).any() else None
