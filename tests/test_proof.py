"""Proof: whatever was changed is found, and the round is named; and where two runs part."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

import zowarmup
from zowarmup.cli import main
from zowarmup.difference import diff
from zowarmup.errors import UsageError, ZOWarmUpError
from zowarmup.history import History
from zowarmup.ledger import Ledger
from zowarmup.proof import verify

ROUNDS = {"phase.0.rounds": 3, "phase.1.rounds": 4, "run.evaluate-every": 2}
COLUMNS = ("entry", "metrics", "state", "chain")


@pytest.fixture(scope="module", autouse=True)
def no_report():
    """Drawing the page takes longer than all else in so short a run; tests/report has tests of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zowarmup.report.render", lambda record: "<html>")
        yield


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("original") / "run"
    zowarmup.run("digits", overrides={**ROUNDS, "phase.0.server": "fedavgm"}, out=folder)
    return folder


@pytest.fixture
def copy(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def execute(folder: Path, statement: str, *values) -> None:
    connection = sqlite3.connect(folder / "ledger.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


def cell(folder: Path, column: str, round: int) -> bytes:
    connection = sqlite3.connect(folder / "ledger.db")
    (found,) = connection.execute(f"SELECT {column} FROM rounds WHERE round = ?", (round,)).fetchone()
    connection.close()
    return found


def flipped(content: bytes, at: int, bit: int = 0x01) -> bytes:
    return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]


def refuses(folder: Path, capsys) -> str:
    """Resume fails too, with one clean message."""
    assert main(["resume", str(folder), "--quiet"]) != 0
    told = capsys.readouterr().err
    assert told.startswith("zowarmup: ") and "Traceback" not in told
    return told


def test_a_run_that_holds(original):
    seen = []
    proof = verify(original, on_round=lambda round, last: seen.append((round, last)))
    assert proof.holds and (proof.rounds, proof.replayed) == (7, 4)
    assert proof.unproved == ()
    assert proof.snapshots == 5 + 3  # of rounds 0 to 3 and 7, and of the moments of rounds 1 to 3
    assert seen[-1] == (7, 7)
    with Ledger.open(original) as ledger:
        assert proof.chain == ledger.row(7).chain.hex()


def test_from_a_round_on(original):
    assert verify(original, from_round=6).replayed == 4  # from the snapshot of round 3
    assert verify(original, from_round=7).replayed == 0  # there is one of round 7
    with pytest.raises(UsageError, match="from_round is 8, expected 0 to 7"):
        verify(original, from_round=8)


def test_rounds_that_are_only_linked(tmp_path):
    zowarmup.run("digits", overrides={**ROUNDS, "phase.0.rounds": 7}, out=tmp_path)
    assert verify(tmp_path).unproved == ((1, 4),)


PLACES = [(column, round) for column in COLUMNS for round in (0, 1, 3, 5, 7) if (column, round) != ("entry", 0)]


@pytest.mark.parametrize(("column", "round"), PLACES)
def test_a_byte_of_a_round_flipped(copy, capsys, column, round):
    content = cell(copy, column, round)
    execute(copy, f"UPDATE rounds SET {column} = ? WHERE round = ?", flipped(content, len(content) // 2), round)
    proof = verify(copy)
    assert not proof.holds
    assert proof.problems[0].round == round, proof.problems
    assert f"round {round}" in proof.problems[0].message
    assert f"round {round}" in refuses(copy, capsys)


def test_every_byte_of_an_entry(copy):
    content = cell(copy, "entry", 6)
    for at in range(len(content)):
        execute(copy, "UPDATE rounds SET entry = ? WHERE round = 6", flipped(content, at, 1 << at % 8))
        proof = verify(copy, from_round=7)
        assert {problem.round for problem in proof.problems} == {6}, at


def test_a_flipped_coefficient_is_found_by_replay_even_if_all_links_were_made_anew(copy):
    """The chain alone would be whole: somebody has written it again."""
    from zowarmup import chain

    content = cell(copy, "entry", 6)
    with Ledger.open(copy) as ledger:
        rows = list(ledger.rows())
    forged = flipped(content, content.index(b"<i4") + 8)
    previous = rows[5].chain
    for row in rows[6:]:
        entry = forged if row.round == 6 else row.entry
        previous = chain.link(previous, row.round, row.phase, entry, row.state, row.metrics)
        execute(copy, "UPDATE rounds SET entry = ?, chain = ? WHERE round = ?", entry, previous, row.round)
    proof = verify(copy)
    assert [problem.round for problem in proof.problems] == [6]
    assert "replay gives weights" in proof.problems[0].message


@pytest.mark.parametrize("key", ["recipe", "identity", "table", "data"])
def test_a_byte_of_what_the_chain_begins_with(copy, capsys, key):
    connection = sqlite3.connect(copy / "ledger.db")
    (content,) = connection.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
    connection.close()
    at = content.index(b"0.1") + 2 if key in ("recipe", "identity") else len(content) // 2
    execute(copy, "UPDATE run SET value = ? WHERE key = ?", flipped(content, at), key)
    try:
        assert not verify(copy).holds
    except ZOWarmUpError as error:
        assert "ledger.db" in error.message
    refuses(copy, capsys)


def test_what_is_not_hashed_is_said_to_be(copy):
    execute(copy, "UPDATE rounds SET clock = ? WHERE round = 3", b"\x92\xcb\x40" + bytes(7) + b"\x01")
    execute(copy, "UPDATE sessions SET facts = '{}'")
    execute(copy, "UPDATE run SET value = '{}' WHERE key IN ('facts', 'ended', 'writer')")
    assert verify(copy).holds
    spec = (Path(__file__).parents[1] / "docs" / "spec" / "ledger.md").read_text(encoding="utf-8")
    assert "since the run began; not hashed, as it differs from run to run |" in spec
    assert "device, processor, threads, host. Not hashed." in spec
    of_run = {line.split("`")[1]: line for line in spec.splitlines() if line.startswith("| `") and "JSON" in line}
    assert [key for key in ("identity", "facts", "ended", "writer") if "hashed" in of_run[key]] == ["identity"]


@pytest.mark.parametrize("round", [0, 2, 3, 7])
def test_a_snapshot_changed_or_missing(copy, round):
    path = copy / "snapshots" / f"{cell(copy, 'state', round).hex()}.safetensors"
    content = path.read_bytes()
    for at in (0, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(flipped(content, at))
        proof = verify(copy)
        assert [problem.round for problem in proof.problems] == [round], at
        assert path.name in proof.problems[0].message and "was changed" in proof.problems[0].message
    path.unlink()
    assert "is missing" in verify(copy).problems[0].message


def test_resume_says_which_snapshot_it_lacks(copy, capsys):
    execute(copy, "DELETE FROM rounds WHERE round > 5")
    (copy / "metrics.jsonl").unlink(missing_ok=True)
    path = copy / "snapshots" / f"{cell(copy, 'state', 3).hex()}.safetensors"
    for each in path.parent.iterdir():
        each.write_bytes(flipped(each.read_bytes(), 500))
    assert path.name in refuses(copy, capsys)


@pytest.mark.parametrize("column", ["digest", "file", "bytes"])
def test_a_row_of_a_snapshot_changed(copy, column):
    value = 7 if column == "bytes" else b"\x01" * 32
    digest = cell(copy, "state", 3)
    execute(copy, f"UPDATE snapshots SET {column} = ? WHERE digest = ?", value, digest)
    problems = verify(copy).problems
    assert problems
    assert any(digest.hex() in each.message or "no round has this state" in each.message for each in problems)


def test_rounds_taken_out_put_in_or_swapped(copy, capsys):
    def whole():
        shutil.copy(copy.parent / "ledger", copy / "ledger.db")

    shutil.copy(copy / "ledger.db", copy.parent / "ledger")
    execute(copy, "DELETE FROM rounds WHERE round = 4")
    assert "round 4 is missing" in verify(copy).problems[0].message
    assert "round 4 is missing" in refuses(copy, capsys)
    whole()
    execute(copy, "INSERT INTO rounds SELECT 8, phase, entry, metrics, state, chain, clock FROM rounds WHERE round = 7")
    assert {problem.round for problem in verify(copy).problems} == {8}
    assert "round 8" in refuses(copy, capsys)
    whole()
    execute(copy, "UPDATE rounds SET round = -5 WHERE round = 5")
    execute(copy, "UPDATE rounds SET round = 5 WHERE round = 6")
    execute(copy, "UPDATE rounds SET round = 6 WHERE round = -5")
    assert {5, 6} <= {problem.round for problem in verify(copy).problems}
    assert "round 5" in refuses(copy, capsys)


def test_another_runs_ledger(copy, tmp_path, capsys):
    zowarmup.run("digits", seed=1, overrides=ROUNDS, out=tmp_path / "other")
    shutil.copy(tmp_path / "other" / "ledger.db", copy / "ledger.db")
    problems = verify(copy).problems
    assert any("is missing" in problem.message for problem in problems)
    assert "is missing" in refuses(copy, capsys)


def test_a_newer_version(copy, capsys):
    execute(copy, "PRAGMA user_version = 2")
    with pytest.raises(ZOWarmUpError, match="is a ledger of version 2, this zowarmup reads version 1"):
        verify(copy)
    assert "version 2" in refuses(copy, capsys)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_database(copy, capsys, share):
    content = (copy / "ledger.db").read_bytes()
    (copy / "ledger.db").write_bytes(content[: int(len(content) * share)])
    try:
        assert not verify(copy).holds
    except ZOWarmUpError as error:
        assert "ledger.db" in error.message
    assert "ledger.db" in refuses(copy, capsys)


def test_bytes_anywhere_in_the_file(original, copy):
    """Whatever changes is found, or changes nothing that a link covers; never an error of another kind."""
    content = (original / "ledger.db").read_bytes()
    with Ledger.open(original) as ledger:
        expected = [row[:6] for row in ledger.rows()]
    draws, found = random.Random(5), 0
    for _ in range(250):
        at = draws.randrange(len(content))
        (copy / "ledger.db").write_bytes(flipped(content, at, 1 << draws.randrange(8)))
        try:
            if verify(copy).holds:
                with Ledger.open(copy) as ledger:
                    assert [row[:6] for row in ledger.rows()] == expected, at
                continue
        except ZOWarmUpError:
            pass
        found += 1
    assert found > 60  # most of so short a ledger is facts and empty space


def read(folder: Path) -> None:
    """All that reads a run and is not verify."""
    zowarmup.load(folder)


def compare(folder: Path) -> None:
    diff(folder, folder.parent / "whole")


def inspect(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        history = History(ledger)
        history.summary()
        list(map(history.describe, ledger.rows()))


@pytest.mark.parametrize("reads", [read, compare, inspect])
def test_whatever_reads_a_damaged_run_says_so_in_an_error_of_ours(original, copy, reads):
    shutil.copytree(original, copy.parent / "whole")
    content, draws, told = (original / "ledger.db").read_bytes(), random.Random(7), 0
    for _ in range(120):
        (copy / "ledger.db").write_bytes(flipped(content, draws.randrange(len(content)), 1 << draws.randrange(8)))
        try:
            reads(copy)
        except ZOWarmUpError:
            told += 1
    assert told > 5


# Where two runs part.


def test_identical_runs(original, copy):
    found = diff(original, copy)
    assert found.identical and found.same and found.rounds == (7, 7)


def test_one_that_goes_on(original, copy):
    execute(copy, "DELETE FROM rounds WHERE round > 5")
    found = diff(original, copy)
    assert (found.identical, found.round, found.rounds) == (False, None, (7, 5))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    made = {}

    def other(**overrides) -> Path:
        key = repr(overrides)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("other") / "run"
            named = {name.replace("__", ".").replace("_", "-"): value for name, value in overrides.items()}
            zowarmup.run("digits", overrides={**ROUNDS, "phase.0.server": "fedavgm", **named}, out=made[key])
        return made[key]

    return other


def test_another_learning_rate_parts_where_it_begins_to_count(original, others):
    found = diff(original, others(phase__1__lr=0.05))
    assert found.round == 4 and found.recipe == {"phase.1.lr": (0.04, 0.05)} and found.about == ()
    assert found.what[0].startswith("entry: ") and found.what[-1].startswith("state: blake2b:")


def test_another_seed_parts_at_once(original, others):
    found = diff(original, others(seed=1))
    assert found.round == 0 and found.about == ("data",) and set(found.recipe) == {"seed"}


def test_another_net(original, others):
    found = diff(original, others(model__args={"hidden": [16]}))
    assert "model" in found.about and "model.args.hidden.0" in found.recipe


def test_another_evaluation_is_metrics_alone(original, others):
    found = diff(original, others(run__evaluate_every=3))
    assert found.same and not found.identical and found.round is None
    assert found.metrics == (2, 4)  # from there on every link differs, but no entry and no state


def test_what_is_set_aside_makes_no_difference(original, others):
    found = diff(original, others(name="another", run__snapshot_every=2, run__replay_budget=0, run__sync="off"))
    assert found.identical
