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
    assert row["low_client_uplink_bytes_mean"] == 2 * 12  # of one of 16
    assert row["total_bytes_mean"] == 2 * 2 * 20 * 12 + 16 * 4 * 2410  # two rounds both ways, and the pivot's model
    assert row["low_client_uplink_bytes_sd"] is None
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
    assert head.startswith(r"|  | seeds | accuracy | ± a\|x | low-held classes | ± a\|x | worst class | loss |")
    assert first.startswith(r"| a\|x | 2 | 55.0 (7.1) % | – | 45.0 (7.1) % | – |")
    assert second.startswith("| b | 1 | 60.0 % | +10.0 | 50.0 % | +10.0 |")  # not bold: of the easier seed, maybe
    even = report.table({"a": [scored("a", 0, 0.5)], "b": [scored("b", 0, 0.6)]})
    assert "| b | 1 | **60.0 %** |" in report.markdown(even)
    assert head.count("|") == second.count("|") + 2  # those of the escaped label


def test_markdown_of_nothing_is_a_head_alone():
    assert len(report.markdown([]).splitlines()) == 2


def test_intervals_stand_behind_differences_of_scores(scored):
    seeds = [(0, 0.5, 0.6), (1, 0.6, 0.63), (2, 0.7, 0.72)]
    runs = {
        "a": [scored("a", seed, low) for seed, low, _ in seeds],
        "b": [scored("b", s, high) for s, _, high in seeds],
    }
    first, second = report.table(runs)
    assert (first["accuracy_difference_low"], first["accuracy_difference_high"]) == (None, None)
    # three seeds: the ends are the smallest and the largest difference, in float64
    assert second["accuracy_difference_low"] == pytest.approx(0.02)
    assert second["accuracy_difference_high"] == pytest.approx(0.1)
    assert "| +5.0 [2.0, 10.0] |" in report.markdown([first, second])
    assert "seconds_difference_low" not in second


def test_a_named_baseline_need_not_come_first(scored):
    runs = {"a": [scored("a", 0, 0.5)], "b": [scored("b", 0, 0.6)]}
    first, second = report.table(runs, baseline="b")
    assert (first["baseline"], first["pairs"], second["pairs"]) == ("b", 1, None)
    assert first["accuracy_difference"] == pytest.approx(-0.1)
    assert second["accuracy_difference"] is None


def test_samples_are_those_of_all_clients(scored):
    (row,) = report.table({"a": [scored("a", 0, 0.5)]})
    assert (row["forward_samples_mean"], row["backward_samples_mean"]) == (2 * 20 * 64, 0)


def test_runs_that_count_no_samples_define_none(scored):
    run = scored("a", 0, 0.5)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["forward_samples"], line["backward_samples"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = report.table({"a": [run]})
    assert (row["forward_samples_mean"], row["backward_samples_mean"]) == (None, None)
    assert "No run has counted its samples." in report.compare({"a": [run]}, run / "x.html").read_text()


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
