"""The page of a comparison at several splits, with what was tuned."""

from __future__ import annotations

from pathlib import Path

import pytest

from zowarmup import report
from zowarmup.report import Cell, Trial, sensitivity

SHORT = (("first-order", "high", 10), ("zeroth-order", "all", 20))
LRS = (0.01, 0.04, 0.16)


@pytest.fixture
def cells(make):
    """``cells(methods, splits)``: two seeds each."""

    def build(methods, splits=("10/90", "50/50"), **settings):
        return [
            Cell(
                method,
                split,
                tuple(
                    make(f"{k}-{s}-{seed}", seed=seed, phases=SHORT, top=0.5 + 0.02 * k, **settings) for seed in (0, 1)
                ),
                {"phase.1.lr": 0.04} if k else {},
            )
            for s, split in enumerate(splits)
            for k, method in enumerate(methods)
        ]

    return build


def trials(method: str, split: str, *scores: float | None, seed: int = 9, key: str = "phase.1.lr") -> list[Trial]:
    """A trial for each of LRS."""
    return [Trial(method, split, {key: lr}, seed, score) for lr, score in zip(LRS, scores, strict=True)]


def test_a_section_for_each_split_and_a_table_of_contents(cells, tmp_path, check):
    tuned = trials("ours", "10/90", 0.5, 0.7, 0.4)
    path = report.compare(cells(["base", "ours"]), tmp_path, title="A suite", baseline="base", trials=tuned)
    text = path.read_text(encoding="utf-8")
    page = check(text)
    assert page.addresses[:4] == ["#splits", "#tuning", "#at-0", "#at-1"]
    assert {address[1:] for address in page.addresses} <= set(page.ids)
    assert text.index("Methods by split</h2>") < text.index("10/90</h2>") < text.index("50/50</h2>")
    assert page.tags.count("figure") == 2 * 10 + 1
    assert text.count("<small>phase.1.lr = 0.04</small>") == 2
    again = report.compare(cells(["base", "ours"]), tmp_path / "b.html", title="A suite", baseline="base", trials=tuned)
    assert again.read_bytes() == path.read_bytes()


def test_sixteen_methods_with_odd_names(cells, tmp_path, check):
    names = [
        "<base>",
        "$a$",
        "b & c",
        'd"e',
        "f\\g",
        "鳥",
        "%",
        "_^",
        "a|b",
        "*x*",
        "a/b",
        "`y`",
        "n" * 60,
        " ",
        "'",
        "#",
    ]
    made = cells(names, splits=("<10>/90",))
    made.append(Cell("$a$", "50/50", made[1].runs))
    tuned = [trial for name in names for trial in trials(name, "<10>/90", 0.5, 0.7, 0.4)]
    text = report.compare(made, tmp_path / "x.html", trials=tuned).read_text(encoding="utf-8")
    check(text, size=500_000)
    assert "<base>" not in text and "&lt;base&gt;" in text
    assert "&lt;10&gt;/90</h2>" in text
    assert len(report.markdown(report.table(made)).splitlines()) > 40


def test_tasks_without_classes(cells, tmp_path, check):
    tuned = trials("ours", "10/90", -0.5, -0.7, -0.4)
    made = cells(["base", "ours"], classes=None)
    text = report.compare(made, tmp_path / "x.html", trials=tuned).read_text()
    check(text)
    assert "Score, difference to base" in text
    assert report.markdown(report.table(made)).startswith("**Score**, mean (sd) over seeds")


def test_trials_that_differ_in_the_seed_alone_are_one(cells):
    found = sensitivity.tried(trials("a", "", 0.2, 0.3, None) + trials("a", "", 0.4, None, None, seed=10))
    assert [(each.values["phase.1.lr"], each.scores) for each in found] == [
        (0.01, (0.2, 0.4)),
        (0.04, (0.3,)),
        (0.16, ()),
    ]
    assert found[0].mean == pytest.approx(0.3)  # float64 sums
    assert found[0].sd == pytest.approx(0.1 * 2**0.5)
    assert found[1].sd == 0


def test_a_line_takes_the_best_of_the_other_settings():
    grid = [(0.1, "rms", 0.5), (0.1, "plain", 0.6), (0.01, "rms", 0.4), (0.01, "plain", 0.3)]
    tuned = [Trial("a", "", {"phase.1.lr": lr, "phase.1.step": step}, 0, score) for lr, step, score in grid]
    choices = {"a": {"phase.1.lr": 0.1, "phase.1.step": "plain"}}
    (line,) = sensitivity.lines(sensitivity.tried(tuned), "lr", choices)
    assert [(value, each.mean) for value, each in line.points.items()] == [(0.01, 0.4), (0.1, 0.6)]
    assert line.chosen == 0.1
    (line,) = sensitivity.lines(sensitivity.tried(tuned), "step", choices)
    assert [(value, each.mean) for value, each in line.points.items()] == [("rms", 0.5), ("plain", 0.6)]


def test_keys_of_one_name_share_a_figure(cells):
    grid = report.load_grid(cells(["a", "b"], splits=("x",)))
    tuned = trials("a", "x", 0.1, 0.2, 0.3) + trials("b", "x", 0.1, 0.2, 0.3, key="phase.0.lr")
    tuned += [Trial("b", "x", {"phase.0.freeze": ["head"]}, 0, 0.5), Trial("b", "x", {"phase.0.freeze": []}, 0, 0.4)]
    titles = dict(sensitivity.figures(grid, tuned))
    assert list(titles) == ["Validation score against lr, x", "Validation score against freeze, x"]
    assert "phase.1.lr or phase.0.lr" in titles["Validation score against lr, x"]


def test_a_choice_made_at_one_split_serves_the_others(cells):
    made = cells(["base", "ours"])
    grid = report.load_grid([*made[:3], Cell("ours", "50/50", made[3].runs)])
    assert sensitivity.choices_at(grid, "50/50") == {"ours": {"phase.1.lr": 0.04}}


def test_everything_tried_is_listed_and_the_choice_bold(cells):
    grid = report.load_grid(cells(["base", "ours"]))
    table = sensitivity.choice_table(grid, trials("ours", "10/90", 0.5, 0.7, None))
    assert "<strong>phase.1.lr = 0.04</strong></td><td><strong>1</strong></td><td><strong>70.0" in table
    assert "<td>phase.1.lr = 0.16</td><td>0</td><td>–</td>" in table


def test_scores_that_are_all_undefined_give_no_figure(cells):
    grid = report.load_grid(cells(["base"], splits=("",)))
    assert list(sensitivity.figures(grid, trials("base", "", None, None, None))) == []


@pytest.mark.parametrize("values", [(0.0, 0.5), (True, False), ("cosine", "constant"), (5,)])
def test_values_of_any_kind_have_a_place(cells, values, tmp_path: Path, check):
    tuned = [Trial("base", "", {"phase.0.x": value}, 0, 0.5) for value in values]
    check(report.compare(cells(["base"], splits=("",)), tmp_path / "x.html", trials=tuned).read_text())
