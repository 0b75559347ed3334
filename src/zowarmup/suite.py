"""A suite: methods x splits x seeds, and how settings are chosen, as frozen structs; ``suites`` reads them from TOML.

Each run of it is a recipe with values put in the place of its own; the later of these wins: the suite's ``overrides``,
the split's, the method's, what the caller says, and what tuning chose. docs/cli.md explains every key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Label = Annotated[str, Meta(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$(?!\n)")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Seeds = Annotated[tuple[Seed, ...], Meta(min_length=1)]
OWN = ("name", "method", "seed")
"""Recipe keys that a suite sets itself."""
Values = dict[str, Annotated[tuple[Any, ...], Meta(min_length=1)]]
"""Values to try, by recipe key."""


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """What every table of a suite shares: immutable, keys by name, unknown ones refused."""


class Split(_Table, frozen=True, kw_only=True):
    """Who can do what, or another side of the data: what every method is run at."""

    name: Label
    """In tables and folders, where `/` becomes `-`: `10/90`."""
    overrides: dict[str, Any] = {}
    """Recipe values by path, for instance `{ "data.high-resource" = 0.1 }`."""

    @property
    def folder(self) -> str:
        """The name as one folder."""
        return self.name.replace("/", "-")


class Method(_Table, frozen=True, kw_only=True):
    """A recipe under the name that the table has."""

    name: Label
    """In tables and folders."""
    recipe: str
    """A shipped recipe by name, or a TOML file relative to the suite's; `{split}` stands for the split's folder."""
    overrides: dict[str, Any] = {}
    """Recipe values by path."""
    splits: Annotated[tuple[str, ...], Meta(min_length=1)] | None = None
    """The splits it is run at; all where left out."""
    once: bool = False
    """Run it at its first split alone, and show that at each: for an oracle that trains on everybody, as the tiers do
    not enter there. They do enter its accuracy on low-held classes, which is then that of the first split."""
    tune: Values | None = None
    """Values to try, by recipe key, in the place of `[tune] values`; `{}` tunes nothing. `--tune` stands in
    the place of either."""


class Tune(_Table, frozen=True, kw_only=True):
    """Settings chosen by the mean accuracy on the clients' validation shares at the end; every combination is run."""

    values: Values = {}
    """Values to try, by recipe key, for every method that has the key."""
    seeds: Seeds | None = None
    """Of the trials; the first of the suite's where left out."""
    split: str | None = None
    """Choose at this split alone, and use the choice at each; at each split by itself where left out."""

    def __post_init__(self) -> None:
        _once("seed", self.seeds or ())


class Suite(_Table, frozen=True, kw_only=True):
    """Which runs there are, and what they are compared with."""

    name: Label
    """The suite's name; its runs go to `runs/NAME` where nothing else is said."""
    seeds: Seeds
    """Run seeds; differences are paired by seed."""
    baseline: str | None = None
    """The method that others are compared with; the first where left out."""
    overrides: dict[str, Any] = {}
    """Recipe values by path, for every run."""
    split: tuple[Split, ...] = ()
    """Splits, each a `[[split]]` table; recipes are run as they are where there is none."""
    method: Annotated[tuple[Method, ...], Meta(min_length=1)]
    """Methods, each a `[[method]]` table."""
    tune: Tune = msgspec.field(default_factory=Tune)
    """How settings are chosen."""

    def __post_init__(self) -> None:
        _once("seed", self.seeds)
        _once("method", [method.name for method in self.method])
        _once("split", [split.name for split in self.split])
        _known("`baseline`", [self.baseline], [method.name for method in self.method], "method")
        splits = [split.name for split in self.split]
        _known("`tune.split`", [self.tune.split], splits, "split")
        for method in self.method:
            _known(f"`splits` of {method.name}", method.splits or (), splits, "split")
            _once(f"split of {method.name}", method.splits or ())


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Refuse a whole table in the place of a recipe's, which TOML makes of a dotted key without quotes.

    Raises:
        ValueError: there is one, or a key that the comparison itself sets.

    >>> check_overrides({"run": {"threads": 2}})
    Traceback (most recent call last):
    ValueError: `run` is a table: write its keys as "run.threads", in quotes
    """
    for key, value in overrides.items():
        if isinstance(value, Mapping) and "." not in key:
            inner = ", ".join(f'"{key}.{name}"' for name in value)
            raise ValueError(f"`{key}` is a table: write its keys as {inner}, in quotes")
        if key in OWN:
            raise ValueError(f"`{key}` is set by the suite itself")


def _once(what: str, values: Iterable[object]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{what} {value} is given twice")
        seen.add(value)


def _known(what: str, names: Iterable[str | None], known: list[str], kind: str) -> None:
    for name in names:
        if name is not None and name not in known:
            raise ValueError(f"{what} is {name}, which is no {kind}: {', '.join(known) or f'there is no {kind}'}")
