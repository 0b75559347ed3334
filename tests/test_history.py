"""What a ledger says in words: lines, phases, status, and a round with its entry."""

from __future__ import annotations

import json

import numpy as np
import pytest

from zowarmup import recipes
from zowarmup.chain import identity
from zowarmup.errors import LedgerError, RecipeError
from zowarmup.history import History
from zowarmup.ledger import Clock, Head, Ledger, Metrics
from zowarmup.protocol import Replacement, Update, encode, members
from zowarmup.table import Table

RECIPE = recipes.to_toml(
    recipes.load("digits", overrides={"phase.0.rounds": 2, "phase.0.cohort": 1, "phase.1.rounds": 3})
)
FACTS = {
    "parameters": 2,
    "model_bytes": 8,
    "table": [{"name": "weight", "shape": [2], "base": 0}],
    "input_shape": [64],
    "classes": 10,
    "federation": {"tiers": ["low", "high", "low", "high"], "sizes": [1, 2, 3, 4]},
}
DIGEST = "ab" * 32


def head(**changes) -> Head:
    import tomllib

    table = Table(("weight",), ((2,),))
    known = {"recipe": RECIPE, "identity": identity(tomllib.loads(RECIPE)), "table": table, "data": "cd" * 32}
    return Head(**known | {"facts": FACTS} | changes)


def first_order(round: int, **more) -> Replacement:
    return Replacement(round=round, phase=0, snapshot=DIGEST, **more)


def zeroth_order(round: int, **more) -> Update:
    return Update(round=round, phase=1, seed=5, coefficients=np.array([3, -4], np.int32), exponent=7, **more)


ENTRIES = [
    None,
    first_order(1, members=members([1])),
    first_order(2, moments="ef" * 32),
    zeroth_order(3, members=members([0, 1, 3]), refused={2: "non-finite slopes"}, state={"v": 0.5}),
    zeroth_order(4, refused={0: "sent Weights", 2: "non-finite slopes"}),
    zeroth_order(5),
]
CLOCKS = [(0.5, 10), (1.0, 20), (2.5, 15), (3.0, 40), (4.0, 30), (7.25, 35)]
EVALUATED = {0: {"accuracy": 0.1, "loss": 2.0}, 2: {"accuracy": 0.2, "loss": None}, 4: {"accuracy": 0.4}}


def ledger(last: int, **changes) -> Ledger:
    """One in memory, with rounds 0 to ``last``."""
    made = Ledger.memory(head(**changes))
    for round in range(last + 1):
        entry = ENTRIES[round]
        metrics = Metrics(uplink_bytes=(round, 2 * round), turns=(round, 0), evaluation=EVALUATED.get(round))
        seconds, peak = CLOCKS[round]
        clock = Clock(seconds=seconds, peak_memory_bytes=peak)
        made.append(-1 if entry is None else entry.phase, encode(entry) if entry else b"", metrics, DIGEST, clock)
    return made


def test_round_0_has_no_phase():
    (line,) = History(ledger(0)).lines()
    zero = {"high": 0, "low": 0}
    counts = ("uplink_bytes", "downlink_bytes", "forward_samples", "backward_samples", "replayed_directions")
    expected = {"round": 0, "phase": None, "kind": None, "lr": None, "cohort": 0, "refused": 0}
    assert line == expected | dict.fromkeys(counts, zero) | {"accuracy": 0.1, "loss": 2.0, "seconds": 0.5}


def test_a_line_says_what_the_phase_was_and_who_was_refused():
    lines = list(History(ledger(5)).lines())
    assert [line["round"] for line in lines] == list(range(6))
    assert [line["kind"] for line in lines[1:]] == ["first-order"] * 2 + ["zeroth-order"] * 3
    assert [line["cohort"] for line in lines] == [0, 1, 1, 4, 4, 4]
    assert [line["refused"] for line in lines] == [0, 0, 0, 1, 2, 0]
    assert lines[4]["refusals"] == {"0": "sent Weights", "2": "non-finite slopes"}
    assert "refusals" not in lines[5]
    assert [line["uplink_bytes"] for line in lines[4:]] == [{"high": 4, "low": 8}, {"high": 5, "low": 10}]
    settings = recipes.parse(RECIPE).phase[1]
    assert [line["lr"] for line in lines[3:]] == [settings.lr_at(0), settings.lr_at(1), settings.lr_at(2)]
    assert [line.get("accuracy") for line in lines] == [0.1, None, 0.2, None, 0.4, None]


def test_a_round_is_described_whole_and_survives_json():
    with ledger(5) as made:
        described = [History(made).describe(row) for row in made.rows()]
        rows = list(made.rows())
    for row, each in zip(rows, json.loads(json.dumps(described)), strict=True):
        assert (bytes.fromhex(each["state"]), bytes.fromhex(each["chain"])) == (row.state, row.chain)
        assert (each["seconds"], each["peak_memory_bytes"]) == CLOCKS[row.round]
        assert rebuilt(each) == row.entry
    assert described[2]["entry"]["moments"] == "ef" * 32
    assert described[1]["entry"]["moments"] is None


def rebuilt(described: dict) -> bytes:
    """The entry's bytes, from what is said of it."""
    said = described["entry"]
    if said is None:
        return b""
    common = {"round": described["round"], "phase": described["phase"]}
    common |= {
        "members": members(said["participants"]),
        "refused": {int(client): why for client, why in said["refused"].items()},
    }
    if said["kind"] == "replacement":
        return encode(Replacement(**common, snapshot=said["snapshot"], moments=said["moments"] or ""))
    coefficients = np.array(said["coefficients"], np.int32)
    numbers = {"seed": int(said["seed"], 16), "exponent": said["exponent"], "state": said["state"]}
    return encode(Update(**common, coefficients=coefficients, **numbers))


def test_the_summary_sums_up_phases_and_the_last_evaluation():
    made = ledger(5)
    made.begin({"device": "cpu", "versions": {"torch": "2"}})
    summary = History(made).summary()
    first, second = summary["phases"]
    assert (first["first_round"], first["last_round"], first["seconds"]) == (1, 2, 2.0)
    assert (second["first_round"], second["last_round"], second["seconds"]) == (3, 5, 4.75)
    assert (first["refused"], second["refused"], summary["refused"]) == (0, 3, 3)
    assert (first["peak_memory_bytes"], second["peak_memory_bytes"], summary["peak_memory_bytes"]) == (20, 40, 40)
    assert (summary["final_round"], summary["final"]) == (4, {"accuracy": 0.4})
    assert (summary["pivot"], summary["rounds"], summary["planned_rounds"]) == (2, 5, 5)
    assert summary["turns"] == {"high": 5, "low": 0}
    assert summary["federation"]["digest"] == "cd" * 32
    assert (summary["sessions"], summary["device"], summary["versions"]) == (1, "cpu", {"torch": "2"})
    assert summary["chain"] == made.row(5).chain.hex()


def test_how_a_run_stands():
    made = ledger(4)
    assert History(made).status() == "interrupted"  # or still running, or killed
    made.note(ended={"status": "failed", "error": "out of luck"})
    assert History(made).status() == "failed"
    assert History(made).summary()["error"] == "out of luck"
    made.note(ended={"status": "interrupted"})
    assert History(made).status() == "interrupted"
    assert "error" not in History(made).summary()
    assert History(ledger(5)).status() == "finished"


def test_a_phase_that_has_not_begun_is_not_there():
    assert len(History(ledger(2)).summary()["phases"]) == 1
    assert History(ledger(0)).summary()["phases"] == []


def test_a_recipe_that_cannot_be_read_names_the_ledger():
    with pytest.raises(RecipeError, match=r":memory:: .*missing required field `kind`"):
        History(ledger(0, recipe="name = 'x'\nphase = [{rounds = 1}]"))


def test_facts_that_are_missing_are_damage():
    made = ledger(1, facts={key: value for key, value in FACTS.items() if key != "federation"})
    with pytest.raises(LedgerError, match="facts has no 'federation'"):
        list(History(made).lines())
