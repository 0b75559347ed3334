"""The loop: phases over an engine, into a ledger; from its beginning, or from where the ledger ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from zowarmup import beginnings, recipes
from zowarmup.continuing import continued, fit, fit_buffers, warn
from zowarmup.data import Dataset, Federation
from zowarmup.directions import Directions
from zowarmup.disk import Disk
from zowarmup.engines import Engine, Local
from zowarmup.errors import DataError, ModelError, OutputError, UsageError
from zowarmup.experiment import Experiment, arithmetic, choose_device, ledger_head, machine, prepare
from zowarmup.ledger import NAME as LEDGER
from zowarmup.ledger import Ledger
from zowarmup.metrics import evaluate, validate
from zowarmup.protocol import Replacement, Report
from zowarmup.recipe import GIVEN, Recipe
from zowarmup.recorder import Callback, Recorder, Round
from zowarmup.replay import Replay
from zowarmup.rundir import METRICS, RECIPE, RunDirectory, check, lacking
from zowarmup.state import State
from zowarmup.traffic import Traffic
from zowarmup.trained import Trained


def run(
    recipe: Recipe | str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    model: nn.Module | None = None,
    data: Dataset | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    callbacks: Iterable[Callback] = (),
    force: bool = False,
    beginning: str | Path | None = None,
    directions: Directions | None = None,
    engine: Callable[[Experiment], Engine] | None = None,
    federation: Federation | None = None,
    disk: Disk | None = None,
) -> Trained:
    """Run a recipe to its end.

    Args:
        recipe: a recipe, the name of a shipped one, or a path to a TOML file.
        out: the run directory; nothing is written where left out.
        seed: in the place of the recipe's.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        model: in the place of the recipe's net: any module with fp32 parameters; it is trained in place.
        data: in the place of the recipe's source: see :func:`zowarmup.from_arrays`.
        overrides: recipe values by path, ``{"phase.1.eps": 1e-3}``.
        callbacks: called after every round, when it is in the ledger.
        force: replace an earlier run in ``out``.
        beginning: the directory of a run with the same first phases, whose rounds are taken over from there instead of
            being run: the same bits. Callbacks do not see them.
        directions: another backend of directions, for instance the readable reference.
        engine: makes another engine than the in-process one.
        federation: who takes part, where every node brings its own data.
        disk: writes files in another way than ``run.sync`` says, for instance to test faults.

    Returns:
        The trained model, with the run's summary and metrics.

    Raises:
        UsageError: the recipe, the data, the model or the directory do not fit; nothing was written.
        RunError: a run that began failed; the directory keeps the rounds until then, and :func:`resume` goes on.
        KeyboardInterrupt: passed on after the directory has been made readable.
    """
    recipe, callbacks = _given(_resolved(recipe, overrides, seed), model, data), tuple(callbacks)
    if out is not None:
        check(Path(out), force=force)
    if beginning is not None:
        if out is None:
            raise UsageError("a run with a beginning needs a directory", hint="out=...")
        beginnings.check(recipe, Path(beginning))
    with arithmetic(recipe, choose_device(device)):
        experiment = prepare(
            recipe, device=device, dataset=data, module=model, directions=directions, federation=federation
        )
        made = (engine or local)(experiment)
        if out is None:
            with Ledger.memory(ledger_head(experiment)) as ledger:
                return _go(experiment, made, ledger, None, callbacks)
        how = disk or Disk(sync=recipe.run.sync == "full")
        with RunDirectory.create(Path(out), ledger_head(experiment), force=force, disk=how) as directory:
            if beginning is not None:
                beginnings.adopt(directory, experiment, Path(beginning))
            return _go(experiment, made, directory.ledger, directory, callbacks)


def resume(
    path: str | Path,
    *,
    rounds: int | str | None = None,
    device: str = "auto",
    model: nn.Module | None = None,
    data: Dataset | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    callbacks: Iterable[Callback] = (),
    directions: Directions | None = None,
    engine: Callable[[Experiment], Engine] | None = None,
    federation: Federation | None = None,
    disk: Disk | None = None,
) -> Trained:
    """Go on with a run after its last recorded round, to the bits of a run that was never interrupted.

    That holds for the same builds of torch on the same kind of processor; a warning says where they differ. A finished
    run is left as it is, but for files that are missing.

    Args:
        path: the run directory.
        rounds: of the whole run from now on, as a number, or as ``"+100"`` in addition; the last phase gets them. A
            schedule goes on as it was: a cosine that has come to its end refuses.
        device: as for :func:`run`.
        model: the module, where it was passed to :func:`run`; its weights are replaced.
        data: the data, where it was passed to :func:`run`.
        overrides: recipe values that change no bit: ``{"data.path": "elsewhere"}``.
        callbacks, directions, engine, federation, disk: as for :func:`run`.

    Raises:
        UsageError: not a run directory, another process writes it, or recipe, data or model are not those of the run.
        LedgerError: the ledger, or a snapshot that is needed, is damaged.
        RunError, KeyboardInterrupt: as for :func:`run`.
    """
    path, callbacks = Path(path), tuple(callbacks)
    with Ledger.open(path) as ledger:  # refuses before anything is written
        if message := lacking(ledger):
            hint = f"was {LEDGER}-wal left behind? Remove {METRICS} to go on with what the ledger has"
            raise OutputError(message, hint=hint, path=path)
        ledger.check()
        text = continued(ledger, rounds, overrides)
    recipe = recipes.parse(text, name=str(path / LEDGER))
    with arithmetic(recipe, choose_device(device)):
        experiment = prepare(
            recipe, device=device, dataset=data, module=model, directions=directions, federation=federation
        )
        fit(experiment, ledger.head, path)
        made = (engine or local)(experiment)
        with RunDirectory.open(path, disk=disk or Disk(sync=recipe.run.sync == "full")) as directory:
            if directory.ledger.head.recipe != ledger.head.recipe:
                raise OutputError(f"{path}: was changed by another process in the meantime", path=path)
            if directory.ledger.last != ledger.last:
                directory.ledger.check()
            return _go(experiment, made, directory.ledger, directory, callbacks, recipe=text)


def _go(
    experiment: Experiment,
    engine: Engine,
    ledger: Ledger,
    directory: RunDirectory | None,
    callbacks: Iterable[Callback],
    *,
    recipe: str | None = None,
) -> Trained:
    """Run what is not in the ledger yet, by ``recipe`` where the ledger's is another text of the same run."""
    engine.follow(ledger)
    start = None if directory is None or ledger.last < 0 else _point(experiment, engine, directory)
    if recipe not in (None, ledger.head.recipe):
        ledger.amend(recipe)
    if start is None or start.round < experiment.recipe.rounds:
        here = machine(experiment)
        warn(ledger, here)
        ledger.begin(here)
        if directory is not None:
            directory.outdate()
            directory.write(RECIPE, ledger.head.recipe.encode())
    recorder = Recorder(experiment, ledger, directory)
    return recorder.record(rounds(experiment, engine, start), start.state if start else None, tuple(callbacks))


def local(experiment: Experiment) -> Local:
    """The in-process engine for an experiment."""
    return Local(
        federation=experiment.federation,
        samples=experiment.train,
        model=experiment.model,
        task=experiment.task,
        seed=experiment.recipe.seed,
    )


@dataclass(frozen=True)
class Point:
    """Where a run stands."""

    round: int
    state: State
    """After the round, with its phase state."""
    traffic: Traffic


def rounds(experiment: Experiment, engine: Engine, start: Point | None = None) -> Iterator[Round]:
    """The rounds of a run behind a point, or every one, beginning with round 0, the initial weights."""
    clients = experiment.federation.clients
    if start is None:
        start = Point(0, experiment.initial, _traffic(experiment))
        yield Round(0, None, None, start.state, start.traffic, _evaluate(experiment, start.state))
    state, traffic = start.state, start.traffic
    for phase in experiment.phases:
        last = phase.scope.first_round + phase.settings.rounds - 1
        for number in range(max(phase.scope.first_round, start.round + 1), last + 1):
            if number == phase.scope.first_round:
                state = state.begun()
            requests = phase.plan(number, state)
            for request in requests:
                traffic.ask(request, phase.passes(len(clients[request.client].train), request.client))
            reports = _counted(engine.reports(phase, requests, state), traffic)
            entry, blobs = phase.close(number, reports, state)
            state = phase.apply(entry, blobs, state)
            traffic.commit(entry)
            due = number == last or number % experiment.recipe.run.evaluate_every == 0
            yield Round(number, phase, entry, state, traffic, _evaluate(experiment, state) if due else {})


def _point(experiment: Experiment, engine: Engine, directory: RunDirectory) -> Point:
    """Where the ledger's last round leaves the run."""
    ledger, phases, traffic = directory.ledger, experiment.phases, _traffic(experiment)
    for row in ledger.rows(1):
        entry, phase = row.decoded(), phases[row.phase]
        assert entry is not None
        traffic.recall([request.client for request in phase.plan(row.round, experiment.initial)], entry)
    traffic.resume(ledger.row(ledger.last).measured())

    def rerun(entry: Replacement, state: State) -> State:
        phase, state = phases[entry.phase], _on(state, experiment)
        requests = [request for request in phase.plan(entry.round, state) if request.client in entry.participants]
        again, blobs = phase.close(entry.round, engine.reports(phase, requests, state), state)
        return phase.apply(again, blobs, state)

    replay = Replay(ledger, directory.snapshots, rerun=rerun)
    state = replay.state(ledger.last)
    fit_buffers(experiment, state, directory.path)
    return Point(ledger.last, _on(state, experiment), traffic)


def _on(state: State, experiment: Experiment) -> State:
    """The state on the run's device; what a server optimiser remembers stays on the CPU."""
    device = experiment.model.device
    buffers = {name: buffer.to(device) for name, buffer in state.buffers.items()}
    return State(state.weights.to(device), buffers, state.phase)


def _traffic(experiment: Experiment) -> Traffic:
    tiers = [client.tier for client in experiment.federation.clients]
    return Traffic(tiers, experiment.initial.model_bytes, least=experiment.recipe.run.catch_up)


def _resolved(recipe: Recipe | str | Path, overrides: Mapping[str, Any] | Iterable[str], seed: int | None) -> Recipe:
    """The recipe with everything in its place that was put there, checked as a whole."""
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(recipe, overrides=overrides)
    elif overrides:
        recipe = recipes.parse(recipes.to_toml(recipe), name=recipe.name, overrides=overrides)
    if seed is not None:
        recipe = recipes.parse(recipes.to_toml(recipe), name=recipe.name, overrides={"seed": seed})
    return recipe


def _given(recipe: Recipe, model: nn.Module | None, data: Dataset | None) -> Recipe:
    """The recipe that says what was passed from Python."""
    if model is not None and not isinstance(model, nn.Module):
        raise ModelError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    if data is not None and not isinstance(data, Dataset):
        raise DataError(
            f"data is a {type(data).__name__}, expected a Dataset",
            hint="zowarmup.from_arrays((x_train, y_train), (x_test, y_test)) makes one",
        )
    if model is not None:
        recipe = msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, net=GIVEN, args={}))
    if data is not None:
        recipe = msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, source=GIVEN))
    return recipe


def _counted(reports: Iterator[Report], traffic: Traffic) -> Iterator[Report]:
    for report in reports:
        traffic.report(report)
        yield report


def _evaluate(experiment: Experiment, state: State) -> dict[str, Any]:
    model, task, federation = experiment.model, experiment.task, experiment.federation
    return {
        **evaluate(model, state, experiment.test, task, federation),
        **validate(model, state, experiment.train, task, federation),
    }
