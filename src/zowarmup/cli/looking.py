"""Commands that look: at recipes, at what a run will cost, at what came of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from zowarmup.cli import consoles
from zowarmup.cli.options import Debug, Device, Json, RecipeName, Seed, Set
from zowarmup.errors import UsageError


def recipes(
    name: Annotated[str | None, Parameter(name="NAME", help="Show the TOML of this recipe or suite.")] = None,
    /,
    *,
    keys: Annotated[bool, Parameter(negative=(), show_default=False, help="Explain every key of a recipe.")] = False,
    suites: Annotated[bool, Parameter(negative=(), show_default=False, help="List the suites instead.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the recipes or suites that come with the package, show one, or explain every key.

    zowarmup recipes digits > mine.toml

    zowarmup recipes --keys

    zowarmup recipes --suites
    """
    from zowarmup.cli import catalogue

    if keys and name is not None:
        raise UsageError(
            "--keys goes without a NAME", hint="`zowarmup recipes --keys` explains the keys of all recipes"
        )
    if suites and (keys or name is not None):
        raise UsageError("--suites goes by itself", hint="`zowarmup recipes NAME` shows a suite, too")
    catalogue.show(name, keys=keys, suites=suites, as_json=as_json)


def plan(
    recipe: RecipeName,
    /,
    *,
    set_: Set = (),
    seed: Seed = None,
    device: Device = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run will cost before it runs: bytes and passes by tier, time and memory.

    Bytes and passes are exact, if no client fails; time and memory are estimated from a little work on this machine.

        zowarmup plan digits

        zowarmup plan cifar10-small --set phase.1.directions=50
    """
    from zowarmup import recipes
    from zowarmup.cli import results

    seeds = () if seed is None else (f"seed={seed}",)
    loaded = recipes.load(recipe, overrides=(*set_, *seeds))
    with consoles.status("loading data, timing one client's work in each phase"):
        from zowarmup import plan as planning

        planned = planning.plan(loaded, device=device)
    if as_json:
        consoles.print_json(planned.to_dict())
    else:
        results.show_plan(planned)


def report(
    directory: Annotated[Path, Parameter(name="DIR", help="A run directory, or a comparison's.")],
    /,
    *,
    debug: Debug = False,
) -> None:
    """Make what is made from a run's ledger again: recipe, metrics, summary, report; or the page of a comparison.

    A run that was killed gets them too. Of one that still goes on, only the report is made, as far as it has come.

        zowarmup report runs/digits-seed0

        zowarmup report runs/demo
    """
    if (directory / "compare.json").is_file():
        from zowarmup import comparison as comparing

        comparison = comparing.read(directory)
        if not comparison.finished:
            raise UsageError(f"{directory}: no run of this comparison finished")
        comparing.write_page(comparison)
        path = comparison.page
    else:
        from zowarmup.cli.rebuilding import rebuild

        path = rebuild(directory)
    consoles.print_path(path)
