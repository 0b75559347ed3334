"""`zowarmup compare`: what it says of a grid, of what is finished, and of what was chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SUITE = """
name = "mine"
seeds = [0, 1]
baseline = "today"

[overrides]
"data.validation" = 0.2
"phase.0.rounds" = 2
"phase.1.rounds" = 3

[[split]]
name = "10/90"

[[method]]
name = "zo"
recipe = "digits"
tune = { "phase.1.lr" = [0.02, 0.04] }

[[method]]
name = "today"
recipe = "digits-high-res-only"
"""

GRID = """\
method  split                          runs  rounds  finished  begun  to begin
zo      10/90  trials phase.1.lr=0.02     1       5         0      0         1
zo      10/90  trials phase.1.lr=0.04     1       5         0      0         1
zo      10/90  what trials choose         2       5         0      0         2
today   10/90                             2       5         0      0         2

6 runs, 0 finished, 6 to do with up to 30 rounds
into x
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A suite in the current folder of commands."""
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def test_a_dry_run_lists_the_grid_and_leaves_nothing(cli, suite: Path, tmp_path: Path) -> None:
    assert cli("compare", "mine.toml", "--out", "x", "--dry-run") == (0, GRID, "")
    assert list(tmp_path.iterdir()) == [suite]
    found = json.loads(cli("compare", "mine.toml", "--dry-run", "--json").out)
    assert (found["out"], found["baseline"], found["finished"], len(found["runs"])) == ("runs/mine", "today", 0, 6)
    assert found["runs"][1]["values"] == {"phase.1.lr": 0.04}
    assert found["runs"][1]["after"] == found["runs"][0]["folder"] == "runs/mine/tune/zo/10-90/phase.1.lr=0.02/seed-0"


@pytest.mark.slow
def test_a_suite_is_run_and_the_same_command_again_keeps_it(cli, suite: Path) -> None:
    arguments = ("compare", "mine.toml", "--workers", "2", "--device", "cpu")
    ended = cli(*arguments)
    assert ended.code == 0
    assert "zo 10/90: phase.1.lr=0.0" in ended.out
    assert "chosen by accuracy on validation shares, from 2 trials with seed 0\nnot tuned: today\n" in ended.out
    assert "mean (sd) of 2\xa0seeds; ±: points over today, seed by seed" in ended.out
    assert ended.err.splitlines()[-1].startswith("6/6  zo 10/90, seed ")
    again = cli(*arguments)
    assert (again.code, again.out, again.err) == (0, ended.out, "6 of 6 runs finished before\n")
    assert "6 runs, 6 finished, 0 to do\n" in cli("compare", "mine.toml", "--dry-run").out
    found = json.loads(cli(*arguments, "--json").out)
    assert [(cell["method"], len(cell["runs"])) for cell in found["cells"]] == [("zo", 2), ("today", 2)]
    assert len(found["trials"]) == 2
    refused = cli("compare", "mine.toml", "--set", "phase.0.lr=0.5")
    assert refused.code == 2
    assert "holds a run of another recipe: phase.0.lr is 0.1, expected 0.5\nhint: " in refused.err
    replaced = cli("compare", "mine.toml", "--set", "phase.0.lr=0.5", "--force", "--dry-run")
    assert replaced.out.endswith("runs of another recipe are replaced\ninto runs/mine\n")
