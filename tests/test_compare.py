"""Many runs in worker processes, and the table of what came of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import zowarmup
from zowarmup import compare, recipes, report, workers
from zowarmup.cli.reading import reading
from zowarmup.errors import DiskError, OutputError, UsageError
from zowarmup.recipe import Recipe

FAULTY = """
import os, torch

class Task:
    def losses(self, outputs, targets):
        {fault}
        return outputs.sum(dim=1) * 0 + 1

    def scores(self, outputs, targets):
        return targets * 0.0
"""


@pytest.fixture(scope="module")
def short() -> list[Recipe]:
    """Two methods on the digits, a few rounds each."""
    ours = recipes.load("digits", overrides={"phase.0.rounds": 2, "phase.1.rounds": 3})
    return [ours, recipes.load("digits-high-res-only", overrides={"name": "group/today", "phase.0.rounds": 3})]


@pytest.fixture(scope="module")
def made(
    short: list[Recipe], tmp_path_factory: pytest.TempPathFactory
) -> tuple[compare.Comparison, list[workers.Step]]:
    """Two recipes and two that fail, with two seeds, on two workers; and all steps told on the way."""
    steps: list[workers.Step] = []
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the workers find the tasks
        faulty = [
            faulty_recipe("failing", "if torch.is_grad_enabled(): raise ValueError('out of paper')"),
            faulty_recipe("broken", "raise KeyError('paper')"),
        ]
        given = [short[0], faulty[0], short[1], faulty[1]]
        return compare.compare(given, [3, 1], folder / "x", workers=2, device="cpu", on_progress=steps.append), steps


def faulty_recipe(name: str, fault: str) -> Recipe:
    """A recipe whose task does something bad; the task's module is written to the current folder."""
    Path(f"{name}_module.py").write_text(FAULTY.format(fault=fault))
    overrides = {"name": name, "model.task": f"python:{name}_module:Task", "phase.0.rounds": 1}
    return recipes.load("digits-high-res-only", overrides=overrides)


def test_every_recipe_runs_with_every_seed(made) -> None:
    comparison, _ = made
    assert comparison.runs == {
        "digits": (comparison.out / "digits" / "seed-3", comparison.out / "digits" / "seed-1"),
        "group/today": (comparison.out / "group" / "today" / "seed-3", comparison.out / "group" / "today" / "seed-1"),
    }
    for label, folders in comparison.runs.items():
        summaries = [zowarmup.load(folder).summary for folder in folders]
        assert [summary["seed"] for summary in summaries] == [3, 1]
        assert {summary["recipe"] for summary in summaries} == {label}


def test_a_worker_gives_the_bits_that_this_process_gives(made, short) -> None:
    comparison, _ = made
    here = zowarmup.run(short[0], seed=3, device="cpu").summary["state_digest"]
    assert zowarmup.load(comparison.runs["digits"][0]).summary["state_digest"] == here


def test_the_table_is_the_reports(made) -> None:
    comparison, _ = made
    rows = report.table(comparison.runs)
    assert comparison.rows == rows
    assert (comparison.out / "compare.csv").read_text() == report.csv(rows)
    assert (comparison.out / "compare.md").read_text() == report.markdown(rows)
    assert "group/today" in comparison.page.read_text()


def test_steps_tell_of_every_run(made) -> None:
    _, steps = made
    ended = [step.job.name for step in steps if step.state == "finished"]
    assert sorted(ended) == ["digits, seed 1", "digits, seed 3", "group/today, seed 1", "group/today, seed 3"]
    first = [step for step in steps if step.job.name == "digits, seed 3"]
    assert first[0].state == "running"
    assert first[0].round == 0
    assert (first[-1].state, first[-1].round) == ("finished", 5)
    assert first[-1].metrics is not None
    assert first[-1].metrics["round"] == 5


def test_a_comparison_is_read_and_its_page_made_again(made) -> None:
    comparison, _ = made
    page = comparison.page.read_bytes()
    comparison.page.unlink()
    again = compare.read(comparison.out)
    assert again == comparison
    compare.write_page(again)
    assert comparison.page.read_bytes() == page


def test_the_reading_is_of_the_runs(made) -> None:
    comparison, _ = made
    text = reading(comparison)
    assert text.startswith("digits reaches ")
    assert f"{100 * abs(comparison.rows[1]['accuracy_difference']):.1f} points" in text
    assert " group/today (better on " in text
    assert text.endswith("Its low-resource clients send 576 B.")


def test_a_failed_run_does_not_stop_the_others(made) -> None:
    comparison, _ = made
    assert comparison.failed.keys() == {
        "failing, seed 3",
        "failing, seed 1",
        "broken, seed 3",
        "broken, seed 1",
    }
    assert comparison.failed["failing, seed 1"].startswith("round 1, phase 0 (first-order), client ")
    assert comparison.failed["failing, seed 1"].endswith("ValueError: out of paper")
    assert comparison.failed["broken, seed 3"].endswith("KeyError: 'paper'")
    assert json.loads((comparison.out / "compare.json").read_bytes())["failed"] == comparison.failed
    assert zowarmup.load(comparison.out / "failing" / "seed-1").summary["status"] == "failed"


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    comparison = compare.compare([faulty_recipe("dying", "os._exit(7)"), short[0]], [0], "x", workers=1, device="cpu")
    assert comparison.failed == {"dying, seed 0": "the worker process ended with exit code 7"}
    assert list(comparison.runs) == ["digits"]


def stub(monkeypatch: pytest.MonkeyPatch, *steps: tuple[str, str | None]) -> None:
    """Workers that do nothing but tell the steps, then hear Ctrl-C."""

    def work(jobs, *, workers, device, force) -> Iterator[workers.Step]:
        for job, (state, error) in zip(jobs, steps, strict=False):
            yield compare.Step(job, state, error=error)
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "work", work)


def test_nothing_finished_is_no_table(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, ("failed", "no"))
    with pytest.raises(KeyboardInterrupt):
        compare.compare(short, [0], tmp_path / "x")
    comparison = compare.read(tmp_path / "x")
    assert (comparison.runs, comparison.rows) == ({}, [])
    assert comparison.failed == {"digits, seed 0": "no"}
    assert not comparison.page.exists()


def test_an_earlier_comparison_is_replaced_by_force_alone(short, tmp_path: Path, monkeypatch) -> None:
    stub(monkeypatch)
    (tmp_path / "compare.md").write_text("old")
    with pytest.raises(OutputError, match="exists and is not empty"):
        compare.compare(short, [0], tmp_path)
    assert (tmp_path / "compare.md").read_text() == "old"
    with contextlib.suppress(KeyboardInterrupt):
        compare.compare(short, [0], tmp_path, force=True)
    assert not (tmp_path / "compare.md").exists()


def test_a_full_disk_is_told(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch)

    def full(self, path, content):
        raise DiskError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(compare.Disk, "write", full)
    with pytest.raises(DiskError, match=r"compare\.json: cannot be written: No space left"):
        compare.compare(short, [0], tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a comparison: it has no compare.json"),
        ("{", "compare.json: is damaged: Input data was truncated"),
        ("[]", "compare.json: is damaged: Expected `object`, got `array`"),
        ('{"format": 2, "runs": {}, "failed": {}}', "compare.json: expected format 1, got 2"),
        ('{"format": 1, "runs": {"a": ["b"]}, "failed": {}}', "not a run directory: there is no such folder"),
    ],
)
def test_a_damaged_comparison_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "compare.json").write_text(content)
    with pytest.raises(OutputError, match=message):
        compare.read(tmp_path)


def test_recipes_and_seeds_must_be_given(short, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe to run"):
        compare.compare([], [0], tmp_path / "x")
    with pytest.raises(UsageError, match="no seeds"):
        compare.compare(short, [], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_early_runs_cover_every_recipe(short, tmp_path: Path) -> None:
    jobs = compare.plan_jobs(short, [5, 2], tmp_path)
    assert [job.name for job in jobs] == [
        "digits, seed 5",
        "group/today, seed 5",
        "digits, seed 2",
        "group/today, seed 2",
    ]


def test_workers_leave_each_run_its_threads(short, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert compare.default_workers(short) == 8
    assert compare.default_workers([recipes.load("digits", overrides={"run.threads": 3})]) == 2
    assert compare.default_workers([recipes.load("digits", overrides={"run.threads": 64})]) == 1
