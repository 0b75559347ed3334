"""How facts and tables about a ledger are laid out."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zowarmup.cli import consoles

_NARROW = 94  # columns below which a digest goes without its algorithm, so that it stays on its line


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and what they are, one below the other."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(name, Text(text))
    return grid


def table(*headings: str) -> Table:
    """An empty table; a heading with ``>`` before it stands above numbers."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        number = heading.startswith(">")
        made.add_column(heading.removeprefix(">"), justify="right" if number else "left", overflow="fold")
    return made


def digest(value: str, console: Console) -> str:
    """A digest as people copy it."""
    return value if console.width < _NARROW else f"blake2b:{value}"


def show(console: Console, shown: Table) -> None:
    """Print a table; without spaces at the ends of lines where nobody sees them."""
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def say(console: Console, text: str, style: str = "") -> None:
    """Print a sentence; a line however long where there is no terminal."""
    console.print(Text(consoles.plain(text), style=style), soft_wrap=not console.is_terminal)
