"""The comparison of many runs."""

from __future__ import annotations

import pytest

from zowarmup import report
from zowarmup.errors import OutputError
from zowarmup.report import bands, contrasts, sections, shown


def test_three_methods(runs, tmp_path, check):
    out = report.compare(runs, tmp_path / "x.html", title="Digits <1>")
    text = out.read_text(encoding="utf-8")
    page = check(text)
    assert "<h1>Digits &lt;1&gt;</h1>" in text
    assert page.tags.count("figure") == 10
    assert all(label in text for label in runs)


def test_same_runs_same_bytes(runs, tmp_path):
    first, second = report.compare(runs, tmp_path / "a.html"), report.compare(runs, tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()


def test_a_folder_gets_compare_html(runs, tmp_path):
    assert report.compare(runs, tmp_path) == tmp_path / "compare.html"


def test_headline_has_every_label_where_they_are_few(runs):
    rows = report.table(runs)
    differences = [shown.shown_difference(row, "accuracy") for row in rows[1:]]
    assert sections.headline(rows, share=True).startswith(
        f"high-res-only: accuracy {shown.mean_sd(rows[0], 'accuracy')}. Against it, in percentage points: "
        f"zeroth-order only {differences[0]}; zowarmup {differences[1]}. "
        "On classes that high-resource clients hold little of: "
    )


def test_headline_of_many_labels_names_the_best(runs):
    first, *others = report.table(runs)
    text = sections.headline([first, *others, *others, *others], share=True)
    assert text.count("zowarmup") == 2 and "zeroth-order only" not in text


def test_twelve_labels_of_five_seeds_stay_small(make, tmp_path, check):
    labels = {f"label {k}": [make(f"{k}-{s}", seed=s, top=0.4 + 0.04 * k) for s in range(5)] for k in range(12)}
    check(report.compare(labels, tmp_path / "x.html").read_text())


@pytest.mark.parametrize(
    "settings",
    [
        {"classes": None},
        {"classes": 100},
        {"nan_from": 0},
        {"phases": (("first-order", "high", 20),)},
        {"phases": (("zeroth-order", "all", 20),), "every": 1000},
        {"high": 20, "phases": (("first-order", "all", 20),)},
    ],
    ids=["no classes", "many classes", "no finite loss", "zero uplink", "two evaluations", "no low tier"],
)
def test_odd_runs(make, tmp_path, settings, check):
    labels = {"a": [make("a", **settings)], "b": [make("b", **settings), make("c", seed=1, **settings)]}
    check(report.compare(labels, tmp_path / "x.html").read_text())


def test_one_label_alone(make, tmp_path, check):
    text = report.compare({"only": [make()]}, tmp_path / "x.html").read_text()
    check(text)
    assert "There is no second label, or no seed is shared with the baseline." in text
    assert "One seed only, so no spread is known: only." in text


def test_notices(make):
    rows = report.table(
        {
            "a": [make("a0"), make("a1", seed=1)],
            "b": [make("b", seed=7, status="interrupted", stop=60)],
        }
    )
    assert list(sections.notices(rows)) == [
        "b: 1\xa0run of 1 did not reach the end; taken as far as recorded.",
        "One seed only, so no spread is known: b.",
        "No seed shared with a, so no paired difference: b.",
    ]


def test_labels_are_escaped(make, tmp_path, check):
    text = report.compare({"<script>": [make("a")], "$a$ & b": [make("b")]}, tmp_path / "x.html").read_text()
    check(text)
    assert "<script>" not in text


def test_bands_take_the_rounds_that_all_seeds_reached():
    curves = [[(0, 0.0, 0.1), (10, 10.0, 0.2), (20, 20.0, 0.9)], [(0, 0.0, 0.3), (10, 10.0, 0.2)]]
    places = {0.0: 0.0, 10.0: 10.0, 20.0: 20.0}
    assert [(x, round(mean, 9)) for x, mean, _ in bands.summarise(curves, places)] == [(0.0, 0.2), (10.0, 0.2)]


def test_class_means_over_seeds(runs):
    group = report.load_grid(runs).splits[0].groups["zowarmup"]
    finals = [run.summary["final"]["class_accuracy"] for run in group.values()]
    expected = sum(final[3] for final in finals) / 3
    assert contrasts.class_means(group)[3] == pytest.approx(expected)  # float64 sums in another order


def test_runs_are_read_before_anything_is_written(make, tmp_path):
    with pytest.raises(OutputError, match="gone: not a run directory"):
        report.compare({"a": [make()], "b": [tmp_path / "gone"]}, tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()
