"""From a recipe to the objects of a run: data, federation, model, phases."""

from __future__ import annotations

import contextlib
import os
import platform
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from zowarmup import chain, data, nets, norms, phases, recipes, subnetwork
from zowarmup import head as heads
from zowarmup.data import Dataset, Federation, Samples
from zowarmup.directions import Directions, check_denormals, select
from zowarmup.errors import DataError, ModelError, RecipeError, ZOWarmUpError
from zowarmup.estimators import gradient
from zowarmup.imports import load_object
from zowarmup.ledger import Head as LedgerHead
from zowarmup.model import Model, cuda_precision, initialise, load_weights
from zowarmup.phases import Phase, Scope
from zowarmup.recipe import GIVEN, Head, Mixed, Recipe, SubNetwork, ZerothOrder
from zowarmup.state import State, check_dtypes, moments_digest
from zowarmup.subnetwork import Narrow
from zowarmup.task import Classification, Task


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, made from its recipe."""

    recipe: Recipe
    federation: Federation
    model: Model
    task: Task
    train: Samples
    test: Samples
    phases: tuple[Phase, ...]
    initial: State
    class_names: tuple[str, ...] | None = None


def prepare(
    recipe: Recipe,
    *,
    device: str = "auto",
    dataset: Dataset | None = None,
    module: nn.Module | None = None,
    directions: Directions | None = None,
    federation: Federation | None = None,
) -> Experiment:
    """Load, partition and build what a recipe describes; checks everything that can be checked before round 1.

    Args:
        recipe: the recipe.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` (or ``"cuda:1"``), ``"mps"``.
        dataset: where ``data.source`` is ``"given"``.
        module: where ``model.net`` is ``"given"``; used as it is, with the weights it has.
        directions: another backend than the device's fastest.
        federation: where the partition is ``own``: who has come, and with how much.

    Raises:
        UsageError: a kind of it, for what does not fit.
    """
    where = choose_device(device)
    directions = directions or select(where, threads=recipe.run.threads)
    check_denormals(directions)
    if dataset is None and recipe.data.source == GIVEN:
        raise DataError(
            'data.source = "given": this run got its data from Python',
            hint="pass it again: zowarmup.run(..., data=) or zowarmup.resume(..., data=)",
        )
    dataset = data.load(recipe.data, seed=recipe.seed, dataset=dataset)
    if federation is None:
        federation = data.federate(recipe.data, dataset, seed=recipe.seed)
    return assemble(recipe, dataset, federation, device=where, module=module, directions=directions)


def assemble(
    recipe: Recipe,
    dataset: Dataset,
    federation: Federation,
    *,
    device: torch.device,
    module: nn.Module | None = None,
    directions: Directions,
    backprop: bool = True,
) -> Experiment:
    """Build what a recipe describes around data that is there.

    Args:
        recipe: the recipe.
        dataset: what the federation's indices point into.
        federation: who holds which of it.
        device: where the model lives.
        module: where ``model.net`` is ``"given"``.
        directions: the backend.
        backprop: whether this process may have to run it, so that it is tried; an inference-only device must not.

    Raises:
        UsageError: a kind of it, for what does not fit.
    """
    if any(getattr(part, "augment", "none") == "standard" for part in recipe.parts) and dataset.train.x.ndim != 4:
        raise RecipeError(
            f'augment = "standard" needs images (N, C, H, W), but samples have shape {dataset.train.x.shape[1:]}'
        )
    module = module if module is not None else build_module(recipe, dataset)
    model = Model(
        module,
        device=device,
        batch_norm=recipe.model.batch_norm,
        directions=directions,
    )
    check_dtypes(model.buffers())
    if recipe.model.weights is not None:
        load_weights(model, recipe.model.weights)
    scaling = {"mean": recipe.data.mean, "std": recipe.data.std}
    train = Samples(dataset.train, device=device, **scaling)
    task = build_task(recipe)
    _check_forward(recipe, model, task, train, dataset, backprop=backprop)

    def narrow(phase: SubNetwork) -> Narrow:
        return build_narrow(recipe, dataset, model, train, phase)

    return Experiment(
        recipe=recipe,
        federation=federation,
        model=model,
        task=task,
        train=train,
        test=Samples(dataset.test, device=device, **scaling),
        phases=build_phases(recipe, federation, model, narrow),
        initial=State(model.weights(), model.buffers()),
        class_names=dataset.class_names,
    )


def build_module(recipe: Recipe, dataset: Dataset) -> nn.Module:
    """The recipe's network with its initial weights, drawn from the run seed."""
    if recipe.model.net == GIVEN:
        raise ModelError(
            'model.net = "given": this run got its model from Python',
            hint="pass it again: zowarmup.run(..., model=) or zowarmup.resume(..., model=)",
        )
    return initialise(
        lambda: nets.build(
            recipe.model.net,
            input_shape=tuple(dataset.train.x.shape[1:]),
            classes=dataset.classes,
            args=recipe.model.args,
        ),
        recipe.seed,
    )


def build_narrow(recipe: Recipe, dataset: Dataset, model: Model, train: Samples, phase: SubNetwork) -> Narrow:
    """What low-resource clients train in a sub-network phase; its own first weights are never used."""
    if recipe.model.net == GIVEN:
        raise ModelError(
            "a narrower net cannot be made of a module that was passed from Python",
            hint='name what makes it: model.net = "python:module:callable", with a `rate` for its hidden widths',
        )
    module = initialise(
        lambda: nets.narrow(
            recipe.model.net,
            phase.low_width,
            input_shape=tuple(dataset.train.x.shape[1:]),
            classes=dataset.classes,
            args=recipe.model.args,
        ),
        recipe.seed,
    )
    x, _ = train.batch(np.arange(min(2, len(train))))
    return subnetwork.narrow(model, module, phase.low_width, scaler=phase.scaler, x=x)


def build_task(recipe: Recipe) -> Task:
    """The recipe's task.

    Raises:
        ModelError: it cannot be imported or made, or lacks ``losses`` or ``scores``.
    """
    if recipe.model.task == "classification":
        return Classification()
    task = load_object(recipe.model.task, ModelError)
    task = task() if isinstance(task, type) else task
    missing = [name for name in ("losses", "scores") if not callable(getattr(task, name, None))]
    if missing:
        raise ModelError(f"{recipe.model.task}: has no method {' and no '.join(missing)}")
    return cast(Task, task)


def build_phases(
    recipe: Recipe, federation: Federation, model: Model, narrow: Callable[[SubNetwork], Narrow]
) -> tuple[Phase, ...]:
    """The recipe's phases, each in its place."""
    built = []
    for index, (settings, first) in enumerate(zip(recipe.phase, recipe.first_rounds, strict=True)):
        scope = Scope(
            seed=recipe.seed,
            phase=index,
            first_round=first,
            members=federation.members(settings.tier),
            samples=tuple(int(n) for n in federation.sizes),
            table=model.table,
            directions=model.directions,
            micro_batch=recipe.run.micro_batch,
            high=frozenset(federation.members("high")),
        )
        built.append(
            phases.build(
                settings,
                scope,
                head=_finder(recipe, model, federation.classes),
                norms=lambda: norms.find(model),
                narrow=narrow,
            )
        )
    return tuple(built)


def choose_device(name: str) -> torch.device:
    """The device a name stands for; ``auto`` takes CUDA where there is any, else the CPU.

    Raises:
        RecipeError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise RecipeError(f'device = "{name}" cannot be used here: {str(error).splitlines()[0]}') from None
    return device


@contextlib.contextmanager
def arithmetic(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """While open, torch computes as the recipe says: its threads; on CUDA deterministic algorithms and full fp32."""
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(recipe.run.threads)
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only so
            stack.callback(torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())
            stack.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
            stack.enter_context(cuda_precision("ieee"))
        yield


def with_versions(recipe: Recipe) -> Recipe:
    """The recipe with the versions that bits depend on, as run.toml keeps it."""
    names = ("zowarmup", "torch", "numpy", "numba")
    versions = {name: metadata.version(name) for name in names}
    versions |= {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    return msgspec.structs.replace(recipe, versions=versions)


def ledger_head(experiment: Experiment) -> LedgerHead:
    """What the ledger of a run begins with."""
    table, federation = experiment.model.table, experiment.federation
    text = recipes.to_toml(with_versions(experiment.recipe))
    counts = federation.class_counts
    rows = zip(table.names, table.shapes, table.segments, strict=True)
    return LedgerHead(
        recipe=text,
        identity=chain.identity(tomllib.loads(text)),
        table=table,
        data=data_digest(experiment),
        facts={
            "parameters": table.size,
            "model_bytes": experiment.initial.model_bytes,
            "table": [{"name": name, "shape": list(shape), "base": segment.base} for name, shape, segment in rows],
            "input_shape": list(experiment.train.shape),
            "classes": federation.classes,
            "federation": {
                "tiers": [client.tier for client in federation.clients],
                "sizes": [int(n) for n in federation.sizes],
                "class_counts": None if counts is None else counts.tolist(),
                "class_names": experiment.class_names,
                "low_held_classes": list(federation.low_held_classes()),
            },
        },
    )


def data_digest(experiment: Experiment) -> str:
    """Digest, hex, of data, partition and tiers; with that of the model's constants, where it has any.

    Constants are parameters that are not trained: they are in no state, and every replica has its own.
    """
    table = experiment.model.table
    constants = {
        name: value.detach() for name, value in experiment.model.module.named_parameters() if name not in table.names
    }
    found = experiment.federation.digest()
    if constants:
        found = chain.digest(bytes.fromhex(found), bytes.fromhex(moments_digest(constants))).hex()
    return found


def machine(experiment: Experiment) -> dict[str, Any]:
    """What bits depend on besides the recipe: builds, device, and kind of processor."""
    return {
        "versions": with_versions(experiment.recipe).versions,
        "device": str(experiment.model.device),
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": experiment.recipe.run.threads,
        "host": platform.node(),
    }


def _finder(recipe: Recipe, model: Model, classes: int | None) -> Callable[[str | None], heads.HeadLayer]:
    """Finds the head by the name that a phase gives, or by the one that the recipe's head phases give."""
    return lambda name: heads.find(model, name or recipe.head, classes)


def _check_forward(
    recipe: Recipe, model: Model, task: Task, train: Samples, dataset: Dataset, *, backprop: bool
) -> None:
    """A model may not fit the data or the task, or not let itself be perturbed: find out before round 1."""
    some = np.array(sorted({0, len(train) - 1, int(np.argmax(dataset.train.y.reshape(len(train), -1)[:, 0]))}))
    x, y = train.batch(some)
    where = f"{recipe.model.net} on samples of shape {tuple(x.shape)}"
    try:
        with model.evaluation():
            outputs = model.module(x)
            if not isinstance(outputs, Tensor):
                raise ModelError(f"{where}: forward returns a {type(outputs).__name__}, expected one tensor")
            if recipe.model.task == "classification" and outputs.shape[1:] != (dataset.classes,):
                raise ModelError(
                    f"{where}: outputs have shape {tuple(outputs.shape)}, expected {(len(x), dataset.classes)}"
                )
            for form, wide in (("float32", outputs), ("float64", outputs.cpu().double())):
                for name in ("losses", "scores"):
                    got = tuple(getattr(task, name)(wide, y.to(wide.device)).shape)
                    if got != (len(x),):
                        raise ModelError(
                            f"{recipe.model.task}: {name} of {form} outputs have shape {got}, expected ({len(x)},)"
                        )
        if any(isinstance(phase, ZerothOrder | Mixed) for phase in recipe.phase):
            model.check(x)
        if backprop and any(isinstance(phase, ZerothOrder) and phase.needs_backprop for phase in recipe.phase):
            gradient(model, x, y, task, micro_batch="all")
        head = _finder(recipe, model, dataset.classes)
        solved = dict.fromkeys(head(phase.module) for phase in recipe.phase if isinstance(phase, Head))
        for layer in solved:
            heads.check(model, layer, x)
        frozen = any(glob in ("head", "body") for part in recipe.parts for glob in getattr(part, "freeze", ()))
        if frozen and (layer := head(None)) not in solved:
            try:
                heads.check(model, layer, x)
            except ModelError as error:
                hint = f'freeze can name parameters instead: "{layer.weight}"'
                raise ModelError(f'freeze = "head" or "body": {error.message}', hint=hint) from None
    except ZOWarmUpError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: forward and loss fail: {type(error).__name__}: {error}") from error
