"""Resume: to the bits of a run that was never interrupted, and only for the run that it is."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup
from zowarmup.chain import genesis
from zowarmup.errors import DataError, LedgerError, ModelError, OutputError, RecipeError, UsageError, ZOWarmUpWarning
from zowarmup.history import History
from zowarmup.ledger import Ledger

SHORT = {"phase.0.rounds": 3, "phase.1.rounds": 4, "run.evaluate-every": 2}


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Drawing the page takes longer than all else in so short a run; tests/report has tests of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zowarmup.report.render", lambda record: "<html>")
        yield


def stop_after(round: int):
    def stop(progress):
        if progress.round == round:
            raise KeyboardInterrupt

    return stop


def interrupted(out: Path, after: int, **more) -> None:
    overrides = SHORT | {key.replace("__", ".").replace("_", "-"): value for key, value in more.items()}
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", out=out, overrides=overrides, callbacks=[stop_after(after)])


def untimed(lines):
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}

    def run(**more) -> Path:
        key = repr(more)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole") / "run"
            overrides = SHORT | {name.replace("__", ".").replace("_", "-"): value for name, value in more.items()}
            zowarmup.run("digits", out=made[key], overrides=overrides)
        return made[key]

    return run


@pytest.mark.parametrize("after", range(8))
def test_interrupted_after_every_round(tmp_path, whole, after):
    interrupted(tmp_path / "run", after)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "interrupted" or after == 7
    seen = []
    trained = zowarmup.resume(tmp_path / "run", callbacks=[lambda progress: seen.append(progress.round)])
    assert seen == list(range(after + 1, 8))
    assert zowarmup.diff(tmp_path / "run", whole()).identical
    assert trained.summary["sessions"] == (1 if after == 7 else 2)
    assert untimed(trained.metrics) == untimed(zowarmup.load(whole()).metrics)
    times = [line["seconds"] for line in trained.metrics]
    assert times == sorted(times)


VARIANTS = {
    "fedadam": {"phase__0__server": "fedadam", "phase__0__server_lr": 0.01},
    "fedavgm, few snapshots": {"phase__0__server": "fedavgm", "phase__0__rounds": 5, "run__snapshot_every": 4},
    "cohorts": {"phase__0__cohort": 2, "phase__1__cohort": 7, "phase__1__pool": 11},
    "work": {"run__catch_up": "work", "phase__1__cohort": 7},
}


@pytest.mark.parametrize("more", VARIANTS.values(), ids=VARIANTS)
def test_phase_state_traffic_and_rounds_without_a_snapshot_come_back(tmp_path, whole, more):
    for after in (2, 5):
        interrupted(tmp_path / f"run-{after}", after, **more)
        zowarmup.resume(tmp_path / f"run-{after}")
        assert zowarmup.diff(tmp_path / f"run-{after}", whole(**more)).identical


def test_a_finished_run_is_left_as_it_is_but_for_files_that_are_missing(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    for name in ("summary.json", "metrics.jsonl", "run.toml", "report.html", "model.safetensors"):
        (folder / name).unlink()
    seen = []
    zowarmup.resume(folder, callbacks=[seen.append])
    assert seen == []
    with Ledger.open(folder) as ours, Ledger.open(whole()) as theirs:
        assert list(ours.rows()) == list(theirs.rows()) and ours.sessions() == theirs.sessions()
    for path in whole().iterdir():
        if path.name not in ("ledger.db", "snapshots", "writer.lock"):
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_run_without_a_round_is_started(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        connection.execute("DELETE FROM rounds")
        (folder / "metrics.jsonl").unlink(missing_ok=True)
        connection.execute("DELETE FROM snapshots")
    connection.close()
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    with pytest.raises(OutputError, match="has no round yet"):
        zowarmup.load(folder)
    zowarmup.resume(folder)
    assert zowarmup.diff(folder, whole()).identical and zowarmup.verify(folder).holds


EXTENSIONS = {
    "constant": {"phase__1__schedule": "constant"},
    "step": {"phase__1__schedule": "step", "phase__1__step_every": 3},
    "cosine over a fixed horizon": {"phase__1__schedule_rounds": 20},
}


@pytest.mark.parametrize("rounds", ["+4", 11], ids=["more", "in all"])
@pytest.mark.parametrize("more", EXTENSIONS.values(), ids=EXTENSIONS)
def test_more_rounds_equal_a_run_that_was_asked_for_them_at_once(tmp_path, whole, more, rounds):
    folder = Path(shutil.copytree(whole(**more, phase__1__rounds=5), tmp_path / "run"))
    longer = whole(**more, phase__1__rounds=9)
    trained = zowarmup.resume(folder, rounds="+4" if rounds == "+4" else 12)
    assert zowarmup.diff(folder, longer).identical
    assert (trained.summary["rounds"], trained.summary["planned_rounds"]) == (12, 12)
    assert (folder / "run.toml").read_bytes() == (longer / "run.toml").read_bytes()
    assert zowarmup.verify(folder).holds


def test_a_last_round_off_the_beat_has_one_evaluation_more(tmp_path, whole):
    folder = Path(shutil.copytree(whole(phase__1__schedule="constant"), tmp_path / "run"))
    zowarmup.resume(folder, rounds="+2")
    found = zowarmup.diff(folder, whole(phase__1__schedule="constant", phase__1__rounds=6))
    assert found.same and not found.identical and found.metrics == (7,)


def test_fewer_rounds_end_a_run_early(tmp_path, whole):
    interrupted(tmp_path / "run", 5, phase__1__schedule="constant")
    assert zowarmup.resume(tmp_path / "run", rounds=6).summary["status"] == "finished"
    assert zowarmup.diff(tmp_path / "run", whole(phase__1__schedule="constant", phase__1__rounds=3)).identical


@pytest.mark.parametrize(
    ("rounds", "kind", "message"),
    [
        (
            "+5",
            RecipeError,
            "phase 1 has a cosine schedule over 4 rounds: its learning rate would be 0 from round 8",
        ),
        (6, UsageError, "rounds = 6: the run has 7 rounds already"),
        ("more", UsageError, "rounds = 'more', expected a number, or +100 for 100 more"),
        ("-3", UsageError, "rounds = -3: the phases before the last one take 3"),
    ],
)
def test_rounds_that_cannot_be_had(tmp_path, whole, rounds, kind, message):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    before = (folder / "ledger.db").read_bytes()
    with pytest.raises(kind) as caught:
        zowarmup.resume(folder, rounds=rounds)
    assert message in caught.value.message
    assert (folder / "ledger.db").read_bytes() == before


def test_fewer_rounds_than_earlier_phases_take(tmp_path):
    interrupted(tmp_path / "run", 1)
    with pytest.raises(UsageError, match="rounds = 3: the phases before the last one take 3"):
        zowarmup.resume(tmp_path / "run", rounds=3)
    with pytest.raises(UsageError, match=r"rounds = \+5: the run is at round 1 of 7") as caught:
        zowarmup.resume(tmp_path / "run", rounds="+5")
    assert "--rounds 12 is a total" in str(caught.value)


def test_rounds_by_set_are_checked_alike(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    with pytest.raises(UsageError, match="rounds = 5: the run has 7 rounds already"):
        zowarmup.resume(folder, overrides={"phase.1.rounds": 2, "phase.1.schedule-rounds": 4})
    with pytest.raises(RecipeError, match="phase 1 has a cosine schedule over 4 rounds"):
        zowarmup.resume(folder, overrides={"phase.1.rounds": 8, "phase.1.schedule-rounds": 4})
    with pytest.raises(RecipeError, match=r"phase\.1\.schedule-rounds cannot be changed"):
        zowarmup.resume(folder, overrides={"phase.1.rounds": 8})
    for rounds in (2**31, "1.5", "x"):
        with pytest.raises(UsageError, match="rounds = "):
            zowarmup.resume(folder, rounds=rounds)


def test_a_number_may_be_written_otherwise(tmp_path, whole):
    folder = Path(shutil.copytree(whole(phase__1__lr=1.0, phase__1__schedule="constant"), tmp_path / "run"))
    zowarmup.resume(folder, rounds="+2", overrides=["phase.1.lr=1"])
    assert zowarmup.verify(folder).holds


def test_a_ledger_without_its_wal_is_refused(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        connection.execute("DELETE FROM rounds WHERE round > 4")
    connection.close()
    with pytest.raises(OutputError, match=r"metrics\.jsonl has round 7, the ledger ends with round 4") as caught:
        zowarmup.resume(folder)
    assert "was ledger.db-wal left behind?" in str(caught.value)
    assert "metrics.jsonl has round 7" in zowarmup.verify(folder).problems[0].message
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    zowarmup.resume(folder)
    assert zowarmup.diff(folder, whole()).identical


def test_a_damaged_snapshot_is_made_up_for_by_the_one_before(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    with Ledger.open(folder) as ledger:
        digest = ledger.row(7).state.hex()
    (folder / "snapshots" / f"{digest}.safetensors").unlink()
    assert zowarmup.load(folder).summary["state_digest"] == digest
    assert zowarmup.resume(folder).summary["state_digest"] == digest


def test_constants_and_buffers_belong_to_the_run(tmp_path):
    def model(*, fill: float = 0.5, last: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), last(5), nn.Linear(5, 3))
        nn.init.constant_(net[0].weight, fill)
        net[0].requires_grad_(False)
        return net

    data = given(np.random.default_rng(0))["data"]
    overrides = SHORT | {"data.clients": 5, "model.batch-norm": "frozen"}
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", overrides=overrides, out=tmp_path, model=model(), data=data, callbacks=[stop_after(2)])
    with pytest.raises(DataError, match="or parameters that are not trained, are not those of the run"):
        zowarmup.resume(tmp_path, model=model(fill=0.25), data=data)
    with pytest.raises(ModelError, match=r"buffers 3\.num_batches_tracked, 3\.running_mean, 3\.running_var differ"):
        zowarmup.resume(tmp_path, model=model(last=nn.LayerNorm), data=data)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.last == 2 and len(ledger.sessions()) == 1
    zowarmup.resume(tmp_path, model=model(), data=data)
    assert zowarmup.verify(tmp_path).holds


def test_moments_that_move_while_weights_do_not(tmp_path):
    """The state of round 0 has a snapshot, and round 1 has the same weights: only its moments are new."""
    small = {"phase__0__server": "fedadam", "phase__0__server_lr": 1e-30, "run__snapshot_every": 3}
    interrupted(tmp_path / "run", 1, **small)
    assert zowarmup.resume(tmp_path / "run").summary["status"] == "finished"
    assert zowarmup.verify(tmp_path / "run").holds


def test_what_changes_bits_cannot_be_changed(tmp_path):
    interrupted(tmp_path / "run", 2)
    with pytest.raises(RecipeError, match=r"ledger\.db: phase\.1\.lr, seed cannot be changed: it would be another run"):
        zowarmup.resume(tmp_path / "run", overrides={"phase.1.lr": 0.1, "seed": 3})
    zowarmup.resume(tmp_path / "run", overrides={"run.snapshot-every": 2, "run.keep-snapshots": "all", "name": "other"})
    assert 'name = "other"' in (tmp_path / "run" / "run.toml").read_text()


def change(folder: Path, statement: str, *values) -> None:
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


def relinked(folder: Path, **values: bytes) -> None:
    """Another head under the same rounds, with every link made anew."""
    from zowarmup import chain

    for key, value in values.items():
        change(folder, "UPDATE run SET value = ? WHERE key = ?", value, key)
    with Ledger.open(folder) as ledger:
        rows, head = list(ledger.rows()), ledger.head
    previous = genesis(head.identity, head.table.canonical(), bytes.fromhex(head.data))
    for row in rows:
        previous = chain.link(previous, *row[:3], row.state, row.metrics)
        change(folder, "UPDATE rounds SET chain = ? WHERE round = ?", previous, row.round)


def test_another_model_or_other_data_are_refused(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    with Ledger.open(folder) as ledger:
        table = ledger.head.table.canonical()
    relinked(folder, data=b"\x01" * 32)
    with pytest.raises(DataError, match=r"data, partition or tiers .*: blake2b:\w{12}, expected blake2b:0101"):
        zowarmup.resume(folder)
    relinked(folder, table=table.replace(b"1.weight", b"7.weight"))
    with pytest.raises(ModelError, match=r"another one than the run's: it has 1\.weight \(32, 64\), expected 7"):
        zowarmup.resume(folder)


def test_a_damaged_ledger_is_refused_before_anything_is_loaded(tmp_path, whole):
    folder = Path(shutil.copytree(whole(), tmp_path / "run"))
    change(folder, "UPDATE rounds SET metrics = x'90' WHERE round = 2")
    with pytest.raises(LedgerError, match="round 2: the link does not follow"):
        zowarmup.resume(folder, overrides={"data.source": "given"})


def given(rng) -> dict:
    x, y = rng.normal(size=(80, 6)).astype(np.float32), rng.integers(0, 3, 80)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    return {"model": net, "data": zowarmup.from_arrays((x[:60], y[:60]), (x[60:], y[60:]))}


def test_a_model_and_data_from_python(tmp_path):
    overrides = SHORT | {"data.clients": 5, "model.batch-norm": "frozen"}
    whole = zowarmup.run("digits", overrides=overrides, out=tmp_path / "a", **given(np.random.default_rng(0)))
    for after in (1, 5):
        with pytest.raises(KeyboardInterrupt):
            zowarmup.run(
                "digits",
                overrides=overrides,
                out=tmp_path / f"b{after}",
                callbacks=[stop_after(after)],
                **given(np.random.default_rng(0)),
            )
        again = given(np.random.default_rng(0))
        nn.init.zeros_(again["model"][0].weight)  # weights come from the ledger
        trained = zowarmup.resume(tmp_path / f"b{after}", **again)
        assert trained.summary["chain"] == whole.summary["chain"]
        with pytest.raises(DataError, match="got its data from Python"):
            zowarmup.resume(tmp_path / f"b{after}")
        with pytest.raises(DataError, match="data, partition or tiers"):
            zowarmup.resume(tmp_path / f"b{after}", **given(np.random.default_rng(1)))


def test_another_module_from_python_is_refused(tmp_path):
    parts = given(np.random.default_rng(0))
    overrides = SHORT | {"data.clients": 5, "model.batch-norm": "frozen"}
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", overrides=overrides, out=tmp_path / "run", callbacks=[stop_after(2)], **parts)
    before = (tmp_path / "run" / "ledger.db").read_bytes()
    with pytest.raises(
        ModelError, match=r"the model is another one than the run's: it has weight \(3, 6\), expected 0"
    ):
        zowarmup.resume(tmp_path / "run", model=nn.Linear(6, 3), data=parts["data"])
    with pytest.raises(ModelError, match="got its model from Python"):
        zowarmup.resume(tmp_path / "run", data=parts["data"])
    assert (tmp_path / "run" / "ledger.db").read_bytes() == before


def parquet(folder: Path, seed: int = 0) -> Path:
    import pyarrow
    from pyarrow import parquet as files

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for name, rows in (("train", 90), ("test", 30)):
        columns = {"x": rng.normal(size=(rows, 4)).astype(np.float32).tolist(), "label": (np.arange(rows) % 3).tolist()}
        files.write_table(pyarrow.table(columns), folder / f"{name}.parquet")
    return folder


def test_data_that_were_moved_are_found_by_their_digest(tmp_path):
    settings = {"data.source": "parquet", "data.path": str(parquet(tmp_path / "here")), "data.clients": 5}
    overrides = SHORT | settings | {"model.args": {"hidden": [4]}, "data.partition": {"kind": "iid"}}
    zowarmup.run("digits", overrides=overrides, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", overrides=overrides, out=tmp_path / "run", callbacks=[stop_after(4)])
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(DataError, match="here"):
        zowarmup.resume(tmp_path / "run")
    other = parquet(tmp_path / "other", seed=1)
    with pytest.raises(DataError, match="data, partition or tiers") as caught:
        zowarmup.resume(tmp_path / "run", overrides={"data.path": str(other)})
    assert "data.path" in str(caught.value.hint)
    zowarmup.resume(tmp_path / "run", overrides={"data.path": str(tmp_path / "there")})
    assert zowarmup.diff(tmp_path / "run", tmp_path / "whole").identical
    assert str(tmp_path / "there") in (tmp_path / "run" / "run.toml").read_text()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("processor", "arm64 NEON", "processor was arm64 NEON, is "),
        ("device", "cuda", "device was cuda, is cpu"),
        ("versions", {"torch": "1.0", "numpy": np.__version__}, r"torch was 1\.0, is "),
    ],
)
def test_another_machine_is_told(tmp_path, key, value, message):
    interrupted(tmp_path / "run", 2)
    with Ledger.open(tmp_path / "run") as ledger:
        (session,) = ledger.sessions()
    del session["first_round"]
    change(tmp_path / "run", "UPDATE sessions SET facts = ?", json.dumps(session | {key: value}).encode())
    with pytest.warns(ZOWarmUpWarning, match=message):
        zowarmup.resume(tmp_path / "run")


def test_files_made_from_the_ledger_are_what_it_says(whole):
    with Ledger.open(whole()) as ledger:
        history = History(ledger)
        lines = [json.loads(line) for line in (whole() / "metrics.jsonl").read_text().splitlines()]
        assert lines == list(history.lines())
        assert json.loads((whole() / "summary.json").read_text()) == history.summary()
        assert (whole() / "run.toml").read_text() == ledger.head.recipe
        described = [history.describe(row) for row in ledger.rows()]
    assert [each["round"] for each in described] == list(range(8))
    assert described[0]["entry"] is None
    assert described[1]["entry"]["kind"] == "replacement" and described[1]["entry"]["participants"] != []
    assert described[7]["entry"]["kind"] == "update" and len(described[7]["entry"]["coefficients"]) == 3
    json.dumps(described)


def test_a_failed_run_says_why_and_goes_on(tmp_path, whole, monkeypatch):
    from zowarmup.phases import ZerothOrderPhase

    work = ZerothOrderPhase.work

    def fail(self, request, client):
        if request.round == 6:
            raise RuntimeError("out of luck")
        return work(self, request, client)

    monkeypatch.setattr(ZerothOrderPhase, "work", fail)
    with pytest.raises(zowarmup.ZOWarmUpError, match=r"round 6.*out of luck"):
        zowarmup.run("digits", out=tmp_path / "run", overrides=SHORT)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("failed", 5) and "out of luck" in summary["error"]
    monkeypatch.setattr(ZerothOrderPhase, "work", work)
    assert zowarmup.resume(tmp_path / "run").summary["status"] == "finished"
    assert zowarmup.diff(tmp_path / "run", whole()).identical
