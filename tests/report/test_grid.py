"""Cells of several splits: what is read, and every way they can be wrong."""

from __future__ import annotations

import csv
import io
import json

import pytest

from zowarmup import report
from zowarmup.errors import OutputError, UsageError
from zowarmup.report import Cell, canvas, plain, sections

SHORT = (("first-order", "high", 2), ("zeroth-order", "all", 3))


@pytest.fixture
def cell(make):
    """``cell("a", "10/90", 0.5, 0.6)``: a cell with final accuracies of seeds 0, 1, ..."""

    def build(method, split, *accuracies, choice=None):
        folders = []
        for seed, accuracy in enumerate(accuracies):
            run = make(f"{method}-{split.replace('/', '-')}-{seed}", seed=seed, phases=SHORT)
            summary = json.loads((run / "summary.json").read_text())
            summary["final"] |= {"accuracy": accuracy, "low_held_accuracy": accuracy / 2}
            (run / "summary.json").write_text(json.dumps(summary))
            folders.append(run)
        return Cell(method, split, tuple(folders), choice or {})

    return build


def test_rows_go_split_by_split_each_against_its_own_baseline(cell):
    cells = [
        cell("ours", "10/90", 0.5, 0.7),
        cell("base", "10/90", 0.4, 0.4),
        cell("base", "50/50", 0.6, 0.8),
        cell("ours", "50/50", 0.6, 0.9, choice={"phase.1.lr": 0.04}),
    ]
    rows = report.table(cells, baseline="base")
    assert [(row["split"], row["label"]) for row in rows] == [
        ("10/90", "ours"),
        ("10/90", "base"),
        ("50/50", "ours"),
        ("50/50", "base"),
    ]
    # sums of decimal fractions in float64
    assert rows[0]["accuracy_difference"] == pytest.approx(0.2)
    assert (rows[0]["accuracy_difference_low"], rows[0]["accuracy_difference_high"]) == pytest.approx((0.1, 0.3))
    assert rows[2]["accuracy_difference"] == pytest.approx(0.05)
    assert (rows[0]["choice"], rows[2]["choice"]) == ({}, {"phase.1.lr": 0.04})


def test_labels_and_folders_are_the_cells_of_one_split(cell):
    found = cell("a", "", 0.5, 0.6)
    assert report.table([found]) == report.table({"a": found.runs})


def test_a_grid_is_read_once(cell):
    cells = [cell("a", "x", 0.5), cell("a", "y", 0.6)]
    grid = report.load_grid(cells)
    assert report.load_grid(grid) is grid
    assert report.table(grid) == report.table(cells)
    assert report.table(grid, baseline="a") == report.table(cells)
    with pytest.raises(UsageError, match="b: expected a, the baseline with which the runs were read"):
        report.table(grid, baseline="b")


def test_a_run_may_serve_several_splits(cell):
    oracle = cell("oracle", "x", 0.9)
    grid = report.load_grid([oracle, Cell("oracle", "y", oracle.runs)])
    first, second = (split.groups["oracle"][0] for split in grid.splits)
    assert first is second
    assert len(grid.runs()) == 1


def test_the_baseline_has_the_first_colour_at_every_split(cell):
    grid = report.load_grid([cell("a", "x", 0.5), cell("b", "x", 0.5), cell("b", "y", 0.5)], baseline="b")
    assert [dict(split.styles) for split in grid.splits] == [{"b": 0, "a": 1}] * 2
    assert [split.others for split in grid.splits] == [["a"], []]


def test_sixteen_methods_are_told_apart():
    assert len({canvas.series_style(index) for index in range(16)}) == 16
    assert [canvas.series_style(index)[0] for index in range(16)].count(canvas.INK) == 1


def test_a_split_without_the_baseline_has_no_differences(cell):
    rows = report.table([cell("base", "x", 0.5, 0.6), cell("a", "x", 0.6, 0.7), cell("a", "y", 0.9, 0.7)])
    assert (rows[2]["pairs"], rows[2]["accuracy_difference"], rows[2]["accuracy_difference_low"]) == (0, None, None)
    assert list(sections.notices(rows[2:])) == ["No run of base, the baseline, so no paired difference."]
    assert sections.headline(rows[2:], share=True).startswith("The best: a, accuracy 80.0 (14.1)")


def test_a_baseline_without_any_run_is_said(cell, tmp_path, check):
    cells = [cell("a", "x", 0.5), cell("b", "x", 0.6)]
    text = report.compare(cells, tmp_path / "x.html", baseline="gone").read_text()
    check(text)
    assert "No run of gone, the baseline, so no paired difference." in text
    assert "The best: b, accuracy 60.0" in text


def test_markdown_prints_methods_by_split_with_the_best_in_bold(cell):
    cells = [cell("base", "10/90", 0.4, 0.4), cell("a|*b*", "10/90", 0.5, 0.7), cell("base", "50/50", 0.6, 0.8)]
    lines = report.markdown(report.table(cells)).splitlines()
    assert lines[:12] == [
        "**Accuracy**, mean (sd) over seeds",
        "",
        "|  | 10/90 | 50/50 |",
        "| --- | ---: | ---: |",
        "| base | 40.0 % | 70.0 (14.1) % |",
        r"| a\|\*b\* | **60.0 (14.1) %** | – |",
        "",
        "**Accuracy** minus base, over the same seeds [range]",
        "",
        "|  | 10/90 | 50/50 |",
        "| --- | ---: | ---: |",
        r"| a\|\*b\* | +20.0 [10.0, 30.0] | – |",
    ]
    assert sum(line.startswith("**Accuracy on low-held classes**") for line in lines) == 2
    assert [line for line in lines if line in ("**10/90**", "**50/50**")] == ["**10/90**", "**50/50**"]


def test_markdown_shows_what_was_chosen(cell):
    text = report.markdown(report.table([cell("a", "", 0.5, choice={"phase.1.lr": 0.04, "phase.1.step": "rms"})]))
    assert "| a (phase.1.lr = 0.04, phase.1.step = rms) | 1 | 50.0 % |" in text


def test_csv_has_settings_as_json(cell):
    rows = report.table([cell("a", "x", 0.5, choice={"phase.1.lr": 0.04}), cell("b", "x", 0.5)])
    back = list(csv.DictReader(io.StringIO(report.csv(rows))))
    assert [(line["split"], line["label"], line["choice"]) for line in back] == [
        ("x", "a", '{"phase.1.lr": 0.04}'),
        ("x", "b", ""),
    ]


def test_csv_of_runs_has_a_line_each(cell, tmp_path):
    runs = [cell("a", "10/90", 0.5, 0.625, choice={"phase.1.lr": 0.04}), cell("b", "50/50", 0.75)]
    back = list(csv.DictReader(io.StringIO(report.runs_csv(runs, root=tmp_path))))
    assert [(line["split"], line["label"], line["seed"], line["accuracy"], line["folder"]) for line in back] == [
        ("10/90", "a", "0", "0.5", "a-10-90-0"),
        ("10/90", "a", "1", "0.625", "a-10-90-1"),
        ("50/50", "b", "0", "0.75", "b-50-50-0"),
    ]
    assert {line["status"] for line in back} == {"finished"}
    assert back[0]["rounds"] == "5"
    assert set(report.METRICS) < set(back[0])
    assert report.runs_csv(runs).splitlines()[1].endswith(f"{tmp_path.as_posix()}/a-10-90-0")


def test_the_best_of_a_split_is_no_other_splits(cell):
    rows = report.table([cell("a", "x", 0.5), cell("b", "x", 0.4), cell("a", "y", 0.6), cell("b", "y", 0.7)])
    splits, methods = plain.pivot(rows, "accuracy")
    assert splits == ["x", "y"]
    assert {method: [top for _, top in cells] for method, cells in methods.items()} == {
        "a": [True, False],
        "b": [False, True],
    }


def test_nothing_to_compare():
    with pytest.raises(UsageError, match="nothing to compare\nhint: name at least one label"):
        report.load_grid([])


def test_a_cell_given_twice(cell):
    with pytest.raises(UsageError, match="a, split 10/90: given twice\nhint: one cell for each method and split"):
        report.load_grid([cell("a", "10/90", 0.5), cell("a", "10/90", 0.5)])


def test_a_cell_without_runs(cell):
    with pytest.raises(UsageError, match="b, split x: no runs\nhint: give at least one run directory"):
        report.load_grid([cell("a", "x", 0.5), Cell("b", "x", ())])


def test_a_seed_given_twice(cell):
    (folder,) = cell("a", "x", 0.5).runs
    with pytest.raises(UsageError, match="a, split x: two runs of seed 0: "):
        report.load_grid([Cell("a", "x", (folder, folder))])


def test_a_run_that_is_gone(cell, tmp_path):
    with pytest.raises(OutputError, match="gone: not a run directory: there is no such folder"):
        report.load_grid([cell("a", "x", 0.5), Cell("b", "x", (tmp_path / "gone",))])
