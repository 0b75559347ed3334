"""Figures that set labels side by side: paired differences, classes, bytes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zowarmup.report import words
from zowarmup.report.bands import Groups, classification
from zowarmup.report.canvas import GRID, INK, MUTED, OTHER, WIDTH, Axes, Figure, axes, dark, draw, mixed, series_style
from zowarmup.report.classes import NAMED, ticks
from zowarmup.report.curves import byte_axis, score_axis
from zowarmup.report.records import RunRecord
from zowarmup.report.tables import Group, differences, values
from zowarmup.report.words import Number

PANELS = 12
"""At most this many panels of classes."""


def paired(groups: Groups, metric: str, title: str) -> str | None:
    """Difference to the first label, a dot a shared seed and a bar at the mean; None where no seed is shared."""
    first, *others = groups
    base = {seed: values(run) for seed, run in groups[first].items()}
    found = {
        label: list(differences({s: values(r) for s, r in groups[label].items()}, base, metric).values())
        for label in others
    }
    if not any(found.values()):
        return None
    height = max(120.0, 66 + 34.0 * len(others))
    show = words.points if classification(groups) else (lambda value: words.signed(f"{value:+.3g}"))
    return draw(f"paired-{metric}", title, height, lambda figure: _paired(figure, groups, found, show))


def class_panels(groups: Groups) -> str | None:
    """A panel of class bars for each label, mean of its seeds, the first label's as ticks; None without classes."""
    means = {label: mean for label, group in groups.items() if (mean := class_means(group))}
    if not means or not classification(groups):
        return None
    means = dict(list(means.items())[:PANELS])
    rows = math.ceil(len(means) / 2)
    return draw(
        "panels", "accuracy of each class", 24 + 104.0 * rows, lambda figure: _panels(figure, groups, means, rows)
    )


def class_means(group: Group) -> list[Number]:
    """Mean accuracy of each class at the end, over seeds that define it; empty where classes are unknown."""
    finals = [run.summary["final"].get("class_accuracy") or [] for run in group.values()]
    count = min((len(final) for final in finals), default=0)
    columns = [[value for final in finals if words.defined(value := final[k])] for k in range(count)]
    return [statistics.fmean(column) if column else math.nan for column in columns]


def traffic(groups: Groups) -> str:
    """Mean bytes of a low-resource client over the run, up and down, mean of the seeds."""
    height = max(130.0, 72 + 34.0 * len(groups))
    return draw("bytes", "bytes of a low-resource client", height, lambda figure: _traffic(figure, groups))


def _paired(figure: Figure, groups: Groups, found: Mapping[str, list[Number]], show: Callable[[Number], str]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax = axes(figure, 110, 44, 36, 14)
    order = {label: index for index, label in enumerate(groups)}
    for row, (label, column) in enumerate(found.items()):
        colour, _ = series_style(order[label])
        if not column:
            continue
        mean = statistics.fmean(column)
        ax.plot([0, mean], [row, row], color=mixed(colour, "#ffffff", 0.3), lw=5, solid_capstyle="butt", zorder=2)
        ax.plot(column, [row] * len(column), "o", color=colour, alpha=0.55, ms=6, mew=0, zorder=3)
        ax.plot([mean, mean], [row - 0.3, row + 0.3], color=colour, lw=2.6, zorder=4)
        ax.annotate(
            show(mean),
            (1, row),
            (8, 0),
            xycoords=ax.get_yaxis_transform(),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.axvline(0, color=INK, lw=1.1)
    ax.annotate(
        words.shorten(next(iter(groups)), 24),
        (0, 1),
        (0, 2),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=8,
        color=MUTED,
    )
    _label_rows(ax, list(found), [order[label] for label in found])
    ax.grid(axis="x", color=GRID)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    scale = 100 if show is words.points else 1
    ax.xaxis.set_major_formatter(FuncFormatter(lambda at, _: words.signed(f"{scale * at:+.3g}") if at else "0"))
    ax.set_xlabel("difference, percentage points" if show is words.points else "difference")


def _panels(figure: Figure, groups: Groups, means: Mapping[str, list[Number]], rows: int) -> None:
    order = {label: index for index, label in enumerate(groups)}
    first = means.get(next(iter(groups)), [])
    for index, (label, column) in enumerate(means.items()):
        row, right = divmod(index, 2)
        left = 30.0 if not right else WIDTH / 2 + 20
        ax = axes(figure, left, WIDTH - left - (WIDTH / 2 - 26), 32 + 104 * (rows - 1 - row), 104 * row + 18)
        colour, _ = series_style(order[label])
        few = len(column) <= NAMED
        heights = column if few else sorted(column, key=lambda y: -y if math.isfinite(y) else 1.0)
        ax.bar(range(len(column)), heights, width=0.76 if few else 1.0, color=colour, linewidth=0)
        if index and few and len(first) == len(column):
            ticks(ax, {k: value for k, value in enumerate(first) if words.defined(value)})
        score_axis(ax, [1.0], share=True)
        ax.set_yticks([0, 0.5, 1.0])
        ax.tick_params(labelleft=not right, labelsize=7.5)
        ax.set_xlim(-0.6, len(column) - 0.4)
        ax.set_xticks(range(len(column)) if len(column) <= 10 else [], None)
        ax.tick_params(axis="x", length=0, pad=1)
        ax.set_title(words.shorten(label, 30), fontsize=9, color=dark(colour), loc="left", pad=3, weight="bold")


def _traffic(figure: Figure, groups: Groups) -> None:
    ax = axes(figure, 110, 16, 38, 12)
    sent = [_mean_low(group, lambda run: run.summary["bytes"]) for group in groups.values()]
    fedavg = [_mean_low(group, lambda run: run.summary["fedavg_bytes"]) for group in groups.values()]
    places, _ = byte_axis(ax, [count for pair in (*sent, *fedavg) for count in pair])
    for row in range(len(groups)):
        colour, _ = series_style(row)
        base = 2 * (len(groups) + row)
        for at, marker, shift in ((0, "^", -0.13), (1, "v", 0.13)):
            ax.plot(places[base + at], row + shift, marker, mfc="#ffffff", mec=OTHER, mew=1.3, ms=7, clip_on=False)
            ax.plot(places[2 * row + at], row + shift, marker, color=colour, ms=7.5, clip_on=False, zorder=4)
        up = words.size(sent[row][0])
        ax.annotate(
            up,
            (places[2 * row], row - 0.13),
            (0, 6),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color=dark(colour),
        )
    _label_rows(ax, list(groups), list(range(len(groups))))
    ax.set_ylim(len(groups) - 0.5, -0.7)
    ax.set_xlabel("bytes of a low-resource client over the run, on average")


def _label_rows(ax: Axes, labels: Sequence[str], order: Sequence[int]) -> None:
    ax.set_yticks(range(len(labels)), [words.shorten(label, 20) for label in labels], fontsize=8.5)
    ax.tick_params(axis="y", pad=9)
    for text, index in zip(ax.get_yticklabels(), order, strict=True):
        text.set_color(dark(series_style(index)[0]))
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.spines["left"].set_visible(False)


def _mean_low(group: Group, which: Callable[[RunRecord], Any]) -> tuple[float, float]:
    """Uplink and downlink bytes of a low-resource client, mean over clients and seeds."""
    runs = [run for run in group.values() if run.clients("low")]
    up = [which(run)["uplink"]["low"] / run.clients("low") for run in runs]
    down = [which(run)["downlink"]["low"] / run.clients("low") for run in runs]
    return (statistics.fmean(up), statistics.fmean(down)) if runs else (0.0, 0.0)
