"""Every key of a recipe explained, from the structs of :mod:`zowarmup.recipe` and the docstrings under their fields.

``zowarmup recipes --keys`` shows them, and ``docs/recipes.md`` is :func:`markdown`.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from zowarmup import recipe


@dataclass(frozen=True)
class Key:
    """One key.

    Args:
        name: as a recipe spells it.
        type: what it takes, in words.
        default: as TOML spells it; ``"required"``, or empty where it may be left out and nothing stands in.
        meaning: the docstring under the field.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """One table of a recipe.

    Args:
        heading: how a recipe writes it.
        meaning: the struct's docstring.
        keys: its keys.
    """

    heading: str
    meaning: str
    keys: tuple[Key, ...]


_TABLES: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    ("at the top", recipe.Recipe),
    ("[data]", recipe.Data),
    ('partition = { kind = "iid" }', recipe.Iid),
    ('partition = { kind = "dirichlet" }', recipe.Dirichlet),
    ('partition = { kind = "dirichlet-by-class" }', recipe.DirichletByClass),
    ('partition = { kind = "shards" }', recipe.Shards),
    ('partition = { kind = "quantity" }', recipe.Quantity),
    ('partition = { kind = "natural" }', recipe.Natural),
    ('partition = { kind = "own" }', recipe.Own),
    ("[model]", recipe.ModelSettings),
    ("[run]", recipe.RunSettings),
    ('[[phase]] kind = "first-order"', recipe.FirstOrder),
    ('[[phase]] kind = "zeroth-order"', recipe.ZerothOrder),
    ('[[phase]] kind = "head"', recipe.Head),
    ('[[phase]] kind = "statistics"', recipe.Statistics),
    ('[[phase]] kind = "mixed"', recipe.Mixed),
    ('[[phase]] kind = "sub-network"', recipe.SubNetwork),
)

_HEADER = """\
# Recipes

<!-- Made by `zowarmup recipes --keys > docs/recipes.md` from the docstrings in src/zowarmup/recipe.py: edit those. -->

A recipe is a TOML file that says everything a run depends on: the data and who holds it, the network, and a list of
**phases** that follow each other. The same recipe with the same seed gives the same bits.

```toml
name = "mine"                   # in tables and figures
seed = 0                        # every draw of the run is keyed by it

[data]
source = "digits"               # comes with scikit-learn; "parquet" and "hub" read your own
clients = 20
high-resource = 0.2             # a fifth of the clients can run backprop; the others only forward passes
partition = { kind = "dirichlet", alpha = 0.1 }

[model]
net = "mlp"
args = { hidden = [32] }

[[phase]]                       # phase.0: the warm-up, by the clients that can run backprop
kind = "first-order"
tier = "high"
rounds = 50
lr = 0.1
batch = 16

[[phase]]                       # phase.1: everybody, by forward passes alone
kind = "zeroth-order"
tier = "all"
rounds = 150
pool = "shared"
step = "rms"
batch = 16
lr = 0.04
schedule = "cosine"
```

`zowarmup run mine.toml` runs it; `--set phase.1.lr=0.03` changes one value, by its path, for one run; `zowarmup plan
mine.toml` says what it will cost. `zowarmup recipes` lists the recipes that come with the package, which go by name:
`zowarmup run digits`. A key that does not exist, a value of the wrong type or out of range is refused with its path. A
run keeps its recipe, with every default written out, as `run.toml` in its directory.
"""

EXAMPLE = _HEADER.split("```toml\n")[1].split("```")[0]
"""The commented recipe in the header, which a test runs."""


def tables() -> tuple[Table, ...]:
    """Every table of a recipe, in the order of a recipe.

    >>> [key.name for table in tables() for key in table.keys if table.heading == "[run]"][:3]
    ['threads', 'micro-batch', 'evaluate-every']
    """
    return tuple(Table(heading, _unwrap(inspect.getdoc(struct) or ""), _keys(struct)) for heading, struct in _TABLES)


def markdown() -> str:
    """All of ``docs/recipes.md``."""
    parts = [_HEADER]
    for table in tables():
        parts.append(
            f"## {'Keys at the top' if table.heading == 'at the top' else f'`{table.heading}`'}\n\n{table.meaning}\n"
        )
        if table.keys:
            lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
            lines += [_row([f"`{key.name}`", key.type, _code(key.default), key.meaning]) for key in table.keys]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _code(default: str) -> str:
    return default if default in ("", "required") else f"`{default}`"


def _keys(struct: type[msgspec.Struct]) -> tuple[Key, ...]:
    hints, meanings = get_type_hints(struct, include_extras=True), _meanings(struct)
    fields = sorted(msgspec.structs.fields(struct), key=lambda f: f.name not in ("rounds", "cohort"))
    return tuple(Key(f.encode_name, _type(hints[f.name]), _default(f), _unwrap(meanings[f.name])) for f in fields)


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None or isinstance(value, msgspec.Struct) or value == {}:
        return ""
    return _toml(value)


def _toml(value: Any) -> str:
    """A value on one line.

    >>> _toml((1.0, 2.0)), _toml("iid")
    ('[1.0, 2.0]', '"iid"')
    """
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return tomli_w.dumps({"value": value}).removeprefix("value = ").strip()


def _type(hint: Any) -> str:
    """A type in words.

    >>> _type(recipe.Count | Literal["all"]), _type(recipe.Share)
    ('integer ≥ 1 or `"all"`', 'number from 0 to 1')
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _type(args[0]) + _bounds(next(each for each in args[1:] if isinstance(each, msgspec.Meta)))
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in args)
    if origin in (Union, types.UnionType):
        kinds = list(dict.fromkeys(_type(arg) for arg in args if arg is not types.NoneType))
        return " or ".join(kinds)
    if origin is tuple:
        noun, _, bounds = _type(args[0]).partition(" ")
        return "tables" if _is_struct(args[0]) else f"list of {noun}s {bounds}".strip()
    if origin is dict or _is_struct(hint):
        return "table"
    return {int: "integer", float: "number", str: "string", bool: "boolean"}[hint]


def _is_struct(hint: Any) -> bool:
    members = get_args(hint) or (hint,)
    return all(isinstance(member, type) and issubclass(member, msgspec.Struct) for member in members)


def _bounds(meta: msgspec.Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge} to {'2^63 - 1' if meta.le == 2**63 - 1 else meta.le}"
    signs = ((meta.gt, ">"), (meta.ge, "≥"), (meta.lt, "<"), (meta.le, "≤"))
    return (
        "".join(f" {sign} {bound}" for bound, sign in signs if bound is not None)
        .replace("> 0 ≤", "> 0, ≤")
        .replace("≥ 0 <", "≥ 0, <")
    )


def _meanings(struct: type[msgspec.Struct]) -> dict[str, str]:
    """The docstring under each field, those of base classes too."""
    found: dict[str, str] = {}
    for cls in reversed(struct.__mro__):
        found |= _docstrings().get(cls.__name__, {})
    return found


@functools.cache
def _docstrings() -> dict[str, dict[str, str]]:
    """Class -> field -> docstring, from the source: at run time Python does not keep them."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(recipe)).body:
        if isinstance(node, ast.ClassDef):
            fields = found.setdefault(node.name, {})
            for field, text in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(text, ast.Expr)
                    and isinstance(text.value, ast.Constant)
                ):
                    fields[field.target.id] = str(text.value.value)
    return found


def _unwrap(text: str) -> str:
    return " ".join(text.split())
