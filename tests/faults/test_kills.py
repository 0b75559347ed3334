"""kill -9, at any moment: no acknowledged round is lost, and the run ends as if nothing had happened."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from crashes import FEDADAM, LONGER, SHORT, SPARSE, Driver, Job, Outcome, broken_run, differences, finish, ledger_last

OPERATIONS = [
    f"{name} {when}" for name in ("write", "fsync", "rename", "unlink", "commit") for when in ("before", "after")
]


def kill_at_random(driver: Driver, whole, folder: Path, kills: int, seed: int) -> None:
    draws, done, number = random.Random(seed), 0, 0
    reference, outcome = whole(LONGER)
    while done < kills:
        run = folder / f"run-{number}"
        most = min(draws.randint(1, 4), kills - done)
        for kill in broken_run(driver, run, LONGER, draws, whole=outcome, most=most):
            assert kill.lost == 0, f"run {number}: {kill}"
            done += 1
        assert differences(run, reference, snapshots=False) == [], f"run {number}"
        number += 1


def test_ten_kills_at_random(driver, whole, tmp_path):
    kill_at_random(driver, whole, tmp_path, 10, seed=1)


@pytest.mark.slow
def test_two_hundred_kills_at_random(driver, whole, tmp_path):
    kill_at_random(driver, whole, tmp_path, 200, seed=2)


def places(outcome: Outcome, operation: str) -> list[int]:
    """The first, middle and last occurrence of an operation."""
    count = outcome.operations.get(operation, 0)
    return sorted({1, (count + 1) // 2, count}) if count else []


def kill_at_points(driver: Driver, whole, folder: Path, overrides, operations, pick=slice(None)) -> None:
    reference, outcome = whole(overrides)
    for operation in operations:
        for nth in places(outcome, operation)[pick]:
            run = folder / f"{operation}-{nth}".replace(" ", "-")
            killed = driver(Job(do="run", out=str(run), overrides=overrides, strike=operation, nth=nth))
            assert killed.code == -9, f"{operation} {nth}: {killed}"
            assert ledger_last(run) >= killed.acknowledged, f"{operation} {nth}"
            finish(driver, run, overrides)
            assert differences(run, reference, snapshots=False) == [], f"{operation} {nth}"


def test_killed_in_the_middle_of_each_operation(driver, whole, tmp_path):
    kill_at_points(driver, whole, tmp_path, SHORT, OPERATIONS, slice(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [SHORT, FEDADAM, SPARSE], ids=["short", "fedadam", "sparse"])
def test_killed_at_the_first_middle_and_last_of_each_operation(driver, whole, tmp_path, overrides):
    kill_at_points(driver, whole, tmp_path, overrides, OPERATIONS)


@pytest.mark.parametrize("overrides", [FEDADAM, SPARSE], ids=["fedadam", "sparse"])
def test_moments_and_rounds_without_a_snapshot_survive(driver, whole, tmp_path, overrides):
    """Killed behind the commit of a round within the first-order phase."""
    reference, _ = whole(overrides)
    for nth in (5, 6):  # commits: ledger, writer, session, round 0, 1, 2
        run = tmp_path / f"run-{nth}"
        assert driver(Job(do="run", out=str(run), overrides=overrides, strike="commit after", nth=nth)).code == -9
        assert 0 < ledger_last(run) < overrides["phase.0.rounds"]
        finish(driver, run, overrides)
        assert differences(run, reference, snapshots=False) == []


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_while_it_is_resumed_and_extended(driver, whole, tmp_path, operation):
    longer = SHORT | {"phase.1.rounds": 8, "phase.1.schedule": "constant"}
    reference, _ = whole(longer)
    for nth in (1, 3, 6):
        run = tmp_path / f"run-{nth}"
        start = longer | {"phase.1.rounds": 3}
        driver(Job(do="run", out=str(run), overrides=start, strike="commit before", nth=6))
        driver(Job(do="resume", out=str(run), strike=operation, nth=nth))
        finish(driver, run, start)
        driver(Job(do="resume", out=str(run), rounds="10", strike=operation, nth=nth))
        finish(driver, run, start, rounds="10")
        # The last round of the shorter run was evaluated, so metrics and links differ; weights do not.
        import zowarmup

        assert zowarmup.diff(run, reference).same
        assert zowarmup.verify(run).holds
