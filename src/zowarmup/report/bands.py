"""Methods over their rounds, bytes or passes: the mean of the seeds, a band around it, each seed as a thin line."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from zowarmup.report import words
from zowarmup.report.canvas import Axes, Figure, axes, dark, draw, series_marker, series_style, series_width, thin
from zowarmup.report.curves import HEIGHT, count_axis, end_labels, score_axis
from zowarmup.report.grid import Split
from zowarmup.report.records import Round, RunRecord, scalar
from zowarmup.report.words import Number

_BUDGET = 4500  # points of all thin lines of a figure together: keeps the file small
FEW = 7
"""Up to this many lines have their names at their ends, and seeds of their own; more have a key beside the axes."""
_KEY = 10.5  # height of a name in the key, in points
Points = Sequence[tuple[int, float, float]]  # (round, x, y) of one seed
Place = Callable[[RunRecord, Round], float]


class Across(NamedTuple):
    """What an x axis shows.

    Args:
        label: below the axis.
        show: how a tick is printed, on a logarithmic axis; None makes it linear.
        zero: whether the points at 0 are of interest; the last of them is drawn then.
    """

    label: str
    show: Callable[[Number | None], str] | None = None
    zero: bool = True


def by_round(split: Split, key: str, title: str) -> str | None:
    """``key`` against rounds; None where no run has it."""
    return _bands("rounds", title, split, key, lambda run, line: float(line["round"]), Across("round"))


def by_uplink(split: Split, key: str, title: str) -> str | None:
    """``key`` against mean uplink bytes of a low-resource client, logarithmic; None where none sends anything."""
    across = Across("bytes sent by a low-resource client since the start, on average", words.size)
    return _bands("uplink", title, split, key, _low_bytes, across) if _ever(split, _low_bytes) else None


def by_samples(split: Split, key: str, title: str) -> str | None:
    """``key`` against samples through the network, of all clients, logarithmic; None where no run has counted them.

    A sample forward counts one, and so does a sample backward.
    """
    across = Across("samples through the network since the start", words.amount, zero=False)
    return _bands("samples", title, split, key, _samples, across) if _ever(split, _samples) else None


def _ever(split: Split, place: Place) -> bool:
    return any(place(run, run.metrics[-1]) for group in split.groups.values() for run in group.values())


def _bands(name: str, title: str, split: Split, key: str, place: Place, across: Across) -> str | None:
    curves = {
        method: [_curve(run, key, place, across) for run in group.values()] for method, group in split.groups.items()
    }
    if not any(curve for each in curves.values() for curve in each):
        return None
    share = key != "loss" and split.classification
    paint = _paint_few if len(curves) <= FEW else _paint_many
    return draw(
        f"{split.prefix}{name}-{key}",
        title,
        height_of(len(curves)),
        lambda figure: paint(figure, split, curves, across, share),
    )


def _curve(run: RunRecord, key: str, place: Place, across: Across) -> Points:
    """A run's evaluations; those that are not finite left out, and all (or all but the last) at 0."""
    points = [
        (line["round"], place(run, line), float(value))
        for line in run.evaluated
        if words.defined(value := scalar(line, key))
    ]
    silent = sum(x == 0 for _, x, _ in points)
    return points[max(0, silent - across.zero) :]


class _Line(NamedTuple):
    """A method's mean: its name, style number, and ``(x, mean, sd)`` of each round; one at least."""

    method: str
    style: int
    points: list[tuple[float, float, float]]
    seeds: int

    @property
    def end(self) -> tuple[float, float, float]:
        return self.points[-1]


def _paint_few(
    figure: Figure, split: Split, curves: Mapping[str, Sequence[Points]], across: Across, share: bool
) -> None:
    """Each seed as a thin line; names where lines end."""
    ax = axes(figure, 40, 102, 38, 12)
    at = _x_axis(ax, curves, across)
    limit = _limit(curves)
    for method, each in curves.items():
        _seeds(ax, [thin(curve, limit) for curve in each], at, series_style(split.styles[method])[0])
    lines = _lines(split, curves, at, limit)
    for line in lines:
        _draw(ax, line, faint=0.14, whisker=across.show is not None)
    score_axis(ax, [y for each in curves.values() for curve in each for *_, y in curve], share=share)
    names = [(line.end[0], line.end[1], words.squeeze(line.method, 17), _colour(line)) for line in lines]
    end_labels(ax, names, size=8.0)


def _paint_many(
    figure: Figure, split: Split, curves: Mapping[str, Sequence[Points]], across: Across, share: bool
) -> None:
    """Means and faint bands; names in a key beside the axes, from the highest end to the lowest."""
    ax = axes(figure, 40, 118, 38, 12)
    at = _x_axis(ax, curves, across)
    lines = _lines(split, curves, at, _limit(curves))
    for line in lines:
        _draw(ax, line, faint=0.05, whisker=across.show is not None)
    score_axis(ax, [mean + way * sd for line in lines for _, mean, sd in line.points for way in (-1, 1)], share=share)
    key_beside(ax, [(line.end[1], line.method, line.style) for line in lines])


def key_beside(ax: Axes, ends: Sequence[tuple[Number, str, int]]) -> None:
    """Names ``(y of the end, name, style number)`` beside the axes, from the highest to the lowest; over no data."""
    step = _KEY / (ax.get_position().height * ax.figure.get_size_inches()[1] * 72)
    for row, (_, name, index) in enumerate(sorted(ends, key=lambda end: -end[0])):
        y, (colour, dashes) = 1 - step * (row + 0.5), series_style(index)
        style: dict[str, Any] = {"transform": ax.transAxes, "clip_on": False}
        ax.plot([1.03, 1.11], [y, y], color=colour, linestyle=dashes, lw=series_width(index), **style)
        ax.plot(1.07, y, series_marker(index), color=colour, ms=4, **style)
        text: dict[str, Any] = {"color": dark(colour), "weight": "normal" if index else "bold"}
        ax.text(1.13, y, words.squeeze(name, 21), va="center", fontsize=7.5, transform=ax.transAxes, **text)


def height_of(lines: int) -> float:
    """Height of a figure whose ``lines`` have their names in a key."""
    return max(HEIGHT, 50 + _KEY * lines)


def _x_axis(ax: Axes, curves: Mapping[str, Sequence[Points]], across: Across) -> dict[float, float]:
    """Where each x lies on the axis."""
    xs = dict.fromkeys(x for each in curves.values() for curve in each for _, x, _ in curve)
    ax.set_xlabel(across.label)
    if across.show is not None:
        return dict(zip(xs, count_axis(ax, list(xs), show=across.show)[0], strict=True))
    ax.set_xlim(0, max(1.0, *xs))
    return {x: x for x in xs}


def _lines(split: Split, curves: Mapping[str, Sequence[Points]], at: Mapping[float, float], limit: int) -> list[_Line]:
    found = [
        _Line(method, split.styles[method], thin(summarise(each, at), 2 * limit), len(each))
        for method, each in curves.items()
    ]
    return [line for line in found if line.points]


def _draw(ax: Axes, line: _Line, *, faint: float, whisker: bool) -> None:
    colour, dashes = series_style(line.style)
    xs, means, sds = zip(*line.points, strict=True)
    low, high = ([m + way * s for m, s in zip(means, sds, strict=True)] for way in (-1, 1))
    front = 5 if not line.style else 4  # the baseline above the others
    if line.seeds > 1:
        ax.fill_between(xs, low, high, color=colour, alpha=faint, linewidth=0)
    ax.plot(xs, means, color=colour, linestyle=dashes, lw=series_width(line.style), zorder=front, clip_on=False)
    if whisker or len(set(xs)) == 1:
        ax.plot([xs[-1]] * 2, [low[-1], high[-1]], color=colour, lw=1.2, zorder=front, clip_on=False)
        ax.plot(xs[-1], means[-1], series_marker(line.style), color=colour, ms=5.5, zorder=front, clip_on=False)


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
            xs, ys = [at[x] for _, x, _ in curve], [y for *_, y in curve]
            ax.plot(xs, ys, color=colour, lw=0.7, alpha=0.4, clip_on=False)


def _limit(curves: Mapping[str, Sequence[Points]]) -> int:
    return max(25, min(200, _BUDGET // (3 * sum(map(len, curves.values())))))


def _colour(line: _Line) -> str:
    return series_style(line.style)[0]


def _low_bytes(run: RunRecord, line: Round) -> float:
    return line["uplink_bytes"]["low"] / max(1, run.clients("low"))


def _samples(run: RunRecord, line: Round) -> float:
    both = (line.get("forward_samples"), line.get("backward_samples"))
    return float(sum(tiers["high"] + tiers["low"] for tiers in both if tiers is not None))
