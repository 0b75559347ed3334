"""Classes: how well each is told, and who holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.report import words
from zowarmup.report.canvas import (
    HIGH,
    INK,
    LOW,
    MUTED,
    TIER,
    Axes,
    Figure,
    axes,
    dark,
    draw,
)
from zowarmup.report.curves import HEIGHT, score_axis
from zowarmup.report.measures import pivot_scores
from zowarmup.report.records import RunRecord

NAMED = 20
"""Up to this many classes are named; more are sorted and drawn as a profile."""
COLUMNS = 80
"""At most this many columns in the picture of who holds what; more clients share a column."""


def class_names(run: RunRecord) -> list[str]:
    """Names of the classes, their numbers where none are given."""
    counts = run.summary["federation"]["class_counts"] or [[]]
    names = run.summary["federation"]["class_names"] or []
    return [str(names[k]) if k < len(names) else str(k) for k in range(len(counts[0]))]


def low_held(run: RunRecord) -> set[int]:
    """Classes mostly held by low-resource clients."""
    return set(run.summary["federation"]["low_held_classes"] or [])


def class_bars(run: RunRecord) -> str | None:
    """Accuracy of each class at the end, low-held ones marked; None where there are none."""
    final = run.summary["final"].get("class_accuracy")
    if not final or not run.classification:
        return None
    shares = [value if words.defined(value) else math.nan for value in final]
    return draw("classes", "accuracy of each class", HEIGHT, lambda figure: _bars(figure, run, shares))


def holdings(run: RunRecord) -> str | None:
    """Who holds which classes: a column a client, high-resource ones on the left; None where there are no classes."""
    counts = run.summary["federation"]["class_counts"]
    if not counts or not counts[0]:
        return None
    table = np.array(counts, dtype=np.float64)
    return draw("holdings", "which clients hold which classes", HEIGHT, lambda figure: _holdings(figure, run, table))


def columns(shares: NDArray[np.float64], limit: int) -> NDArray[np.float64]:
    """Clients in order of the class they hold most, neighbours averaged into ``limit`` columns at most.

    Args:
        shares: each client's share of each class, shape ``(clients, classes)``.
        limit: ``>= 1``.

    Returns:
        Shape ``(columns, classes)``.

    >>> columns(np.array([[0.0, 1.0], [0.8, 0.2], [1.0, 0.0], [0.4, 0.6]]), 2)
    array([[0.9, 0.1],
           [0.2, 0.8]])
    """
    if not len(shares):
        return shares
    most = shares.argmax(axis=1)
    order = np.lexsort((-shares.max(axis=1), most))
    return np.array([part.mean(axis=0) for part in np.array_split(shares[order], min(limit, len(shares)))])


def clients_per_column(run: RunRecord) -> float:
    """How many clients share a column of :func:`holdings`, on average."""
    clients = len(run.summary["federation"]["tiers"])
    return clients / sum(_limit(run, tier) for tier in TIER)


def _limit(run: RunRecord, tier: str) -> int:
    """Columns of a tier: one a client while they fit, then in proportion, but one at least."""
    clients, everybody = run.clients(tier), len(run.summary["federation"]["tiers"])
    return clients if everybody <= COLUMNS else min(clients, max(1, round(COLUMNS * clients / everybody)))


def _bars(figure: Figure, run: RunRecord, shares: list[words.Number]) -> None:
    held, names = low_held(run), class_names(run)
    before = pivot_scores(run)
    old = (before.get("class_accuracy") if before else None) or []
    order = list(range(len(shares)))
    few = len(shares) <= NAMED
    if not few:  # low-held last, each group from best to worst
        order.sort(key=lambda k: (k in held, -np.nan_to_num(shares[k], nan=-1.0)))
    long = few and max(len(names[k]) if k < len(names) else 1 for k in order) > max(2, 40 // len(order))
    ax = axes(figure, 40, 8, 62 if long else 38, 16)
    ax.set_xlim(-0.6, len(order) - 0.4)
    score_axis(ax, [1.0], share=True)
    ax.bar(
        range(len(order)),
        [shares[k] for k in order],
        width=0.76 if few else 1.0,
        linewidth=0,
        color=[LOW if k in held else HIGH for k in order],
    )
    if few:
        marks = {k: value for k, value in enumerate(old) if words.defined(value)}
        ticks(ax, marks)
        for k, share in enumerate(shares):
            if words.defined(share):
                inside = (
                    share > 0.12
                )  # at its foot: above it, a number could be taken for the height of the pivot's line
                ax.annotate(
                    f"{100 * share:.0f}",
                    (k, 0.0 if inside else share),
                    (0, 4),
                    textcoords="offset points",
                    ha="center",
                    color="white" if inside else dark(LOW if k in held else HIGH),
                    fontsize=8.5 if len(order) <= 12 else 7,
                )
        labels = [words.shorten(names[k], 12) if k < len(names) else str(k) for k in order]
        turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if long else {}
        ax.set_xticks(range(len(order)), labels, color=INK, **turned)
        ax.tick_params(axis="x", length=0)
    else:
        _profile_axis(ax, len(order) - len(held & set(order)), len(order))


def ticks(ax: Axes, values: Mapping[int, words.Number]) -> None:
    """Black lines across bars, place -> height, with white edges so that they show on any colour."""
    if values:
        for colour, width in (("#ffffff", 3.0), (INK, 1.5)):
            ax.hlines([*values.values()], [at - 0.4 for at in values], [at + 0.4 for at in values], colour, lw=width)


def _profile_axis(ax: Axes, high: int, total: int) -> None:
    ax.set_xticks([])
    for start, end, text, colour in ((0, high, "other classes", HIGH), (high, total, "low-held classes", LOW)):
        if end > start:
            ax.annotate(
                f"{end - start} {text}",
                ((start + end - 1) / 2, 0),
                (0, -8),
                textcoords="offset points",
                xycoords=ax.get_xaxis_transform(),
                ha="center",
                va="top",
                color=dark(colour),
            )


def _holdings(figure: Figure, run: RunRecord, table: NDArray[np.float64]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    shares = table / np.maximum(1.0, table.sum(axis=1, keepdims=True))
    tiers = np.array(run.summary["federation"]["tiers"])
    names, held, few = class_names(run), low_held(run), table.shape[1] <= 30
    longest = max((len(name) for name in names), default=1)
    ax = axes(figure, min(80, 22 + 5 * min(longest, 12)) if few else 34, 12, 24, 24)
    start, gap = 0.0, 0.012 * sum(_limit(run, tier) for tier in TIER)
    for tier, colour in TIER.items():
        picture = columns(shares[tiers == tier], max(1, _limit(run, tier)))
        if not len(picture):
            continue
        end = start + len(picture)
        ramp = LinearSegmentedColormap.from_list(tier, ["#f3f5f8", colour, dark(colour)])
        # The root makes small holdings visible; each cell becomes a block of pixels, so that no viewer blurs it.
        _cells(ax, ramp(np.sqrt(picture.T)), (start, end, table.shape[1] - 0.5, -0.5))
        ax.plot([start, end], [1.015, 1.015], transform=ax.get_xaxis_transform(), color=colour, lw=3, clip_on=False)
        left = tier == "high"
        ax.annotate(
            f"{words.plural(run.clients(tier), f'{tier}-resource client')}",
            (start if left else end, 1.015),
            (0, 4),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="left" if left else "right",
            va="bottom",
            color=dark(colour),
            fontsize=8.5,
        )
        start = end + gap
    ax.set_xlim(0, start - gap)
    ax.set_ylim(table.shape[1] - 0.5, -0.5)
    ax.set_xticks([])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set_xlabel("clients", labelpad=6)
    _class_ticks(ax, names, held, few=few)


def _cells(ax: Axes, colours: NDArray[np.float64], extent: tuple[words.Number, ...]) -> None:
    """Cells as an image of ``(rows, columns)`` colours."""
    rows, cols = colours.shape[:2]
    pixels = (np.round(255 * colours[..., :3])).astype(np.uint8)
    repeat = (max(1, 400 // rows), max(1, 800 // cols))
    pixels = pixels.repeat(repeat[0], axis=0).repeat(repeat[1], axis=1)
    ax.imshow(pixels, extent=extent, aspect="auto", interpolation="none", origin="upper")


def _class_ticks(ax: Axes, names: list[str], held: set[int], *, few: bool) -> None:
    if few:
        size = 9 if len(names) <= 15 else 6.5
        ax.set_yticks(range(len(names)), [words.shorten(name, 12) for name in names], fontsize=size)
        for k, label in enumerate(ax.get_yticklabels()):
            label.set_color(dark(LOW) if k in held else dark(HIGH))
            label.set_weight("bold" if k in held else "normal")
        return
    ax.set_yticks([0, len(names) - 1], ["0", str(len(names) - 1)])
    ax.set_ylabel("class", color=MUTED, labelpad=-6)
    for k in range(len(names)):
        ax.plot(
            -0.006, k, "s", ms=1.6, color=LOW if k in held else HIGH, transform=ax.get_yaxis_transform(), clip_on=False
        )
