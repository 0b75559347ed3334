"""The loop: phases over an engine, into a run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import nn

from zowarmup import recipes
from zowarmup.data import Dataset
from zowarmup.directions import Directions
from zowarmup.engines import Engine, Local
from zowarmup.errors import DataError, ModelError
from zowarmup.experiment import Experiment, arithmetic, choose_device, prepare
from zowarmup.metrics import evaluate, validate
from zowarmup.protocol import Report
from zowarmup.recipe import GIVEN, Recipe
from zowarmup.recorder import Callback, Recorder, Round
from zowarmup.rundir import RunDirectory, check
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
    directions: Directions | None = None,
    engine: Callable[[Experiment], Engine] | None = None,
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
        callbacks: called after every round.
        force: replace an earlier run in ``out``.
        directions: another backend of directions, for instance the readable reference.
        engine: makes another engine than the in-process one.

    Returns:
        The trained model, with the run's summary and metrics.

    Raises:
        UsageError: the recipe, the data, the model or the directory do not fit; nothing was written.
        RunError: a run that began failed; the directory keeps the rounds until then, and says so.
        KeyboardInterrupt: passed on after the directory has been made readable.
    """
    recipe = _given(_resolved(recipe, overrides, seed), model, data)
    if out is not None:
        check(Path(out), force=force)
    with arithmetic(recipe, choose_device(device)):
        experiment = prepare(recipe, device=device, dataset=data, module=model, directions=directions)
        make = engine or local
        directory = None if out is None else RunDirectory(Path(out), force=force)
        return Recorder(experiment, directory).record(rounds(experiment, make(experiment)), tuple(callbacks))


def local(experiment: Experiment) -> Local:
    """The in-process engine for an experiment."""
    return Local(
        federation=experiment.federation,
        samples=experiment.train,
        model=experiment.model,
        task=experiment.task,
        seed=experiment.recipe.seed,
    )


def rounds(experiment: Experiment, engine: Engine) -> Iterator[Round]:
    """Every round of a run, beginning with round 0, the initial weights."""
    clients = experiment.federation.clients
    traffic = Traffic([client.tier for client in clients], experiment.initial.model_bytes)
    state = experiment.initial
    yield Round(0, None, None, state, traffic, _evaluate(experiment, state))
    for phase in experiment.phases:
        state = State(state.weights, state.buffers)  # each phase remembers from its own beginning
        last = phase.scope.first_round + phase.settings.rounds - 1
        for number in range(phase.scope.first_round, last + 1):
            requests = phase.plan(number, state)
            for request in requests:
                traffic.ask(request, phase.passes(len(clients[request.client].train)))
            reports = _counted(engine.reports(phase, requests, state), traffic)
            entry, blobs = phase.close(number, reports, state)
            state = phase.apply(entry, blobs, state)
            traffic.commit(entry)
            due = number == last or number % experiment.recipe.run.evaluate_every == 0
            yield Round(number, phase, entry, state, traffic, _evaluate(experiment, state) if due else {})


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
