"""One split of a comparison: what it says in a sentence, its figures, all of its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from zowarmup.report import bands, contrasts, words
from zowarmup.report.canvas import series_style
from zowarmup.report.grid import Split
from zowarmup.report.intervals import called
from zowarmup.report.page import card, figure, html_table
from zowarmup.report.shown import HEADINGS, best, is_best, mean_sd, shown_choice, shown_difference
from zowarmup.report.tables import METRICS, Row

FOOTER = (
    "Mean (standard deviation over seeds) at the end of each run; small: the mean difference to {} over shared seeds, "
    "in percentage points where it is an accuracy, and of scores its 95 % interval (percentile bootstrap over seeds: "
    "coarse, and too narrow, where seeds are few; of three or fewer it is their range). Bold: the best mean of a "
    "score. What a low client sends is a mean over the low-resource clients; all bytes and samples are of all clients "
    "together."
)


def headline(found: Sequence[Row], *, share: bool) -> str:
    """The rows of a split in a sentence or two, as plain text: every label where they are few, else the best."""
    base = next((row for row in found if row["label"] == row["baseline"]), None)
    name = "accuracy" if share else "score"
    if base is None:
        top = max(found, key=lambda row: row["accuracy_mean"] or 0.0)
        return f"The best: {top['label']}, {name} {mean_sd(top, 'accuracy')}."
    known = [row for row in found if words.defined(row["accuracy_difference"])]
    start = f"{base['label']}: {name} {mean_sd(base, 'accuracy')}."
    if not known:
        return start
    known = known if len(known) <= 4 else [max(known, key=lambda row: row["accuracy_mean"])]
    unit = ", in percentage points" if share else ""
    text = f"{start} Against it{unit}: {_differences(known, 'accuracy')}."
    held = [row for row in known if words.defined(row["low_held_accuracy_difference"])]
    if held:
        text += f" On classes that high-resource clients hold little of: {_differences(held, 'low_held_accuracy')}."
    return text


def notices(found: Sequence[Row]) -> Iterator[str]:
    """What a reader must know before the numbers of a split, as plain text."""
    for row in found:
        if row["unfinished"]:
            count = words.plural(row["unfinished"], "run")
            yield f"{row['label']}: {count} of {row['n']} did not reach the end; taken as far as recorded."
    few = [row["label"] for row in found if row["n"] == 1]
    if few:
        yield f"One seed only, so no spread is known: {', '.join(few)}."
    baseline = found[0]["baseline"]
    apart = [row["label"] for row in found if row["pairs"] == 0]
    if baseline not in {row["label"] for row in found}:
        yield f"No run of {baseline}, the baseline, so no paired difference."
    elif apart:
        yield f"No seed shared with {baseline}, so no paired difference: {', '.join(apart)}."


def section(split: Split, found: Sequence[Row], *, level: int) -> Iterator[str]:
    """Figures and numbers of one split, under headings of ``level``."""
    share = split.classification
    parts = {
        "Over the rounds": _curves(split, share=share),
        "Against what it costs": _costs(split, share=share),
        "Seed by seed": _pairs(split, share=share),
        "Classes and bytes": _rest(split),
    }
    for name, figures in parts.items():
        yield f'<h{level}>{name}</h{level}><div class="grid">{"".join(figures)}</div>'
    yield f"<h{level}>All numbers</h{level}>{card(full_table(split, found))}"


def full_table(split: Split, found: Sequence[Row]) -> str:
    """Every metric of a split's rows, as an HTML table."""
    tops = {metric: best(found, metric) for metric in METRICS}
    lines = []
    for row in found:
        choice = shown_choice(row["choice"])
        cells = [chip(split, row["label"]) + (f"<small>{escape(choice)}</small>" if choice else ""), str(row["n"])]
        for metric in METRICS:
            value = mean_sd(row, metric)
            cell = f"<strong>{value}</strong>" if is_best(row, metric, tops[metric]) else value
            known = words.defined(row[f"{metric}_difference"])
            cells.append(cell + (f"<small>{shown_difference(row, metric)}</small>" if known else ""))
        lines.append(cells)
    return html_table(["", "seeds", *(HEADINGS[metric] for metric in METRICS)], lines)


def chip(split: Split, method: str) -> str:
    """A method's name beside its line, as HTML."""
    colour, dashes = series_style(split.styles[method])
    dash = "" if dashes == "solid" else f' stroke-dasharray="{" ".join(str(3 * part) for part in dashes[1])}"'
    line = f'<line x1="1" x2="25" y1="5" y2="5" stroke="{colour}" stroke-width="3"{dash}/>'
    name = f"<strong>{escape(method)}</strong>" if method == split.baseline else escape(method)
    return f'<span class="chip"><svg viewBox="0 0 26 10" aria-hidden="true">{line}</svg>{name}</span>'


def _curves(split: Split, *, share: bool) -> Iterator[str]:
    name = "Accuracy" if share else "Score"
    several = any(len(group) > 1 for group in split.groups.values())
    seeds = ", seeds as thin lines" if len(split.groups) <= bands.FEW else ""
    caption = f"Mean of the seeds while all of them ran, a band of one standard deviation{seeds}."
    caption = caption if several else "One seed."
    yield figure(f"{name}, round by round", bands.by_round(split, "accuracy", f"{name} against rounds"), caption)
    title = "Accuracy on low-held classes"
    yield figure(
        title,
        bands.by_round(split, "low_held_accuracy", title),
        "Classes of which high-resource clients hold less than half their share.",
    )
    title = "Accuracy on the worst class"
    svg = bands.by_round(split, "worst_class_accuracy", title)
    yield figure(title, svg, "Each seed's own worst class, at each round.")
    yield figure("Test loss", bands.by_round(split, "loss", "Test loss against rounds"), "Lower is better.")


def _costs(split: Split, *, share: bool) -> Iterator[str]:
    name = "Accuracy" if share else "Score"
    title = f"{name} against what a low-resource client sends"
    nothing = "Low-resource clients sent nothing in any run."
    svg = bands.by_uplink(split, "accuracy", title)
    yield figure(title, svg, "Logarithmic; at 0: a client that sent nothing. Markers: where runs end.", instead=nothing)
    title = f"{name} against samples through the network"
    caption = "All clients together, logarithmic; a sample forward counts one, and so does a sample backward."
    nothing = "No run has counted its samples."
    yield figure(title, bands.by_samples(split, "accuracy", title), caption, instead=nothing)


def _pairs(split: Split, *, share: bool) -> Iterator[str]:
    base = split.groups.get(split.baseline, {})
    shared = max((len(split.groups[method].keys() & base.keys()) for method in split.others), default=0)
    caption = (
        f"A dot is a seed shared with {escape(split.baseline)}; the bar ends at their mean, the line is "
        f"{'their range' if called(shared) == 'range' else f'its {called(shared)}'}."
    )
    nothing = "There is no second label, or no seed is shared with the baseline."
    for metric, name in (("accuracy", "Accuracy" if share else "Score"), ("low_held_accuracy", "Low-held accuracy")):
        title = f"{name}, difference to {split.baseline}"
        yield figure(
            title, contrasts.paired(split, metric, title), caption, instead=nothing if metric == "accuracy" else ""
        )


def _rest(split: Split) -> Iterator[str]:
    many = len(next((means for group in split.groups.values() if (means := contrasts.class_means(group))), [])) > 20
    ticks = "sorted from best to worst" if many else f"black ticks: {escape(split.baseline)}"
    more = f" The first {contrasts.PANELS} labels." if len(split.groups) > contrasts.PANELS else ""
    yield figure("Accuracy of each class", contrasts.class_panels(split), f"Mean of the seeds; {ticks}.{more}")
    caption = "▲ up, ▼ down; open: what FedAvg would have sent with the same cohorts. Logarithmic, mean of the seeds."
    yield figure("Bytes of a low-resource client", contrasts.traffic(split), caption)


def _differences(found: Sequence[Row], metric: str) -> str:
    return "; ".join(f"{row['label']} {shown_difference(row, metric)}" for row in found)
