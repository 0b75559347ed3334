"""Averages of a first-order phase's last rounds: against the plain mean, resumed half-way, and what is refused."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest
import torch

import zowarmup
from zowarmup import chain, recipes
from zowarmup.directions import select
from zowarmup.errors import RecipeError, UsageError
from zowarmup.phases import Scope, build
from zowarmup.phases.averaging import averaged
from zowarmup.protocol import Weights
from zowarmup.recipe import FirstOrder
from zowarmup.state import State
from zowarmup.table import Table

ADAM = {"phase.0.server": "fedadam", "phase.0.server-lr": 0.02}
NORM = {"model.args": {"hidden": [16], "norm": "batch"}, "model.batch-norm": "frozen"}


@pytest.mark.parametrize("more", [{}, ADAM, NORM], ids=["fedavg", "fedadam", "buffers"])
def test_the_last_round_is_the_plain_mean_of_the_last_rounds(short, more):
    values = {"phase.0.rounds": 5, **more}
    _, plain = short.run(short.recipe(**values))
    _, ours = short.run(short.recipe(**values, **{"phase.0.average-last": 3}))
    for one, other in zip(plain[:5], ours[:5], strict=True):
        assert one.state.digest() == other.state.digest()
    last = [each.state for each in plain[3:]]
    mean = sum(state.weights.double() for state in last) / 3
    assert torch.equal(ours[5].state.weights, mean.float())
    for name, buffer in ours[5].state.buffers.items():
        values = [state.buffers[name] for state in last]
        expected = (sum(value.double() for value in values) / 3).float() if buffer.is_floating_point() else values[-1]
        assert torch.equal(buffer, expected), name
    assert ours[5].entry.snapshot == ours[5].state.digest()


def test_an_average_of_one_round_is_that_round(short):
    _, plain = short.run(short.recipe())
    _, ours = short.run(short.recipe(**{"phase.0.average-last": 1}))
    assert ours[2].state.digest() == plain[2].state.digest() and not ours[2].state.phase


def test_the_next_phase_starts_from_the_mean(short):
    _, found = short.run(short.recipe('kind = "zeroth-order"\nrounds = 1\nlr = 0.01', **{"phase.0.average-last": 2}))
    assert not found[3].state.phase
    assert torch.linalg.vector_norm(found[3].state.weights - found[2].state.weights) < 0.5


@pytest.mark.parametrize("more", [{**ADAM, "run.snapshot-every": 4}, NORM], ids=["fedadam, few snapshots", "buffers"])
def test_a_run_that_is_killed_half_way_gets_the_same_mean(short, kept, more):
    kept(short.recipe(**{"phase.0.rounds": 6, "phase.0.average-last": 4, **more}), 3, 5)


def test_the_sum_is_in_float64_and_only_while_it_is_needed(short):
    _, found = short.run(short.recipe(**{"phase.0.rounds": 5, "phase.0.average-last": 3}))
    assert [sorted(each.state.phase) for each in found] == [[], [], [], ["average."], ["average."], []]
    assert found[3].state.phase["average."].dtype == torch.float64
    assert found[3].entry.moments and not found[5].entry.moments


def test_a_round_without_a_report_that_counts_is_in_the_mean_as_it_leaves_the_weights():
    scope = Scope(0, 0, 1, (0,), (10,), Table(("w",), ((2,),)), select("cpu"), 64)
    phase = build(FirstOrder(rounds=3, lr=0.1, average_last=3), scope)
    state = State(torch.zeros(2))
    for round, sent in enumerate(([3.0, 6.0], [np.nan, 0.0], [9.0, 0.0]), start=1):
        report = Weights(round=round, phase=0, client=0, weights=np.array(sent, np.float32))
        entry, blobs = phase.close(round, [report], state)
        state = phase.apply(entry, blobs, state)
    assert torch.equal(state.weights, torch.tensor([(3 + 3 + 9) / 3, (6 + 6 + 0) / 3]))


def test_integer_buffers_and_other_phase_state_are_left_alone():
    state = State(torch.ones(1), {"n": torch.tensor(3)}, {"m": torch.ones(1)})
    after = averaged(State(torch.zeros(1)), state, last=2, left=1)
    assert sorted(after.phase) == ["average.", "m"]
    done = averaged(after, State(torch.full((1,), 5.0), {"n": torch.tensor(4)}, after.phase), last=2, left=0)
    assert sorted(done.phase) == ["m"] and done.buffers["n"] == 4 and done.weights == 3.0


def test_more_rounds_than_there_are_cannot_be_averaged(short):
    with pytest.raises(RecipeError, match=r"`average-last` is 3, more than `rounds`, which is 2 - at `\$.phase\[0\]`"):
        short.recipe(**{"phase.0.average-last": 3})
    with pytest.raises(RecipeError, match=r"Expected `int` >= 1 - at `\$.phase\[0\].average-last`"):
        short.recipe(**{"phase.0.average-last": 0})


def test_a_run_that_ends_with_a_mean_takes_no_more_rounds(short, tmp_path):
    zowarmup.run(short.recipe(**{"phase.0.average-last": 2}), out=tmp_path / "run")
    for values in ({"rounds": "+1"}, {"overrides": {"phase.0.rounds": 3}}):
        with pytest.raises(
            (UsageError, RecipeError), match=r"takes no other number|phase\.0\.rounds cannot be changed"
        ):
            zowarmup.resume(tmp_path / "run", **values)
    assert zowarmup.resume(tmp_path / "run").summary["rounds"] == 2


def test_the_number_of_rounds_belongs_to_what_such_a_run_is(short):
    def identity(**values):
        return chain.identity(tomllib.loads(recipes.to_toml(short.recipe(**values))))

    longer = {"phase.0.rounds": 4}
    assert identity() == identity(**longer)
    average = {"phase.0.average-last": 2}
    assert identity(**average) != identity(**average, **longer)
