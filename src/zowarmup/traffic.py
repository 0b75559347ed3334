"""Counts what a run costs its clients, by tier: payload bytes each way, and samples through the network.

A client that takes part in a round must first hold the state before it. It gets the entries since it last did, or a
snapshot of the state before the round, which the server holds: whichever is fewer bytes, or less work. A request that
brings a part of the model along needs neither, and leaves its client as far behind as it was. Delivering the final
model is not counted, for any method alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from zowarmup.catchup import NOTHING, CatchUp, Costs
from zowarmup.ledger import Metrics
from zowarmup.phases import Passes
from zowarmup.protocol import Entry, Report, Request

COUNTS = (
    "uplink_bytes",
    "downlink_bytes",
    "fedavg_bytes",
    "forward_samples",
    "backward_samples",
    "turns",
    "replayed_directions",
)


class Traffic:
    """Counts since the run began, each by tier.

    ``uplink`` and ``downlink`` are payload bytes; ``fedavg`` is what FedAvg would have sent with the same cohorts, in
    each direction; ``forward`` and ``backward`` are samples; ``turns`` is how often a client took part; ``directions``
    is how many directions clients regenerated to catch up, each over all parameters.

    Args:
        tiers: ``"high"`` or ``"low"`` for every client.
        model_bytes: size of a snapshot: weights and buffers.
        least: what catching up shall cost least of.
    """

    def __init__(self, tiers: Sequence[str], model_bytes: int, *, least: Literal["bytes", "work"] = "bytes") -> None:
        self._tiers = tiers
        self._model_bytes = model_bytes
        self._least: Literal["bytes", "work"] = least
        self._position = [NOTHING] * len(tiers)  # the last round whose state a client holds
        self._costs = Costs(model_bytes)
        self.uplink, self.downlink, self.fedavg, self.forward, self.backward, self.turns, self.directions = (
            {"high": 0, "low": 0} for _ in range(7)
        )

    def ask(self, request: Request, passes: Passes) -> None:
        """A request for some work goes out, behind what its client needs to catch up."""
        tier = self._tiers[request.client]
        self.downlink[tier] += request.payload_bytes
        if not request.carried_bytes:
            before = self.catch_up(request.client, request.round - 1)
            self.downlink[tier] += before.bytes
            self.directions[tier] += before.directions
            self._position[request.client] = request.round - 1
        self.fedavg[tier] += self._model_bytes
        self.turns[tier] += 1
        self.forward[tier] += passes.forward
        self.backward[tier] += passes.backward

    def report(self, report: Report) -> None:
        """A report comes in."""
        self.uplink[self._tiers[report.client]] += report.payload_bytes

    def commit(self, entry: Entry) -> None:
        """A round ends."""
        self._costs.add(entry)

    def catch_up(self, client: int, round: int) -> CatchUp:
        """What brings a client to the state after ``round``."""
        return self._costs.choose(self._position[client], round, snapshots=(round,), least=self._least)

    def counts(self) -> Metrics:
        """The counts, as a round is recorded with."""
        counts: dict[str, Any] = dict(zip(COUNTS, map(_pair, self._all()), strict=True))
        return Metrics(**counts)

    def recall(self, asked: Sequence[int], entry: Entry) -> None:
        """A round of an earlier session: who was asked in it, and what came of it."""
        for client in asked:
            self._position[client] = entry.round - 1
        self.commit(entry)

    def resume(self, metrics: Metrics) -> None:
        """Count on from what was recorded last."""
        for name, count in zip(COUNTS, self._all(), strict=True):
            count["high"], count["low"] = getattr(metrics, name)

    def _all(self) -> tuple[dict[str, int], ...]:
        return (
            self.uplink,
            self.downlink,
            self.fedavg,
            self.forward,
            self.backward,
            self.turns,
            self.directions,
        )


def _pair(count: dict[str, int]) -> tuple[int, int]:
    return count["high"], count["low"]
