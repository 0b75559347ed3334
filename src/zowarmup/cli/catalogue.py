"""Shipped recipes and the keys of recipes, on stdout."""

from __future__ import annotations

import itertools
import re
import sys

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zowarmup import keys as explained
from zowarmup import packaged, recipes
from zowarmup.cli import consoles
from zowarmup.packaged import Kind


def show(name: str | None, *, keys: bool, suites: bool, as_json: bool) -> None:
    """The list of shipped recipes or suites, one's TOML, or every key, in Markdown where stdout is no terminal."""
    kind: Kind = "suites" if suites else "recipes"
    if name is not None:
        text = packaged.text("suites", name) if name in packaged.names("suites") else recipes.shipped_text(name)
        if as_json:
            consoles.print_json({"name": name, "toml": text})
        else:
            sys.stdout.write(text)
    elif keys:
        _show_keys(as_json)
    elif as_json:
        consoles.print_json([{"name": each, "summary": summary(kind, each)} for each in packaged.names(kind)])
    else:
        _show_list(kind)


def summary(kind: Kind, name: str) -> str:
    """The first sentence of the comment that a shipped file begins with."""
    comment = itertools.takewhile(lambda line: line.startswith("#"), packaged.text(kind, name).splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", text)[0]


def _show_list(kind: Kind) -> None:
    console, names = consoles.out(), packaged.names(kind)
    table, width = Table.grid(padding=(0, 2, 0, 0)), max(map(len, names))
    table.add_column(no_wrap=True)
    table.add_column()
    for name in names:
        if console.is_terminal:
            table.add_row(Text(name, style="bold"), summary(kind, name))
        else:
            sys.stdout.write(f"{name:<{width}}  {summary(kind, name)}\n")  # a line each, for grep
    if console.is_terminal:
        console.print(table)


def _show_keys(as_json: bool) -> None:
    console = consoles.out()
    if as_json:
        consoles.print_json(explained.tables())
    elif console.is_terminal:
        for table in explained.tables():
            console.print(_table(table))
    else:
        sys.stdout.write(explained.markdown())


def _table(table: explained.Table) -> Group:
    parts: list[Text | Padding] = [Text(table.heading, style="bold"), Text(table.meaning, style="dim")]
    for key in table.keys:
        kind = key.type.replace("`", "") + (f", {key.default}" if key.default == "required" else "")
        default = f" = {key.default}" if key.default not in ("", "required") else ""
        parts.append(Padding(Text.assemble((key.name, "bold cyan"), default, (f"   {kind}", "dim")), (0, 0, 0, 2)))
        parts.append(Padding(Text(key.meaning.replace("`", "")), (0, 0, 0, 6)))
    return Group(*parts, Text())
