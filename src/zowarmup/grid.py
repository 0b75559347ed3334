"""The grid of a comparison: methods x splits, each with its recipe and its folder, worked out before anything runs."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from zowarmup import recipes
from zowarmup.errors import RecipeError, SuiteError, UsageError
from zowarmup.recipe import FirstOrder, Recipe
from zowarmup.suite import OWN, Method, Split, Suite, Tune

Overrides = Mapping[str, Any] | Iterable[str]
TRIALS = "tune"
"""The folder of trials."""
_TAKEN = re.compile(rf"{TRIALS}|compare\..*|runs\.csv", re.IGNORECASE)  # first parts of a folder that is its own
_NEVER_TUNED = (*OWN, "data.validation")  # and what settings are judged by
_NONE = Split(name="none")
_LONGEST = 100  # letters of a trial's folder


@dataclass(frozen=True)
class Cell:
    """One method at one split: the same recipe with every seed.

    Args:
        method: the method's label.
        split: the split's; ``""`` where there are none.
        recipe: each run puts its seed and what tuning chose in it.
        folder: of its runs, below the comparison's.
        shown: splits whose results these are; more than one for a method that runs once.
        values: combinations of settings to choose from, by recipe key; none where nothing is tuned.
        judge: the split whose trials choose.
    """

    method: str
    split: str
    recipe: Recipe
    folder: PurePosixPath
    shown: tuple[str, ...]
    values: tuple[Mapping[str, Any], ...] = ()
    judge: str = ""

    @property
    def label(self) -> str:
        """What people call it."""
        return label(self.method, self.split)

    def filled(self, seed: int, values: Mapping[str, Any]) -> Recipe:
        """The recipe of a run."""
        text = recipes.to_toml(self.recipe)
        return recipes.parse(text, name=self.label, overrides={**values, "seed": seed})


@dataclass(frozen=True)
class Grid:
    """Everything that a comparison runs.

    Args:
        name: the suite's; ``""`` where recipes were given.
        cells: in the order of methods, then splits.
        seeds: of every cell.
        baseline: the method that others are compared with.
        tune: seeds and split of the trials, and their values.
    """

    name: str
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    baseline: str
    tune: Tune = field(default_factory=Tune)

    @property
    def trial_seeds(self) -> tuple[int, ...]:
        """Seeds of the trials."""
        return self.tune.seeds or self.seeds[:1]


def label(method: str, split: str) -> str:
    """What people call a method at a split.

    >>> label("zowarmup", "10/90"), label("zowarmup", "")
    ('zowarmup 10/90', 'zowarmup')
    """
    return f"{method} {split}" if split else method


def of_suite(
    suite: Suite,
    *,
    folder: Path,
    seeds: Sequence[int] | None = None,
    overrides: Overrides = (),
) -> Grid:
    """The grid of a suite.

    Args:
        suite: what to run.
        folder: what paths of recipes are relative to.
        seeds: in the place of the suite's.
        overrides: recipe values by path, for every run, over the suite's own.

    Raises:
        UsageError: a recipe cannot be read or does not take a value, runs clash, or tuning is not possible.
    """
    values = _given(overrides, OWN)
    found = []
    for method in suite.method:
        splits = [split for split in suite.split if method.splits is None or split.name in method.splits]
        cells = [_cell(suite, method, split, folder, values) for split in splits or [_NONE]]
        found += _once(suite, cells) if method.once else cells
    own = {method.name: method.tune for method in suite.method if method.tune is not None}
    return _checked(
        Grid(
            name=suite.name,
            cells=tuple(found),
            seeds=checked_seeds(suite.seeds if seeds is None else seeds),
            baseline=suite.baseline or suite.method[0].name,
            tune=suite.tune,
        ),
        own,
    )


def of_recipes(
    given: Sequence[str | Path | Recipe], seeds: Sequence[int], *, overrides: Overrides = (), tune: Tune | None = None
) -> Grid:
    """The grid of some recipes, each a method under its own name; the first is the baseline.

    Raises:
        UsageError: none is given, one cannot be read, two have one name, or see :func:`of_suite`.
    """
    values = _given(overrides, ("seed",))
    loaded = [each if isinstance(each, Recipe) else recipes.load(each, overrides=values) for each in given]
    if not loaded:
        raise UsageError("no recipe to run", hint="`zowarmup recipes` lists the shipped ones")
    names = [recipe.name for recipe in loaded]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{name}: two recipes of this name", hint="give each recipe once, and names of their own")
    cells = tuple(Cell(recipe.name, "", recipe, PurePosixPath(recipe.name), ("",)) for recipe in loaded)
    return _checked(Grid("", cells, checked_seeds(seeds), names[0], tune or Tune()), {})


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds.

    Raises:
        UsageError: there are none, or one is negative or given twice.
    """
    if not seeds:
        raise UsageError("no seeds", hint="for instance --seeds 0,1,2")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed {seed}: expected 0 to 2**63 - 1")
        if list(seeds).count(seed) > 1:
            raise UsageError(
                f"seed {seed} is given twice", hint="each seed once: a second run would be the same, bit by bit"
            )
    return tuple(seeds)


def trial_folder(values: Mapping[str, Any]) -> str:
    """A folder's name for a combination of values.

    >>> trial_folder({"phase.1.lr": 0.01, "phase.1.tau": 0.5})
    'phase.1.lr=0.01,phase.1.tau=0.5'
    """
    text = in_words(values).replace(", ", ",")
    plain = re.sub(r"[^\w.=,+-]", "-", text)[:_LONGEST]
    if plain == text:
        return text
    digest = hashlib.blake2b(json.dumps(values, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()
    return f"{plain}-{digest}"


def in_words(values: Mapping[str, Any]) -> str:
    """A combination of values as ``--set`` would have it.

    >>> in_words({"phase.1.lr": 0.01, "phase.1.step": "rms"})
    'phase.1.lr=0.01, phase.1.step=rms'
    """
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _given(overrides: Overrides, own: Sequence[str]) -> dict[str, Any]:
    """What the caller sets by recipe key."""
    values = dict(recipes.pairs(overrides))
    for key in own:
        if key in values:
            hint = "run seeds have a place of their own: --seeds" if key == "seed" else None
            raise UsageError(f"{key} = {values[key]}: a comparison sets {key} itself", hint=hint)
    return values


def _cell(suite: Suite, method: Method, split: Split, folder: Path, overrides: Mapping[str, Any]) -> Cell:
    name = "" if split is _NONE else split.name
    path = PurePosixPath(method.name) / split.folder if name else PurePosixPath(method.name)
    given = method.recipe.replace("{split}", split.folder) if name else method.recipe
    try:
        values = {**suite.overrides, **split.overrides, **method.overrides, **overrides}
        values |= {"name": path.as_posix(), "method": method.name}
        recipe = recipes.load(folder / given if given.endswith(".toml") else given, overrides=values)
    except RecipeError as error:
        raise SuiteError(f"{suite.name}, {label(method.name, name)}: {error.message}", hint=error.hint) from None
    return Cell(method.name, name, recipe, path, (name,))


def _once(suite: Suite, cells: Sequence[Cell]) -> list[Cell]:
    """The first cell in the place of all, where the tiers do not enter."""
    first, *others = cells
    for other in others:
        if _without_tiers(other.recipe) != _without_tiers(first.recipe):
            raise SuiteError(
                f"{suite.name}, {first.method}: `once`, but {first.split} and {other.split} differ in more than "
                "data.high-resource"
            )
    for index, phase in enumerate(first.recipe.phase):
        settings = msgspec.to_builtins(phase)
        by_tier = [key for key, value in settings.items() if key.startswith(("high-", "low-")) and value is not None]
        if not isinstance(phase, FirstOrder) or phase.tier != "all" or by_tier:
            raise SuiteError(
                f"{suite.name}, {first.method}: `once`, but phase {index} is not first-order with everybody, so "
                "its results depend on the split",
                hint='`once` is for recipes whose phases are all kind = "first-order", tier = "all"',
            )
    return [replace(first, shown=tuple(cell.split for cell in cells))]


def _without_tiers(recipe: Recipe) -> Recipe:
    data = msgspec.structs.replace(recipe.data, high_resource=0.0)
    return msgspec.structs.replace(recipe, data=data, name="x")


def _checked(grid: Grid, own: Mapping[str, Mapping[str, Sequence[Any]]]) -> Grid:
    _refuse_clashes(grid.cells)
    known = {cell.method for cell in grid.cells}
    missing = [key for key in grid.tune.values if not any(_has(cell.recipe, key) for cell in grid.cells)]
    if missing:
        message = f"tune: {missing[0]} is a key of no method: {', '.join(sorted(known))}"
        raise SuiteError(message, hint=_near(missing[0], [cell.recipe for cell in grid.cells]))
    cells = tuple(_tuned(cell, grid, own.get(cell.method)) for cell in grid.cells)
    for key in grid.tune.values:
        if not any(key in each for cell in cells for each in cell.values):
            raise SuiteError(f"tune: {key} is tried by nobody: every method that has it has a `tune` of its own")
    return replace(grid, cells=cells)


def _refuse_clashes(cells: Sequence[Cell]) -> None:
    """Refuse runs that would share a folder, on file systems that know no case too."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if _TAKEN.fullmatch(cell.folder.parts[0]) or any(re.fullmatch(r"seed-\d+", part) for part in cell.folder.parts):
            raise SuiteError(f"{cell.label}: a comparison uses the folder {cell.folder} itself", hint="rename it")
        other = seen.setdefault(cell.folder.as_posix().casefold(), cell)
        if other is not cell:
            raise SuiteError(f"{other.label} and {cell.label}: both would run in the folder {cell.folder}")


def _tuned(cell: Cell, grid: Grid, own: Mapping[str, Sequence[Any]] | None) -> Cell:
    """The cell with the combinations that it is to choose from."""
    tried = {key: values for key, values in grid.tune.values.items() if _has(cell.recipe, key)} if own is None else own
    for key, values in tried.items():
        if key in _NEVER_TUNED:
            raise SuiteError(f"{cell.label}: tune: {key} cannot be chosen by accuracy on validation shares")
        if not _has(cell.recipe, key):
            raise SuiteError(f"{cell.label}: tune: its recipe has no key {key}", hint=_near(key, [cell.recipe]))
        for index, value in enumerate(values):
            if value in values[:index]:
                raise SuiteError(f"{cell.label}: tune: {key} = {value} is given twice")
    if not tried:
        return cell
    if not cell.recipe.data.validation:
        raise SuiteError(
            f"{cell.label}: tuning needs validation shares, but data.validation is 0",
            hint="for instance --set data.validation=0.1; settings are never chosen on the test set",
        )
    combinations = [dict(zip(tried, chosen, strict=True)) for chosen in itertools.product(*tried.values())]
    judge = _judge(cell, grid)
    for each in combinations:
        cell.filled(0, each)  # refuses a value out of range
    return replace(cell, values=tuple(combinations), judge=judge)


def _judge(cell: Cell, grid: Grid) -> str:
    """The split whose trials choose for a cell."""
    wanted = grid.tune.split
    if wanted is None or wanted in cell.shown:
        return cell.split
    if not any(other.method == cell.method and other.split == wanted for other in grid.cells):
        raise SuiteError(f"{cell.method}: tune.split is {wanted}, where this method does not run")
    return wanted


def _has(recipe: Recipe, key: str) -> bool:
    """Whether a recipe has a key, given or by default; what a net takes is known to the net alone."""
    if key.startswith("model.args."):
        return True
    known = msgspec.to_builtins(recipe)
    return all(_reaches(known, path) for path in recipes.paths(known, key))


def _near(key: str, known: Iterable[Recipe]) -> str:
    """What helps with a key that no recipe has."""
    names = {name for recipe in known for name in _names(msgspec.to_builtins(recipe))}
    near = difflib.get_close_matches(key, sorted(names), n=2)
    return f"did you mean {' or '.join(near)}?" if near else "`zowarmup recipes --keys` explains every key"


def _names(node: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of every value."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, inner in entries:
        yield from _names(inner, f"{path}.{name}" if path else str(name))
    if path and not entries:
        yield path


def _reaches(node: Any, path: str) -> bool:
    for part in path.split("."):
        if isinstance(node, list | tuple):
            if not part.isdecimal() or int(part) >= len(node):
                return False
            node = node[int(part)]
        elif isinstance(node, Mapping) and part in node:
            node = node[part]
        else:
            return False
    return True
