"""What all figures share: colours that keep their meaning, a canvas in points, and SVG fit to stand in a page."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from zowarmup.report.words import Number

Axes = Any
Figure = Any
T = TypeVar("T")

# Okabe & Ito 2008, "Color Universal Design": told apart with every common colour vision.
HIGH, LOW = "#0072B2", "#D55E00"
TIER = {"high": HIGH, "low": LOW}
KIND = {
    "first-order": "#E69F00",
    "zeroth-order": "#009E73",
    "head": "#CC79A7",
    "statistics": "#56B4E9",
    "mixed": "#F0E442",
}
SERIES = ("#1d2430", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", (0, (4, 1.6)), (0, (1.2, 1.2)))
MARKERS = ("o", "s", "^")
INK, MUTED, GRID, OTHER = "#1d2430", "#5c6675", "#e4e8ed", "#8a94a3"

WIDTH = 350.0
"""Width of every figure in points: text of 9 points stays readable where a phone shows the figure at this width."""

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$"
    "axes.edgecolor": "#b4bcc8",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": "#b4bcc8",
    "ytick.color": "#b4bcc8",
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 0.0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def kind_colour(kind: str | None) -> str:
    """The colour of a kind of phase; grey for one this module does not know."""
    return KIND.get(kind or "", OTHER)


def series_style(index: int) -> tuple[str, Any]:
    """Colour and dashes of the ``index``-th label: ink for the first alone, then six colours, solid and then dashed."""
    turn, colour = divmod(max(0, index - 1), len(SERIES) - 1)
    return SERIES[colour + 1 if index else 0], DASHES[turn % len(DASHES)]


def series_marker(index: int) -> str:
    """Marker of the ``index``-th label: another one with each kind of dashes."""
    return MARKERS[max(0, index - 1) // (len(SERIES) - 1) % len(MARKERS)]


def series_width(index: int) -> float:
    """Width of the ``index``-th label's line: the first one stands out."""
    return 2.2 if index else 2.8


def mixed(colour: str, other: str, share: float) -> str:
    """``share`` of ``colour`` in ``other``.

    >>> mixed("#000000", "#ffffff", 0.25)
    '#bfbfbf'
    """
    pairs = zip(_rgb(colour), _rgb(other), strict=True)
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def dark(colour: str) -> str:
    """The colour dark enough for text on white (a contrast of 4.5 or more for every colour above)."""
    share = 0.46 if colour in ("#E69F00", "#F0E442", "#56B4E9", "#CC79A7") else 0.8 if colour != OTHER else 0.65
    return mixed(colour, "#10161f", share)


def draw(name: str, title: str, height: Number, paint: Callable[[Figure], None]) -> str:
    """One figure as an inline SVG element.

    Args:
        name: makes ids in it unique within a page; the same name and content give the same bytes.
        title: read out in the place of the picture.
        height: in points; the width is :data:`WIDTH`.
        paint: draws onto the figure; called under this module's style, whatever the user's matplotlibrc says.
    """
    import matplotlib
    from matplotlib.figure import Figure as MatplotlibFigure

    buffer = io.StringIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser draws the text and has more fonts
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = MatplotlibFigure(figsize=(WIDTH / 72, height / 72))
        paint(figure)
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(buffer.getvalue(), name, title)


def axes(figure: Figure, left: Number, right: Number, bottom: Number, top: Number) -> Axes:
    """Axes with margins in points."""
    width, height = figure.get_size_inches() * 72
    box = (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
    return figure.add_axes(box)


def spread(wanted: Sequence[Number], gap: Number, low: Number, high: Number) -> list[float]:
    """Positions near the ``wanted`` ones, at least ``gap`` apart and within ``low`` and ``high`` while there is room.

    >>> spread([0.5, 0.52, 0.1], gap=0.1, low=0.0, high=1.0)
    [0.46, 0.56, 0.1]
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    blocks: list[list[float]] = []  # [centre, members]: labels that touch move as one
    for index in order:
        blocks.append([min(max(wanted[index], low), high), 1.0])
        while len(blocks) > 1 and blocks[-1][0] - blocks[-2][0] < gap * (blocks[-1][1] + blocks[-2][1]) / 2 - 1e-12:
            (centre, members), (before, count) = blocks.pop(), blocks.pop()
            centre = (centre * members + before * count) / (members + count)
            half = gap * (members + count - 1) / 2
            blocks.append([min(max(centre, low + half), high - half), members + count])
    placed = [centre + gap * (k - (n - 1) / 2) for centre, n in blocks for k in range(int(n))]
    return [round(placed[order.index(index)], 9) for index in range(len(wanted))]


def thin(items: Sequence[T], limit: int) -> list[T]:
    """At most ``limit`` items, evenly taken, the first and the last among them.

    >>> thin(range(100), 4)
    [0, 33, 66, 99]
    """
    if len(items) <= limit:
        return list(items)
    return [items[round(k * (len(items) - 1) / (limit - 1))] for k in range(limit)]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))


def _inline(svg: str, name: str, title: str) -> str:
    """The bare element: no prologue, size from the page, ids of its own, coordinates to a tenth of a point."""
    svg = svg[svg.index("<svg") :]
    view_box = re.search(r'viewBox="[^"]*"', svg)
    assert view_box is not None
    label = html.escape(title, quote=True)
    body = svg[svg.index(">") + 1 :].rstrip()
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)  # nothing points at a group
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r'(?<![-\w])id="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r'(?<= d=")[^"]*', lambda match: re.sub(r"(\.\d)\d+", r"\1", match.group()), body)
    body = re.sub(r"\n\s*", "\n", body)
    return f'<svg {view_box.group()} role="img" aria-label="{label}">{body}'
