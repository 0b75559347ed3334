"""What docs/data.md shows is run."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import get_args

import pytest

from zowarmup import recipes
from zowarmup.recipe import Partition

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # taken back afterwards, with what loading adds
    (tmp_path / "mine.py").write_text(_blocks("python")[0])
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried > 10) == (0, True)


def test_the_recipe_is_one() -> None:
    phase = "[model]\nnet = 'cnn'\n[[phase]]\nkind = 'first-order'\nrounds = 1\nlr = 0.1\n"
    recipe = recipes.parse(f"name = 'page'\n{_blocks('toml')[0]}\n{phase}")
    assert recipe.data.clients == 50


def test_every_partition_and_default_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("## Partitions")[2].partition("Equal means")[0]
    rows = re.findall(r"(\| `([a-z-]+)`.*)\n", text)
    for line, kind in rows:
        table = {"kind": kind} | ({"column": "x"} if kind == "natural" else {})
        built = recipes.from_table(_recipe(table)).data.partition
        for key, value in re.findall(r"`([a-z-]+)` = ([0-9.]+)", line):
            assert getattr(built, key.replace("-", "_")) == float(value)
    kinds = {str(kind.__struct_config__.tag) for kind in get_args(Partition)}
    assert kinds == {kind for _, kind in rows}


def _recipe(partition: dict[str, object]) -> dict[str, object]:
    return {
        "name": "page",
        "data": {"source": "digits", "clients": 2, "partition": partition},
        "model": {"net": "mlp"},
        "phase": [{"kind": "first-order", "rounds": 1, "lr": 0.1}],
    }
