"""Suites from TOML: files, and the ones in this folder that come with the package."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from zowarmup import packaged
from zowarmup.errors import SuiteError
from zowarmup.suite import Suite, check_overrides

__all__ = ["is_suite", "load", "parse", "shipped", "shipped_text"]

_HINT = "docs/cli.md explains the keys of a suite; `zowarmup recipes small/main` shows one"


def parse(text: str, *, name: str = "suite") -> Suite:
    """A suite from TOML text.

    Args:
        text: TOML.
        name: how error messages call it.

    Raises:
        SuiteError: not TOML, a recipe, an unknown key, a wrong type, a value out of range; the message has the path.

    >>> parse("name = 'x'\\nseeds = []")
    Traceback (most recent call last):
    zowarmup.errors.SuiteError: suite: Expected `array` of length >= 1 - at `$.seeds`
    hint: docs/cli.md explains the keys of a suite; `zowarmup recipes small/main` shows one
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{name}: not TOML: {error}") from None
    if "phase" in table:
        raise SuiteError(f"{name}: is a recipe, expected a suite", hint="`zowarmup run` runs a recipe")
    try:
        suite = msgspec.convert(table, Suite)
        _check_overrides(suite)
    except (msgspec.ValidationError, ValueError) as error:
        raise SuiteError(f"{name}: {error}", hint=_HINT) from None
    return suite


def load(suite: str | Path) -> Suite:
    """A suite from a TOML file, or a shipped one by its name.

    Raises:
        SuiteError: no such file or name; the message lists near names.
    """
    path = Path(suite)
    if path.suffix == ".toml" or path.is_file():
        try:
            return parse(path.read_text(encoding="utf-8"), name=str(suite))
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(f"{suite}: cannot be read: {error}") from None
    return parse(shipped_text(str(suite)), name=str(suite))


def is_suite(given: str | Path) -> bool:
    """Whether a name or a file is a suite's; a file that is neither suite nor recipe is none.

    >>> is_suite("small/main"), is_suite("digits")
    (True, False)
    """
    path = Path(given)
    if path.suffix != ".toml" and not path.is_file():
        return str(given) in shipped()
    try:
        table: Mapping[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return "phase" not in table and ("seeds" in table or isinstance(table.get("method"), list))


def shipped() -> list[str]:
    """Names of the suites that come with the package, sorted."""
    return packaged.names("suites")


def shipped_text(name: str) -> str:
    """The TOML text of a shipped suite.

    Raises:
        SuiteError: there is none of that name.
    """
    if name not in shipped():
        if name in packaged.names("recipes"):
            raise SuiteError(f"{name}: is a recipe, expected a suite", hint="`zowarmup run` runs a recipe")
        near = difflib.get_close_matches(name, shipped(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`zowarmup recipes --suites` lists the shipped ones"
        raise SuiteError(f"{name}: neither a file nor a shipped suite", hint=hint)
    return packaged.text("suites", name)


def _check_overrides(suite: Suite) -> None:
    places = {"overrides": suite.overrides}
    places |= {f"overrides of split {split.name}": split.overrides for split in suite.split}
    places |= {f"overrides of method {method.name}": method.overrides for method in suite.method}
    for place, overrides in places.items():
        try:
            check_overrides(overrides)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
