"""The in-process engine: one model in memory however many clients, all data resident."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from zowarmup.data import Federation, Samples
from zowarmup.errors import ClientError, ZOWarmUpError
from zowarmup.ledger import Ledger
from zowarmup.model import Model
from zowarmup.phases import Client, Phase
from zowarmup.protocol import Report, Request
from zowarmup.state import State
from zowarmup.task import Task


@dataclass(frozen=True)
class Local:
    """Runs every client in this process, one after the other.

    Args:
        federation: who holds which samples.
        samples: the training set, resident on the model's device.
        model: the one model; clients take turns.
        task: the loss.
        seed: the run seed.
        visit: the order in which clients work, for tests; reports are handed on in client order all the same.
    """

    federation: Federation
    samples: Samples
    model: Model
    task: Task
    seed: int
    visit: Callable[[Sequence[Request]], Sequence[Request]] | None = None

    def follow(self, ledger: Ledger) -> None:
        """See :class:`Engine`. Clients in this process see the state itself."""

    def reports(self, phase: Phase, requests: Sequence[Request], state: State) -> Iterator[Report]:
        """See :class:`Engine`. Each report is made when it is asked for.

        Raises:
            ClientError: work failed; says which client, round and phase.
        """
        if self.visit is None:
            for request in requests:
                yield self._work(phase, request, state)
        else:
            made = [self._work(phase, request, state) for request in self.visit(requests)]
            yield from sorted(made, key=lambda report: report.client)

    def client(self, index: int, state: State) -> Client:
        """A client that holds ``state``; all of them share the one model."""
        return Client(
            index=index,
            seed=self.seed,
            samples=self.samples,
            indices=self.federation.clients[index].train,
            model=self.model,
            state=state,
            task=self.task,
        )

    def _work(self, phase: Phase, request: Request, state: State) -> Report:
        try:
            return phase.work(request, self.client(request.client, state))
        except Exception as error:
            what = error.message if isinstance(error, ZOWarmUpError) else f"{type(error).__name__}: {error}"
            where = f"round {request.round}, phase {request.phase} ({phase.settings.kind}), client {request.client}"
            raise ClientError(
                f"{where}: {what}",
                hint=getattr(error, "hint", None),
                client=request.client,
                round=request.round,
                phase=request.phase,
            ) from error
