"""The program: its commands by what they are about, and how it ends."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import App, Group

from zowarmup import __version__
from zowarmup.cli import certifying, consoles, federating, ledgers, looking, running
from zowarmup.cli.ending import explain, sigterm_is_ctrl_c

COMMANDS: dict[str, tuple[Callable[..., Any], ...]] = {
    "Running": (running.run, running.resume, running.compare, running.fetch),
    "Looking": (looking.recipes, looking.plan, looking.report),
    "The ledger": (ledgers.inspect, ledgers.verify, ledgers.diff, ledgers.replay, ledgers.export),
    "A federation": (federating.server, federating.join, federating.status, certifying.certs),
}
"""Every command, by its heading in help. A new one is a function in one of these modules, and is named here."""

app = App(
    name="zowarmup",
    version=__version__,
    help=(
        "Federated training that includes the devices which can only run inference.\n\n"
        "A recipe says what to train on what, in phases; a run leaves a directory with ledger, model and report.\n\n"
        "    zowarmup run digits\n\n"
        "    zowarmup compare digits digits-high-res-only --seeds 0,1,2 --out runs/first"
    ),
    help_format="markdown",
    suppress_keyboard_interrupt=False,
)
for place, (heading, commands) in enumerate(COMMANDS.items()):
    group = Group(heading, sort_key=place)
    for at, command in enumerate(commands):
        app.command(command, group=group, sort_key=at)
own = Group("The program", sort_key=len(COMMANDS))
for flag in ("--help", "--version"):
    app[flag].group = own


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
        with sigterm_is_ctrl_c(), consoles.warnings_are_notes():
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
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exception(error)
        return explain(error)
