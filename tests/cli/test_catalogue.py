"""`zowarmup recipes` and `zowarmup fetch`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zowarmup import data, keys, recipes, suites


def test_shipped_recipes_are_listed_a_line_each(cli) -> None:
    ended = cli("recipes")
    assert [line.split()[0] for line in ended.out.splitlines()] == recipes.shipped()
    assert "ZOWarmUp on scikit-learn's digits" in ended.out
    assert (ended.code, ended.err) == (0, "")
    listed = json.loads(cli("recipes", "--json").out)
    assert [each["name"] for each in listed] == recipes.shipped()
    assert all(each["summary"] for each in listed)


def test_shipped_suites_are_listed_and_shown(cli) -> None:
    ended = cli("recipes", "--suites")
    assert [line.split()[0] for line in ended.out.splitlines()] == suites.shipped()
    assert [each["name"] for each in json.loads(cli("recipes", "--suites", "--json").out)] == suites.shipped()
    assert cli("recipes", "paper/table2") == (0, suites.shipped_text("paper/table2"), "")


def test_a_recipe_is_shown_as_it_is_and_runs_from_a_file(cli, tmp_path: Path) -> None:
    ended = cli("recipes", "digits")
    assert ended == (0, recipes.shipped_text("digits"), "")
    (tmp_path / "mine.toml").write_text(ended.out)
    assert recipes.load(tmp_path / "mine.toml") == recipes.load("digits")


def test_keys_are_the_documentation(cli) -> None:
    assert cli("recipes", "--keys") == (0, keys.markdown(), "")
    tables = json.loads(cli("recipes", "--keys", "--json").out)
    assert tables[0]["keys"][0] == {
        "name": "name",
        "type": "string",
        "default": "required",
        "meaning": "The run's name, in tables, figures and directories: letters, digits, `_ . -`, and `/` between "
        "them.",
    }


def test_on_a_terminal_lists_and_keys_are_laid_out(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    assert all(name in cli("recipes").out for name in recipes.shipped())
    ended = cli("recipes", "--keys")
    assert "| --- |" not in ended.out
    assert "rms-decay" in ended.out


def test_fetch_hands_over_and_names_the_folder(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(data, "fetch", lambda name, out, *, force: calls.append((name, out, force)))
    assert cli("fetch", "cifar10") == (0, "data/cifar10\n", "")
    assert cli("fetch", "cifar10", "--out", "x", "--force") == (0, "x\n", "")
    assert calls == [("cifar10", Path("data/cifar10"), False), ("cifar10", Path("x"), True)]


def test_a_plan_is_printed(cli) -> None:
    ended = cli("plan", "digits", "--set", "phase.0.rounds=2", "--set", "phase.1.rounds=3", "--seed", "1")
    assert (ended.code, ended.err) == (0, "")
    text = ended.out.replace("\xa0", " ")
    assert text.startswith("digits, seed 1: 2,410 parameters, 9.64 kB\nhigh tier: 4 clients, 240 samples\n")
    assert "2 rounds × 4 clients" in text
    assert "zeroth-order" in text
    assert "low tier: 16 clients, 960 samples" in text
    planned = json.loads(cli("plan", "digits", "--set", "phase.1.rounds=3", "--json").out)
    assert planned["phases"][1]["turns"] == {"high": 12, "low": 48}
    assert planned["phases"][1]["uplink_bytes"] == {"high": 144, "low": 576}
