"""`zowarmup verify`, `zowarmup diff` and `zowarmup replay`: whether runs hold, where they part, and their weights."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

import zowarmup
from zowarmup.cli import live

from .tampering import cut, execute, flip


def test_a_run_that_holds(cli, run_dir: Path) -> None:
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    ended = cli("verify", "a")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(
        r"""a: everything holds

rounds     0 to 9; each link follows from the one before
chain      blake2b:[0-9a-f]{64}
snapshots  5 that hold the state they are named after
replayed   6 rounds that give the state in the ledger
""",
        ended.out.replace("\xa0", " "),
    ), ended.out
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    found = json.loads(cli("verify", "a", "--json").out)
    assert found.pop("chain") == zowarmup.load(run_dir).summary["chain"]
    assert found == {
        "run": "a",
        "holds": True,
        "rounds": 9,
        "snapshots": 5,
        "replayed": 6,
        "unproved": [],
        "problems": [],
    }


def test_from_a_round_on_less_is_replayed(cli, run_dir: Path) -> None:
    assert json.loads(cli("verify", "a", "--from-round", "9", "--json").out)["replayed"] == 0
    message = "zowarmup: from_round is 10, expected 0 to 9, the last round\n"
    assert cli("verify", "a", "--from-round", "10") == (2, "", message)


def test_a_first_order_round_without_a_snapshot_is_only_linked(cli, run_dir: Path) -> None:
    for round in (1, 2):
        execute(run_dir, "DELETE FROM snapshots WHERE digest IN (SELECT state FROM rounds WHERE round = ?)", round)
    ended = cli("verify", "a")
    assert ended.code == 0
    assert ended.out.endswith("linked only  rounds 1–2: without a snapshot to compare\n")


@pytest.mark.parametrize("column", ["entry", "metrics", "state", "chain"])
def test_a_changed_byte_is_named_with_its_round(cli, run_dir: Path, column: str) -> None:
    flip(run_dir, column, 6)
    ended = cli("verify", "a")
    assert (ended.code, ended.err) == (1, "")
    assert re.match(r"a: \d+ problems?\n", ended.out.replace("\xa0", " "))
    assert "\na/ledger.db: round 6: the link does not follow from the round before" in ended.out
    assert "everything holds" not in ended.out
    found = json.loads(cli("verify", "a", "--json").out)
    assert not found["holds"]
    assert 6 in [problem["round"] for problem in found["problems"]]


def test_a_missing_snapshot_is_named(cli, run_dir: Path) -> None:
    digest = json.loads(cli("inspect", "a", "--json").out)["snapshots"][-1]["digest"]
    (run_dir / "snapshots" / f"{digest}.safetensors").unlink()
    ended = cli("verify", "a")
    assert ended.code == 1
    assert f"\nround 9: a/snapshots/{digest}.safetensors: is missing\n" in ended.out


def test_what_is_no_database_cannot_be_verified(cli, run_dir: Path) -> None:
    (run_dir / "ledger.db").write_bytes(b"x" * 4096)
    ended = cli("verify", "a")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("zowarmup: a/ledger.db: is damaged, or no ledger: ")


def test_a_run_without_a_round_has_nothing_to_prove(cli, run_dir: Path) -> None:
    execute(run_dir, "DELETE FROM rounds")
    (run_dir / "metrics.jsonl").unlink(missing_ok=True)
    execute(run_dir, "DELETE FROM snapshots")
    assert cli("verify", "a") == (0, "a: everything holds\n\nrounds  none yet\n", "")


def test_on_a_terminal_verify_shows_where_it_is() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, no_color=True)
    with live.verify_view(console) as view:
        view(4, 9)
        view(9, 9)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "9/9" in shown
    assert shown.endswith("\x1b[2K")  # the line is erased


def test_identical_runs(cli, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "b")
    ended = cli("diff", "a", "b")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"identical: 9 rounds, chain blake2b:{zowarmup.load(run_dir).summary['chain']}\n"
    found = json.loads(cli("diff", "a", "b", "--json").out)
    assert (found["identical"], found["runs"], found["rounds"], found["round"]) == (True, ["a", "b"], [9, 9], None)
    for name in ("a", "b"):
        execute(tmp_path / name, "DELETE FROM rounds")
    assert cli("diff", "a", "b") == (0, "identical: no round yet\n", "")


def test_runs_part_where_they_part(cli, run_dir: Path, tmp_path: Path) -> None:
    values = {"phase.0.rounds": 3, "phase.1.rounds": 6, "phase.1.schedule": "constant", "run.evaluate-every": 3}
    zowarmup.run("digits", out=tmp_path / "b", overrides=values | {"phase.1.lr": 0.05})
    ended = cli("diff", "a", "b")
    assert (ended.code, ended.err) == (1, "")
    first, recipe, entry, state = ended.out.splitlines()
    assert first == "they part at round 4"
    assert recipe == "  recipe: phase.1.lr is 0.04 and 0.05"
    assert re.fullmatch(r"  entry: 3 coefficients times 2\^-\d+ and 3 times 2\^-\d+", entry)
    assert re.fullmatch(r"  state: blake2b:[0-9a-f]{12} and blake2b:[0-9a-f]{12}", state)
    found = json.loads(cli("diff", "a", "b", "--json").out)
    assert (found["round"], found["recipe"]) == (4, {"phase.1.lr": [0.04, 0.05]})
    assert found["chain"] is None


def test_a_changed_coefficient_is_named(cli, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "b")
    flip(tmp_path / "b", "entry", 6, at=-16)
    ended = cli("diff", "a", "b")
    assert ended.code == 1
    assert re.fullmatch(
        r"they part at round 6\n  entry: 1 of 3 coefficients, first that of direction \d: -?\d+ and -?\d+\n", ended.out
    )


def test_metrics_that_alone_differ_are_said_to(cli, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "b")
    flip(tmp_path / "b", "metrics", 6)
    assert cli("diff", "a", "b") == (1, "the same weights in all 9 rounds\n  metrics alone: in round 6\n", "")


def test_a_shorter_run_is_said_to_end(cli, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "b")
    cut(tmp_path / "b", 5)
    assert cli("diff", "a", "b") == (1, "the same up to round 5, where b ends; a has 9 rounds\n", "")
    execute(tmp_path / "b", "DELETE FROM rounds")
    assert cli("diff", "b", "a") == (1, "b has no round yet, a has 9\n", "")


def test_other_data_are_named(cli, run_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "b")
    execute(tmp_path / "b", "UPDATE run SET value = ? WHERE key = 'data'", b"\0" * 32)
    ended = cli("diff", "a", "b")
    assert ended.code == 1
    assert ended.out == ("every round is the same, but not data\n  data: another digest of data, partition and tiers\n")


def test_replay_writes_the_weights_of_the_run(cli, run_dir: Path, tmp_path: Path) -> None:
    for name in ("model.safetensors", "run.toml", "metrics.jsonl", "summary.json"):
        shutil.move(run_dir / name, tmp_path / name)  # the ledger is enough
    ended = cli("replay", "a", "--out", "x.safetensors")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(
        r"round  9\nstate  blake2b:[0-9a-f]{64}\nfile   x\.safetensors, 9\.92 kB\n", ended.out.replace("\xa0", " ")
    )
    expected = safetensors.torch.load_file(tmp_path / "model.safetensors")
    got = safetensors.torch.load_file(tmp_path / "x.safetensors")
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_replay_of_any_zeroth_order_round(cli, run_dir: Path, tmp_path: Path) -> None:
    exported = [json.loads(line) for line in cli("export", "a").out.splitlines()]
    for round in ("4", "-2", "0"):
        ended = cli("replay", "a", "--to-round", round, "--out", f"at{round}", "--json")
        found = json.loads(ended.out)
        assert found["round"] == int(round) % 10
        assert found["state"] == exported[1 + found["round"]]["state"]
        assert found["bytes"] == (tmp_path / found["out"]).stat().st_size


def test_replay_replaces_a_file_by_force_alone(cli, run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("kept")
    message = "zowarmup: x: exists\nhint: choose another --out, or --force to replace it\n"
    assert cli("replay", "a", "--out", "x") == (2, "", message)
    assert (tmp_path / "x").read_text() == "kept"
    assert cli("replay", "a", "--out", "x", "--force").code == 0
    assert len(safetensors.torch.load_file(tmp_path / "x")) == 4


def test_a_round_that_cannot_be_rebuilt_is_told_with_those_that_can(cli, run_dir: Path, tmp_path: Path) -> None:
    execute(run_dir, "DELETE FROM snapshots WHERE digest IN (SELECT state FROM rounds WHERE round = 2)")
    assert cli("replay", "a", "--to-round", "2", "--out", "x") == (
        1,
        "",
        "zowarmup: round 2: a first-order round of which no snapshot is kept; snapshots: rounds 0, 1, 3, 9\n"
        'hint: run.keep-snapshots = "all" keeps every one\n',
    )
    assert cli("replay", "a", "--to-round", "10", "--out", "x") == (
        2,
        "",
        "zowarmup: --to-round 10: a has rounds 0 to 9\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_replay_of_a_changed_entry_writes_nothing(cli, run_dir: Path, tmp_path: Path) -> None:
    flip(run_dir, "entry", 6, at=-16)
    ended = cli("replay", "a", "--to-round", "7", "--out", "x")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("zowarmup: round ")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
