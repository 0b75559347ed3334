"""Many runs in worker processes, and the table of what came of them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest

import zowarmup
from zowarmup import comparison as comparing
from zowarmup import manifest, recipes, report
from zowarmup.cli.reading import reading
from zowarmup.errors import DiskError, LedgerError, OutputError, UsageError, ZOWarmUpError, ZOWarmUpWarning
from zowarmup.jobs import Job
from zowarmup.ledger import Ledger
from zowarmup.recipe import Recipe
from zowarmup.report import words
from zowarmup.suites import parse
from zowarmup.survey import survey
from zowarmup.workers import Step

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
    return [ours, recipes.load("digits-high-res-only", overrides={"name": "group/today", "phase.0.rounds": 2})]


@pytest.fixture(scope="module")
def made(short: list[Recipe], tmp_path_factory: pytest.TempPathFactory) -> tuple[manifest.Comparison, list[Step]]:
    """Two recipes and two that fail, with two seeds, on two workers; and all steps told on the way."""
    steps: list[Step] = []
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where the workers find the tasks
        faulty = [
            faulty_recipe("failing", "if torch.is_grad_enabled(): raise ValueError('out of paper')"),
            faulty_recipe("broken", "raise KeyError('paper')"),
        ]
        given = [short[0], faulty[0], short[1], faulty[1]]
        return comparing.compare(given, [3, 1], folder / "x", workers=2, device="cpu", on_progress=steps.append), steps


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


def test_the_rounds_that_two_methods_share_are_run_once(made) -> None:
    comparison, _ = made
    for own, taken_over in zip(comparison.runs["digits"], comparison.runs["group/today"], strict=True):
        with Ledger.open(own) as one, Ledger.open(taken_over) as other:
            assert [session["first_round"] for session in one.sessions()] == [0]
            assert [session["first_round"] for session in other.sessions()] == [0, 3]
            assert one.row(2).entry == other.row(2).entry


def test_the_table_is_the_reports(made) -> None:
    comparison, _ = made
    rows = report.table(comparison.runs)
    assert list(comparison.rows) == rows
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
    again = comparing.read(comparison.out)
    assert again == comparison
    comparing.write_page(again)
    assert comparison.page.read_bytes() == page


def test_the_reading_is_of_the_runs(made) -> None:
    comparison, _ = made
    (text,) = reading(comparison)
    assert text.startswith("digits reaches ")
    assert (
        f"Against it: group/today {words.points(comparison.rows[1]['accuracy_difference'])} points (better on " in text
    )
    assert text.endswith("A low-resource client of digits sends 36 B.")


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
    comparison = comparing.compare([faulty_recipe("dying", "os._exit(7)"), short[0]], [0], "x", workers=1, device="cpu")
    assert comparison.failed == {"dying, seed 0": "the worker process ended with exit code 7"}
    assert list(comparison.runs) == ["digits"]


def stub(monkeypatch: pytest.MonkeyPatch, *steps: tuple[str, str | None]) -> None:
    """Workers that do nothing but tell the steps, then hear Ctrl-C."""

    def work(jobs: Sequence[Job], **settings: object) -> Iterator[Step]:
        for job, (state, error) in zip(jobs, steps, strict=False):
            yield Step(job, state, error=error)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "work", work)


def test_nothing_finished_is_no_table(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch, ("failed", "no"))
    with pytest.raises(KeyboardInterrupt):
        comparing.compare(short, [0], tmp_path / "x")
    comparison = comparing.read(tmp_path / "x")
    assert (comparison.runs, comparison.rows) == ({}, ())
    assert comparison.failed == {"digits, seed 0": "no"}
    assert not comparison.page.exists()


def test_an_earlier_comparison_is_replaced_by_force_alone(short, tmp_path: Path, monkeypatch) -> None:
    stub(monkeypatch)
    (tmp_path / "compare.md").write_text("old")
    with pytest.raises(OutputError, match="exists and is not empty"):
        comparing.compare(short, [0], tmp_path)
    assert (tmp_path / "compare.md").read_text() == "old"
    with contextlib.suppress(KeyboardInterrupt):
        comparing.compare(short, [0], tmp_path, force=True)
    assert not (tmp_path / "compare.md").exists()


def test_a_full_disk_is_told(short, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(monkeypatch)

    def full(self, path, content):
        raise DiskError(f"{path}: cannot be written: No space left on device")

    monkeypatch.setattr(manifest.Disk, "write", full)
    with pytest.raises(DiskError, match=r"compare\.json: cannot be written: No space left"):
        comparing.compare(short, [0], tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a comparison: it has no compare.json"),
        ("{", "compare.json: is damaged: Input data was truncated"),
        ("[]", "compare.json: is damaged: Expected `object`, got `array`"),
        ('{"format": 1, "runs": {}, "failed": {}}', "compare.json: expected format 2, got 1"),
        ('{"format": 2, "name": ""}', "compare.json: is damaged: Object missing required field"),
        (
            '{"format": 2, "name": "", "baseline": "a", "failed": {}, "trials": [], '
            '"cells": [{"method": "a", "split": "", "runs": ["b"], "choice": {}}]}',
            "not a run directory: there is no such folder",
        ),
    ],
)
def test_a_damaged_comparison_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "compare.json").write_text(content)
    with pytest.raises(OutputError, match=message):
        comparing.read(tmp_path)


def test_recipes_and_seeds_must_be_given(short, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no recipe to run"):
        comparing.compare([], [0], tmp_path / "x")
    with pytest.raises(UsageError, match="no seeds"):
        comparing.compare(short, [], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_early_runs_cover_every_recipe(short, tmp_path: Path) -> None:
    planned = survey(short, [5, 2], tmp_path / "x")
    assert [run.job.name for run in planned.runs] == [
        "digits, seed 5",
        "group/today, seed 5",
        "digits, seed 2",
        "group/today, seed 2",
    ]


def test_workers_leave_each_run_its_threads(short, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert comparing.default_workers(short) == 8
    assert comparing.default_workers([recipes.load("digits", overrides={"run.threads": 3})]) == 2
    assert comparing.default_workers([recipes.load("digits", overrides={"run.threads": 64})]) == 1


SUITE = """
name = "try"
seeds = [0, 1]
baseline = "today"

[overrides]
"phase.0.rounds" = 2
"data.validation" = 0.2

[[split]]
name = "10/90"
overrides = { "data.high-resource" = 0.1 }

[[split]]
name = "30/70"
overrides = { "data.high-resource" = 0.3 }

[[method]]
name = "zo"
recipe = "digits"
overrides = { "phase.1.rounds" = 3 }
tune = { "phase.1.lr" = [1e-30, 0.04] }

[[method]]
name = "today"
recipe = "digits-high-res-only"
overrides = { "phase.1.rounds" = 1 }
"""
FAST = {"phase.0.rounds": 2, "phase.1.rounds": 3}


def without_workers(patch: pytest.MonkeyPatch) -> list[Job]:
    """Let runs happen in this process, one after the other, without figures; the jobs that were begun."""
    begun: list[Job] = []

    def work(jobs: Sequence[Job], **settings: object) -> Iterator[Step]:
        for job in jobs:
            begun.append(job)
            try:
                if "1e+30" in job.name:
                    raise ZOWarmUpError("weights are not finite")
                if job.start == "resume":
                    zowarmup.resume(job.out, overrides=job.changes)
                else:
                    zowarmup.run(job.recipe, out=job.out, force=job.start == "replace")
            except ZOWarmUpError as error:
                yield Step(job, "failed", error=str(error))
            else:
                yield Step(job, "finished")

    patch.setattr(report, "render", lambda run: "")
    patch.setattr(report, "compare", lambda runs, out, **more: Path(out).write_text(""))
    patch.setattr(comparing, "work", work)
    return begun


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """As :func:`without_workers`."""
    return without_workers(monkeypatch)


def killed(recipe: Recipe, folder: Path, *, after: int) -> None:
    """What a run leaves that is killed behind a round: the files as they are at that moment."""

    def copy(progress: zowarmup.Progress) -> None:
        if progress.round == after:
            shutil.copytree(folder.parent / "whole", folder)

    zowarmup.run(recipe, out=folder.parent / "whole", callbacks=(copy,))
    shutil.rmtree(folder.parent / "whole")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[manifest.Comparison, list[Job]]:
    """The suite, run in this process; and its jobs."""
    with pytest.MonkeyPatch.context() as patch:
        jobs = without_workers(patch)
        return zowarmup.compare(parse(SUITE), out=tmp_path_factory.mktemp("suite") / "x"), jobs


def test_a_suite_runs_every_method_at_every_split(tuned) -> None:
    comparison, _ = tuned
    out = comparison.out
    assert [(cell.method, cell.split) for cell in comparison.cells] == [
        ("zo", "10/90"),
        ("today", "10/90"),
        ("zo", "30/70"),
        ("today", "30/70"),
    ]
    assert comparison.cells[2].runs == (out / "zo" / "30-70" / "seed-0", out / "zo" / "30-70" / "seed-1")
    assert comparison.baseline == "today"
    assert comparison.failed == {}
    run = zowarmup.load(out / "zo" / "30-70" / "seed-1")
    assert (run.recipe.name, run.recipe.method, run.recipe.seed) == ("zo/30-70", "zo", 1)
    assert run.recipe.data.high_resource == 0.3


def test_differences_are_to_the_baseline_of_the_same_split(tuned) -> None:
    comparison, _ = tuned
    labels = [(row["split"], row["label"]) for row in comparison.rows]
    assert labels == [("10/90", "zo"), ("10/90", "today"), ("30/70", "zo"), ("30/70", "today")]
    alone = report.table({"today": comparison.cells[1].runs, "zo": comparison.cells[0].runs})
    assert comparison.rows[0]["accuracy_difference"] == alone[1]["accuracy_difference"]
    assert [text[:20] for text in reading(comparison)] == ["10/90: today reaches", "30/70: today reaches"]


def test_tuning_chooses_by_validation_shares_alone(tuned) -> None:
    comparison, _ = tuned
    assert [(trial.split, trial.seed) for trial in comparison.trials] == [("10/90", 0)] * 2 + [("30/70", 0)] * 2
    for cell in (cell for cell in comparison.cells if cell.method == "zo"):
        trials = [trial for trial in comparison.trials if trial.split == cell.split]
        for trial in trials:
            assert trial.score == zowarmup.load(trial.folder).summary["final"]["validation_accuracy"]
            assert trial.folder.parent.name == f"phase.1.lr={trial.values['phase.1.lr']}"
        best = max(trials, key=lambda trial: trial.score or 0)
        assert cell.choice == best.values
        assert all(zowarmup.load(folder).recipe.phase[1].lr == best.values["phase.1.lr"] for folder in cell.runs)
    assert all(not cell.choice for cell in comparison.cells if cell.method == "today")


def test_a_comparison_that_is_finished_runs_nothing(tuned, here) -> None:
    comparison, jobs = tuned
    assert len(jobs) == 12
    assert zowarmup.compare(parse(SUITE), out=comparison.out) == comparison
    assert comparing.read(comparison.out) == comparison
    assert here == []


def test_the_runs_that_share_a_beginning_come_after_the_first(tuned) -> None:
    """Trials and methods alike, as their first phase is the same; a different seed or split is another beginning."""
    _, jobs = tuned
    trial, other, *_ = jobs
    assert (trial.after, other.after, other.shares) == (None, trial, 2)
    today = next(job for job in jobs if job.label == "today 10/90" and job.seed == 0)
    assert (today.after, today.shares) == (trial, 2)
    assert next(job for job in jobs if job.label == "today 30/70" and job.seed == 1).after is None
    final = next(job for job in jobs if job.label == "zo 10/90" and job.seed == 0)
    assert final.after in (trial, other)
    assert final.shares == 5  # the chosen trial is this very run


def test_a_choice_at_one_split_serves_all(here, tmp_path: Path) -> None:
    comparison = zowarmup.compare(parse(SUITE + '[tune]\nsplit = "30/70"\nseeds = [4, 5]\n'), [0], tmp_path / "x")
    assert {(trial.split, trial.seed) for trial in comparison.trials} == {("30/70", 4), ("30/70", 5)}
    first, _, second, _ = comparison.cells
    assert first.choice == second.choice != {}


def test_values_whose_trials_fail_are_out_and_a_method_without_any_fails(here, tmp_path: Path) -> None:
    """A learning rate of 1e30 fails."""
    values = {"phase.1.lr": [1e30, 0.04]}
    one = zowarmup.compare(
        ["digits"],
        [0],
        tmp_path / "x",
        overrides={**FAST, "data.validation": 0.2},
        tune=values,
    )
    assert one.cells[0].choice == {"phase.1.lr": 0.04}
    assert [trial.score is None for trial in one.trials] == [True, False]
    assert list(one.failed) == ["digits, phase.1.lr=1e+30, seed 0"]
    none = zowarmup.compare(
        ["digits"],
        [0],
        tmp_path / "y",
        overrides={**FAST, "data.validation": 0.2},
        tune={"phase.1.lr": [1e30]},
    )
    assert none.runs == {}
    assert none.failed["digits, seed 0"] == "no phase.1.lr to choose: of every value a trial failed"


def test_more_seeds_later_run_what_is_missing(here, tmp_path: Path) -> None:
    comparing.compare(["digits"], [0], tmp_path / "x", overrides=FAST)
    recipe = recipes.load("digits", overrides={**FAST, "seed": 1})
    killed(recipe, tmp_path / "x" / "digits" / "seed-1", after=3)
    comparison = comparing.compare(["digits"], [0, 1, 2], tmp_path / "x", overrides=FAST)
    assert [(job.seed, job.start) for job in here] == [(0, "begin"), (1, "resume"), (2, "begin")]
    assert zowarmup.load(comparison.runs["digits"][1]).summary["sessions"] == 2
    assert zowarmup.load(comparison.runs["digits"][1]).summary["chain"] == zowarmup.run(recipe).summary["chain"]
    assert comparison.rows[0]["seeds"] == [0, 1, 2]


def test_a_run_of_another_recipe_is_refused_before_anything_runs(here, tmp_path: Path) -> None:
    comparing.compare(["digits"], [0], tmp_path / "x", overrides=FAST)
    message = r"x/digits/seed-0: holds a run of another recipe: phase\.1\.lr is 0\.04, expected 0\.02"
    with pytest.raises(OutputError, match=message):
        comparing.compare(["digits"], [1, 0], tmp_path / "x", overrides={**FAST, "phase.1.lr": 0.02})
    with pytest.raises(OutputError, match=r"another recipe: phase\.1\.rounds is 3, expected 4|schedule-rounds"):
        comparing.compare(["digits"], [0], tmp_path / "x", overrides={**FAST, "phase.1.rounds": 4})
    assert len(here) == 1
    kept = comparing.compare(["digits"], [0], tmp_path / "x", overrides=FAST, force=True)
    assert len(here) == 1  # the same recipe: force replaces others alone
    comparing.compare(["digits"], [0], tmp_path / "x", overrides={**FAST, "phase.1.lr": 0.02}, force=True)
    assert [job.start for job in here] == ["begin", "replace"]
    assert zowarmup.load(kept.runs["digits"][0]).recipe.phase[1].lr == 0.02


def test_a_damaged_run_is_refused_and_replaced_by_force(here, tmp_path: Path) -> None:
    out = tmp_path / "x"
    comparing.compare(["digits"], [0], out, overrides=FAST)
    (out / "digits" / "seed-0" / "ledger.db").write_bytes(b"SQLite format 3\0" + bytes(4096))
    with pytest.raises((LedgerError, OutputError)):
        survey(["digits"], [0], out, overrides=FAST)
    assert survey(["digits"], [0], out, overrides=FAST, force=True).runs[0].job.start == "replace"


def test_another_choice_than_before_asks_for_force(here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"0.02": 0.9, "0.04": 0.1}
    monkeypatch.setattr(comparing.tuning, "score", lambda folder: scores[folder.parent.name.partition("=")[2]])
    settings = {"overrides": {**FAST, "data.validation": 0.2}, "tune": {"phase.1.lr": [0.02, 0.04]}}
    comparing.compare(["digits"], [0], tmp_path / "x", **settings)
    scores["0.04"] = 1.0
    with pytest.raises(OutputError, match=r"phase\.1\.lr is 0\.02, expected 0\.04"):
        comparing.compare(["digits"], [0], tmp_path / "x", **settings)
    settings["tune"] = {"phase.1.lr": [0.02, 0.04, 0.08]}
    scores["0.08"] = 2.0
    late = comparing.compare(["digits"], [0], tmp_path / "x", **settings)  # the choice is known when trials have run
    assert "phase.1.lr is 0.02, expected 0.08" in late.failed["digits, seed 0"]
    forced = comparing.compare(["digits"], [0], tmp_path / "x", **settings, force=True)
    assert (forced.failed, forced.cells[0].choice) == ({}, {"phase.1.lr": 0.08})


def test_runs_of_another_version_are_kept_with_a_note(here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparing.compare(["digits"], [0, 1], tmp_path / "x", overrides=FAST)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.9" if name == "torch" else version(name))
    message = rf"x: 2 runs are kept that torch {version('torch')} made; here it is torch 9\.9".replace("+", r"\+")
    with pytest.warns(ZOWarmUpWarning, match=message):
        survey(["digits"], [0, 1], tmp_path / "x", overrides=FAST)


def test_the_manifest_is_up_to_date_while_runs_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is finished can be read after the process was killed."""
    seen = []

    def work(jobs: Sequence[Job], **settings: object) -> Iterator[Step]:
        for job in jobs:
            zowarmup.run(job.recipe, out=job.out)
            yield Step(job, "finished")
            seen.append(len(comparing.read(tmp_path / "x").runs.get("digits", ())))

    monkeypatch.setattr(comparing, "work", work)
    comparing.compare(["digits"], [0, 1], tmp_path / "x", overrides=FAST)
    assert seen == [1, 2]


def test_an_oracle_runs_once_and_is_shown_at_every_split(here, tmp_path: Path) -> None:
    text = SUITE.replace("tune = {", "# {") + '[[method]]\nname = "oracle"\nrecipe = "digits-fedavg"\nonce = true\n'
    comparison = zowarmup.compare(parse(text), [0], tmp_path / "x", overrides={"phase.1.rounds": 1})
    shown = [cell.runs for cell in comparison.cells if cell.method == "oracle"]
    assert shown == [(tmp_path / "x" / "oracle" / "10-90" / "seed-0",)] * 2
    assert [row["split"] for row in comparison.rows if row["label"] == "oracle"] == ["10/90", "30/70"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tune": {"phase.1.lrr": [1.0]}},
            r"tune: phase\.1\.lrr is a key of no method: digits\nhint: did you mean phase\.1\.lr or ",
        ),
        ({"tune": {"phase.*.epss": [1.0]}}, r"tune: phase\.\*\.epss is a key of no method: digits"),
        ({"tune": {"phase.1.lr": []}}, r"tune: phase\.1\.lr has no values to try"),
        ({"tune": {"phase.1.lr": [0.1, 0.1]}}, r"digits: tune: phase\.1\.lr = 0\.1 is given twice"),
        ({"tune": {"phase.1.lr": [0.1]}}, r"digits: tuning needs validation shares, but data\.validation is 0"),
        (
            {"tune": {"phase.1.lr": [-1.0]}, "overrides": {"data.validation": 0.1}},
            r"digits: Expected `float` > 0\.0 - at `\$\.phase\[1\]\.lr`",
        ),
        ({"tune": {"phase.1.lr": [0.1]}, "tune_seeds": [1, 1]}, "seed 1 is given twice"),
        ({"out": None}, "no directory for the runs"),
        ({"device": "nonsense"}, 'device = "nonsense" cannot be used here'),
        ({"overrides": {"seed": 1}}, "seed = 1: a comparison sets seed itself\nhint: run seeds have a place"),
    ],
)
def test_mistakes_are_told_before_anything_runs(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        comparing.compare("digits", [0], **{"out": tmp_path / "x"} | arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_a_star_tunes_every_phase_alike(tmp_path: Path) -> None:
    settings = {"overrides": {"data.validation": 0.1}, "tune": {"phase.*.lr": [0.05, 0.1]}}
    planned = survey(["digits"], [0], tmp_path / "x", **settings)  # type: ignore[arg-type]
    rates = [[phase.lr for phase in run.job.recipe.phase] for run in planned.trials]
    assert rates == [[0.05, 0.05], [0.1, 0.1]]
    assert len({run.job.out for run in planned.trials}) == 2
    assert all("*" not in run.job.out.as_posix() for run in planned.trials)


def test_a_trial_with_a_run_seed_is_taken_over(tmp_path: Path) -> None:
    settings = {"overrides": {**FAST, "data.validation": 0.2}, "tune": {"phase.1.lr": [0.02, 0.04]}}
    made = comparing.compare(["digits"], [0], tmp_path / "x", workers=1, **settings)  # type: ignore[arg-type]
    (cell,) = made.cells
    chosen = next(trial.folder for trial in made.trials if trial.values == cell.choice)
    assert chosen is not None
    links = []
    for folder in (chosen, cell.runs[0]):
        with Ledger.open(folder) as ledger:
            links.append([(row.state, row.timed()) for row in ledger.rows(0, ledger.last)])
    assert links[0] == links[1]  # the times too: no round was run twice


def test_an_out_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("kept")
    with pytest.raises(OutputError, match="x: is a file, expected a directory"):
        comparing.compare(["digits"], [0], tmp_path / "x")
    with pytest.raises(OutputError, match="/proc/nope/x: cannot be written to"):
        comparing.compare(["digits"], [0], "/proc/nope/x")


def test_a_suite_among_recipes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="small/main: is a suite, which is compared by itself"):
        comparing.compare(["digits", "small/main"], [0], tmp_path / "x")
