"""A run over its rounds: accuracy, loss, and accuracy against what low-resource clients sent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from zowarmup.report import words
from zowarmup.report.canvas import (
    GRID,
    INK,
    LOW,
    MUTED,
    OTHER,
    WIDTH,
    Axes,
    Figure,
    axes,
    dark,
    draw,
    kind_colour,
    mixed,
    spread,
    thin,
)
from zowarmup.report.records import Round, RunRecord, scalar
from zowarmup.report.words import Number

HEIGHT = 225.0
_LEFT, _RIGHT, _BOTTOM, _TOP = 38.0, 72.0, 36.0, 22.0
_POINTS = 400
Series = tuple[str, str, str, float]  # key of a round, label, colour, line width


def accuracy_by_round(run: RunRecord) -> str:
    """Accuracy, low-held and worst-class accuracy against rounds; phases shaded, the pivot marked."""
    name = "accuracy" if run.classification else "score"
    lines: list[Series] = [
        ("worst_class_accuracy", "worst class", OTHER, 1.2),
        ("low_held_accuracy", "low-held", LOW, 2.0),
        ("accuracy", "all", INK, 2.4),
    ]
    return draw("rounds", f"{name} against rounds", HEIGHT, lambda figure: _by_round(figure, run, lines))


def loss_by_round(run: RunRecord) -> str:
    """Test loss against rounds; gaps where it is not a number."""
    lines: list[Series] = [("loss", "test loss", INK, 2.2)]
    return draw("loss", "test loss against rounds", HEIGHT, lambda figure: _by_round(figure, run, lines))


def accuracy_by_uplink(run: RunRecord) -> str | None:
    """Accuracy against bytes each low-resource client sent, logarithmic; None where they sent nothing."""
    if not run.clients("low") or not run.metrics[-1]["uplink_bytes"]["low"]:
        return None
    return draw("uplink", "accuracy against low-resource uplink bytes", HEIGHT, lambda figure: _by_uplink(figure, run))


def format_score(run: RunRecord) -> Callable[[Number | None], str]:
    """How a run's score is printed: percent, or a plain number where the task is no classification."""
    return words.percent if run.classification else words.number


def score_axis(ax: Axes, values: Sequence[Number], *, share: bool) -> None:
    """Limits and ticks of a y axis: shares from 0 to a round percentage, other numbers as they fall."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.grid(axis="y")
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if share:
        ax.set_ylim(0, _ceiling(max(values, default=1.0)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}\N{NO-BREAK SPACE}%"))
    elif values:
        margin = 0.08 * ((max(values) - min(values)) or abs(max(values)) or 1.0)
        ax.set_ylim(min(0.0, min(values) - margin) if min(values) < 2 * margin else min(values) - margin, None)
        ax.set_ylim(None, max(values) + margin)


def _ceiling(share: Number) -> float:
    """The next multiple of 20 %, of 5 % below 20 %."""
    step = 0.2 if share > 0.2 else 0.05
    return min(1.0, math.ceil(1.02 * share / step + 1e-9) * step)


def end_labels(ax: Axes, ends: Sequence[tuple[Number, Number, str, str]], *, size: float = 8.5) -> None:
    """Label lines at their ends ``(x, y, text, colour)``, moved apart up and down where they would touch."""
    bottom, top = ax.get_ylim()
    left, right = ax.get_xlim()
    box, (_, height) = ax.get_position(), ax.figure.get_size_inches() * 72
    lines = max((text.count("\n") + 1 for *_, text, _ in ends), default=1)
    gap = (size * 1.2 * lines + 1.5) * (top - bottom) / (box.height * height)
    places = spread([y for _, y, _, _ in ends], gap, bottom + gap / 3, top - gap / 3)
    step = 9 * (right - left) / (box.width * WIDTH)
    for (x, y, text, colour), place in zip(ends, places, strict=True):
        if abs(place - y) > gap / 6:
            ax.plot([x, x + step], [y, place], color=colour, lw=0.8, alpha=0.7, clip_on=False, zorder=3)
            ax.set_xlim(left, right)
        style = {"color": dark(colour), "fontsize": size, "linespacing": 1.15, "va": "center", "zorder": 6}
        style["bbox"] = {"facecolor": "#ffffff", "alpha": 0.65, "linewidth": 0, "pad": 0.6}
        ax.annotate(text, (x + step, place), (2, 0), textcoords="offset points", annotation_clip=False, **style)


def shade_phases(ax: Axes, run: RunRecord, *, falling: bool) -> None:
    """Tint each phase's rounds, name it above where it fits, mark the pivot where a rising or falling curve is not."""
    width = ax.get_position().width * WIDTH
    for phase in run.summary["phases"]:
        first, last = phase["first_round"] - 1, phase["last_round"]
        colour = kind_colour(phase["kind"])
        ax.axvspan(first, last, color=mixed(colour, "#ffffff", 0.1), linewidth=0, zorder=0)
        ax.plot([first, last], [1, 1], transform=ax.get_xaxis_transform(), color=colour, lw=3, clip_on=False)
        if (last - first) / max(1, ax.get_xlim()[1]) * width > 5.0 * len(phase["kind"]) + 4:
            ax.text(
                (first + last) / 2,
                1.035,
                phase["kind"],
                transform=ax.get_xaxis_transform(),
                ha="center",
                va="bottom",
                color=dark(colour),
                fontsize=8.5,
            )
    pivot = run.summary["pivot"]
    if pivot and pivot <= run.last_round:
        ax.axvline(pivot, color=MUTED, lw=1, linestyle=(0, (3, 2)))
        side = -1 if pivot > 0.7 * ax.get_xlim()[1] else 1
        ax.annotate(
            f"pivot, round {pivot}",
            (pivot, 1 if falling else 0),
            (4 * side, -13 if falling else 5),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            color=MUTED,
            fontsize=8,
            ha="left" if side > 0 else "right",
            bbox={"facecolor": "#ffffff", "alpha": 0.7, "linewidth": 0, "pad": 1},
            zorder=5,
        )


def _by_round(figure: Figure, run: RunRecord, lines: Sequence[Series]) -> None:
    ax = axes(figure, _LEFT, _RIGHT, _BOTTOM, _TOP)
    ax.set_xlim(0, max(run.planned_rounds, run.last_round, 1))
    evaluated, ends, seen = thin(run.evaluated, _POINTS), [], []
    share = run.classification and lines[0][0] != "loss"
    show = words.percent if share else words.number
    for key, label, colour, width in lines:
        rounds, values = [line["round"] for line in evaluated], [_value(line, key) for line in evaluated]
        known = [(at, value) for at, value in zip(rounds, values, strict=True) if math.isfinite(value)]
        if not known:
            continue
        marker = "o" if len(known) <= 20 else None
        ax.plot(rounds, values, color=colour, lw=width, marker=marker, ms=3.4, clip_on=False, zorder=3)
        ends.append((*known[-1], f"{label}\n{show(known[-1][1])}", colour))
        seen += [value for _, value in known]
    score_axis(ax, seen, share=share)
    shade_phases(ax, run, falling=lines[0][0] == "loss")
    if ends:
        end_labels(ax, ends)
    else:
        ax.text(0.5, 0.5, "no evaluated round has a finite value", transform=ax.transAxes, ha="center", color=MUTED)
    ax.set_xlabel("round")


def _by_uplink(figure: Figure, run: RunRecord) -> None:
    ax = axes(figure, _LEFT, _RIGHT, _BOTTOM, _TOP)
    low, evaluated = run.clients("low"), thin(run.evaluated, _POINTS)
    fedavg = run.summary["fedavg_bytes"]["uplink"]["low"] / low
    places, silent = count_axis(ax, [line["uplink_bytes"]["low"] / low for line in evaluated], extra=[fedavg])
    seen: list[float] = []
    ends = []
    for key, label, colour in (("low_held_accuracy", "low-held", LOW), ("accuracy", "all", INK)):
        pairs = [(x, y) for x, line in zip(places, evaluated, strict=True) if math.isfinite(y := _value(line, key))]
        pairs = after_silence(pairs, silent)
        if not pairs:
            continue
        xs, ys = zip(*pairs, strict=True)
        ax.plot(xs, ys, color=colour, lw=2.2, marker="o" if len(xs) <= 20 else None, ms=3.4, clip_on=False, zorder=3)
        ends.append((xs[-1], ys[-1], f"{label}\n{format_score(run)(ys[-1])}", colour))
        seen += ys
    score_axis(ax, seen, share=run.classification)
    end_labels(ax, ends)
    if fedavg > 0:
        at, sent = count_place(fedavg), run.summary["bytes"]["uplink"]["low"] / low
        if fedavg > 8 * sent > 0:
            _gap(ax, count_place(sent), at, f"{words.times(fedavg / sent)} less")
        ax.axvline(at, color=OTHER, lw=1.4, linestyle=(0, (1.2, 1.6)))
        ax.annotate(
            f"FedAvg: {words.size(fedavg)}",
            (at, 0),
            (-4, 5),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="right",
            color=MUTED,
            fontsize=8,
        )
    ax.set_xlabel("bytes sent by a low-resource client since the start, on average")


def _gap(ax: Axes, start: float, end: float, text: str) -> None:
    """A double arrow between two places of the x axis, a quarter up."""
    across = ax.get_xaxis_transform()
    arrow = {"arrowstyle": "<|-|>,head_width=.18,head_length=.4", "color": OTHER, "linewidth": 1.2}
    ax.annotate("", (start, 0.25), (end, 0.25), xycoords=across, textcoords=across, arrowprops=arrow)
    style = {"ha": "center", "va": "bottom", "weight": "bold", "fontsize": 9, "color": INK}
    ax.annotate(text, ((start + end) / 2, 0.25), (0, 4), xycoords=across, textcoords="offset points", **style)


def after_silence(pairs: list[tuple[float, float]], silent: float) -> list[tuple[float, float]]:
    """The points of a curve from the last one before the first byte: earlier ones all lie on the axis' 0.

    >>> after_silence([(-1.0, 0.2), (-1.0, 0.5), (2.0, 0.6)], -1.0)
    [(-1.0, 0.5), (2.0, 0.6)]
    """
    return pairs[max(0, sum(x == silent for x, _ in pairs) - 1) :]


def count_place(count: Number) -> float:
    """Where a count lies on a logarithmic axis: powers of ten, whose zero goes to a place of its own."""
    return math.log10(count) if count > 0 else -math.inf


def count_axis(
    ax: Axes,
    counts: Sequence[Number],
    *,
    extra: Sequence[Number] = (),
    show: Callable[[Number | None], str] = words.size,
) -> tuple[list[float], float]:
    """Make the x axis one of bytes or other counts, logarithmic, with a tick for zero where it is needed.

    Returns:
        The places of ``counts``, and the place of zero.
    """
    known = [count_place(count) for count in (*counts, *extra) if count > 0] or [0.0]
    lowest, highest = math.floor(min(known)), math.ceil(max(known) + 1e-9)
    zero = lowest - max(0.6, 0.15 * (highest - lowest))  # room between its tick and the next
    powers = range(lowest, highest + 1)
    step = math.ceil(len(powers) / 6)
    ticks = [power for power in powers if (power - highest) % step == 0]
    labels = [show(10.0**power) for power in ticks]
    silent = not all(counts)
    ax.set_xticks([zero, *ticks] if silent else ticks, ["0", *labels] if silent else labels)
    ax.set_xlim((zero if silent else lowest) - 0.1, highest + 0.1)
    ax.grid(axis="x", color=GRID)
    return [count_place(count) if count > 0 else zero for count in counts], zero


def _value(line: Round, key: str) -> float:
    value = scalar(line, key)
    return math.nan if value is None else value
