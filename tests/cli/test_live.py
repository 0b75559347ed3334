"""Progress on a terminal, and tables at its width."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace

from rich.console import Console

from zowarmup import recipes
from zowarmup.cli import live, results
from zowarmup.jobs import Job
from zowarmup.loop import run
from zowarmup.manifest import Cell, Comparison
from zowarmup.workers import Step

SHORT = {"phase.0.rounds": 2, "phase.1.rounds": 3}
LINE = {"accuracy": 0.5, "loss": 1.0, "seconds": 2.0, "uplink_bytes": {"high": 0, "low": 12}}


def terminal(width: int = 80, **settings: object) -> Console:
    settings = {"force_terminal": True, "no_color": True, **settings}
    return Console(file=io.StringIO(), width=width, height=30, highlight=False, **settings)  # type: ignore[arg-type]


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[\d;]*m", "", console.file.getvalue().replace("\xa0", " "))  # without bold and dim


def test_a_run_shows_one_live_line_that_goes_away() -> None:
    console, recipe = terminal(), recipes.load("digits", overrides=SHORT)
    with live.run_view(recipe, quiet=False, console=console) as view:

        def look(progress):
            view(progress)
            view._bars.refresh()

        run(recipe, callbacks=(look,))
    text = shown(console)
    assert "zeroth-order" in text
    assert "5/5" in text
    assert "low tier sent 576 B" in text
    assert "s left" in text
    assert text.endswith("\x1b[2K")  # the line is erased


def test_a_live_line_fits_80_columns() -> None:
    console, recipe = terminal(), recipes.load("digits")
    with live.run_view(recipe, quiet=False, console=console) as view:
        bars = view._bars
        bars.update(view._task, description="zeroth-order", completed=130, news=live._scores(LINE), left="12 s left")
        line = Console(file=io.StringIO(), width=200)
        line.print(bars.get_renderable())
    assert len(line.file.getvalue().rstrip()) <= 80


def test_quiet_shows_nothing() -> None:
    console = terminal()
    with live.run_view(recipes.load("digits"), quiet=True, console=console) as view:
        view(None)
    with live.compare_view(3, quiet=True, console=console) as view:
        view(None)
    assert shown(console) == ""


def test_a_comparison_shows_a_bar_a_run_and_a_line_as_each_ends(tmp_path) -> None:
    console, recipe = terminal(), recipes.load("digits")
    first, second = (Job(recipe, seed, tmp_path / str(seed)) for seed in (0, 1))
    with live.compare_view(2, quiet=False, debug=True, console=console) as view:
        for step in (
            Step(first, "running", round=20, metrics=LINE),
            Step(second, "running", round=10, metrics=LINE),
            Step(first, "finished", round=200, metrics=LINE),
            Step(second, "failed", error="no", traceback="Traceback: here"),
        ):
            view(step)
            view._bars.refresh()
    text = shown(console)
    assert "digits, seed 0" in text
    assert "20/200" in text
    assert "1/2  digits, seed 0  accuracy 50.0 %  2.0 s\n" in text
    assert "2/2  digits, seed 1  failed\n" in text
    assert "Traceback: here" in text


def test_a_comparison_without_a_terminal_is_lines(tmp_path) -> None:
    console = terminal(force_terminal=False)
    job = Job(recipes.load("digits"), 3, tmp_path)
    with live.compare_view(12, quiet=False, console=console) as view:
        view(Step(job, "running", metrics=LINE))
        view(Step(job, "finished", metrics=LINE))
    assert shown(console) == " 1/12  digits, seed 3  accuracy 50.0 %  2.0 s\n"


def test_a_comparison_fits_80_columns_and_says_more_where_there_is_room(tmp_path) -> None:
    row = {
        "label": "digits-high-res-only",
        "split": "",
        "n": 3,
        "low_client_uplink_bytes_mean": 1800.0,
        "seconds_mean": 5.0,
        "low_held_accuracy_n": 3,
    }
    for key in ("accuracy", "low_held_accuracy", "worst_class_accuracy"):
        row |= {f"{key}_mean": 0.8465, f"{key}_sd": 0.1432, f"{key}_difference": -0.217}
    cells = tuple(Cell(method, "", ()) for method in ("digits", "digits-high-res-only"))
    rows = ({**row, "label": "digits"}, row)
    comparison = Comparison(tmp_path, baseline="digits", cells=cells, rows=rows)
    for width, narrow, time in ((80, True, False), (100, False, True)):
        console = terminal(width)
        console.print(results._comparison_table(comparison, "", narrow=narrow))
        last = shown(console).splitlines()[-1].split("  " if time else None)
        assert last[0] == "digits-high-res-only"
        assert "…" not in shown(console)
        assert ("5.0 s" in shown(console)) == time


def test_a_resumed_run_begins_where_it_stands() -> None:
    console, recipe = terminal(), recipes.load("digits", overrides=SHORT)
    with live.run_view(recipe, quiet=False, done=3, console=console) as view:
        view._bars.refresh()
    assert "3/5" in shown(console)


def test_a_live_line_of_a_long_run_fits_80_columns_too() -> None:
    console, recipe = terminal(), recipes.load("digits")
    metrics = LINE | {"kind": "zeroth-order", "seconds": 150.0}
    progress = SimpleNamespace(round=1300, rounds=20000, metrics=metrics)
    with live.run_view(recipe, quiet=False, console=console) as view:
        view(progress)
        line = Console(file=io.StringIO(), width=200)
        line.print(view._bars.get_renderable())
    text = line.file.getvalue().rstrip().replace("\xa0", " ")
    assert "1300/20000" in text
    assert "low tier sent 12 B" in text
    assert len(text) <= 80


def test_many_runs_are_counted_and_only_failures_get_a_line(tmp_path) -> None:
    console, recipe = terminal(), recipes.load("digits")
    jobs = [Job(recipe, seed, tmp_path / str(seed)) for seed in range(40)]
    with live.compare_view(40, 10, quiet=False, console=console) as view:
        view(Step(jobs[10], "running", round=20, metrics=LINE))
        view(Step(jobs[11], "running", round=20, metrics=LINE))
        view(Step(jobs[12], "finished", metrics=LINE))
        view(Step(jobs[13], "failed", error="no"))
        view._bars.refresh()
    text = shown(console)
    assert "10 of 40 runs finished before\n" in text
    assert "12/40" in text
    assert "26 waiting, 1 failed" in text
    assert "12/40  digits, seed 13  failed\n" in text
    assert "seed 12" not in text
