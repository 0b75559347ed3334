"""Keys of a recipe explained, and docs/recipes.md, which is made from them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from zowarmup import keys, recipe, recipes

DOCS = Path(__file__).parent.parent / "docs" / "recipes.md"


def test_the_documentation_is_what_is_made() -> None:
    """Otherwise: zowarmup recipes --keys > docs/recipes.md."""
    assert DOCS.read_text(encoding="utf-8") == keys.markdown()


def test_the_example_is_a_recipe() -> None:
    example = recipes.parse(keys.EXAMPLE)
    assert [phase.kind for phase in example.phase] == ["first-order", "zeroth-order"]


def test_every_table_and_key_of_a_recipe_is_explained() -> None:
    tables = keys.tables()
    structs = {
        cls
        for cls in vars(recipe).values()
        if isinstance(cls, type) and issubclass(cls, msgspec.Struct) and not cls.__name__.startswith("_")
    } - {msgspec.Struct}
    assert len(tables) == len(structs)
    for table in tables:
        assert table.meaning.endswith((".", "paper's."))
        for key in table.keys:
            assert key.meaning
            assert key.type


@pytest.mark.parametrize(
    ("table", "name", "type", "default"),
    [
        ("at the top", "seed", "integer from 0 to 2^63 - 1", "0"),
        ("at the top", "phase", "tables", "required"),
        ("[data]", "high-resource", "number from 0 to 1 or list of integers", "0.1"),
        ("[data]", "partition", "table", ""),
        ("[data]", "mean", "list of numbers", ""),
        ("[model]", "batch-norm", '`"frozen"` or `"batch"`', ""),
        ("[run]", "micro-batch", 'integer ≥ 1 or `"all"`', "64"),
        ('[[phase]] kind = "first-order"', "momentum", "number ≥ 0, < 1", "0.0"),
        ('[[phase]] kind = "first-order"', "step-factor", "number > 0, ≤ 1", "0.1"),
        ('[[phase]] kind = "first-order"', "lr", "number > 0", "required"),
        ('[[phase]] kind = "zeroth-order"', "pool", '`"distinct"` or `"shared"` or integer ≥ 1', '"distinct"'),
        ('[[phase]] kind = "zeroth-order"', "eps", "number > 0", "0.0001"),
        ('[[phase]] kind = "first-order"', "average-last", "integer ≥ 1", ""),
        ('[[phase]] kind = "statistics"', "rounds", "integer ≥ 1", "required"),
        ('[[phase]] kind = "mixed"', "high", "table", "required"),
    ],
)
def test_types_and_defaults_are_in_words(table: str, name: str, type: str, default: str) -> None:  # noqa: A002
    found = {(each.heading, key.name): key for each in keys.tables() for key in each.keys}
    assert (found[table, name].type, found[table, name].default) == (type, default)
