"""How much a tuned setting matters: the score of what was tried, by method, and what was chosen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from zowarmup.report import words
from zowarmup.report.bands import FEW, height_of, key_beside
from zowarmup.report.canvas import (
    GRID,
    Axes,
    Figure,
    axes,
    draw,
    series_marker,
    series_style,
    series_width,
    thin,
)
from zowarmup.report.curves import end_labels, score_axis
from zowarmup.report.grid import Grid, Trial
from zowarmup.report.page import html_table
from zowarmup.report.shown import shown_choice
from zowarmup.report.words import Number

_TICKS = 8
_NAME = 17


class Tried(NamedTuple):
    """What a method scored with some settings.

    Args:
        method: the method.
        split: where.
        values: the settings, by recipe key.
        scores: one a seed, those that are defined.
    """

    method: str
    split: str
    values: Mapping[str, Any]
    scores: tuple[Number, ...]

    @property
    def mean(self) -> float:
        """Over seeds; NaN where no seed has a score."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.nan

    @property
    def sd(self) -> float:
        """Over seeds; 0 for one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


class Line(NamedTuple):
    """A method's score against one of its tuned settings.

    Args:
        method: the method.
        key: the recipe key.
        points: value -> the best of what was tried with that value, its other settings free; ascending where numbers.
        chosen: the value chosen; None where unknown.
    """

    method: str
    key: str
    points: dict[Any, Tried]
    chosen: Any


def tried(trials: Sequence[Trial]) -> list[Tried]:
    """Trials that differ in nothing but the seed, together, in order."""
    found: dict[tuple[str, str, str], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.method, trial.split, repr(sorted(trial.values.items()))), []).append(trial)
    return [
        Tried(each[0].method, each[0].split, each[0].values, tuple(t.score for t in each if words.defined(t.score)))
        for each in found.values()
    ]


def lines(found: Sequence[Tried], name: str, choices: Mapping[str, Mapping[str, Any]]) -> list[Line]:
    """A line for each method and tuned key that ends in ``name``, of what was tried at one split.

    Args:
        found: what was tried at the split.
        name: the last part of the keys: ``"lr"`` for ``phase.1.lr``.
        choices: method -> settings chosen.
    """
    made = []
    for method in dict.fromkeys(each.method for each in found):
        known = [each for each in found if each.method == method and each.scores]
        for key in dict.fromkeys(key for each in known for key in each.values if last(key) == name):
            points: dict[Any, Tried] = {}
            for each in known:
                value = _plain(each.values.get(key))
                if key in each.values and (value not in points or points[value].mean < each.mean):
                    points[value] = each
            if all(map(_is_number, points)):
                points = dict(sorted(points.items()))
            made.append(Line(method, key, points, _plain(choices.get(method, {}).get(key))))
    return made


def last(key: str) -> str:
    """The last part of a recipe key.

    >>> last("phase.1.lr")
    'lr'
    """
    return key.rpartition(".")[2]


def figures(grid: Grid, trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """Title and picture for each split and each kind of tuned setting, methods together."""
    found = tried(trials)
    styles = grid.splits[0].styles
    splits = list(dict.fromkeys(each.split for each in found))
    for index, split in enumerate(splits):
        here = [each for each in found if each.split == split]
        for name in dict.fromkeys(last(key) for each in here for key in each.values):
            drawn = [line for line in lines(here, name, choices_at(grid, split)) if line.points]
            if not drawn:
                continue
            title = f"Validation score against {name}" + (f", {split}" if split else "")
            yield title, _picture(f"tuned{index}-{name}", title, drawn, styles, share=grid.classification)


def choices_at(grid: Grid, split: str) -> dict[str, Mapping[str, Any]]:
    """Method -> settings chosen, at this split or, where a method was tuned at one split for all, at any."""
    found: dict[str, Mapping[str, Any]] = {}
    for each in sorted(grid.splits, key=lambda other: other.name != split):
        for method, choice in each.choices.items():
            found.setdefault(method, choice)
    return found


def choice_table(grid: Grid, trials: Sequence[Trial]) -> str:
    """What was tried, as an HTML table: the score of each setting, the chosen one bold."""
    rows = []
    several = len({trial.split for trial in trials}) > 1
    for each in tried(trials):
        chosen = choices_at(grid, each.split).get(each.method) == each.values
        score = words.percent(each.mean) if grid.classification else words.number(each.mean)
        cells = [escape(each.method), escape(shown_choice(each.values)), str(len(each.scores)), score]
        cells = [f"<strong>{cell}</strong>" if chosen and index else cell for index, cell in enumerate(cells)]
        rows.append([cells[0], *([escape(each.split)] if several else []), *cells[1:]])
    return html_table(["", *(["split"] if several else []), "settings", "seeds", "validation score"], rows)


def _picture(name: str, title: str, drawn: Sequence[Line], styles: Mapping[str, int], *, share: bool) -> str:
    height = height_of(len(drawn) if len(drawn) > FEW else 0)
    return draw(name, title, height, lambda figure: _paint(figure, drawn, styles, share=share))


def _paint(figure: Figure, drawn: Sequence[Line], styles: Mapping[str, int], *, share: bool) -> None:
    few = len(drawn) <= FEW
    ax = axes(figure, 40, 102 if few else 118, 38, 12)
    at = _x_axis(ax, list(dict.fromkeys(value for line in drawn for value in line.points)))
    seen, ends = [], []
    for line in drawn:
        index = styles.get(line.method, len(styles))
        colour, dashes = series_style(index)
        means = [each.mean for each in line.points.values()]
        xs = [at[value] for value in line.points]
        for x, each, mean in zip(xs, line.points.values(), means, strict=True):
            ax.plot([x, x], [mean - each.sd, mean + each.sd], color=colour, lw=0.9, alpha=0.5, zorder=3)
            seen += [mean - each.sd, mean + each.sd]
        style = {"color": colour, "linestyle": dashes, "lw": series_width(index), "clip_on": False}
        ax.plot(xs, means, marker=series_marker(index), ms=4, zorder=4, **style)
        if line.chosen in line.points:
            ring = {"mfc": "#ffffff", "mec": colour, "mew": 2.2, "ms": 9, "clip_on": False, "zorder": 6}
            ax.plot(at[line.chosen], means[list(line.points).index(line.chosen)], "o", **ring)
        twice = sum(other.method == line.method for other in drawn) > 1
        ends.append((xs[-1], means[-1], f"{line.method}, {line.key}" if twice else line.method, index))
    score_axis(ax, [max(0.0, value) for value in seen] if share else seen, share=share)
    ax.set_xlabel(" or ".join(dict.fromkeys(line.key for line in drawn)), fontsize=8)
    if few:
        end_labels(ax, [(x, y, words.squeeze(n, _NAME), series_style(i)[0]) for x, y, n, i in ends], size=8.0)
    else:
        key_beside(ax, [(y, name, index) for _, y, name, index in ends])


def _x_axis(ax: Axes, tried_values: Sequence[Any]) -> dict[Any, float]:
    """Where each value lies: logarithmic for positive numbers, else side by side."""
    numbers = all(map(_is_number, tried_values))
    ordered = sorted(tried_values) if numbers else list(tried_values)
    logarithmic = numbers and ordered[0] > 0
    at = {value: math.log10(value) if logarithmic else float(index) for index, value in enumerate(ordered)}
    ticks = thin(ordered, _TICKS)
    ax.set_xticks([at[value] for value in ticks], [f"{value:g}" if numbers else str(value) for value in ticks])
    margin = 0.06 * (max(at.values()) - min(at.values())) or 0.5
    ax.set_xlim(min(at.values()) - margin, max(at.values()) + margin)
    ax.grid(axis="x", color=GRID)
    return at


def _plain(value: Any) -> Any:
    """The value, or its text where it could be no key of a dictionary."""
    return value if isinstance(value, int | float | str | None) else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
