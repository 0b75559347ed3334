"""Shipped recipes and the keys of recipes, on stdout."""

from __future__ import annotations

import sys

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zowarmup import keys as explained
from zowarmup import recipes
from zowarmup.cli import consoles


def show(name: str | None, *, keys: bool, as_json: bool) -> None:
    """The list of shipped recipes, one recipe's TOML, or every key; keys are Markdown where stdout is no terminal."""
    if name is not None:
        text = recipes.shipped_text(name)
        if as_json:
            consoles.print_json({"name": name, "toml": text})
        else:
            sys.stdout.write(text)
    elif keys:
        _show_keys(as_json)
    elif as_json:
        consoles.print_json([{"name": each, "summary": summary(each)} for each in recipes.shipped()])
    else:
        _show_list()


def summary(name: str) -> str:
    """The first comment of a shipped recipe."""
    first, *_ = recipes.shipped_text(name).splitlines()
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _show_list() -> None:
    console, names = consoles.out(), recipes.shipped()
    table, width = Table.grid(padding=(0, 2, 0, 0)), max(map(len, names))
    table.add_column(no_wrap=True)
    table.add_column()
    for name in names:
        if console.is_terminal:
            table.add_row(Text(name, style="bold"), summary(name))
        else:
            sys.stdout.write(f"{name:<{width}}  {summary(name)}\n")  # a line each, for grep
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
