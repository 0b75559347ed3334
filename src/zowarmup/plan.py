"""The plan of a run: what it will cost its clients, before it runs.

Bytes and passes are exact: every round's requests, reports and entries are made as a run makes them, and counted by the
same :class:`zowarmup.traffic.Traffic`; only the numbers inside are those of the first round over and over. Time and
memory are estimates: in each phase the work of one client of each tier is done, timed and weighed on this machine.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from zowarmup import recipes
from zowarmup.experiment import Experiment, arithmetic, choose_device, prepare
from zowarmup.held import peak_bytes
from zowarmup.loop import local
from zowarmup.phases import Passes, Phase
from zowarmup.phases.head import HeadPhase
from zowarmup.protocol import Entry, Report, Request, SlopesRequest
from zowarmup.recipe import FirstOrder, Mixed, Recipe, SubNetwork
from zowarmup.traffic import COUNTS, Traffic

_QUICK_SECONDS = 0.3  # work shorter than this is done whole, and again, for a better estimate
_REPEATS = 3
_TIERS = ("high", "low")
_PIECE = 64  # samples of a client's data that its work is timed and weighed on

Tiers = Mapping[str, int]


@dataclass(frozen=True)
class PhasePlan:
    """What a phase will cost.

    Args:
        kind: as the recipe names it.
        tier: who takes part.
        rounds: how many.
        cohort: clients in a round.
        turns: requests to clients of each tier, over the phase.
        forward_samples: samples through the network, forward, over the phase, by tier.
        backward_samples: the same backward.
        uplink_bytes: payload from clients, over the phase, by tier.
        downlink_bytes: payload to clients, catching up included, over the phase, by tier.
        fedavg_bytes: what FedAvg would send, each way, with the same cohorts.
        replayed_directions: directions that clients regenerate to catch up, each over all parameters, by tier.
        request_seconds: estimate: one client's work in a round, in the mean.
        seconds: estimate: the phase, evaluations included, on this machine and one client after the other.
        held_bytes: the model that a client holds for its work, or the part of it, by tier; 0 for one that is not asked.
        working_bytes: estimate: memory of a client's work beside that, by tier: gradients, activations, scratch.
    """

    kind: str
    tier: str
    rounds: int
    cohort: int
    turns: Tiers
    forward_samples: Tiers
    backward_samples: Tiers
    uplink_bytes: Tiers
    downlink_bytes: Tiers
    fedavg_bytes: Tiers
    replayed_directions: Tiers
    request_seconds: float
    seconds: float
    held_bytes: Tiers
    working_bytes: Tiers


@dataclass(frozen=True)
class Plan:
    """What a run will cost.

    Args:
        recipe: its name.
        seed: its seed; partition, tiers and cohorts follow from it.
        parameters: d.
        model_bytes: weights and buffers: a snapshot.
        device: where time and memory were measured.
        clients: number of clients by tier.
        samples: training samples by tier.
        phases: what each phase will cost.
        uplink_bytes: payload from clients, over the run, by tier.
        downlink_bytes: payload to clients, over the run, by tier.
        fedavg_bytes: what FedAvg would send, each way, with the same cohorts.
        seconds: estimate: the run, evaluations included.
    """

    recipe: str
    seed: int
    parameters: int
    model_bytes: int
    device: str
    clients: Tiers
    samples: Tiers
    phases: tuple[PhasePlan, ...]
    uplink_bytes: Tiers
    downlink_bytes: Tiers
    fedavg_bytes: Tiers
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, as ``zowarmup plan --json`` prints them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class _Cost:
    """What one request took."""

    seconds: float
    passes: Passes
    held_bytes: int
    working_bytes: int

    def scaled(self, passes: int) -> float:
        """Seconds for another number of forward passes."""
        return self.seconds * passes / max(1, self.passes.forward)


@dataclass(frozen=True)
class _Rehearsal:
    """What a round's messages are like, and what it took."""

    measured: dict[str, tuple[Report, _Cost]]
    """By tier; one that the round does not sample is added when a later one does."""
    entry: Entry
    server_seconds: float


def plan(
    recipe: Recipe | str | Path,
    *,
    device: str = "auto",
    overrides: Mapping[str, Any] | Iterable[str] = (),
    seed: int | None = None,
) -> Plan:
    """Work out what a run will cost, without running it.

    Args:
        recipe: a recipe, the name of a shipped one, or a path to a TOML file.
        device: where to measure: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        overrides: recipe values by path; where ``recipe`` is a name or a path.
        seed: in the place of the recipe's.

    Raises:
        UsageError: the recipe, the data or the model do not fit.
        RunError: the work of a client fails.
    """
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(recipe, overrides=overrides)
    if seed is not None:
        recipe = msgspec.structs.replace(recipe, seed=seed)
    with arithmetic(recipe, choose_device(device)):
        return plan_experiment(prepare(recipe, device=device))


def plan_experiment(experiment: Experiment) -> Plan:
    """The plan of a run that is ready to begin; its model is left bound to some weights or other."""
    federation, state = experiment.federation, experiment.initial
    tiers = [client.tier for client in federation.clients]
    traffic = Traffic(tiers, state.model_bytes, least=experiment.recipe.run.catch_up)
    evaluation = _evaluation_seconds(experiment)
    phases = tuple(_plan_phase(experiment, phase, traffic, evaluation) for phase in experiment.phases)
    members = {"high": federation.members("high"), "low": federation.members("low")}
    return Plan(
        recipe=experiment.recipe.name,
        seed=experiment.recipe.seed,
        parameters=experiment.model.size,
        model_bytes=state.model_bytes,
        device=str(experiment.model.device),
        clients={tier: len(clients) for tier, clients in members.items()},
        samples={tier: sum(int(federation.sizes[i]) for i in clients) for tier, clients in members.items()},
        phases=phases,
        uplink_bytes=dict(traffic.uplink),
        downlink_bytes=dict(traffic.downlink),
        fedavg_bytes=dict(traffic.fedavg),
        seconds=evaluation + sum(phase.seconds for phase in phases),
    )


def _evaluation_seconds(experiment: Experiment) -> float:
    """An evaluation on the test set, from one chunk of it."""
    model, test = experiment.model, experiment.test
    model.bind(experiment.initial.weights)
    model.load_buffers(experiment.initial.buffers)
    x, _ = next(test.chunks())
    with model.evaluation():
        model.module(x)
        return _timed(lambda: model.module(x).cpu()) * len(test) / len(x)


def _plan_phase(experiment: Experiment, phase: Phase, traffic: Traffic, evaluation: float) -> PhasePlan:
    """Send a phase's messages past the counter, and do the work of one client of each tier."""
    phase = _solvable(phase)
    state, clients, scope = experiment.initial, experiment.federation.clients, phase.scope
    rounds = range(scope.first_round, scope.first_round + phase.settings.rounds)
    rehearsed = [
        _rehearse(experiment, phase, number) for number in (rounds if phase.settings.kind == "head" else rounds[:1])
    ]
    server, work = statistics.mean(each.server_seconds for each in rehearsed), 0.0
    before = _counts(traffic)
    for index, number in enumerate(rounds):
        as_then = rehearsed[min(index, len(rehearsed) - 1)]
        for request in phase.plan(number, state):
            client = clients[request.client]
            if client.tier not in as_then.measured:
                as_then.measured[client.tier] = _measure(experiment, phase, request)
            report, cost = as_then.measured[client.tier]
            passes = phase.passes(len(client.train), request.client)
            work += cost.scaled(passes.forward)
            traffic.ask(request, passes)
            traffic.report(_addressed(report, request))
        traffic.commit(_numbered(as_then.entry, number))
    after = _counts(traffic)
    spent = {name: {tier: after[name][tier] - before[name][tier] for tier in after[name]} for name in after}
    costs = {tier: cost for tier, (_, cost) in rehearsed[0].measured.items()}
    evaluations = sum(number == rounds[-1] or number % experiment.recipe.run.evaluate_every == 0 for number in rounds)
    return PhasePlan(
        kind=phase.settings.kind,
        tier=phase.settings.tier,
        rounds=len(rounds),
        cohort=len(phase.plan(scope.first_round, state)),
        **spent,
        request_seconds=work / max(1, sum(spent["turns"].values())),
        seconds=work + len(rounds) * server + evaluations * evaluation,
        held_bytes={tier: costs[tier].held_bytes if tier in costs else 0 for tier in _TIERS},
        working_bytes={tier: costs[tier].working_bytes if tier in costs else 0 for tier in _TIERS},
    )


def _solvable(phase: Phase) -> Phase:
    """The phase; a head with a ridge, as one client's sums over and over may have no solution where everybody's do."""
    if not isinstance(phase, HeadPhase):
        return phase
    return dataclasses.replace(phase, settings=msgspec.structs.replace(phase.settings, ridge=1.0))


def _rehearse(experiment: Experiment, phase: Phase, number: int) -> _Rehearsal:
    """A round with the work of one client of each tier in the place of everybody's."""
    state, clients = experiment.initial, experiment.federation.clients
    requests = phase.plan(number, state)
    measured = {}
    for tier in _TIERS:
        if own := [request for request in requests if clients[request.client].tier == tier]:
            measured[tier] = _measure(experiment, phase, _median(own, phase.scope.samples))
    started = time.perf_counter()
    sent = (_addressed(measured[clients[request.client].tier][0], request) for request in requests)
    entry, blobs = phase.close(number, sent, state)
    phase.apply(entry, blobs, state)
    return _Rehearsal(measured, entry, time.perf_counter() - started)


def _measure(experiment: Experiment, phase: Phase, request: Request) -> tuple[Report, _Cost]:
    """One client's work on a piece of its data, weighed and timed; where that is quick, all of its work is timed."""
    client = local(experiment).client(request.client, experiment.initial)
    piece = dataclasses.replace(client, indices=client.indices[: _piece(phase, request, len(client.indices))])
    report: list[Report] = []
    working = peak_bytes(lambda: report.append(phase.work(request, piece)), experiment.model.device)
    seconds = _timed(lambda: phase.work(request, piece))
    passes, whole = (phase.passes(len(each.indices), request.client) for each in (piece, client))
    if seconds * whole.forward / max(1, passes.forward) < _QUICK_SECONDS:
        seconds = statistics.median(_timed(lambda: phase.work(request, client)) for _ in range(_REPEATS))
        passes = whole
    held = request.carried_bytes or experiment.initial.model_bytes
    return report[0], _Cost(seconds, passes, held, working)


def _piece(phase: Phase, request: Request, samples: int) -> int:
    """Samples that make the largest set of activations a client's work has at a time, and not many more."""
    settings = phase.settings
    if isinstance(settings, Mixed):
        settings = settings.zeroth_order if isinstance(request, SlopesRequest) else settings.first_order
    size = getattr(settings, "batch", "all")
    batch = samples if size == "all" else int(size)
    if not isinstance(settings, FirstOrder | SubNetwork):
        micro = phase.scope.micro_batch
        batch = min(batch, _PIECE if micro == "all" else micro)
    return min(batch, samples)


def _median(requests: Sequence[Request], samples: Sequence[int]) -> Request:
    """The request to the client whose number of samples is the median of those asked."""
    ordered = sorted(requests, key=lambda request: samples[request.client])
    return ordered[len(ordered) // 2]


def _addressed(report: Report, request: Request) -> Report:
    """The report as if another client had sent it, in another round."""
    return msgspec.structs.replace(report, round=request.round, client=request.client)


def _numbered(entry: Entry, number: int) -> Entry:
    return msgspec.structs.replace(entry, round=number)


def _counts(traffic: Traffic) -> dict[str, dict[str, int]]:
    counts = traffic.counts()
    return {name: dict(zip(_TIERS, getattr(counts, name), strict=True)) for name in COUNTS}


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started
