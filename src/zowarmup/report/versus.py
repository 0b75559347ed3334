"""The report that compares labels, each with runs of several seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from zowarmup.report import bands, contrasts, words
from zowarmup.report.canvas import series_style
from zowarmup.report.page import card, figure, html_table, page, save
from zowarmup.report.tables import HEADINGS, METRICS, Group, Row, load_groups, mean_sd, rows, shown_difference

_JUDGED = METRICS[:4]  # fewer bytes or seconds are no merit where clients take no part


def compare(runs: Mapping[str, Sequence[str | Path]], out: str | Path, *, title: str | None = None) -> Path:
    """Write the comparison of many runs: one HTML file that needs nothing else.

    Args:
        runs: label -> run directories, one a seed; others are compared with the first label.
        out: the file to write, replaced as a whole or not at all; a folder gets ``compare.html`` in it.
        title: the page's heading; made from the labels where left out.

    Returns:
        The file written.

    Raises:
        UsageError: no labels, a label without runs, or with two runs of one seed.
        OutputError: a run directory cannot be read.
        DiskError: the report cannot be written.
    """
    groups = load_groups(runs)
    path = Path(out)
    return save(path / "compare.html" if path.is_dir() else path, render(groups, title=title))


def render(groups: Mapping[str, Group], *, title: str | None = None) -> str:
    """The comparison as HTML; the same runs give the same bytes."""
    heading = title or _title(list(groups))
    return page(heading, _body(groups, rows(groups), heading))


def headline(found: Sequence[Row], *, share: bool) -> str:
    """The comparison in a sentence or two, as plain text: every label where they are few, else the best."""
    first, *others = found
    known = [row for row in others if words.defined(row["accuracy_difference"])]
    name = "accuracy" if share else "score"
    start = f"{first['label']}: {name} {mean_sd(first, 'accuracy')}."
    if not known:
        return start
    known = known if len(known) <= 4 else [max(known, key=lambda row: row["accuracy_mean"])]
    unit = ", in percentage points" if share else ""
    text = f"{start} Against it{unit}: {_differences(known, 'accuracy')}."
    held = [row for row in known if words.defined(row["low_held_accuracy_difference"])]
    if held:
        text += f" On classes held mostly by low-resource clients: {_differences(held, 'low_held_accuracy')}."
    return text


def _differences(found: Sequence[Row], metric: str) -> str:
    return ", ".join(f"{row['label']} {shown_difference(row, metric)}" for row in found)


def _body(groups: Mapping[str, Group], found: list[Row], heading: str) -> Iterator[str]:
    share = bands.classification(groups)
    yield f"<header><h1>{escape(heading)}</h1>"
    yield f'<p class="facts">{escape(_facts(groups))}</p></header>'
    yield from (f'<p class="note">{escape(text)}</p>' for text in notices(found))
    yield f'<p class="lead">{escape(headline(found, share=share))}</p>'
    yield card(f'<div class="chips">{"".join(map(_chip, range(len(groups)), groups))}</div>')
    yield f'<h2>Over the rounds</h2><div class="grid">{"".join(_curves(groups, share=share))}</div>'
    yield f'<h2>Seed by seed</h2><div class="grid">{"".join(_pairs(groups, share=share))}</div>'
    yield f'<h2>Classes and bytes</h2><div class="grid">{"".join(_rest(groups))}</div>'
    yield f"<h2>All numbers</h2>{card(_table(found))}"
    yield (
        "<footer>Mean (standard deviation over seeds) at the end of each run; small: the mean difference to "
        f"{escape(next(iter(groups)))} over shared seeds, in percentage points where it is an accuracy. "
        "Bold: the best mean of a score.</footer>"
    )


def notices(found: Sequence[Row]) -> Iterator[str]:
    """What a reader must know before the numbers, as plain text."""
    for row in found:
        if row["unfinished"]:
            count = words.plural(row["unfinished"], "run")
            yield f"{row['label']}: {count} of {row['n']} did not reach the end; taken as far as recorded."
    few = [row["label"] for row in found if row["n"] == 1]
    if few:
        yield f"One seed only, so no spread is known: {', '.join(few)}."
    apart = [row["label"] for row in found[1:] if not row["pairs"]]
    if apart:
        yield f"No seed shared with {found[0]['label']}, so no paired difference: {', '.join(apart)}."


def _curves(groups: Mapping[str, Group], *, share: bool) -> Iterator[str]:
    name = "Accuracy" if share else "Score"
    several = any(len(group) > 1 for group in groups.values())
    caption = "Mean of the seeds while all of them ran, a band of one standard deviation, seeds as thin lines."
    caption = caption if several else "One seed."
    yield figure(f"{name}, round by round", bands.by_round(groups, "accuracy", f"{name} against rounds"), caption)
    title = "Accuracy on low-held classes"
    yield figure(
        title, bands.by_round(groups, "low_held_accuracy", title), "Classes held mostly by low-resource clients."
    )
    title = f"{name} against what a low-resource client sends"
    nothing = "Low-resource clients sent nothing in any run."
    svg = bands.by_uplink(groups, "accuracy", title)
    yield figure(title, svg, "Logarithmic; at 0: a client that sent nothing.", instead=nothing)
    yield figure("Test loss", bands.by_round(groups, "loss", "Test loss against rounds"), "Lower is better.")


def _pairs(groups: Mapping[str, Group], *, share: bool) -> Iterator[str]:
    first = next(iter(groups))
    caption = f"Each dot is a seed that the label shares with {escape(first)}; the bar ends at their mean."
    nothing = "There is no second label, or no seed is shared with the first."
    for metric, name in (("accuracy", "Accuracy" if share else "Score"), ("low_held_accuracy", "Low-held accuracy")):
        title = f"{name}, difference to {first}"
        yield figure(
            title, contrasts.paired(groups, metric, title), caption, instead=nothing if metric == "accuracy" else ""
        )


def _rest(groups: Mapping[str, Group]) -> Iterator[str]:
    first = next(iter(groups))
    many = len(next((means for group in groups.values() if (means := contrasts.class_means(group))), [])) > 20
    ticks = "sorted from best to worst" if many else f"black ticks: {escape(first)}"
    more = f" The first {contrasts.PANELS} labels." if len(groups) > contrasts.PANELS else ""
    yield figure("Accuracy of each class", contrasts.class_panels(groups), f"Mean of the seeds; {ticks}.{more}")
    caption = "▲ up, ▼ down; open: what FedAvg would have sent with the same cohorts. Logarithmic, mean of the seeds."
    yield figure("Bytes of a low-resource client", contrasts.traffic(groups), caption)


def _table(found: list[Row]) -> str:
    best = {metric: _best(found, metric) for metric in METRICS}
    lines = []
    for index, row in enumerate(found):
        cells = [_chip(index, row["label"]), str(row["n"])]
        for metric in METRICS:
            value = mean_sd(row, metric)
            cell = f"<strong>{value}</strong>" if row[f"{metric}_mean"] == best[metric] is not None else value
            difference = row[f"{metric}_difference"]
            small = f"<small>{shown_difference(row, metric)}</small>" if words.defined(difference) else ""
            cells.append(cell + small)
        lines.append(cells)
    return html_table(["", "seeds", *(HEADINGS[metric] for metric in METRICS)], lines)


def _best(found: Sequence[Row], metric: str) -> words.Number | None:
    known: list[words.Number] = [row[f"{metric}_mean"] for row in found if words.defined(row[f"{metric}_mean"])]
    if len(set(known)) < 2 or metric not in _JUDGED:
        return None
    return min(known) if metric == "loss" else max(known)


def _chip(index: int, label: str) -> str:
    colour, dashes = series_style(index)
    dash = "" if dashes == "solid" else ' stroke-dasharray="5 3"'
    line = f'<line x1="1" x2="25" y1="5" y2="5" stroke="{colour}" stroke-width="3"{dash}/>'
    return f'<span class="chip"><svg viewBox="0 0 26 10" aria-hidden="true">{line}</svg>{escape(label)}</span>'


def _facts(groups: Mapping[str, Group]) -> str:
    runs = [run.summary for group in groups.values() for run in group.values()]
    facts = [words.plural(len(groups), "label"), words.plural(len(runs), "run")]
    facts.append("recipes: " + words.shorten(", ".join(sorted({summary["recipe"] for summary in runs})), 80))
    nets = sorted({summary.get("net") or words.UNDEFINED for summary in runs})
    return " · ".join([*facts, words.shorten(", ".join(nets), 60)])


def _title(labels: list[str]) -> str:
    first, *others = labels
    if not others:
        return first
    return f"{first} and {others[0]}" if len(others) == 1 else f"{first} and {len(others)} others"
