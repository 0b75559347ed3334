"""Commands that run: a recipe, the rest of a run, a comparison; and that fetch what runs need.

Heavy modules are imported inside commands, here and in the other modules of commands, so that help and mistakes take
no time.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from zowarmup.cli import consoles
from zowarmup.cli.ending import INTERRUPTED
from zowarmup.cli.options import Debug, Device, Force, Json, Quiet, RecipeName, RunDir, Seed, Set
from zowarmup.errors import UsageError

if TYPE_CHECKING:
    from zowarmup.recorder import Callback

TensorBoard = Annotated[
    Path | None,
    Parameter(name="--tensorboard", help="Write every round's scalars to this folder, for TensorBoard."),
]


def run(
    recipe: RecipeName,
    /,
    *,
    set_: Set = (),
    seed: Seed = None,
    out: Annotated[Path | None, Parameter(help="The run directory; runs/NAME-seedN where left out.")] = None,
    beginning: Annotated[
        Path | None,
        Parameter(help="A run with the same first phases: its rounds are taken over instead of being run again."),
    ] = None,
    tensorboard: TensorBoard = None,
    device: Device = "auto",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run a recipe, and leave a run directory: its ledger, metrics by round, summary, model, report.

    Progress goes to stderr, the result to stdout. After Ctrl-C, or a crash, `zowarmup resume` goes on.

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
    boards = _boards(tensorboard, new=True, force=force)
    with consoles.told_where(folder), live.run_view(loaded, quiet=quiet) as view:
        from zowarmup.loop import run as run_recipe

        trained = run_recipe(
            loaded, out=folder, device=device, force=force, beginning=beginning, callbacks=(view, *boards)
        )
    results.show_run(trained.summary, folder, as_json=as_json)


def resume(
    directory: RunDir,
    /,
    *,
    rounds: Annotated[
        str | None,
        Parameter(help="Rounds of the whole run from now on, or +100 for 100 more; the last phase gets them."),
    ] = None,
    set_: Set = (),
    tensorboard: TensorBoard = None,
    device: Device = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was stopped or killed, or add rounds to one that is finished.

    It goes on after the last round in the ledger, to the same bits as a run that was never stopped. --set changes only
    what bits do not depend on.

        zowarmup resume runs/digits-seed0

        zowarmup resume runs/mine --rounds +100

        zowarmup resume runs/cifar --set data.path=/data/cifar10
    """
    from zowarmup.cli import live, results
    from zowarmup.history import History
    from zowarmup.ledger import Ledger

    with Ledger.open(directory) as ledger:
        ledger.check()
        recipe, last = History(ledger).recipe, ledger.last
    boards = _boards(tensorboard, new=False, force=False)
    with consoles.told_where(directory), live.run_view(recipe, quiet=quiet, done=max(last, 0)) as view:
        from zowarmup.loop import resume as go_on

        trained = go_on(directory, rounds=rounds, device=device, overrides=set_, callbacks=(view, *boards))
    if trained.summary["rounds"] == last:
        consoles.note(f"{directory}: {results.finished(trained.recipe)}")
    results.show_run(trained.summary, directory, as_json=as_json)


def compare(
    *what: Annotated[
        str,
        Parameter(
            name="WHAT", help="A suite; or recipes, of which the first leads. Shipped ones by name, or TOML files."
        ),
    ],
    seeds: Annotated[str | None, Parameter(help="Run seeds, separated by commas; a suite has its own.")] = None,
    out: Annotated[
        Path | None, Parameter(help="The comparison's directory; runs/NAME of a suite where left out.")
    ] = None,
    set_: Set = (),
    tune: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="Values to choose from on the clients' validation shares: phase.1.lr=0.01,0.02. May be repeated.",
        ),
    ] = (),
    tune_seeds: Annotated[
        str | None, Parameter(help="Seeds of the trials; the first of --seeds where left out.")
    ] = None,
    workers: Annotated[
        int | None, Parameter(help="Runs at a time; as many as fit on the cores where left out.")
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Say what there is to run, and run nothing.")
    ] = False,
    force: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Replace runs of another recipe, and keep the others.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Run a suite, or several recipes with several seeds, and compare them: a table, and a page with figures.

    Runs go to OUT/METHOD/SPLIT/seed-N. What is finished is kept, so the same command goes on after Ctrl-C or a crash,
    or with more seeds and methods. A run that fails does not stop the others.

        zowarmup compare digits digits-high-res-only --seeds 0,1,2 --out runs/first

        zowarmup compare small/main --dry-run

        zowarmup compare digits --seeds 0,1 --out runs/lr --set data.validation=0.1 --tune phase.1.lr=0.02,0.04,0.08
    """
    from zowarmup import comparison as comparing
    from zowarmup import tuning
    from zowarmup.cli import grids, live, results
    from zowarmup.survey import survey

    if not what:
        raise UsageError("no recipe to run", hint="`zowarmup recipes` lists the shipped ones, with --suites the suites")
    planned = survey(
        what,
        None if seeds is None else _numbers("--seeds", seeds),
        out,
        overrides=set_,
        tune=tuning.values_of(tune) if tune else None,
        tune_seeds=None if tune_seeds is None else _numbers("--tune-seeds", tune_seeds),
        force=force,
    )
    if dry_run:
        grids.show(planned, as_json=as_json)
        return 0
    with live.compare_view(len(planned.all), planned.finished, quiet=quiet, debug=debug) as view:
        try:
            comparison = comparing.carry_out(planned, workers=workers, device=device, on_progress=view)
            code = 1 if comparison.failed else 0
        except KeyboardInterrupt:
            comparison, code = comparing.read(planned.out), INTERRUPTED
    results.show_comparison(comparison, as_json=as_json)
    if code == INTERRUPTED:
        finished = "what is finished is in" if comparison.finished else "no run had finished; what there is, is in"
        consoles.complain("interrupted", note=f"{finished} {planned.out}; the same command goes on")
    for name, error in comparison.failed.items():
        consoles.complain(f"{name}: {error}")
    return code


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
    consoles.print_path(folder)


def _boards(folder: Path | None, *, new: bool, force: bool) -> tuple[Callback, ...]:
    """The callback that writes for TensorBoard, where it is asked for; a new run wants a folder without scalars."""
    if folder is None:
        return ()
    from zowarmup import boards

    if new:
        boards.check(folder, force=force)
    return (boards.tensorboard(folder, force=force),)


def _numbers(option: str, text: str) -> list[int]:
    """``0,1,2`` as numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text}: expected numbers separated by commas, for instance 0,1,2") from None
