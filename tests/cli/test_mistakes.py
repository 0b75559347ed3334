"""Mistakes of the caller: exit code 2, a message and a hint on stderr, nothing on stdout, nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

KEYS = "hint: `zowarmup recipes --keys` explains every key\n"
HELP = "hint: `zowarmup --help`, or `zowarmup COMMAND --help`\n"

MISTAKES = [
    ("run digts", "zowarmup: digts: neither a file nor a shipped recipe\nhint: did you mean digits"),
    ("run no-such-thing-at-all", "shipped recipe\nhint: `zowarmup recipes` lists the shipped ones\n"),
    ("run nowhere.toml", "zowarmup: nowhere.toml: cannot be read: "),
    ("run digits --set phase.1.epss=1", f"digits: Object contains unknown field `epss` - at `$.phase[1]`\n{KEYS}"),
    ("run digits --set phase.1.eps=small", f"digits: Expected `float`, got `str` - at `$.phase[1].eps`\n{KEYS}"),
    ("run digits --set phase.1.eps=0", f"digits: Expected `float` > 0.0 - at `$.phase[1].eps`\n{KEYS}"),
    ("run digits --set phase.2.eps=1", "zowarmup: --set phase.2.eps: `phase` has entries 0 to 1, not `2`\n"),
    ("run digits --set eps", "zowarmup: --set eps: expected KEY=VALUE, for instance phase.1.eps=1e-3\n"),
    ("run digits --seed -1", f"digits: Expected `int` >= 0 - at `$.seed`\n{KEYS}"),
    ("run digits --seed many", f'zowarmup: invalid value for --seed: unable to convert "many" into int\n{HELP}'),
    ("run digits --sed 1", f"zowarmup: unknown option: --sed. Did you mean --seed?\n{HELP}"),
    ("run", f'zowarmup: command "run" parameter RECIPE requires an argument\n{HELP}'),
    ("rnu digits", 'zowarmup: unknown command "rnu". Did you mean "run"?'),
    ("run digits --device abacus", 'zowarmup: device = "abacus" cannot be used here: '),
    ("run digits --set data.clients=5000", "zowarmup: 5000 clients, but only 1200 training samples"),
    ("run digits --out /proc/nope/x", "zowarmup: /proc/nope/x: cannot be written to: "),
    ("plan digits --set phase.0.cohort=9", 'zowarmup: phase 0: cohort = 9, but tier = "high" has 4 clients\n'),
    ("compare --seeds 0 --out x", "zowarmup: no recipe to run\nhint: `zowarmup recipes` lists the shipped ones, "),
    ("compare digits --out x", "zowarmup: no seeds\nhint: for instance --seeds 0,1,2\n"),
    ("compare digits --seeds 0", "zowarmup: no directory for the runs\nhint: for instance --out runs/first\n"),
    (
        "compare small/mian",
        "zowarmup: small/mian: neither a file nor a shipped recipe\nhint: did you mean small/main",
    ),
    ("compare small/main digits --seeds 0", "zowarmup: small/main: is a suite, which is compared by itself\n"),
    (
        "compare digts --seeds 0 --out x",
        "zowarmup: digts: neither a file nor a shipped recipe\nhint: did you mean digits",
    ),
    ("compare small/main --seeds 0;1", "zowarmup: --seeds 0;1: expected numbers separated by commas"),
    (
        "compare digits --seeds 0 --out x --tune phase.1.lr",
        "zowarmup: --tune phase.1.lr: expected KEY=VALUE,VALUE,..., ",
    ),
    ("compare digits --seeds 0 --out x --tune a.b=1", "zowarmup: tune: a.b is a key of no method: digits\n"),
    (
        "compare digits --seeds 0 --out x --tune phase.1.lr=1 --tune phase.1.lr=2",
        "zowarmup: --tune: phase.1.lr is given twice\nhint: all its values go into one\n",
    ),
    (
        "compare digits --seeds 0 --out x --tune phase.1.lr=0.1",
        "zowarmup: digits: tuning needs validation shares, but data.validation is 0\nhint: for instance --set ",
    ),
    ("compare digits --seeds 0 --out x --tune-seeds a", "zowarmup: --tune-seeds a: expected numbers separated by"),
    ("run small/main", "zowarmup: small/main: is a suite, expected a recipe\nhint: `zowarmup compare` runs a suite\n"),
    (
        "compare digits digits --seeds 0 --out x",
        "zowarmup: digits: two recipes of this name\nhint: give each recipe once",
    ),
    ("compare digits --seeds 0,0 --out x", "zowarmup: seed 0 is given twice\nhint: each seed once"),
    ("compare digits --seeds 0;1 --out x", "zowarmup: --seeds 0;1: expected numbers separated by commas"),
    ("compare digits --seeds=-1 --out x", "zowarmup: seed -1: expected 0 to 2**63 - 1\n"),
    ("compare digits --seeds 0 --out x --workers 0", "zowarmup: workers = 0, expected at least 1\n"),
    ("compare digits --seeds 0 --out /proc/nope/x", "zowarmup: /proc/nope/x: cannot be written to: "),
    ("report nowhere", "zowarmup: nowhere: not a run directory: there is no such folder\nhint: a run directory holds "),
    ("resume nowhere", "zowarmup: nowhere: not a run directory: no such folder\n"),
    ("resume", f'zowarmup: command "resume" parameter DIR requires an argument\n{HELP}'),
    ("replay nowhere --out x", "zowarmup: nowhere: not a run directory: no such folder\n"),
    ("replay nowhere", f'zowarmup: command "replay" parameter --out requires an argument\n{HELP}'),
    ("replay . --out /proc/nope/x", "zowarmup: /proc/nope/x: there is no folder /proc/nope\n"),
    ("replay . --out /proc", "zowarmup: /proc: is a folder, expected a file\n"),
    ("verify .", "zowarmup: .: not a run directory: it has no ledger.db\n"),
    ("verify . --from-round x", f'zowarmup: invalid value for --from-round: unable to convert "x" into int\n{HELP}'),
    ("inspect nowhere", "zowarmup: nowhere: not a run directory: no such folder\n"),
    ("inspect . --round 1", "zowarmup: .: not a run directory: it has no ledger.db\n"),
    ("diff . nowhere", "zowarmup: .: not a run directory: it has no ledger.db\n"),
    ("diff .", f'zowarmup: command "diff" parameter B requires an argument\n{HELP}'),
    ("export nowhere", "zowarmup: nowhere: not a run directory: no such folder\n"),
    ("export nowhere --out x", "zowarmup: nowhere: not a run directory: no such folder\n"),
    ("recipes digts", "zowarmup: digts: neither a file nor a shipped recipe\nhint: did you mean digits"),
    ("recipes digits --suites", "zowarmup: --suites goes by itself\nhint: "),
    ("recipes digits --keys", "zowarmup: --keys goes without a NAME\nhint: "),
    ("fetch cifar11", "zowarmup: unknown data set `cifar11`; known: cifar10, or owner/name on the hub\n"),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_a_mistake_is_explained(cli, tmp_path: Path, command: str, message: str) -> None:
    ended = cli(*command.split())
    assert message in ended.err
    assert ended.err.startswith("zowarmup: ")
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert ended.code == 2
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(cli) -> None:
    ended = cli("run", "digts", "--debug")
    assert ended.err.startswith("Traceback")
    assert "zowarmup: digts: neither a file nor a shipped recipe" in ended.err
    assert ended.code == 2


def test_a_recipe_of_ones_own_is_named_by_its_path(cli, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("name = ")
    ended = cli("run", "mine.toml")
    assert ended.err.startswith("zowarmup: mine.toml: not TOML: ")
    assert ended.code == 2


def test_a_file_cannot_be_a_run_directory(cli, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("kept")
    for command in ("run digits --out x --force", "compare digits --seeds 0 --out x --force"):
        ended = cli(*command.split())
        assert ended == (2, "", "zowarmup: x: is a file, expected a directory\n")
    assert (tmp_path / "x").read_text() == "kept"


@pytest.mark.parametrize("name", ["../up", "/root", "a/../../b", "."])
def test_a_name_that_leads_out_of_the_folder_is_refused(cli, tmp_path: Path, name: str) -> None:
    cli_name = f'name="{name}"'
    ended = cli("compare", "digits", "--seeds", "0", "--out", "x", "--set", cli_name)
    assert ended.err.startswith("zowarmup: digits: Expected `str` matching regex")
    assert "`$.name`" in ended.err
    assert ended.code == 2
    assert list(tmp_path.iterdir()) == []
