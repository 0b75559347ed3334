"""Figures that set labels side by side: paired differences, classes, bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zowarmup.report import words
from zowarmup.report.canvas import GRID, INK, MUTED, OTHER, WIDTH, Axes, Figure, axes, dark, draw, mixed, series_style
from zowarmup.report.classes import NAMED, ticks
from zowarmup.report.curves import count_axis, score_axis
from zowarmup.report.grid import Group, Split
from zowarmup.report.intervals import bootstrap
from zowarmup.report.records import RunRecord
from zowarmup.report.tables import by_seed, differences
from zowarmup.report.words import Number

PANELS = 12
"""At most this many panels of classes."""
_FEW = 7  # rows that get room to breathe


def paired(split: Split, metric: str, title: str) -> str | None:
    """Difference to the baseline: a dot a shared seed, a bar at the mean, a line over its 95 % interval.

    None where no seed is shared.
    """
    base = by_seed(split.groups.get(split.baseline, {}))
    found = {method: list(differences(by_seed(split.groups[method]), base, metric).values()) for method in split.others}
    if not any(found.values()):
        return None
    height = max(120.0, 66 + _row_height(len(found)) * len(found))
    return draw(f"{split.prefix}paired-{metric}", title, height, lambda figure: _paired(figure, split, found))


def class_panels(split: Split) -> str | None:
    """A panel of class bars for each method, mean of its seeds, the baseline's as ticks; None without classes."""
    means = {method: mean for method, group in split.groups.items() if (mean := class_means(group))}
    if not means or not split.classification:
        return None
    base = means.get(split.baseline, [])
    means = dict(list(means.items())[:PANELS])
    rows = math.ceil(len(means) / 2)
    height = 24 + 104.0 * rows
    name, title = f"{split.prefix}panels", "accuracy of each class"
    return draw(name, title, height, lambda figure: _panels(figure, split, means, base))


def class_means(group: Group) -> list[Number]:
    """Mean accuracy of each class at the end, over seeds that define it; empty where classes are unknown."""
    finals = [run.summary["final"].get("class_accuracy") or [] for run in group.values()]
    count = min((len(final) for final in finals), default=0)
    columns = [[value for final in finals if words.defined(value := final[k])] for k in range(count)]
    return [statistics.fmean(column) if column else math.nan for column in columns]


def traffic(split: Split) -> str:
    """Mean bytes of a low-resource client over the run, up and down, mean of the seeds."""
    height = max(130.0, 72 + _row_height(len(split.groups)) * len(split.groups))
    title = "bytes of a low-resource client"
    return draw(f"{split.prefix}bytes", title, height, lambda figure: _traffic(figure, split))


def _row_height(rows: int) -> float:
    return 34.0 if rows <= _FEW else 21.0


def _paired(figure: Figure, split: Split, found: Mapping[str, list[Number]]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    share = split.classification
    ax = axes(figure, 110, 88, 36, 14)
    for row, (method, column) in enumerate(found.items()):
        if column:
            _difference(ax, row, column, series_style(split.styles[method])[0], share=share)
    ax.axvline(0, color=INK, lw=1.1)
    ax.annotate(
        words.squeeze(split.baseline, 24),
        (0, 1),
        (0, 2),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color=MUTED,
    )
    _label_rows(ax, split, list(found))
    ax.grid(axis="x", color=GRID)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    scale = 100 if share else 1
    ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: words.signed(f"{scale * at:+.3g}") if at else "0"))
    ax.set_xlabel("difference, percentage points" if share else "difference")


def _difference(ax: Axes, row: int, column: list[Number], colour: str, *, share: bool) -> None:
    mean, interval = statistics.fmean(column), bootstrap(column)
    pale = mixed(colour, "#ffffff", 0.3)
    ax.plot([0, mean], [row, row], color=pale, lw=5, solid_capstyle="butt", zorder=2)
    ax.plot(column, [row + 0.16] * len(column), "o", color=colour, alpha=0.55, ms=4.5, mew=0, zorder=3)
    ax.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, lw=2.6, zorder=4)
    text = words.points(mean) if share else words.signed(f"{mean:+.3g}")
    if interval is not None:
        ax.plot(interval, [row, row], color=colour, lw=1.4, zorder=4)
        ax.plot(interval, [row, row], "|", color=colour, ms=6, mew=1.4, zorder=4)
        low, high = (f"{100 * end:.1f}" if share else f"{end:.3g}" for end in interval)
        text += words.signed(f" [{low}, {high}]")
    style = {"xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "va": "center", "fontsize": 8}
    ax.annotate(text, (1, row), (8, 0), **style)


def _panels(figure: Figure, split: Split, means: Mapping[str, list[Number]], base: Sequence[Number]) -> None:
    rows = math.ceil(len(means) / 2)
    for index, (method, column) in enumerate(means.items()):
        row, right = divmod(index, 2)
        left = 30.0 if not right else WIDTH / 2 + 20
        ax = axes(figure, left, WIDTH - left - (WIDTH / 2 - 26), 32 + 104 * (rows - 1 - row), 104 * row + 18)
        colour, _ = series_style(split.styles[method])
        few = len(column) <= NAMED
        heights = column if few else sorted(column, key=lambda y: -y if math.isfinite(y) else 1.0)
        ax.bar(range(len(column)), heights, width=0.76 if few else 1.0, color=colour, linewidth=0)
        if method != split.baseline and few and len(base) == len(column):
            ticks(ax, {k: value for k, value in enumerate(base) if words.defined(value)})
        score_axis(ax, [1.0], share=True)
        ax.set_yticks([0, 0.5, 1.0])
        ax.tick_params(labelleft=not right, labelsize=7.5)
        ax.set_xlim(-0.6, len(column) - 0.4)
        ax.set_xticks(range(len(column)) if len(column) <= 10 else [], None)
        ax.tick_params(axis="x", length=0, pad=1)
        ax.set_title(words.squeeze(method, 30), fontsize=9, color=dark(colour), loc="left", pad=3, weight="bold")


def _traffic(figure: Figure, split: Split) -> None:
    few = len(split.groups) <= _FEW
    ax = axes(figure, 110, 16 if few else 58, 38, 12)
    groups = split.groups.values()
    sent = [_mean_low(group, lambda run: run.summary["bytes"]) for group in groups]
    fedavg = [_mean_low(group, lambda run: run.summary["fedavg_bytes"]) for group in groups]
    places, _ = count_axis(ax, [count for pair in (*sent, *fedavg) for count in pair])
    size = 7.5 if few else 5.5
    for row, method in enumerate(split.groups):
        colour, _ = series_style(split.styles[method])
        base = 2 * (len(groups) + row)
        for at, marker, shift in ((0, "^", -0.13), (1, "v", 0.13)):
            ax.plot(places[base + at], row + shift, marker, mfc="#ffffff", mec=OTHER, mew=1.3, ms=size, clip_on=False)
            ax.plot(places[2 * row + at], row + shift, marker, color=colour, ms=size, clip_on=False, zorder=4)
        style = {"textcoords": "offset points", "fontsize": 8, "color": dark(colour)}
        text = words.size(sent[row][0])
        if few:
            ax.annotate(text, (places[2 * row], row - 0.13), (0, 6), ha="center", va="bottom", **style)
        else:
            ax.annotate(f"▲ {text}", (1, row), (8, 0), xycoords=ax.get_yaxis_transform(), va="center", **style)
    _label_rows(ax, split, list(split.groups))
    ax.set_ylim(len(groups) - 0.5, -0.7)
    ax.set_xlabel("bytes of a low-resource client over the run, on average")


def _label_rows(ax: Axes, split: Split, methods: Sequence[str]) -> None:
    ax.set_yticks(range(len(methods)), [words.squeeze(method, 20) for method in methods], fontsize=8.5)
    ax.tick_params(axis="y", pad=9)
    for text, method in zip(ax.get_yticklabels(), methods, strict=True):
        text.set_color(dark(series_style(split.styles[method])[0]))
        text.set_weight("bold" if method == split.baseline else "normal")
    ax.set_ylim(len(methods) - 0.5, -0.5)
    ax.spines["left"].set_visible(False)


def _mean_low(group: Group, which: Callable[[RunRecord], Any]) -> tuple[float, float]:
    """Uplink and downlink bytes of a low-resource client, mean over clients and seeds."""
    runs = [run for run in group.values() if run.clients("low")]
    up = [which(run)["uplink"]["low"] / run.clients("low") for run in runs]
    down = [which(run)["downlink"]["low"] / run.clients("low") for run in runs]
    return (statistics.fmean(up), statistics.fmean(down)) if runs else (0.0, 0.0)
