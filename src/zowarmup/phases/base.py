"""What a phase is, and what it is given: the server's view of a federation, a client's view of itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from zowarmup.data import Samples
from zowarmup.directions import Directions
from zowarmup.draws import Draw
from zowarmup.errors import RecipeError
from zowarmup.model import Model
from zowarmup.protocol import Entry, Report, Request
from zowarmup.recipe import Head, Statistics
from zowarmup.recipe import Phase as Settings
from zowarmup.state import State
from zowarmup.table import Table
from zowarmup.task import Task

Blobs = Mapping[str, State]


class Closed(NamedTuple):
    """What ``close`` returns: the entry, and what it names by digest and does not carry."""

    entry: Entry
    blobs: Blobs


class Passes(NamedTuple):
    """Samples that go through a network: the unit in which methods are compared on equal terms."""

    forward: int
    backward: int


@runtime_checkable
class Phase(Protocol):
    """A phase: settings and scope fixed, four functions over immutable states."""

    @property
    def settings(self) -> Settings: ...

    @property
    def scope(self) -> Scope: ...

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """A request for each client of the round's cohort, ascending by client."""

    def work(self, request: Any, client: Client) -> Report:
        """What a client does when asked. Leaves the model bound to weights of its own choice."""

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Fold the reports, which come in client order, into the round's entry."""

    def apply(self, entry: Any, blobs: Blobs, state: State) -> State:
        """The state after the round; ``state`` is left as it is."""

    def passes(self, samples: int, client: int) -> Passes:
        """What ``client``, with ``samples`` training samples, computes in a round."""


@dataclass(frozen=True)
class Scope:
    """Where a phase stands in a run, and what the server knows of the clients.

    Args:
        seed: the run seed.
        phase: index of the phase in the recipe.
        first_round: the phase's first round, from 1.
        members: clients of the phase's tier, ascending.
        samples: training samples of every client of the run, n_j.
        table: where each parameter lies.
        directions: the backend that makes directions.
        micro_batch: samples in one forward pass of an evaluation.
        high: the high-resource clients.
        only: of the sampled clients, those who take part; all where left out. A phase within a phase has a part.
    """

    seed: int
    phase: int
    first_round: int
    members: tuple[int, ...]
    samples: tuple[int, ...]
    table: Table
    directions: Directions
    micro_batch: int | Literal["all"]
    high: frozenset[int] = frozenset()
    only: frozenset[int] | None = None

    @property
    def low(self) -> frozenset[int]:
        """The low-resource clients, whoever takes part in the phase."""
        return frozenset(range(len(self.samples))) - self.high

    def cohort(self, round: int, settings: Settings) -> tuple[int, ...]:
        """The clients sampled in a round, ascending."""
        clients = self.members
        if settings.cohort != "all" and settings.cohort != len(clients):
            chosen = Draw(self.seed, "cohort", round).choose(len(clients), settings.cohort)
            clients = tuple(clients[i] for i in chosen)
        return clients if self.only is None else tuple(client for client in clients if client in self.only)

    def requests(self, round: int, settings: Head | Statistics) -> list[Request]:
        """A request for each client of the cohort that holds enough samples, ascending."""
        enough = [each for each in self.cohort(round, settings) if self.samples[each] >= settings.min_samples]
        return [Request(round=round, phase=self.phase, client=client) for client in enough]

    def check(self, settings: Settings) -> None:
        """Refuse a phase nobody can take part in.

        Raises:
            RecipeError: the tier has no clients, or fewer than the cohort.
        """
        if not self.members:
            raise RecipeError(
                f'phase {self.phase}: tier = "{settings.tier}" has no clients among {len(self.samples)}',
                hint="data.high-resource sets who belongs to which tier",
            )
        if settings.cohort != "all" and settings.cohort > len(self.members):
            raise RecipeError(
                f'phase {self.phase}: cohort = {settings.cohort}, but tier = "{settings.tier}" '
                f"has {len(self.members)} clients"
            )


@dataclass(frozen=True)
class Client:
    """A client at work: its data, its replica of the state, and one model to run it on.

    Args:
        index: the client.
        seed: the run seed.
        samples: the samples it can read, resident on the device.
        indices: which of them it trains on, shape ``(n_j,)``.
        model: bound to some weights or other; work binds it to what it needs.
        state: the state before the round; work never changes it.
        task: the loss.
    """

    index: int
    seed: int
    samples: Samples
    indices: NDArray[np.int64]
    model: Model
    state: State
    task: Task

    def draw(self, purpose: str, round: int, index: int = 0) -> Draw:
        """The key of one of this client's draws."""
        return Draw(self.seed, purpose, round, self.index, index)


R = TypeVar("R", bound=Report)


def screen(
    reports: Iterable[Report],
    kind: type[R],
    cohort: Collection[int],
    round: int,
    fault: Callable[[R], str | None],
    refused: dict[int, str],
) -> Iterator[R]:
    """Pass on the reports that count; note in ``refused`` the clients whose do not, and why.

    Args:
        reports: as they come, in client order.
        kind: the message that was asked for.
        cohort: the clients that were asked.
        round: the round they were asked for.
        fault: what is wrong with a report's numbers, or None.
        refused: client -> reason; filled as reports are drawn.
    """
    seen: set[int] = set()
    for report in reports:
        if report.client not in cohort:
            reason: str | None = "was not asked"
        elif report.round != round:
            reason = f"reported for round {report.round}"
        elif report.client in seen:
            continue  # the first counts
        elif not isinstance(report, kind):
            reason = f"sent {type(report).__name__}, expected {kind.__name__}"
        else:
            reason = fault(report)
            if reason is None:
                seen.add(report.client)
                yield report
        if reason is not None:
            refused[report.client] = reason
