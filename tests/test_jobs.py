"""What a run directory holds, which run goes first, and that nobody waits for ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import filelock
import pytest

import zowarmup
from zowarmup import jobs, recipes, workers
from zowarmup.errors import OutputError
from zowarmup.recipe import Recipe
from zowarmup.workers import Step

FAST = {"phase.0.rounds": 2, "phase.1.rounds": 3}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Two first-order and three zeroth-order rounds."""
    return recipes.load("digits", overrides=FAST)


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of it; not to be changed."""
    return Path(str(zowarmup.run(recipe, out=tmp_path_factory.mktemp("jobs") / "a").out))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished, tmp_path / "a"))


def other(recipe: Recipe, **values: object) -> Recipe:
    """The recipe with other values: ``phase__1__lr=0.1``."""
    overrides = {key.replace("__", ".").replace("_", "-"): value for key, value in values.items()}
    return recipes.parse(recipes.to_toml(recipe), overrides=overrides)


def test_a_folder_without_a_run_is_begun(recipe: Recipe, tmp_path: Path) -> None:
    assert jobs.look(recipe, tmp_path / "nothing").start == "begin"
    assert jobs.look(recipe, tmp_path / "nothing", force=True).start == "replace"
    (tmp_path / "kept").write_text("")
    with pytest.raises(OutputError, match="exists and is not empty"):
        jobs.look(recipe, tmp_path)


def test_a_finished_run_is_known_by_its_recipe_and_not_by_its_name(recipe: Recipe, finished: Path) -> None:
    for same in (recipe, other(recipe, name="x", method="y", run__snapshot_every=5)):
        assert jobs.look(same, finished).start == "finished"


def test_what_is_missing_beside_the_ledger_is_made_again(recipe: Recipe, folder: Path) -> None:
    (folder / "summary.json").unlink()
    found = jobs.look(recipe, folder)
    assert found.start == "resume"
    zowarmup.resume(folder, overrides=found.changes)
    assert jobs.look(recipe, folder).start == "finished"


def test_what_changes_no_bit_is_handed_to_resume(recipe: Recipe, folder: Path) -> None:
    (folder / "report.html").unlink()
    found = jobs.look(other(recipe, run__sync="off", run__keep_snapshots=9), folder)
    assert (found.start, found.changes) == ("resume", {"run.sync": "off", "run.keep-snapshots": 9})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": 1}, "seed is 0, expected 1"),
        ({"phase__0__lr": 0.5}, r"phase\.0\.lr is 0\.1, expected 0\.5"),
        ({"data__clients": 10}, r"data\.clients is 20, expected 10"),
        ({"phase__1__schedule": "constant", "phase__1__rounds": 4}, r"phase\.1\.schedule"),
        ({"model__args__hidden": [16, 16]}, r"model\.args\.hidden is \[32\], expected \[16, 16\]"),
    ],
)
def test_a_run_of_another_recipe_is_refused_by_the_key(
    recipe: Recipe, finished: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(OutputError, match=f"a: holds a run of another recipe: {message}"):
        jobs.look(other(recipe, **values), finished)
    assert jobs.look(other(recipe, **values), finished, force=True).start == "replace"


def test_other_rounds_of_a_constant_schedule_are_another_run_too(tmp_path: Path, recipe: Recipe) -> None:
    """They are no part of the identity, as a run may be extended."""
    constant = other(recipe, phase__1__schedule="constant")
    zowarmup.run(constant, out=tmp_path / "a")
    with pytest.raises(OutputError, match=r"phase\.1\.rounds is 3, expected 2"):
        jobs.look(other(constant, phase__1__rounds=2), tmp_path / "a")


def test_keys_that_are_still_to_be_chosen_may_differ(recipe: Recipe, finished: Path) -> None:
    tuned = other(recipe, phase__1__lr=0.5)
    assert jobs.look(tuned, finished, aside=["phase.1.lr"]).start == "finished"
    with pytest.raises(OutputError, match=r"phase\.1\.lr"):
        jobs.look(tuned, finished, aside=["phase.1.l"])


def test_a_run_that_is_being_written_is_refused(recipe: Recipe, folder: Path) -> None:
    (folder / "summary.json").unlink()
    with (
        filelock.FileLock(folder / "writer.lock"),
        pytest.raises(OutputError, match="a: is being written by process"),
    ):
        jobs.look(recipe, folder)


def test_each_run_comes_after_the_one_that_shares_most(recipe: Recipe, tmp_path: Path) -> None:
    longer = other(recipe, phase__0__lr=0.2)
    made = [
        jobs.Job(each, 0, tmp_path / str(index), start=start)
        for index, (each, start) in enumerate(
            [
                (recipe, "begin"),
                (longer, "begin"),
                (other(recipe, phase__1__lr=0.1), "begin"),
                (other(longer, phase__1__lr=0.1), "begin"),
                (other(recipe, phase__1__lr=0.1, name="twin"), "begin"),
                (recipe, "resume"),
            ]
        )
    ]
    ordered = jobs.in_order(made)
    assert [job.out for job in ordered] == [job.out for job in made]
    assert [ordered.index(job.after) if job.after else None for job in ordered] == [None, None, 0, 1, 2, None]
    assert [job.shares for job in ordered] == [0, 0, 2, 2, 5, 0]


def test_a_job_waits_for_the_rounds_it_shares(recipe: Recipe, tmp_path: Path) -> None:
    first = jobs.Job(recipe, 0, tmp_path / "a")
    second = jobs.Job(recipe, 0, tmp_path / "b", after=first, shares=2)
    third = jobs.Job(recipe, 0, tmp_path / "c")
    waiting = workers._Waiting([second, first, third])
    assert [waiting.take(), waiting.take(), waiting.take()] == [first, third, None]
    waiting.heard(Step(first, "running", round=1))
    assert waiting.take() is None
    waiting.heard(Step(first, "running", round=2))
    assert waiting.take() is second
    assert len(waiting) == 0


def test_a_job_goes_by_itself_where_the_one_before_failed_or_is_not_run(recipe: Recipe, tmp_path: Path) -> None:
    first = jobs.Job(recipe, 0, tmp_path / "a")
    second = jobs.Job(recipe, 0, tmp_path / "b", after=first, shares=2)
    waiting = workers._Waiting([first, second])
    assert [waiting.take(), waiting.take()] == [first, None]
    waiting.heard(Step(first, "failed", error="no"))
    assert waiting.take() is second
    assert workers._Waiting([second]).take() is second


@pytest.mark.slow
def test_workers_do_every_job_however_it_waits(recipe: Recipe, tmp_path: Path) -> None:
    """One of them fails before the rounds that others share, which then go by themselves."""
    broken = other(recipe, model__task="python:no_such_module:Task")
    lead = jobs.Job(broken, 0, tmp_path / "lead")
    made = [lead] + [jobs.Job(recipe, 0, tmp_path / str(index), after=lead, shares=2) for index in range(3)]
    ended = {step.job: step.state for step in workers.work(made, workers=2, device="cpu") if step.state != "running"}
    assert ended == {job: "failed" if job is lead else "finished" for job in made}
