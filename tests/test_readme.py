"""What the README shows, runs."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

import zowarmup

MODELS = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[-2][:30])
def test_the_code_of_the_readme_runs(block, capsys):
    scope = {}
    exec(compile(block, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    assert float(re.match(r"[\d.]+", printed)[0]) > 0.7
    assert np.isfinite(scope["trained"].summary["final"]["loss"])


def test_the_example_with_ones_own_model_and_data_takes_15_lines():
    own = next(block for block in BLOCKS if "from_arrays" in block)
    assert len([line for line in own.splitlines() if line.strip()]) <= 15


def test_the_files_it_names_are_there():
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (root / target).exists(), target
    for name in re.findall(r"^    (?:src/zowarmup/)?([a-z_]+\.py|[a-z]+/) ", README, flags=re.MULTILINE):
        assert (root / "src" / "zowarmup" / name).exists() or (root / name).exists(), name


def test_the_demo_it_shows_is_the_one_that_is_run():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text(encoding="utf-8")
    demo = re.search(r"compare (.*?) --seeds", makefile)[1].split()
    assert all(name in README for name in demo)


def test_nothing_in_it_waits_to_be_filled_in():
    assert re.findall(r"^[A-Z]{4,}$|TODO|TBD", README, flags=re.MULTILINE) == []


def test_the_net_and_task_of_the_page_on_models_run(tmp_path, monkeypatch):
    (module,) = re.findall(r"```python\n(.*?)```", MODELS, flags=re.DOTALL)
    (settings,) = re.findall(r"```toml\n(.*?)```", MODELS, flags=re.DOTALL)
    (tmp_path / "mynets.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    values = {f"model.{key}": value for key, value in tomllib.loads(settings)["model"].items()}
    trained = zowarmup.run("digits-head", overrides={**values, "phase.0.rounds": 5})
    assert trained.module[1].out_features == 24
    assert trained.summary["final"]["accuracy"] > 0.5
