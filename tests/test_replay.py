"""Replay is ==: every state of a run, from its snapshots and entries alone."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup
from zowarmup.catchup import NOTHING
from zowarmup.directions.philox import NumpyDirections
from zowarmup.errors import LedgerError, ReplayMismatch
from zowarmup.ledger import Ledger
from zowarmup.phases.apply import apply
from zowarmup.protocol import decode_entry
from zowarmup.replay import Replay
from zowarmup.snapshots import Snapshots
from zowarmup.state import State

SHORT = {"phase.0.rounds": 3, "phase.1.rounds": 4, "run.evaluate-every": 2}


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Drawing the page takes longer than all else in so short a run; tests/report has tests of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zowarmup.report.render", lambda record: "<html>")
        yield


def run(out, recipe="digits", **more):
    """Run it, shortened; the state after every round."""
    states: list[State] = []
    overrides = SHORT | {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    zowarmup.run(recipe, overrides=overrides, out=out, callbacks=[lambda progress: states.append(progress.state)])
    return states


def replay(folder, **options) -> Replay:
    ledger = Ledger.open(folder)
    return Replay(ledger, Snapshots(folder, ledger.head.table), **options)


def same(one: State, other: State) -> bool:
    """Weights, buffers and phase state, bit for bit."""
    phases = [{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in s.phase.items()} for s in (one, other)]
    return one.digest() == other.digest() and phases[0] == phases[1]


VARIANTS = {
    "digits": {},
    "plain, distinct": {"phase__1__step": "plain", "phase__1__pool": "distinct"},
    "pool": {"phase__1__pool": 9, "phase__1__cohort": 5},
    "fedavgm": {"phase__0__server": "fedavgm"},
    "fedadam": {"phase__0__server": "fedadam", "phase__0__server_lr": 0.01},
    "a snapshot every round": {"run__replay_budget": 0},
}


@pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS)
def test_every_state_of_a_run_comes_back(tmp_path, more):
    states = run(tmp_path, run__keep_snapshots="all", **more)
    made = replay(tmp_path)
    for round, state in enumerate(states):
        back = made.state(round)
        assert same(back, state), round
    assert zowarmup.verify(tmp_path).replayed == 4


def test_another_backend_gives_the_same_bits(tmp_path):
    states = run(tmp_path)
    assert same(replay(tmp_path, directions=NumpyDirections()).state(7), states[7])


def test_buffers_come_back(tmp_path):
    """A net with BatchNorm: running statistics move in the warm-up, and stay after it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(80, 6)).astype(np.float32), rng.integers(0, 3, 80)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    states: list[State] = []
    zowarmup.run(
        "digits",
        model=net,
        data=zowarmup.from_arrays((x[:60], y[:60]), (x[60:], y[60:])),
        overrides=SHORT | {"data.clients": 5, "model.batch-norm": "frozen", "run.keep-snapshots": "all"},
        out=tmp_path,
        callbacks=[lambda progress: states.append(progress.state)],
    )
    assert len({state.digest() for state in states}) == 8
    for round, state in enumerate(states):
        assert same(replay(tmp_path).state(round), state)


def test_a_round_in_which_everybody_is_refused_comes_back(tmp_path, monkeypatch):
    from zowarmup.phases import ZerothOrderPhase

    fault = ZerothOrderPhase._fault
    monkeypatch.setattr(
        ZerothOrderPhase, "_fault", lambda self, report: "no" if report.round == 5 else fault(self, report)
    )
    states = run(tmp_path)
    assert states[5].digest() == states[4].digest() and states[5].phase == states[4].phase
    assert all(same(replay(tmp_path).state(round), states[round]) for round in (4, 5, 6, 7))


def test_a_first_order_round_without_a_snapshot_is_told(tmp_path):
    run(tmp_path, phase__0__rounds=5)
    with pytest.raises(LedgerError, match="round 1: a first-order round of which no snapshot is kept") as caught:
        replay(tmp_path).state(2)
    assert "snapshots: rounds 0, 3, 4, 5, 9" in str(caught.value)
    with pytest.raises(LedgerError, match="has no round 10, its last is 9"):
        replay(tmp_path).state(10)


def test_a_rerun_that_gives_another_state_is_told(tmp_path):
    run(tmp_path, run__snapshot_every=5, phase__0__rounds=5)
    with pytest.raises(ReplayMismatch, match=r"round 1: running it again gives weights blake2b:\w{12}, the"):
        replay(tmp_path, rerun=lambda entry, state: state).state(2)


def test_other_weights_than_the_ledgers_are_told(tmp_path):
    """The snapshot is whole and the entries decode, but the entry is another round's."""
    import sqlite3

    run(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE rounds SET state = zeroblob(32) WHERE round = 5")
    connection.close()
    with pytest.raises(
        ReplayMismatch, match=r"round 5: replay gives weights blake2b:\w{12}, the ledger says \S+:0{12}"
    ):
        replay(tmp_path).state(5)
    assert replay(tmp_path).state(6) is not None


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """First-order, zeroth-order, first-order, zeroth-order; snapshots thin out."""
    from zowarmup import recipes

    folder = tmp_path_factory.mktemp("mixed")
    table = {"phase.0.rounds": 2, "phase.1.rounds": 4}
    first, second = recipes.load("digits", overrides=table).phase
    import msgspec

    recipe = msgspec.structs.replace(recipes.load("digits"), phase=(first, second, first, second))
    states: list[State] = []
    zowarmup.run(recipe, out=folder, callbacks=[lambda progress: states.append(progress.state)])
    return folder, states


@pytest.mark.parametrize("least", ["bytes", "work"])
def test_whoever_missed_rounds_catches_up(mixed, least):
    folder, states = mixed
    made = replay(folder)
    table, directions = made.ledger.head.table, NumpyDirections()
    tried = 0
    for target in range(13):
        for held in range(NOTHING, target + 1):
            try:
                way, state, entries = made.catch_up(held, target=target, least=least)
            except LedgerError as error:
                assert target == 7 and "no way from round" in str(error)  # no snapshot of it is kept
                continue
            start = states[held] if state is None else state
            updates = [decode_entry(entry) for entry in entries]
            assert apply(start, *updates, table=table, directions=directions).digest() == states[target].digest()
            directions_sent = sum(len(each.coefficients) for each in updates)
            assert way.directions == directions_sent
            assert way.bytes == sum(each.payload_bytes for each in updates) + (state.model_bytes if state else 0)
            tried += 1
    assert tried > 60


def test_the_server_sends_entries_to_who_was_away_for_a_while(mixed):
    way, state, entries = replay(mixed[0]).catch_up(9)
    assert (way.snapshot, way.first, way.last, state, len(entries)) == (None, 10, 12, None, 3)
    assert way.bytes == 3 * (12 + 4 * 3)


def test_a_folder_may_be_moved(tmp_path):
    states = run(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert same(replay(tmp_path / "b").state(7), states[7])
