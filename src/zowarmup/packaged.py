"""TOML files that come with the package, by name: recipes and suites."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any, Literal

Kind = Literal["recipes", "suites"]


def names(kind: Kind) -> list[str]:
    """Names of the files of a kind, sorted: their paths without ``.toml``.

    >>> "digits" in names("recipes"), "small/main" in names("suites")
    (True, True)
    """
    return sorted(_names(resources.files("zowarmup") / kind, ""))


def text(kind: Kind, name: str) -> str:
    """The text of one of :func:`names`."""
    return (resources.files("zowarmup") / kind / f"{name}.toml").read_text(encoding="utf-8")


def _names(folder: Any, prefix: str) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _names(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".toml"):
            yield prefix + entry.name.removesuffix(".toml")
