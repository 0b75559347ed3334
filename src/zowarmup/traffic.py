"""Counts what a run costs its clients, by tier: payload bytes each way, and samples through the network.

A client that takes part in a round must first hold the state before it. It gets the entries since it last did, or a
snapshot, whichever is fewer bytes; across a first-order round only a snapshot will do. Delivering the final model is
not counted, for any method alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from zowarmup.phases import Passes
from zowarmup.protocol import Entry, Report, Request, Update

_NEVER = -1


class Traffic:
    """Counts since the run began, each by tier.

    ``uplink`` and ``downlink`` are payload bytes; ``fedavg`` is what FedAvg would have sent with the same cohorts, in
    each direction; ``forward`` and ``backward`` are samples; ``turns`` is how often a client took part.

    Args:
        tiers: ``"high"`` or ``"low"`` for every client.
        model_bytes: size of a snapshot: weights and buffers.
    """

    def __init__(self, tiers: Sequence[str], model_bytes: int) -> None:
        self._tiers = tiers
        self._model_bytes = model_bytes
        self._position = [_NEVER] * len(tiers)  # the last round whose state a client holds
        self._snapshot = 0  # the last round that only a snapshot brings across
        self._entries = [0]  # bytes of all entries up to a round
        self.uplink, self.downlink, self.fedavg, self.forward, self.backward, self.turns = (
            {"high": 0, "low": 0} for _ in range(6)
        )

    def ask(self, request: Request, passes: Passes) -> None:
        """A request for some work goes out, behind what its client needs to catch up."""
        tier = self._tiers[request.client]
        self.downlink[tier] += request.payload_bytes + self.catch_up(request.client, request.round - 1)
        self.fedavg[tier] += self._model_bytes
        self.turns[tier] += 1
        self.forward[tier] += passes.forward
        self.backward[tier] += passes.backward
        self._position[request.client] = request.round - 1

    def report(self, report: Report) -> None:
        """A report comes in."""
        self.uplink[self._tiers[report.client]] += report.payload_bytes

    def commit(self, entry: Entry) -> None:
        """A round ends."""
        if isinstance(entry, Update):
            self._entries.append(self._entries[-1] + entry.payload_bytes)
        else:
            self._entries.append(self._entries[-1])
            self._snapshot = entry.round

    def catch_up(self, client: int, round: int) -> int:
        """Bytes that bring a client to the state after ``round``."""
        position = self._position[client]
        if position < self._snapshot or position == _NEVER:
            return self._model_bytes
        return min(self._model_bytes, self._entries[round] - self._entries[position])

    def counts(self) -> dict[str, dict[str, int]]:
        """Copies of the counts, as a line of metrics.jsonl has them."""
        return {
            "uplink_bytes": dict(self.uplink),
            "downlink_bytes": dict(self.downlink),
            "forward_samples": dict(self.forward),
            "backward_samples": dict(self.backward),
        }
