"""The commands. Heavy modules are imported inside them, so that help and mistakes take no time."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from zowarmup import __version__
from zowarmup.cli import consoles
from zowarmup.cli.ending import INTERRUPTED, explain, sigterm_is_ctrl_c
from zowarmup.errors import UsageError

Set = Annotated[
    tuple[str, ...],
    Parameter(
        name="--set",
        negative=(),
        show_default=False,
        help="Put a value in the place of the recipe's: phase.1.eps=1e-3. May be repeated.",
    ),
]
Device = Annotated[str, Parameter(help="auto, cpu, cuda (or cuda:1) or mps.")]
Force = Annotated[bool, Parameter(negative=(), show_default=False, help="Replace what an earlier run left there.")]
Json = Annotated[bool, Parameter(name="--json", negative=(), show_default=False, help="Print the result as JSON.")]
Quiet = Annotated[bool, Parameter(negative=(), show_default=False, help="Show no progress.")]
Debug = Annotated[bool, Parameter(negative=(), show_default=False, help="Show the traceback of an error.")]
RecipeName = Annotated[str, Parameter(name="RECIPE", help="A shipped recipe by name, or a TOML file.")]

app = App(
    name="zowarmup",
    version=__version__,
    help=(
        "Federated training that includes the devices which can only run inference.\n\n"
        "A recipe says what to train on what, in phases; a run leaves a directory with metrics, model and report.\n\n"
        "    zowarmup run digits\n\n"
        "    zowarmup compare digits digits-high-res-only --seeds 0,1,2 --out runs/first"
    ),
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process where None.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    consoles.forgive_encodings()
    try:
        with sigterm_is_ctrl_c():
            status = app(
                arguments,
                console=consoles.help_console(),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            sys.stdout.flush()
            return status if isinstance(status, int) else 0
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        return explain(error)


@app.command
def run(
    recipe: RecipeName,
    /,
    *,
    set_: Set = (),
    seed: Annotated[int | None, Parameter(help="In the place of the recipe's.")] = None,
    out: Annotated[Path | None, Parameter(help="The run directory; runs/NAME-seedN where left out.")] = None,
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a recipe, and leave a run directory: recipe, metrics by round, summary, model, report.

    Progress goes to stderr, the result to stdout. Ctrl-C stops the run; its directory can be read all the same.

        zowarmup run digits

        zowarmup run digits --set phase.1.lr=0.03 --seed 3 --out runs/slower
    """
    from zowarmup import recipes
    from zowarmup.cli import live, results
    from zowarmup.rundir import check

    seeds = () if seed is None else (f"seed={seed}",)
    loaded = recipes.load(recipe, overrides=(*set_, *seeds))
    folder = out or Path("runs") / f"{loaded.name}-seed{loaded.seed}"
    check(folder, force=force)  # before anything heavy is imported
    with consoles.told_where(folder), live.run_view(loaded, quiet=quiet) as view:
        from zowarmup.loop import run as run_recipe

        trained = run_recipe(loaded, out=folder, device=device, force=force, callbacks=(view,))
    if as_json:
        consoles.print_json({**trained.summary, "out": str(folder), "report": str(folder / "report.html")})
    else:
        results.show_run(trained.summary, folder)


@app.command
def compare(
    *recipes: Annotated[str, Parameter(name="RECIPE", help="Shipped recipes by name, or TOML files; the first leads.")],
    seeds: Annotated[str, Parameter(help="Run seeds, separated by commas.")],
    out: Annotated[Path, Parameter(help="The comparison's directory.")],
    set_: Set = (),
    workers: Annotated[
        int | None, Parameter(help="Runs at a time; as many as fit on the cores where left out.")
    ] = None,
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Run several recipes with several seeds, and compare them: a table, and a page with figures.

    Runs go to OUT/RECIPE/seed-N. A run that fails does not stop the others; after Ctrl-C, what is finished is compared.

        zowarmup compare digits digits-high-res-only --seeds 0,1,2 --out runs/first

        zowarmup compare mine.toml other.toml --seeds 0 --out runs/mine --set phase.0.rounds=10
    """
    from zowarmup.cli import live, results

    numbers = _seeds(seeds)
    if not recipes:
        raise UsageError("no recipe to run", hint="`zowarmup recipes` lists the shipped ones")
    with live.compare_view(len(recipes) * len(numbers), quiet=quiet, debug=debug) as view:
        from zowarmup import compare as comparing

        try:
            comparison = comparing.compare(
                recipes,
                numbers,
                out,
                overrides=set_,
                workers=workers,
                device=device,
                force=force,
                on_progress=view,
            )
            code = 1 if comparison.failed else 0
        except KeyboardInterrupt:
            if not (out / comparing.MANIFEST).is_file():
                raise
            comparison, code = comparing.read(out), INTERRUPTED
    results.show_comparison(comparison, as_json=as_json)
    if code == INTERRUPTED:
        finished = (
            f"what is finished is in {out}" if comparison.runs else f"no run had finished; what there is, is in {out}"
        )
        consoles.complain("interrupted", note=finished)
    for name, error in comparison.failed.items():
        consoles.complain(f"{name}: {error}")
    return code


@app.command
def report(
    directory: Annotated[Path, Parameter(name="DIR", help="A run directory, or a comparison's.")],
    /,
    *,
    debug: Debug = False,
) -> None:
    """Make the report of a run, or the page of a comparison, again from what is in its directory.

    zowarmup report runs/digits-seed0

    zowarmup report runs/demo
    """
    from zowarmup import report as reporting

    if (directory / "compare.json").is_file():
        from zowarmup import compare as comparing

        comparison = comparing.read(directory)
        if not comparison.runs:
            raise UsageError(f"{directory}: no run of this comparison finished")
        comparing.write_page(comparison)
        path = comparison.page
    else:
        path = reporting.write(directory)
    consoles.out().print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command
def plan(
    recipe: RecipeName,
    /,
    *,
    set_: Set = (),
    seed: Annotated[int | None, Parameter(help="In the place of the recipe's.")] = None,
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


@app.command
def fetch(
    name: Annotated[str, Parameter(name="NAME", help="cifar10, or a data set of the Hugging Face hub as owner/name.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="The folder to write to; data/NAME where left out.")] = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Download a data set once, as Parquet files that recipes read.

    zowarmup fetch cifar10

    zowarmup fetch uoft-cs/cifar100 --out data/cifar100
    """
    folder = out or Path("data") / name
    with consoles.status(f"fetching {name}"):
        from zowarmup import data

        data.fetch(name, folder, force=force)
    consoles.out().print(str(folder), markup=False, highlight=False, soft_wrap=True)


@app.command
def recipes(
    name: Annotated[str | None, Parameter(name="NAME", help="Show this recipe's TOML.")] = None,
    /,
    *,
    keys: Annotated[bool, Parameter(negative=(), show_default=False, help="Explain every key of a recipe.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the recipes that come with the package, show one, or explain every key.

    zowarmup recipes digits > mine.toml

    zowarmup recipes --keys
    """
    from zowarmup.cli import catalogue

    if keys and name is not None:
        raise UsageError(
            "--keys goes without a NAME", hint="`zowarmup recipes --keys` explains the keys of all recipes"
        )
    catalogue.show(name, keys=keys, as_json=as_json)


def _seeds(text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text}: expected numbers separated by commas, for instance 0,1,2") from None
