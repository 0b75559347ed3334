"""`zowarmup inspect` and `zowarmup export`: what a ledger says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import filelock
import pytest

import zowarmup
from zowarmup.cli import inspecting

from .tampering import cut, execute

HEX = "[0-9a-f]{64}"


def lines_of(text: str) -> list[str]:
    return re.sub(r"\x1b\[[\d;]*m", "", text.replace("\xa0", " ")).splitlines()


def test_a_run_is_shown(cli, run_dir: Path) -> None:
    before = sorted(run_dir.rglob("*"))
    ended = cli("inspect", "a")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(
        rf"""digits, seed 0: finished, 9 of 9 rounds

phase  kind          tier  rounds  done
0      first-order   high     1–3     3
1      zeroth-order  all      4–9     6

chain      blake2b:{HEX}
state      blake2b:{HEX}
data       blake2b:{HEX}
model      2,410 parameters
ledger     [\d.]+ kB, [\d.]+ (k?B) a round
snapshots  of rounds 0–3, 9; 9.92 kB each

from round  host +device  processor +zowarmup +torch +python
         0  \S+ +cpu +\S.*
""",
        ended.out.replace("\xa0", " "),
    ), ended.out
    assert sorted(run_dir.rglob("*")) == before


def test_json_has_everything(cli, run_dir: Path) -> None:
    about = json.loads(cli("inspect", "a", "--json").out)
    summary = zowarmup.load(run_dir).summary
    assert (about["status"], about["rounds"], about["planned_rounds"]) == ("finished", 9, 9)
    assert (about["chain"], about["state"]) == (summary["chain"], summary["state_digest"])
    assert about["phases"][1] == {
        "kind": "zeroth-order",
        "tier": "all",
        "first_round": 4,
        "last_round": 9,
        "done": 6,
    }
    assert [(file["round"], file["holds"]) for file in about["snapshots"]] == [(r, "state") for r in (0, 1, 2, 3, 9)]
    assert {file["digest"] for file in about["snapshots"]} == {each.stem for each in (run_dir / "snapshots").iterdir()}
    assert about["ledger_bytes"] == (run_dir / "ledger.db").stat().st_size
    assert about["sessions"][0]["first_round"] == 0
    assert about["sessions"][0]["versions"]["zowarmup"] == zowarmup.__version__
    assert (about["writer"], about["error"]) == (None, None)


def test_a_stopped_run_says_how_far_it_came(cli, run_dir: Path) -> None:
    cut(run_dir, 5)
    assert cli("inspect", "a").out.startswith("digits, seed 0: interrupted, 5 of 9 rounds\n")
    execute(run_dir, "DELETE FROM rounds")
    (run_dir / "metrics.jsonl").unlink(missing_ok=True)
    ended = cli("inspect", "a")
    assert ended.code == 0
    assert ended.out.startswith("digits, seed 0: interrupted, no round yet\n")
    assert "chain" not in ended.out


def test_a_failed_run_says_why(cli, run_dir: Path) -> None:
    cut(run_dir, 5)
    execute(run_dir, "UPDATE run SET value = ? WHERE key = 'ended'", b'{"status": "failed", "error": "no paper"}')
    assert cli("inspect", "a").out.startswith("digits, seed 0: failed, 5 of 9 rounds\nno paper\n")


def test_who_writes_at_the_moment_is_named(cli, run_dir: Path) -> None:
    with filelock.FileLock(run_dir / "writer.lock"):
        out = cli("inspect", "a").out
        about = json.loads(cli("inspect", "a", "--json").out)
    assert re.match(r"digits, seed 0: running, 9 of 9 rounds\nbeing written by process \d+ on \S+ since .+\n\n", out)
    assert about["writer"]["pid"] > 0
    assert "being written" not in cli("inspect", "a").out


def test_the_lock_is_not_made_by_looking(cli, run_dir: Path) -> None:
    (run_dir / "writer.lock").unlink()
    assert cli("inspect", "a").code == 0
    assert not (run_dir / "writer.lock").exists()


def test_a_zeroth_order_round_is_shown_in_full(cli, run_dir: Path) -> None:
    ended = cli("inspect", "a", "--round", "-1")
    assert (ended.code, ended.err) == (0, "")
    assert re.match(
        rf"""round 9: zeroth-order, phase 1

lr +0.04
took part +20 clients: 0–19
seed +0x[0-9a-f]{{16}}
update +3 directions, coefficients times 2\^-\d+: -?\d+, -?\d+, -?\d+
phase state +v = [\d.e-]+
state +blake2b:{HEX}
chain +blake2b:{HEX}
snapshot +kept
entry +\d+ B
time +[\d.]+ s since the run began
memory +\d+ MB at most in this phase

since round 0 +high tier +low tier
sent +[\d.]+ kB +[\d.]+ kB
""",
        ended.out.replace("\xa0", " "),
    ), ended.out
    assert re.search(r"\naccuracy +\d+\.\d %\n", ended.out.replace("\xa0", " "))
    assert cli("inspect", "a", "--round", "9") == ended


def test_other_rounds(cli, run_dir: Path) -> None:
    first = cli("inspect", "a", "--round", "0").out
    assert first.startswith("round 0: initial weights\n\nstate ")
    second = cli("inspect", "a", "--round", "2").out
    assert second.startswith("round 2: first-order, phase 0\n\nlr         0.1\ntook part  4\xa0clients: ")
    assert "seed" not in second
    assert "accuracy" not in second


def test_a_round_as_json_is_its_line_of_the_export(cli, run_dir: Path) -> None:
    exported = [json.loads(line) for line in cli("export", "a").out.splitlines()]
    for number in (0, 2, 9):
        about = json.loads(cli("inspect", "a", "--round", str(number), "--json").out)
        for key in ("run", "entry_bytes", "snapshot"):
            del about[key]
        assert about == exported[1 + number]


def test_many_coefficients_and_refusals_are_shown_in_few_words(capsys) -> None:
    tiers = {"high": 0, "low": 0}
    entry = {"kind": "update", "participants": [0, 2, 3], "refused": {7: "a slope is not finite"}, "seed": "0x1"}
    entry |= {"coefficients": list(range(200)), "exponent": 40, "state": {}}
    about = {"round": 1, "phase": 0, "kind": "zeroth-order", "lr": 0.1, "entry": entry, "entry_bytes": 812}
    about |= dict.fromkeys(inspecting._COUNTS, tiers) | {"state": "0" * 64, "chain": "0" * 64, "snapshot": False}
    inspecting.show_round(about | {"seconds": 1.0, "peak_memory_bytes": 10})
    out = capsys.readouterr().out.replace("\xa0", " ")
    assert "took part  3 clients: 0, 2–3\n" in out
    assert "refused 7  a slope is not finite\n" in out
    assert "200 directions, coefficients times 2^-40: 0, 1, 2, 3, 4, 5, 6, 7 and 192 more\n" in out


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_on_a_terminal_nothing_is_cut_off(cli, run_dir: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    commands = (["inspect", "a"], ["inspect", "a", "--round", "-1"], ["verify", "a"], ["diff", "a", "a"])
    for command in commands:
        lines = lines_of(cli(*command).out)
        assert max(map(len, lines)) <= width
        assert "…" not in "".join(lines)
    chain = json.loads(cli("inspect", "a", "--json").out)["chain"]
    shown = lines_of(cli("inspect", "a").out)
    assert chain in re.sub(r"\s+", "", "".join(shown))
    assert any(chain in line for line in shown) == (width >= 80)


@pytest.mark.parametrize("round", ["10", "-11"])
def test_a_round_that_is_not_there_is_refused(cli, run_dir: Path, round: str) -> None:
    assert cli("inspect", "a", "--round", round) == (2, "", f"zowarmup: --round {round}: a has rounds 0 to 9\n")


def test_a_round_of_a_run_without_one_is_refused(cli, run_dir: Path) -> None:
    execute(run_dir, "DELETE FROM rounds")
    (run_dir / "metrics.jsonl").unlink(missing_ok=True)
    message = "zowarmup: a: has no round yet\nhint: `zowarmup resume a` starts it\n"
    assert cli("inspect", "a", "--round", "0") == (2, "", message)


def test_another_recipe_than_the_ledgers_is_named(cli, run_dir: Path) -> None:
    execute(run_dir, "UPDATE run SET value = ? WHERE key = 'recipe'", b"name = 'other'")
    message = "zowarmup: a/ledger.db: the recipe is another than the one that the chain begins with\n"
    assert cli("inspect", "a") == (1, "", message)


def test_no_database_is_a_damaged_ledger(cli, run_dir: Path) -> None:
    (run_dir / "ledger.db").write_bytes(b"x" * 4096)
    ended = cli("inspect", "a")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith("zowarmup: a/ledger.db: is damaged, or no ledger: ")


def test_export_begins_with_the_run(cli, run_dir: Path) -> None:
    ended = cli("export", "a")
    assert (ended.code, ended.err) == (0, "")
    about, *rounds = map(json.loads, ended.out.splitlines())
    assert about["format"] == "zowarmup/export/1"
    assert about["recipe"] == (run_dir / "run.toml").read_text()
    assert json.loads(about["identity"])["seed"] == 0
    assert about["table"][0] == {"name": "1.weight", "shape": [32, 64]}
    assert about["data"] == about["facts"].get("data", json.loads(cli("inspect", "a", "--json").out)["data"])
    assert (about["rounds"], about["status"]) == (9, "finished")
    assert [line["round"] for line in rounds] == list(range(10))
    assert rounds[0]["entry"] is None
    assert rounds[1]["entry"]["kind"] == "replacement"
    assert len(rounds[9]["entry"]["coefficients"]) == 3


def test_export_to_a_file_is_the_same(cli, run_dir: Path, tmp_path: Path) -> None:
    assert cli("export", "a", "--out", "a.jsonl") == (0, "a.jsonl\n", "")
    assert (tmp_path / "a.jsonl").read_text() == cli("export", "a").out
    message = "zowarmup: a.jsonl: exists\nhint: choose another --out, or --force to replace it\n"
    assert cli("export", "a", "--out", "a.jsonl") == (2, "", message)
    assert cli("export", "a", "--out", "a.jsonl", "--force").code == 0


def test_an_export_that_fails_leaves_no_file(cli, run_dir: Path, tmp_path: Path) -> None:
    execute(run_dir, "UPDATE rounds SET metrics = x'ff' WHERE round = 7")
    ended = cli("export", "a", "--out", "a.jsonl")
    assert ended.code == 1
    assert ended.err.startswith("zowarmup: round 7: its metrics do not decode: ")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
