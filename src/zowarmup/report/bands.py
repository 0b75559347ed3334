"""Labels over their rounds: the mean of the seeds, a band around it, each seed as a thin line."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from zowarmup.report import words
from zowarmup.report.canvas import (
    Axes,
    Figure,
    axes,
    draw,
    series_style,
    thin,
)
from zowarmup.report.curves import HEIGHT, byte_axis, end_labels, score_axis
from zowarmup.report.records import Round, RunRecord, scalar
from zowarmup.report.tables import Group

_BUDGET = 4500  # points of all thin lines of a figure together: keeps the file small
Groups = Mapping[str, Group]
Points = Sequence[tuple[int, float, float]]  # (round, x, y) of one seed


def classification(groups: Groups) -> bool:
    """Whether every run knows classes, so that scores are shares."""
    return all(run.classification for group in groups.values() for run in group.values())


def by_round(groups: Groups, key: str, title: str) -> str | None:
    """``key`` against rounds: mean of the seeds, a band of one sd, each seed thin; None where no run has it."""
    return _bands(f"rounds-{key}", title, groups, key, lambda run, line: float(line["round"]))


def by_uplink(groups: Groups, key: str, title: str) -> str | None:
    """``key`` against mean uplink bytes of a low-resource client, logarithmic; None where none sends anything."""
    if not any(_low_bytes(run, run.metrics[-1]) for group in groups.values() for run in group.values()):
        return None
    return _bands(f"uplink-{key}", title, groups, key, _low_bytes, logarithmic=True)


def _bands(
    name: str,
    title: str,
    groups: Groups,
    key: str,
    place: Callable[[RunRecord, Round], float],
    *,
    logarithmic: bool = False,
) -> str | None:
    curves = {label: [_curve(run, key, place) for run in group.values()] for label, group in groups.items()}
    if not any(curve for each in curves.values() for curve in each):
        return None
    share = key != "loss" and classification(groups)
    return draw(
        name, title, HEIGHT, lambda figure: _paint(figure, groups, curves, share=share, logarithmic=logarithmic)
    )


def _curve(run: RunRecord, key: str, place: Callable[[RunRecord, Round], float]) -> Points:
    """A run's evaluations; those that are not finite left out, and all but the last before a first byte."""
    points = [
        (line["round"], place(run, line), float(value))
        for line in run.evaluated
        if words.defined(value := scalar(line, key))
    ]
    silent = sum(x == 0 for _, x, _ in points)
    return points[max(0, silent - 1) :]


def _paint(
    figure: Figure,
    groups: Groups,
    curves: Mapping[str, Sequence[Points]],
    *,
    share: bool,
    logarithmic: bool,
) -> None:
    many = len(groups) > 7  # names at line ends would not fit; the chips above tell colours and dashes
    limit = max(25, min(200, _BUDGET // (3 * sum(map(len, groups.values())))))
    ax = axes(figure, 40, 12 if many else 102, 38, 12)
    everything = [point for each in curves.values() for curve in each for point in curve]
    at = {x: x for _, x, _ in everything}
    if logarithmic:
        at = dict(zip(at, byte_axis(ax, list(at))[0], strict=True))
    else:
        ax.set_xlim(0, max(1.0, *at))
    ax.set_xlabel("bytes sent by a low-resource client since the start, on average" if logarithmic else "round")
    ends = []
    for index, (label, each) in enumerate(curves.items()):
        colour, dashes = series_style(index)
        _seeds(ax, [thin(curve, limit) for curve in each], at, colour)
        summary = thin(summarise(each, at), 2 * limit)
        if not summary:
            continue
        xs, means, sds = zip(*summary, strict=True)
        if len(each) > 1:
            low, high = zip(*((m - s, m + s) for m, s in zip(means, sds, strict=True)), strict=True)
            ax.fill_between(xs, low, high, color=colour, alpha=0.14, linewidth=0)
        marker = "o" if len(set(xs)) == 1 else None
        ax.plot(xs, means, color=colour, linestyle=dashes, marker=marker, ms=5, lw=2.2, zorder=4, clip_on=False)
        ends.append((xs[-1], means[-1], words.shorten(label, 20), colour))
    score_axis(ax, [y for *_, y in everything], share=share)
    if not many:
        end_labels(ax, ends, size=8.0)


def summarise(curves: Sequence[Points], at: Mapping[float, float]) -> list[tuple[float, float, float]]:
    """Place, mean and standard deviation of each round that every seed has.

    Args:
        curves: for each seed, ``(round, x, y)``.
        at: where ``x`` lies on the axis.

    >>> summarise([[(0, 0.0, 1.0), (9, 9.0, 2.0)], [(0, 0.0, 4.0)]], {0.0: 0.0, 9.0: 9.0})
    [(0.0, 2.5, 2.1213203435596424)]
    """
    known = [{moment: (at[x], y) for moment, x, y in curve} for curve in curves if curve]
    rounds = sorted(set.intersection(*map(set, known))) if known else []
    columns = [[curve[moment] for curve in known] for moment in rounds]
    return [(statistics.fmean(x for x, _ in column), *_spread([y for _, y in column])) for column in columns]


def _spread(column: list[float]) -> tuple[float, float]:
    return statistics.fmean(column), statistics.stdev(column) if len(column) > 1 else 0.0


def _seeds(ax: Axes, curves: Sequence[Points], at: Mapping[float, float], colour: str) -> None:
    if len(curves) > 1:
        for curve in curves:
            ax.plot(
                [at[x] for _, x, _ in curve], [y for *_, y in curve], color=colour, lw=0.7, alpha=0.4, clip_on=False
            )


def _low_bytes(run: RunRecord, line: Round) -> float:
    return line["uplink_bytes"]["low"] / max(1, run.clients("low"))
