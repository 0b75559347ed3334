"""A run at a glance: what changed since the pivot, bytes beside FedAvg's, memory by phase."""

from __future__ import annotations

from typing import NamedTuple

from zowarmup.report import words
from zowarmup.report.canvas import (
    GRID,
    INK,
    MUTED,
    OTHER,
    TIER,
    Axes,
    Figure,
    axes,
    dark,
    draw,
    kind_colour,
    mixed,
)
from zowarmup.report.curves import HEIGHT, count_axis, format_score
from zowarmup.report.records import Round, RunRecord, scalar

MEASURES = {
    "accuracy": "all test samples",
    "low_held_accuracy": "low-held classes",
    "worst_class_accuracy": "worst class",
    "high_client_accuracy": "high-resource clients",
    "low_client_accuracy": "low-resource clients",
    "client_accuracy_p10": "10th-percentile client",
}


class Way(NamedTuple):
    """Mean payload of one client over the run, one direction."""

    label: str
    tier: str
    sent: float
    fedavg: float


def pivot_scores(run: RunRecord) -> Round | None:
    """The evaluation a run is compared with: at the pivot, or of the initial weights where there is none."""
    start = run.summary["pivot"] or 0
    found = [line for line in run.evaluated if line["round"] == start]
    return found[0] if found and start < run.last_round else None


def measures(run: RunRecord) -> list[str]:
    """The measures that the run's end defines, in the order of :data:`MEASURES`."""
    final = run.summary["final"]
    return [key for key in MEASURES if words.defined(scalar(final, key))]


def gains(run: RunRecord) -> str | None:
    """Each measure at the pivot (open) and at the end (filled); None where the end defines none."""
    if not measures(run):
        return None
    return draw("gains", "each measure at the pivot and at the end", HEIGHT, lambda figure: _gains(figure, run))


def ways(run: RunRecord) -> list[Way]:
    """Mean bytes of a client over the run, by direction and tier, beside FedAvg's; tiers without clients left out."""
    found, fedavg = run.summary["bytes"], run.summary["fedavg_bytes"]
    rows = []
    for tier in ("high", "low"):
        if count := run.clients(tier):
            up, down = found["uplink"], found["downlink"]
            rows.append(Way(f"{tier}, up", tier, _of(up, tier) / count, _of(fedavg["uplink"], tier) / count))
            rows.append(Way(f"{tier}, down", tier, _of(down, tier) / count, _of(fedavg["downlink"], tier) / count))
    return rows


def traffic(run: RunRecord) -> str:
    """Mean bytes of a client over the run, filled, beside what FedAvg sends with the same cohorts, open."""
    return draw("bytes", "bytes by tier beside FedAvg's", HEIGHT, lambda figure: _traffic(figure, ways(run)))


def memory(run: RunRecord) -> str | None:
    """Peak memory of each phase; None where it was not measured."""
    if not any(phase.get("peak_memory_bytes") for phase in run.summary["phases"]):
        return None
    height = min(HEIGHT, 62 + 42 * len(run.summary["phases"]))
    return draw("memory", "peak memory by phase", height, lambda figure: _memory(figure, run))


def _gains(figure: Figure, run: RunRecord) -> None:
    ax = axes(figure, 120, 46, 34, 10)
    keys, before, final = measures(run), pivot_scores(run), run.summary["final"]
    phases, pivot = run.summary["phases"], run.summary["pivot"] or 0
    ended = [phase["kind"] for phase in phases if phase["last_round"] <= pivot]
    open_colour = kind_colour(ended[-1] if ended else None)
    done = [phase["kind"] for phase in phases if phase["first_round"] <= max(1, run.last_round)]
    colour = kind_colour(done[-1] if done else None)
    values = [scalar(final, key) for key in keys]
    show, seen = format_score(run), [value for value in values if words.defined(value)]
    for row, (key, end) in enumerate(zip(keys, values, strict=True)):
        start = scalar(before, key) if before else None
        if words.defined(start) and words.defined(end):
            seen.append(start)
            if abs(end - start) > 0.02:
                arrow = {"arrowstyle": "-|>,head_width=.22,head_length=.45", "color": colour, "linewidth": 1.6}
                ax.annotate("", (end, row), (start, row), arrowprops={**arrow, "shrinkA": 4, "shrinkB": 5})
            ax.plot(start, row, "o", mfc="#ffffff", mec=open_colour, mew=1.8, ms=7, clip_on=False, zorder=3)
        ax.plot(end, row, "o", color=colour, ms=8, clip_on=False, zorder=4)
        _right(ax, row, show(end), bold=row == 0)
    _rows(ax, [MEASURES[key] for key in keys])
    _score_x(ax, seen, share=run.classification)


def _traffic(figure: Figure, rows: list[Way]) -> None:
    ax = axes(figure, 66, 62, 38, 24)
    counts = [count for way in rows for count in (way.sent, way.fedavg)]
    places, _ = count_axis(ax, counts)
    for row, way in enumerate(rows):
        sent, fedavg = places[2 * row], places[2 * row + 1]
        colour = TIER[way.tier]
        if sent != fedavg:
            ax.plot([sent, fedavg], [row, row], color=mixed(colour, "#ffffff", 0.35), lw=3, zorder=2)
        ax.plot(fedavg, row, "o", mfc="#ffffff", mec=OTHER, mew=1.8, ms=9, clip_on=False, zorder=3)
        ax.plot(sent, row, "o", color=colour, ms=7, clip_on=False, zorder=4)
        style = {"textcoords": "offset points", "va": "bottom", "fontsize": 8}
        ax.annotate(words.size(way.sent), (sent, row), (0, 7), ha="center", color=dark(colour), **style)
        if abs(sent - fedavg) > 0.22 * (ax.get_xlim()[1] - ax.get_xlim()[0]):
            ax.annotate(words.size(way.fedavg), (fedavg, row), (0, 7), ha="center", color=MUTED, **style)
        _right(ax, row, _ratio(way), bold=False)
    _rows(ax, [way.label for way in rows], [dark(TIER[way.tier]) for way in rows])
    ax.set_ylim(len(rows) - 0.5, -0.75)
    ax.set_xlabel("bytes of one client over the run, on average")
    ax.text(1.0, 1.03, "less than\nFedAvg", transform=ax.transAxes, color=MUTED, fontsize=8, ha="left", va="top")


def _memory(figure: Figure, run: RunRecord) -> None:
    phases = run.summary["phases"]
    ax = axes(figure, 78, 54, 12, 12)
    peaks = [phase.get("peak_memory_bytes") or 0 for phase in phases]
    ax.barh(range(len(phases)), peaks, height=0.6, color=[kind_colour(phase["kind"]) for phase in phases])
    for row, peak in enumerate(peaks):
        label = words.size(peak) if peak else words.UNDEFINED
        ax.annotate(label, (peak, row), (5, 0), textcoords="offset points", va="center", color=INK, fontsize=9)
    _rows(ax, [phase["kind"] for phase in phases])
    ax.set_xlim(0, max(peaks))
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)


def _rows(ax: Axes, labels: list[str], colours: list[str] | None = None) -> None:
    """Name the rows of a horizontal figure, the first at the top."""
    ax.set_yticks(range(len(labels)), labels, fontsize=9, color=INK)
    ax.tick_params(axis="y", pad=9)
    for label, colour in zip(ax.get_yticklabels(), colours or [], strict=bool(colours)):
        label.set_color(colour)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.spines["left"].set_visible(False)


def _right(ax: Axes, row: int, text: str, *, bold: bool) -> None:
    """A value in the right margin, beside its row."""
    ax.annotate(
        text,
        (1, row),
        (8, 0),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        color=INK,
        fontsize=9,
        weight="bold" if bold else "normal",
    )


def _score_x(ax: Axes, values: list[float], *, share: bool) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.grid(axis="x", color=GRID)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if share:
        ax.set_xlim(0, min(1.0, 0.1 + max(values)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}\N{NO-BREAK SPACE}%"))


def _ratio(way: Way) -> str:
    if not way.fedavg:
        return words.UNDEFINED
    return words.times(way.fedavg / way.sent) if way.sent else "all of it"


def _of(pair: object, tier: str) -> int:
    assert isinstance(pair, dict)
    return int(pair[tier])
