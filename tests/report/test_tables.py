"""The comparison table against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
import statistics

import pytest

from zowarmup import report
from zowarmup.errors import UsageError


@pytest.fixture
def scored(make):
    """``scored("a", 0, 0.5)``: a run of seed 0 with final accuracy 0.5, low-held 0.4, loss 1.5."""

    def score(name, seed, accuracy, **final):
        run = make(f"{name}-{seed}", seed=seed, phases=(("zeroth-order", "all", 2),))
        summary = json.loads((run / "summary.json").read_text())
        summary["final"] |= {"accuracy": accuracy, "low_held_accuracy": accuracy - 0.1, "loss": 2 - accuracy} | final
        (run / "summary.json").write_text(json.dumps(summary))
        return run

    return score


def test_means_deviations_and_paired_differences(scored):
    first, second = report.table(
        {
            "a": [scored("a", 0, 0.5), scored("a", 1, 0.6), scored("a", 2, 0.7)],
            "b": [scored("b", 2, 0.9), scored("b", 1, 0.7), scored("b", 5, 0.1)],
        }
    )
    assert (first["seeds"], first["n"], first["pairs"], first["accuracy_difference"]) == ([0, 1, 2], 3, None, None)
    assert first["accuracy_mean"] == pytest.approx(0.6)  # tolerances here: float64 sums of decimal fractions
    assert first["accuracy_sd"] == pytest.approx(0.1)
    assert (second["seeds"], second["pairs"]) == ([1, 2, 5], 2)
    assert second["accuracy_mean"] == pytest.approx(1.7 / 3)
    assert second["accuracy_sd"] == pytest.approx(statistics.stdev([0.9, 0.7, 0.1]))
    assert second["accuracy_difference"] == pytest.approx((0.2 + 0.1) / 2)
    assert second["loss_difference"] == pytest.approx(-0.15)
    assert second["low_held_accuracy_difference"] == pytest.approx(0.15)


def test_bytes_are_exact(scored):
    (row,) = report.table({"a": [scored("a", 0, 0.5)]})
    assert row["low_uplink_bytes_mean"] == 2 * 16 * 12
    assert row["total_bytes_mean"] == 2 * 2 * 20 * 12 + 16 * 4 * 2410  # two rounds both ways, and the pivot's model
    assert row["low_uplink_bytes_sd"] is None
    assert row["seconds_mean"] == pytest.approx(0.2)


def test_undefined_values_are_left_out(scored):
    first, second = report.table(
        {
            "a": [scored("a", 0, 0.5, loss=float("nan")), scored("a", 1, 0.6)],
            "b": [scored("b", 0, 0.5), scored("b", 1, 0.7, low_held_accuracy=None)],
        }
    )
    assert (first["loss_mean"], first["loss_sd"]) == (1.4, None)
    assert second["loss_difference"] == pytest.approx(-0.1)
    assert second["low_held_accuracy_difference"] == pytest.approx(0.0)


def test_no_shared_seed_means_no_difference(scored):
    _, second = report.table({"a": [scored("a", 0, 0.5)], "b": [scored("b", 1, 0.5)]})
    assert (second["pairs"], second["accuracy_difference"]) == (0, None)


def test_unfinished_runs_are_counted(make):
    runs = [make("x", seed=0), make("y", seed=1, status="interrupted", stop=70)]
    assert report.table({"a": runs})[0]["unfinished"] == 1


def test_every_metric_has_its_columns(runs):
    for row in report.table(runs):
        for metric in report.METRICS:
            assert {f"{metric}_mean", f"{metric}_sd", f"{metric}_difference"} <= row.keys()


def test_markdown(scored):
    rows = report.table({"a|x": [scored("a", 0, 0.5), scored("a", 1, 0.6)], "b": [scored("b", 0, 0.6)]})
    head, _, first, second = report.markdown(rows).splitlines()
    assert head.startswith("|  | seeds | accuracy | ± first | low-held classes | ± first | worst class | loss |")
    assert first.startswith(r"| a\|x | 2 | 55.0 (7.1) % | – | 45.0 (7.1) % | – |")
    assert second.startswith("| b | 1 | 60.0 % | +10.0 | 50.0 % | +10.0 |")
    assert head.count("|") == second.count("|")


def test_scores_of_other_tasks_are_no_percentages(make):
    rows = report.table({"a": [make(classes=None)]})
    assert rows[0]["classification"] is False
    assert "| 0." in report.markdown(rows)


def test_csv_keeps_every_digit(runs):
    rows = report.table(runs)
    back = list(csv.DictReader(io.StringIO(report.csv(rows))))
    assert [line["label"] for line in back] == list(runs)
    assert back[0]["seeds"] == "0 1 2"
    assert back[0]["accuracy_difference"] == ""
    assert [float(line["accuracy_mean"]) for line in back] == [row["accuracy_mean"] for row in rows]


def test_csv_of_nothing_is_empty():
    assert report.csv([]).strip() == ""


def test_nothing_to_compare():
    with pytest.raises(UsageError, match="nothing to compare\nhint: name at least one label"):
        report.table({})


def test_label_without_runs(make):
    with pytest.raises(UsageError, match="b: no runs\nhint: give at least one run directory"):
        report.table({"a": [make()], "b": []})


def test_seed_given_twice(make):
    with pytest.raises(UsageError, match=r"a: two runs of seed 3: .*x and .*y\nhint: give each seed once"):
        report.table({"a": [make("x", seed=3), make("y", seed=3)]})
