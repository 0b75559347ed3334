"""A run that takes over another's first rounds is the run that ran them itself, bit by bit."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

import zowarmup
from zowarmup import recipes
from zowarmup.chain import shared
from zowarmup.errors import DataError, LedgerError, ModelError, UsageError
from zowarmup.ledger import Ledger

SHORT = {"phase.0.rounds": 3, "phase.1.rounds": 4}


def recipe(base="digits", **more):
    values = {key.replace("__", "."): value for key, value in more.items()}
    return recipes.load(base, overrides=SHORT | values)


@pytest.fixture(scope="module")
def donor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("donor") / "run"
    zowarmup.run(recipe("digits-high-res-only"), out=folder)
    return folder


def test_the_same_bits_without_running_them(donor, tmp_path):
    seen = []
    whole = zowarmup.run(recipe(), out=tmp_path / "whole")
    made = zowarmup.run(
        recipe(), out=tmp_path / "made", beginning=donor, callbacks=[lambda step: seen.append(step.round)]
    )
    assert seen == [4, 5, 6, 7]
    assert made.summary["chain"] == whole.summary["chain"]
    assert zowarmup.diff(tmp_path / "whole", tmp_path / "made").identical
    assert zowarmup.verify(tmp_path / "made").holds
    with Ledger.open(tmp_path / "made") as ledger:
        assert [session["first_round"] for session in ledger.sessions()] == [0, 4]


def test_a_run_that_was_stopped_behind_its_beginning_goes_on(donor, tmp_path):
    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zowarmup.run(recipe(), out=tmp_path / "run", beginning=donor, callbacks=[stop])
    zowarmup.resume(tmp_path / "run")
    zowarmup.run(recipe(), out=tmp_path / "whole")
    assert zowarmup.diff(tmp_path / "run", tmp_path / "whole").identical


def test_moments_of_a_server_optimiser_come_along(tmp_path):
    adam = {"phase__0__server": "fedadam", "phase__0__server_lr": 0.01}
    adam = {key.replace("server_lr", "server-lr"): value for key, value in adam.items()}
    zowarmup.run(recipe("digits-high-res-only", **adam), out=tmp_path / "a")
    zowarmup.run(recipe(**adam), out=tmp_path / "b", beginning=tmp_path / "a")
    assert zowarmup.verify(tmp_path / "b").holds


def test_a_whole_run_is_a_beginning_of_itself(donor, tmp_path):
    zowarmup.run(recipe("digits-high-res-only"), out=tmp_path / "copy", beginning=donor)
    assert zowarmup.diff(donor, tmp_path / "copy").identical


@pytest.mark.parametrize(
    ("change", "rounds"),
    [
        ({}, 3),
        ({"name": "other"}, 3),
        ({"data__path": "elsewhere", "run__sync": "off"}, 3),
        ({"seed": 1}, 0),
        ({"data__clients": 10}, 0),
        ({"phase__0__lr": 0.2}, 0),
        ({"phase__0__rounds": 4}, 0),
        ({"run__evaluate-every": 3}, 0),
    ],
)
def test_what_two_runs_have_in_common(change, rounds):
    own, other, same = map(recipes.table, (recipe(), recipe("digits-high-res-only", **change), recipe(**change)))
    assert shared(own, other) == rounds
    assert shared(own, same) == (7 if rounds else 0)


def test_what_is_no_beginning_is_refused_and_nothing_is_made(donor, tmp_path):
    for change, what in (({"seed": 1}, "seed differ"), ({"phase__0__lr": 0.2}, "phase.0.lr differ")):
        with pytest.raises(UsageError, match=f"its rounds are no beginning of digits: {what}"):
            zowarmup.run(recipe(**change), out=tmp_path / "run", beginning=donor)
    with pytest.raises(UsageError, match="not a run directory"):
        zowarmup.run(recipe(), out=tmp_path / "run", beginning=tmp_path / "nowhere")
    with pytest.raises(UsageError, match="a run with a beginning needs a directory"):
        zowarmup.run(recipe(), beginning=donor)
    assert not (tmp_path / "run").exists()


def test_a_run_in_its_first_phase_is_no_beginning_yet(tmp_path):
    def stop(progress):
        if progress.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zowarmup.run(recipe("digits-high-res-only"), out=tmp_path / "a", callbacks=[stop])
    with pytest.raises(UsageError, match="it has 2 of the first phase's rounds"):
        zowarmup.run(recipe(), out=tmp_path / "b", beginning=tmp_path / "a")


def test_damage_is_told(donor, tmp_path):
    shutil.copytree(donor, tmp_path / "damaged")
    for path in (tmp_path / "damaged" / "snapshots").iterdir():
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(LedgerError, match="was changed"):
        zowarmup.run(recipe(), out=tmp_path / "run", beginning=tmp_path / "damaged")


def test_other_weights_and_data_under_the_same_recipe_are_refused(tmp_path):
    def module():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    torch.manual_seed(0)
    data = zowarmup.data.digits()
    zowarmup.run(recipe(), model=module(), data=data, out=tmp_path / "a")
    with pytest.raises(ModelError, match="began with other weights"):
        zowarmup.run(recipe(), model=module(), data=data, out=tmp_path / "b", beginning=tmp_path / "a")
    train, test = ((split.x[:600], split.y[:600]) for split in (data.train, data.test))
    fewer = zowarmup.from_arrays(train, test)
    with pytest.raises(DataError, match="data, partition or tiers are not those of the run"):
        zowarmup.run(recipe(), model=module(), data=fewer, out=tmp_path / "c", beginning=tmp_path / "a")
