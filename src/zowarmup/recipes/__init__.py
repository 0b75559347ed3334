"""Recipes from TOML: files, and the ones in this folder that come with the package."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec
import tomli_w

from zowarmup import packaged
from zowarmup.errors import RecipeError
from zowarmup.recipe import Phase, Recipe

__all__ = ["edit", "from_table", "load", "pairs", "parse", "paths", "shipped", "shipped_text", "to_toml"]

_COMPARE = "`zowarmup compare` runs a suite"
_KEYS = {
    str(kind.__struct_config__.tag): {field.encode_name for field in msgspec.structs.fields(kind)}
    for kind in get_args(Phase)
}
"""Of every kind of phase."""


def parse(text: str, *, name: str = "recipe", overrides: Mapping[str, Any] | Iterable[str] = ()) -> Recipe:
    """A recipe from TOML text.

    Args:
        text: TOML.
        name: how error messages call it.
        overrides: values to put in the place of what the text says, as ``{"phase.1.eps": 1e-3}`` or as
            ``["phase.1.eps=1e-3"]``, the value in TOML (a bare word is a string); ``phase.*.lr`` stands for that
            of every phase that has one.

    Raises:
        RecipeError: not TOML, an unknown key, a wrong type, a value out of range; the message has the path.

    >>> parse("name = 'x'")
    Traceback (most recent call last):
    zowarmup.errors.RecipeError: recipe: Object missing required field `data`
    hint: `zowarmup recipes --keys` explains every key
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{name}: not TOML: {error}") from None
    _apply(overrides, table)
    return from_table(table, name=name)


def edit(text: str, overrides: Mapping[str, Any] | Iterable[str], *, name: str = "recipe") -> str:
    """TOML text with other values in it, of a recipe's types, and every other key as it is; see :func:`parse`.

    Raises:
        RecipeError: what comes out is no recipe.

    >>> edit(to_toml(load("digits")), {"phase.0.lr": 1}).count("lr = 1.0")
    1
    """
    table = tomllib.loads(text)
    values = pairs(overrides)
    _apply(dict(values), table)
    typed = _without_none(msgspec.to_builtins(from_table(table, name=name)))
    for path in (each for key, _ in values for each in paths(table, key)):
        node: Any = typed
        for part in path.split("."):
            node = node[int(part)] if isinstance(node, list) else node[part]
        _set(table, path, node)
    return tomli_w.dumps(table)


def from_table(table: Mapping[str, Any], *, name: str = "recipe") -> Recipe:
    """A recipe from nested dictionaries, as TOML would read; see :func:`parse`."""
    for path, value in _floats("$", table):
        if not math.isfinite(value):
            raise RecipeError(f"{name}: Expected a finite `float`, got `{value}` - at `{path}`", path=path)
    if isinstance(table.get("method"), list):
        raise RecipeError(f"{name}: is a suite, expected a recipe", hint=_COMPARE)
    try:
        return msgspec.convert(table, Recipe)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{name}: {error}", hint=_near(str(error))) from None


def _near(message: str) -> str:
    """What helps with a message about a key: one that is spelt like it, and where all are explained."""
    unknown = re.search(r"unknown field `(.+)`", message)
    known = [key for table in msgspec.json.schema(Recipe)["$defs"].values() for key in table.get("properties", ())]
    near = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
    return (f"did you mean `{near[0]}`? " if near else "") + "`zowarmup recipes --keys` explains every key"


def to_toml(recipe: Recipe) -> str:
    """The recipe with every default written out, as TOML that :func:`parse` reads back.

    >>> parse(to_toml(load("digits"))) == load("digits")
    True
    """
    return tomli_w.dumps(_without_none(msgspec.to_builtins(recipe)))


def table(recipe: Recipe) -> dict[str, Any]:
    """The recipe as TOML's tables and values, with every default; without the versions that a run wrote into it."""
    return tomllib.loads(to_toml(msgspec.structs.replace(recipe, versions={})))


def load(recipe: str | Path, *, overrides: Mapping[str, Any] | Iterable[str] = ()) -> Recipe:
    """A recipe from a TOML file, or a shipped one by its name.

    Args:
        recipe: a path that exists, or a name from :func:`shipped`.
        overrides: see :func:`parse`.

    Raises:
        RecipeError: no such file or name; the message lists near names.
    """
    path = Path(recipe)
    if path.suffix == ".toml" or path.is_file():
        try:
            return parse(path.read_text(encoding="utf-8"), name=str(recipe), overrides=overrides)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{recipe}: cannot be read: {error}") from None
    return parse(shipped_text(str(recipe)), name=str(recipe), overrides=overrides)


def shipped() -> list[str]:
    """Names of the recipes that come with the package, sorted.

    >>> "digits" in shipped()
    True
    """
    return packaged.names("recipes")


def shipped_text(name: str) -> str:
    """The TOML text of a shipped recipe.

    Raises:
        RecipeError: there is none of that name.
    """
    names, suites = shipped(), packaged.names("suites")
    if name not in names:
        if name in suites:
            raise RecipeError(f"{name}: is a suite, expected a recipe", hint=_COMPARE)
        near = difflib.get_close_matches(name, [*names, *suites], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`zowarmup recipes` lists the shipped ones"
        raise RecipeError(f"{name}: neither a file nor a shipped recipe", hint=hint)
    return packaged.text("recipes", name)


def pairs(overrides: Mapping[str, Any] | Iterable[str]) -> list[tuple[str, Any]]:
    """Overrides in either form as paths and values.

    >>> pairs(["phase.1.eps=1e-3", "data.source=digits"])
    [('phase.1.eps', 0.001), ('data.source', 'digits')]
    """
    return list(overrides.items() if isinstance(overrides, Mapping) else map(_override, overrides))


def paths(table: Any, key: str) -> Iterator[str]:
    """The paths that a key stands for, where ``*`` is every phase whose kind takes it; every phase where none does.

    >>> list(paths({"phase": [{"kind": "first-order"}, {"kind": "head"}]}, "phase.*.lr"))
    ['phase.0.lr']
    """
    before, star, after = key.partition("*")
    node = table
    for part in before.split(".")[:-1]:
        node = node.get(part) if isinstance(node, Mapping) else None
    if star and isinstance(node, list | tuple):
        rest = after.removeprefix(".")
        everywhere = range(len(node))
        for index in [each for each in everywhere if _takes(node[each], rest)] or everywhere:
            yield from (f"{before}{index}.{inner}" for inner in paths(node[index], rest))
    else:
        yield key


def _takes(phase: Any, key: str) -> bool:
    """Whether a phase's kind has a key."""
    kind = phase.get("kind") if isinstance(phase, Mapping) else None
    return isinstance(kind, str) and key.partition(".")[0] in _KEYS.get(kind, ())


def _apply(overrides: Mapping[str, Any] | Iterable[str], table: dict[str, Any]) -> None:
    for key, value in pairs(overrides):
        for path in list(paths(table, key)):
            _set(table, path, value)


def _override(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise RecipeError(f"--set {text}: expected KEY=VALUE, for instance phase.1.eps=1e-3")
    try:
        return path.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return path.strip(), value.strip()


def _set(table: dict[str, Any], path: str, value: Any) -> None:
    """Set a dotted path; numbers index lists, missing tables are made."""
    if hasattr(value, "item"):  # a NumPy scalar, for instance of a logspace
        value = value.item()
    *parents, last = path.split(".")
    node: Any = table
    for position, part in enumerate(parents):
        node = _child(node, part, path, parents[:position])
    if isinstance(node, list):
        _child(node, last, path, parents)  # refuses an index that is not there
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"--set {path}: `{'.'.join(parents)}` is a value, not a table")


def _child(node: Any, part: str, path: str, parents: list[str]) -> Any:
    if isinstance(node, list):
        if not part.isdecimal() or int(part) >= len(node):
            raise RecipeError(f"--set {path}: `{'.'.join(parents)}` has entries 0 to {len(node) - 1}, not `{part}`")
        return node[int(part)]
    if isinstance(node, dict):
        return node.setdefault(part, {})
    raise RecipeError(f"--set {path}: `{'.'.join(parents)}` is a value, not a table")


def _floats(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _floats(f"{path}.{key}", inner)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _floats(f"{path}[{index}]", inner)
    elif isinstance(value, float):
        yield path, value


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value
