"""`zowarmup status`: how a federation stands, once or for as long as it goes on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from zowarmup.cli import asking, consoles, tables, telling
from zowarmup.cli.asking import Folder, Server
from zowarmup.cli.standing import ENDED, Look
from zowarmup.errors import ConnectionLost
from zowarmup.report import words

_PATIENCE_SECONDS = 60.0  # that a server may be away
_LOOK_SECONDS = 1.0
_FEWEST = 3  # clients that are shown however low the window is


def show(where: str, *, ca: Path | None, watch: bool, as_json: bool) -> None:
    """Say on stdout how a federation stands.

    Args:
        where: a run directory, or a server's HOST:PORT.
        ca: the only authority to trust, for a server with TLS.
        watch: stay until the run has ended.
        as_json: the status as it is; while watching, a line for each.

    Raises:
        UsageError: neither a run directory nor an address, or a run without nodes.
        ConnectionLost: no server answers, or not with a status; while watching, for too long.
    """
    source = asking.source(where, ca)
    if watch:
        follow(source, as_json=as_json)
    elif as_json:
        consoles.print_json(msgspec.Raw(source.look().content))
    else:
        _print(source.look(), consoles.out())


class Outage(NamedTuple):
    """A server that was there does not answer."""

    seconds: float
    why: str


Display = Callable[[Look, Outage | None], None]
"""Shows the last status, and why there is no later one."""


def follow(
    source: Folder | Server,
    *,
    as_json: bool = False,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Show a status each second, until the run has ended.

    Args:
        source: where it is.
        as_json: a line of JSON for each.
        console: where to; stdout where None.
        clock: seconds, monotonic.
        sleep: waits so many seconds.

    Raises:
        OutputError: not a run directory, or not of a run with nodes.
        ConnectionLost: nobody answers, from the beginning or for longer than a minute.
    """
    look, lost = source.look(), None
    with _display(console or consoles.out(), as_json=as_json) as display:
        display(look, None)
        while look.status.state not in ENDED:
            sleep(_LOOK_SECONDS)
            try:
                look, lost = source.look(), None
            except ConnectionLost as error:
                lost = clock() if lost is None else lost
                if (away := clock() - lost) > _PATIENCE_SECONDS:
                    raise
                display(look, Outage(away, error.message))
            else:
                display(look, None)


@contextlib.contextmanager
def _display(console: Console, *, as_json: bool) -> Iterator[Display]:
    if as_json or not console.is_terminal:
        yield _Lines(_compact if as_json else telling.brief, console)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda look, outage: live.update(_screen(look, outage, console), refresh=True)


class _Lines:
    """A line for each change; where a server goes away, one on stderr."""

    def __init__(self, told: Callable[[Look], str], console: Console) -> None:
        self._told, self._console, self._last, self._away = told, console, "", False

    def __call__(self, look: Look, outage: Outage | None) -> None:
        if outage is not None and not self._away:
            consoles.note(f"no answer: {outage.why}")
        self._away = outage is not None
        if (line := self._told(look)) != self._last:
            self._last = line
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


def _compact(look: Look) -> str:
    return msgspec.json.format(look.content, indent=-1).decode()


def _print(look: Look, console: Console) -> None:
    for part in telling.parts(look, console):
        if isinstance(part, Table):
            tables.show(console, part)
        else:
            console.print(part, soft_wrap=not console.is_terminal)


def _screen(look: Look, outage: Outage | None, console: Console) -> Group:
    """As many clients as there is room for."""
    notice = None if outage is None else f"no answer for {words.duration(outage.seconds)}: {outage.why}"
    most = telling.MOST_CLIENTS
    while True:
        group = Group(*telling.parts(look, console, notice=notice, most=most))
        excess = len(console.render_lines(group)) - (console.height - 1)
        if excess <= 0 or most <= _FEWEST:
            return group
        most = max(_FEWEST, min(most, len(look.status.clients)) - excess)
