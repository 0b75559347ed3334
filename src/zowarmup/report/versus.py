"""The report that compares methods, each with runs of several seeds, at one split or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from zowarmup.report import plain, sensitivity, words
from zowarmup.report.grid import Grid, Runs, Trial, load_grid
from zowarmup.report.page import card, figure, html_table, page, save
from zowarmup.report.sections import FOOTER, chip, headline, notices, section
from zowarmup.report.shown import mean_sd, shown_difference
from zowarmup.report.tables import Row, rows

_BESIDE = 3  # splits up to which two tables fit side by side


def compare(
    runs: Runs,
    out: str | Path,
    *,
    title: str | None = None,
    baseline: str | None = None,
    trials: Sequence[Trial] = (),
) -> Path:
    """Write the comparison of many runs: one HTML file that needs nothing else.

    Args:
        runs: label -> run directories, one a seed; or cells, where there are several splits.
        out: the file to write, replaced as a whole or not at all; a folder gets ``compare.html`` in it.
        title: the page's heading; made from the labels where left out.
        baseline: the label that others are compared with; the first where left out.
        trials: what tuning looked at.

    Returns:
        The file written.

    Raises:
        UsageError: no labels, a label without runs, or with two runs of one seed.
        OutputError: a run directory cannot be read.
        DiskError: the report cannot be written.
    """
    grid = load_grid(runs, baseline=baseline)
    path = Path(out)
    return save(path / "compare.html" if path.is_dir() else path, render(grid, title=title, trials=trials))


def render(grid: Grid, *, title: str | None = None, trials: Sequence[Trial] = ()) -> str:
    """The comparison as HTML; the same runs give the same bytes."""
    heading = title or _title(grid)
    return page(heading, _body(grid, heading, trials))


def _body(grid: Grid, heading: str, trials: Sequence[Trial]) -> Iterator[str]:
    found = plain.by_split(rows(grid))
    yield f"<header><h1>{escape(heading)}</h1>"
    yield f'<p class="facts">{escape(_facts(grid))}</p></header>'
    chips = card(f'<div class="chips">{"".join(chip(grid.splits[0], method) for method in grid.methods)}</div>')
    if len(grid.splits) == 1:
        (split,), (only,) = grid.splits, found.values()
        yield from (f'<p class="note">{escape(text)}</p>' for text in notices(only))
        yield f'<p class="lead">{escape(headline(only, share=split.classification))}</p>'
        yield chips
        yield from section(split, only, level=2)
        yield from _tuning(grid, trials)
    else:
        yield _contents(grid, trials)
        yield chips
        yield from _pivots(grid, [row for each in found.values() for row in each])
        yield from _tuning(grid, trials)
        for index, split in enumerate(grid.splits):
            here = found[split.name]
            yield f'<h2 class="split" id="{_anchor(index)}">{escape(split.name)}</h2>'
            yield from (f'<p class="note">{escape(text)}</p>' for text in notices(here))
            yield f'<p class="lead">{escape(headline(here, share=split.classification))}</p>'
            yield from section(split, here, level=3)
    yield f"<footer>{FOOTER.format(escape(grid.baseline))}</footer>"


def _contents(grid: Grid, trials: Sequence[Trial]) -> str:
    links = [("splits", "Methods by split"), *([("tuning", "Tuning")] if trials else [])]
    links += [(_anchor(index), split.name) for index, split in enumerate(grid.splits)]
    items = "".join(f'<li><a href="#{anchor}">{escape(name)}</a></li>' for anchor, name in links)
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _pivots(grid: Grid, found: list[Row]) -> Iterator[str]:
    yield '<h2 id="splits">Methods by split</h2>'
    cards = []
    for metric in plain.PIVOTS:
        splits, methods = plain.pivot(found, metric)
        lines = []
        for method, cells in methods.items():
            texts = [_pivot_cell(row, metric, top=top) for row, top in cells]
            lines.append([chip(grid.splits[0], method), *texts])
        table = html_table(["", *splits], lines)
        cards.append(card(f"<h3>{escape(plain.heading(found, metric))}</h3>{table}"))
    beside = len(grid.splits) <= _BESIDE
    yield f'<div class="grid">{"".join(cards)}</div>' if beside else "".join(cards)


def _pivot_cell(row: Row | None, metric: str, *, top: bool) -> str:
    if row is None:
        return words.UNDEFINED
    value = mean_sd(row, metric)
    known = words.defined(row[f"{metric}_difference"])
    small = f"<small>{shown_difference(row, metric)}</small>" if known else ""
    return (f"<strong>{value}</strong>" if top else value) + small


def _tuning(grid: Grid, trials: Sequence[Trial]) -> Iterator[str]:
    """What was tried and chosen; nothing where nothing was tuned."""
    if not trials:
        return
    caption = (
        "Mean of the tuning's seeds, a line of one standard deviation; a ring: what was chosen. Where several settings "
        "were tuned together, the best of the others."
    )
    pictures = "".join(figure(title, svg, caption) for title, svg in sensitivity.figures(grid, trials))
    yield f'<h2 id="tuning">Tuning</h2><div class="grid">{pictures}</div>'
    table = sensitivity.choice_table(grid, trials)
    yield card(f"<details><summary>Everything that was tried; bold: chosen</summary>{table}</details>")


def _anchor(index: int) -> str:
    return f"at-{index}"


def _facts(grid: Grid) -> str:
    runs = [run.summary for run in grid.runs()]
    facts = [words.plural(len(grid.methods), "label"), words.plural(len(runs), "run")]
    facts += [words.plural(len(grid.splits), "split")] if len(grid.splits) > 1 else []
    facts += [f"split {grid.splits[0].name}"] if len(grid.splits) == 1 and grid.splits[0].name else []
    facts.append("recipes: " + words.shorten(", ".join(sorted({summary["recipe"] for summary in runs})), 80))
    nets = sorted({summary.get("net") or words.UNDEFINED for summary in runs})
    return " · ".join([*facts, words.shorten(", ".join(nets), 60)])


def _title(grid: Grid) -> str:
    first, *others = dict.fromkeys((grid.baseline, *grid.methods))
    if not others:
        return first
    return f"{first} and {others[0]}" if len(others) == 1 else f"{first} and {len(others)} others"
