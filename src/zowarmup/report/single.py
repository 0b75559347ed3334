"""The report of one run."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from zowarmup.report import classes, curves, measures, words
from zowarmup.report.canvas import HIGH, INK, LOW, OTHER, kind_colour
from zowarmup.report.page import card, dot, figure, html_table, page, pairs, save, tile
from zowarmup.report.records import PhaseSummary, RunRecord, load_run


def write(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a run: one HTML file that needs nothing else.

    Args:
        run_dir: a finished or interrupted run.
        out: the file to write; ``report.html`` in the run directory where left out. Replaced as a whole or not at all.

    Returns:
        The file written.

    Raises:
        OutputError: the run directory cannot be read.
        DiskError: the report cannot be written.
    """
    run = load_run(run_dir)
    return save(Path(out) if out is not None else run.path / "report.html", render(run))


def render(run: RunRecord) -> str:
    """The report as HTML; the same run gives the same bytes."""
    summary = run.summary
    return page(f"{summary['method']} · {summary['recipe']} · seed {summary['seed']}", _body(run))


def headline(run: RunRecord) -> str:
    """The run in two sentences, as plain text."""
    show, final = curves.format_score(run), run.summary["final"]
    name = "Accuracy" if run.classification else "Score"
    text = f"{name} {show(final.get('accuracy'))} after {words.plural(run.last_round, 'round')}"
    before = measures.pivot_scores(run)
    pivot = run.summary["pivot"]
    if before and pivot and words.defined(before.get("accuracy")):
        text += f", from {show(before.get('accuracy'))} at the pivot"
    text += "."
    if words.defined(held := final.get("low_held_accuracy")):
        was = before.get("low_held_accuracy") if before and pivot else None
        text += f" On the classes that high-resource clients hold little of: {show(held)}"
        text += f", from {show(was)}." if words.defined(was) else "."
    return text


def notices(run: RunRecord) -> Iterator[str]:
    """What a reader must know before the numbers, as plain text."""
    summary = run.summary
    if summary["status"] == "interrupted":
        yield f"Interrupted after round {run.last_round} of {run.planned_rounds}: the numbers are those of that point."
    if summary["status"] == "failed":
        yield f"The run failed after round {run.last_round} of {run.planned_rounds}: read the numbers with care."
    if refused := summary.get("refused"):
        yield (
            f"{words.plural(refused, 'report')} of clients {'was' if refused == 1 else 'were'} refused by the server "
            f"and left out of the average: {_reasons(run)}."
        )
        useless = [
            row["kind"] for row in summary["phases"] if (row["refused"] or 0) >= (row["cohort"] or 1) * _rounds(row)
        ]
        if useless:
            yield f"Every report of the {' and the '.join(useless)} phase was refused: it did nothing."
    bad = [line["round"] for line in run.evaluated if not words.defined(line.get("loss"))]
    if bad:
        count = f"{len(bad)} of {len(run.evaluated)} evaluations"
        yield f"The test loss is not a finite number in {count}, first in round {bad[0]}."
    if not run.evaluated:
        yield "No round was evaluated."


def _reasons(run: RunRecord) -> str:
    """Why reports were refused, the most frequent reason first."""
    found = Counter(reason for line in run.metrics for reason in (line.get("refusals") or {}).values())
    return "; ".join(f"{reason} ({count:,} times)" for reason, count in found.most_common(5)) or "no reason noted"


def _rounds(phase: PhaseSummary) -> int:
    return phase["last_round"] - phase["first_round"] + 1


def _body(run: RunRecord) -> Iterator[str]:
    summary = run.summary
    status = f'<span class="badge {summary["status"]}">{summary["status"]}</span>'
    yield f"<header><h1>{escape(summary['method'])} on {escape(summary['recipe'])} {status}</h1>"
    yield f'<p class="facts">{escape(_facts(run))}</p></header>'
    yield from (f'<p class="note">{escape(text)}</p>' for text in notices(run))
    yield f'<p class="lead">{escape(headline(run))}</p>'
    yield f'<div class="tiles">{"".join(_tiles(run))}</div>'
    yield f'<h2>What was learnt</h2><div class="grid">{"".join(_learnt(run))}</div>'
    if run.classification:
        yield f'<h2>Who holds what, and who is served</h2><div class="grid">{"".join(_classes(run))}</div>'
    yield f'<h2>What it cost</h2><div class="grid">{"".join(_cost(run))}</div>'
    yield f'<div style="margin-top:16px">{card(_totals(run))}</div>'
    yield f"<h2>Settings</h2>{card(_phases(run) + _recipe(run))}"
    yield f"<h2>Provenance</h2>{card(_provenance(run))}"


def _facts(run: RunRecord) -> str:
    summary = run.summary
    facts = [f"seed {summary['seed']}"]
    if summary.get("net"):
        weights = f" ({summary['parameters']:,} parameters)" if summary.get("parameters") else ""
        facts.append(f"{summary['net']}{weights}")
    facts.append(
        f"{words.plural(len(summary['federation']['tiers']), 'client')}: {run.clients('high')} high-resource, "
        f"{run.clients('low')} low-resource"
    )
    facts.append(f"{words.duration(summary.get('seconds'))} on {summary.get('device') or 'an unknown device'}")
    return " · ".join(facts)


def _tiles(run: RunRecord) -> Iterator[str]:
    show, final = curves.format_score(run), run.summary["final"]
    name = "Accuracy" if run.classification else "Score"
    yield tile(name, show(final.get("accuracy")), f"loss {words.number(final.get('loss'))}", kind="all")
    if words.defined(held := final.get("low_held_accuracy")):
        count = words.plural(len(classes.low_held(run)), "class")
        count = count.replace("classs", "classes")
        yield tile("Low-held classes", show(held), f"{count} that high-resource clients hold little of", kind="low")
    yield _uplink_tile(run)
    if peak := run.summary.get("peak_memory_bytes"):
        parts = "".join(
            f'<span class="parts"><span>{dot(kind_colour(kind), kind)}</span><span>{words.size(most)}</span></span>'
            for kind, most in _peaks(run).items()
        )
        yield tile("Peak memory of the process", words.size(peak), parts)


def _uplink_tile(run: RunRecord) -> str:
    name, sent = "Low-resource uplink", run.summary["bytes"]["uplink"]["low"]
    fedavg, turns = run.summary["fedavg_bytes"]["uplink"]["low"], run.low_turns()
    if not run.clients("low"):
        return tile(name, words.UNDEFINED, "there are no low-resource clients", kind="gain")
    if not turns or not sent:
        return tile(name, "0\N{NO-BREAK SPACE}B", "low-resource clients sent nothing", kind="gain")
    value = words.size(sent / turns)
    detail = "a client and round"
    if fedavg > sent:
        detail += f"; FedAvg sends {words.size(fedavg / turns)}, <strong>{words.times(fedavg / sent)}</strong> as much"
    elif fedavg:
        detail += f"; FedAvg sends {words.size(fedavg / turns)}"
    return tile(name, value, detail, kind="gain")


def _peaks(run: RunRecord) -> dict[str, int]:
    peaks: dict[str, int] = {}
    for phase in run.summary["phases"]:
        if peak := phase.get("peak_memory_bytes"):
            peaks[phase["kind"]] = max(peak, peaks.get(phase["kind"], 0))
    return peaks


def _learnt(run: RunRecord) -> Iterator[str]:
    name = "Accuracy" if run.classification else "Score"
    lines = f"{dot(INK, 'all test samples')}; {dot(LOW, 'classes that high-resource clients hold little of')}"
    if not words.defined(run.summary["final"].get("low_held_accuracy")):
        lines = f"On the test set, after each evaluated round, {len(run.evaluated)} in all"
    yield figure(f"{name}, round by round", curves.accuracy_by_round(run), f"{lines}.")
    pivot, before = run.summary["pivot"], measures.pivot_scores(run)
    ended = [phase["kind"] for phase in run.summary["phases"] if phase["last_round"] <= (pivot or 0)]
    at = f"at the pivot, round {pivot}" if pivot else "with the initial weights"
    start = dot(kind_colour(ended[-1] if ended else None), at, hollow=True) + "; " if before else ""
    done = [phase["kind"] for phase in run.summary["phases"] if phase["first_round"] <= max(1, run.last_round)]
    end = dot(kind_colour(done[-1] if done else None), f"at the end, round {run.last_round}")
    title = "What changed after the pivot" if before and pivot else "From the first weights to the last"
    yield figure(title if before else "At the end", measures.gains(run), f"{start}{end}.")
    yield figure(
        f"{name} against what a low-resource client sends",
        curves.accuracy_by_uplink(run),
        "Logarithmic; dotted: what FedAvg would have sent with the same cohorts.",
        instead="Low-resource clients sent nothing in this run.",
    )
    yield figure("Test loss", curves.loss_by_round(run), "Mean over the test set.")


def _classes(run: RunRecord) -> Iterator[str]:
    held = classes.low_held(run)
    swatch = f"{dot(LOW, 'low-held classes')} and {dot(HIGH, 'all others')}" if held else "No class is low-held"
    before = measures.pivot_scores(run)
    few = len(classes.class_names(run)) <= classes.NAMED
    line = ""
    if few and before and before.get("class_accuracy"):
        line = f'; <i class="dash"></i>{"at the pivot" if run.summary["pivot"] else "with the initial weights"}'
    order = "" if few else ", each from best to worst"
    missing = "No class was evaluated at the end."
    yield figure(
        "Accuracy of each class", classes.class_bars(run), f"Per cent; {swatch}{line}{order}.", instead=missing
    )
    shared = classes.clients_per_column(run)
    column = "A column is a client" if shared <= 1 else f"A column is the mean of about {round(shared)} clients"
    text = f"{column}; darker: a larger share of its data. {'Low-held classes are marked in orange.' if held else ''}"
    yield figure("Who holds which classes", classes.holdings(run), text)


def _cost(run: RunRecord) -> Iterator[str]:
    fedavg = dot(OTHER, "FedAvg with the same cohorts", hollow=True)
    caption = f"{dot(HIGH, 'high-resource')}, {dot(LOW, 'low-resource')}; {fedavg}"
    yield figure("Bytes beside FedAvg's", measures.traffic(run), f"{caption}. Logarithmic.")
    text = "The most that this process held, libraries included; `zowarmup plan` has a client's work alone."
    yield figure("Peak memory by phase", measures.memory(run), text, instead="No phase was measured.")


def _totals(run: RunRecord) -> str:
    summary, last = run.summary, run.metrics[-1]
    zero = {"high": 0, "low": 0}
    forward, backward = last.get("forward_samples", zero), last.get("backward_samples", zero)
    found, fedavg = summary["bytes"], summary["fedavg_bytes"]
    rows = [
        ["forward passes, samples", *(words.amount(forward[tier]) for tier in ("high", "low"))],
        ["backward passes, samples", *(words.amount(backward[tier]) for tier in ("high", "low"))],
    ]
    for way in ("uplink", "downlink"):
        for name, table in ((way, found[way]), (f"{way}, FedAvg", fedavg[way])):
            rows.append([name, words.size(table["high"]), words.size(table["low"])])
    return html_table(["all clients together", "high-resource", "low-resource"], rows)


def _phases(run: RunRecord) -> str:
    recipe = tomllib.loads(run.recipe).get("phase", [])
    rows = []
    for index, phase in enumerate(run.summary["phases"]):
        keys = recipe[index] if isinstance(recipe, list) and index < len(recipe) else {}
        rows.append(
            [
                dot(kind_colour(phase["kind"]), phase["kind"]),
                f"{phase['first_round']}–{phase['last_round']}",
                phase["tier"],
                words.UNDEFINED if phase["cohort"] is None else f"{phase['cohort']:,}",
                _setting(keys, "lr", "schedule"),
                _setting(keys, "batch"),
                _setting(keys, "directions", "pool"),
                _setting(keys, "difference"),
                words.duration(phase.get("seconds")),
                words.size(phase.get("peak_memory_bytes")),
                str(phase.get("refused") or 0),
            ]
        )
    head = [
        "phase",
        "rounds",
        "tier",
        "cohort",
        "lr",
        "batch",
        "directions",
        "difference",
        "time",
        "peak memory",
        "refused",
    ]
    return html_table(head, rows)


def _setting(keys: dict[str, Any], name: str, detail: str = "") -> str:
    if name not in keys:
        return words.UNDEFINED
    small = f"<small>{escape(str(keys[detail]))}</small>" if detail in keys else ""
    return escape(str(keys[name])) + small


def _recipe(run: RunRecord) -> str:
    return f"<details><summary>The whole recipe, run.toml</summary><pre>{escape(run.recipe)}</pre></details>"


def _provenance(run: RunRecord) -> str:
    summary = run.summary
    versions = ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items())
    items = [
        ("again", "<code>zowarmup run run.toml</code>"),
        ("state", f"<code>{escape(summary.get('state_digest') or words.UNDEFINED)}</code>"),
        ("versions", escape(versions or words.UNDEFINED)),
        ("device", escape(f"{summary.get('device') or words.UNDEFINED}, {summary.get('threads') or '?'} thread(s)")),
    ]
    return pairs(items)
