"""Reading a run directory: every way it can be wrong has its message."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from zowarmup import report
from zowarmup.errors import OutputError, UsageError


def change(run: Path, **values: Any) -> Path:
    """Overwrite keys of summary.json."""
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | values))
    return run


def change_line(run: Path, number: int, text: str) -> Path:
    """Overwrite a line of metrics.jsonl, counted from 1."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[number - 1] = text
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return run


def test_a_run_is_read_whole(make):
    run = report.load_run(make())
    assert run.summary["method"] == "zowarmup"
    assert [line["round"] for line in run.metrics] == list(range(201))
    assert [line["round"] for line in run.evaluated] == list(range(0, 201, 10))
    assert (run.last_round, run.clients("high"), run.clients("low"), run.classification) == (200, 4, 16, True)
    assert run.recipe == run.recipe_path.read_text()


def test_nan_losses_and_unknown_keys_are_read(make):
    run = report.load_run(change(make(nan_from=100), novelty=1))
    assert math.isnan(run.evaluated[-1]["loss"])
    assert run.summary["novelty"] == 1  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("phases", "turns"),
    [
        ((("first-order", "high", 5), ("zeroth-order", "all", 10)), 160.0),
        ((("zeroth-order", "low", 10),), 160.0),
        ((("first-order", "high", 10),), 0.0),
    ],
)
def test_low_turns_count_low_resource_clients(make, phases, turns):
    assert report.load_run(make(phases=phases)).low_turns() == pytest.approx(turns)  # 16 / 20 is rounded in float64


def test_low_turns_of_a_sample_are_expected_ones(make):
    run = make(phases=(("zeroth-order", "all", 10),))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | {"cohort": 5}) + "\n" for line in lines[1:]))
    assert report.load_run(run).low_turns() == pytest.approx(10 * 5 * 16 / 20)


def test_missing_folder(tmp_path):
    with pytest.raises(OutputError, match=r"gone: not a run directory: there is no such folder\nhint: a run directory"):
        report.load_run(tmp_path / "gone")


def test_a_file_is_no_run(make):
    with pytest.raises(OutputError, match=r"run\.toml: not a run directory: it is a file"):
        report.load_run(make() / "run.toml")


def test_empty_folder(tmp_path):
    with pytest.raises(OutputError, match=r"not a run directory: no run\.toml, metrics\.jsonl, summary\.json"):
        report.load_run(tmp_path)


def test_killed_run(make):
    run = make()
    (run / "summary.json").unlink()
    with pytest.raises(OutputError, match=r"no summary\.json\nhint: .*was killed, or is still running"):
        report.load_run(run)


def test_recipe_that_is_not_toml(make):
    run = make()
    (run / "run.toml").write_text("name = ")
    with pytest.raises(OutputError, match=r"run\.toml: not TOML: Invalid value"):
        report.load_run(run)


def test_recipe_that_is_not_text(make):
    run = make()
    (run / "run.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(OutputError, match=r"run\.toml: cannot be read: 'utf-8'"):
        report.load_run(run)


def test_unknown_format(make):
    with pytest.raises(OutputError, match=r"summary\.json: expected format 1, got 2\nhint: .*another version") as error:
        report.load_run(change(make(), format=2))
    assert error.value.format == 2  # type: ignore[attr-defined]


def test_summary_that_is_no_object(make):
    run = make()
    (run / "summary.json").write_text("[]")
    with pytest.raises(OutputError, match="expected format 1, got None"):
        report.load_run(run)


def test_summary_cut_off(make):
    run = make()
    (run / "summary.json").write_text((run / "summary.json").read_text()[:100])
    with pytest.raises(OutputError, match=r"summary\.json: damaged: "):
        report.load_run(run)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"status": "lost"}, r"damaged: Invalid enum value 'lost' - at `\$\.status`"),
        ({"seed": "0"}, r"damaged: Expected `int`, got `str` - at `\$\.seed`"),
        (
            {"bytes": {"uplink": {"high": 1, "low": 1}}},
            r"damaged: .*missing required field `downlink` - at `\$\.bytes`",
        ),
    ],
)
def test_summary_with_wrong_values(make, values, message):
    with pytest.raises(OutputError, match=message):
        report.load_run(change(make(), **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": [60]}, r"expected 20 clients in federation\.sizes, got 1"),
        ({"class_counts": [[1, 2]]}, r"expected 20 clients in federation\.class_counts, got 1"),
        ({"class_counts": [[1, 2]] * 19 + [[1]]}, r"expected federation\.class_counts of one length, got several"),
    ],
)
def test_federation_that_disagrees_with_itself(make, values, message):
    run = make()
    federation = json.loads((run / "summary.json").read_text())["federation"]
    with pytest.raises(OutputError, match=message):
        report.load_run(change(run, federation=federation | values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"round": 2, "pha', r"metrics\.jsonl, line 3: damaged: Unterminated string"),
        ('{"round": 2}', r"metrics\.jsonl, line 3: damaged: .*missing required field `phase`"),
        ('{"round": "two"}', r"metrics\.jsonl, line 3: damaged: Expected `int`, got `str` - at `\$\.round`"),
        ("[]", r"metrics\.jsonl, line 3: damaged: Expected `object`, got `array`"),
    ],
)
def test_damaged_line(make, text, message):
    with pytest.raises(OutputError, match=message):
        report.load_run(change_line(make(), 3, text))


def test_rounds_out_of_order(make):
    run = make()
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    with pytest.raises(OutputError, match=r"line 4: expected a round after 2, got 0"):
        report.load_run(change_line(run, 4, first))


def test_no_rounds(make):
    run = make()
    (run / "metrics.jsonl").write_text("\n")
    with pytest.raises(OutputError, match=r"metrics\.jsonl: no rounds in it"):
        report.load_run(run)


def test_errors_are_the_callers(tmp_path):
    with pytest.raises(UsageError) as error:
        report.load_run(tmp_path)
    assert error.value.exit_code == 2
