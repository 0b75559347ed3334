"""A recipe over nodes: begins a run in its directory or goes on with the one that is there, and says how it stands."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec

from zowarmup import chain, data, loop, recipes
from zowarmup.disk import Disk
from zowarmup.engines.board import Board
from zowarmup.engines.exchange import Exchange
from zowarmup.engines.rounds import Patience
from zowarmup.engines.transport import Transport
from zowarmup.engines.workshop import enlisted, recalled
from zowarmup.errors import OutputError, UsageError, ZOWarmUpError
from zowarmup.ledger import NAME as LEDGER
from zowarmup.ledger import Ledger
from zowarmup.recipe import Own, Recipe
from zowarmup.recorder import Progress
from zowarmup.rundir import STATUS, check
from zowarmup.trained import Trained

_LOGGER = logging.getLogger("zowarmup")


@dataclass(frozen=True)
class Serving:
    """What a server is told.

    Args:
        recipe: what is run.
        out: the run directory; a run of this recipe that is there already goes on.
        nodes: how many clients must have a node before the first round; all where left out.
        patience: how long to wait.
        device: of the server's own evaluations.
        force: replace a run of another recipe.
    """

    recipe: Recipe
    out: Path
    nodes: int | None = None
    patience: Patience = field(default_factory=Patience)
    device: str = "auto"
    force: bool = False


def serve(serving: Serving, transport: Transport) -> Trained:
    """Run a recipe's clients on nodes.

    Args:
        serving: what to run, and where.
        transport: what reaches the nodes.

    Raises:
        UsageError, RunError: as for :func:`zowarmup.run`; ``status.json`` in the run directory says so too.
    """
    recipe, out = serving.recipe, serving.out
    there = fits(recipe, out, force=serving.force)
    board = Board(
        write=lambda status: _write(out, status),
        say=_LOGGER.info,
        rounds=recipe.rounds,
        before=last_status(out) if there else {},
    )
    exchange = Exchange(
        recipe=recipes.to_toml(recipe),
        transport=transport,
        board=board,
        patience=serving.patience,
        nodes=serving.nodes,
    )
    board.began()
    try:
        trained = _run(serving, exchange, board, resume=there)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        board.ended("interrupted" if stopped else "failed", None if stopped else _told(error))
        raise
    board.ended("finished")
    exchange.finish()
    return trained


def _run(serving: Serving, exchange: Exchange, board: Board, *, resume: bool) -> Trained:
    recipe, federation = serving.recipe, None

    def recorded(progress: Progress) -> None:
        board.measured(progress.metrics)

    if isinstance(recipe.data.partition, Own):
        clients = cast(int, recipe.data.clients)
        exchange.seat([None] * clients)
        if resume:
            with Ledger.open(serving.out) as ledger:
                facts, classes = ledger.head.facts["federation"], ledger.head.facts["classes"]
                federation = recalled(facts["tiers"], facts["sizes"], facts["class_counts"], classes)
        else:
            classes = data.load(recipe.data, seed=recipe.seed).classes
            federation = enlisted(exchange.gather(clients), classes)
    if resume:
        return loop.resume(
            serving.out, device=serving.device, engine=exchange.on, federation=federation, callbacks=[recorded]
        )
    return loop.run(
        recipe,
        out=serving.out,
        device=serving.device,
        engine=exchange.on,
        federation=federation,
        callbacks=[recorded],
        force=serving.force,
    )


def serve_config(transport: Transport, config: Mapping[str, Any]) -> Trained:
    """:func:`serve` what the configuration of `flwr run` says."""
    return serve(from_config(config), transport)


def from_config(config: Mapping[str, Any]) -> Serving:
    """What the configuration of `flwr run` says.

    Args:
        config: ``recipe`` (a shipped one by name, or a path), ``out``, ``set`` (values as for ``--set``, separated by
            spaces), ``nodes``, ``device``, ``force``, and the fields of :class:`Patience` with hyphens.

    Raises:
        UsageError: a key is unknown, or a value does not fit.
    """
    patience = {name.replace("_", "-"): name for name in Patience.__dataclass_fields__}
    known = {"recipe", "out", "set", "nodes", "device", "force", *patience}
    if unknown := sorted(config.keys() - known):
        raise UsageError(f"run configuration: unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    recipe = recipes.load(str(config.get("recipe") or "digits"), overrides=str(config.get("set", "")).split())
    nodes = int(config.get("nodes", 0))
    return Serving(
        recipe=recipe,
        out=Path(str(config.get("out") or f"runs/{recipe.name}-seed{recipe.seed}")).absolute(),
        nodes=nodes or None,
        patience=Patience(**{name: float(config[key]) for key, name in patience.items() if key in config}),
        device=str(config.get("device", "auto")),
        force=bool(config.get("force", False)),
    )


def fits(recipe: Recipe, out: Path, *, force: bool) -> bool:
    """Whether a directory has a run of this recipe, which goes on; False where one begins.

    Raises:
        OutputError: it has something else.
    """
    if force or not (out / LEDGER).is_file():
        check(out, force=force)
        return False
    with Ledger.open(out) as ledger:
        theirs = json.loads(ledger.head.identity)
    mine = json.loads(chain.identity(tomllib.loads(recipes.to_toml(recipe))))
    for path, (got, expected) in chain.unlike(mine, theirs):
        raise OutputError(
            f"{out}: holds a run of another recipe: {path} is {expected!r}, expected {got!r}",
            hint="choose another --out, or --force to replace it",
            path=out,
        )
    return True


def _write(out: Path, status: Mapping[str, Any]) -> None:
    if out.is_dir():  # a run directory is made with its ledger
        Disk(sync=False).write(out / STATUS, msgspec.json.format(msgspec.json.encode(status), indent=1))


def last_status(out: Path) -> dict[str, Any]:
    """What the server of a run wrote last; empty where there is nothing that can be read."""
    try:
        return msgspec.json.decode((out / STATUS).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, ZOWarmUpError) else f"{type(error).__name__}: {error}"
