"""Results on stdout: of a run, of a comparison, of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from zowarmup import grid
from zowarmup.cli import consoles
from zowarmup.cli.reading import reading
from zowarmup.report import words

if TYPE_CHECKING:
    from zowarmup.manifest import Comparison
    from zowarmup.plan import Plan
    from zowarmup.recipe import Recipe

_NARROW = 94  # columns below which a table leaves something out
_SCORES = {
    "accuracy": "accuracy",
    "low_held_accuracy": "low-held classes",
    "worst_class_accuracy": "worst class",
}


def show_run(summary: Mapping[str, Any], out: Path, *, as_json: bool = False) -> None:
    """A short table: scores, bytes by tier beside FedAvg's, where the report is."""
    if as_json:
        consoles.print_json({**summary, "out": str(out), "report": str(out / "report.html")})
        return
    console = consoles.out()
    head = f"{summary['recipe']}, seed {summary['seed']}: {words.plural(summary['rounds'], 'round')} in "
    console.print(Text(head + f"{words.duration(summary['seconds'])} on {summary['device']}", style="bold"))
    console.print()
    scores = _grid(1)
    for key, name in _SCORES.items():
        scores.add_row(name, words.percent(summary["final"].get(key)))
    console.print(scores)
    console.print()
    console.print(_traffic(summary))
    if summary["refused"]:
        console.print(f"\n{words.plural(summary['refused'], 'report')} refused; the report says why")
    console.print()
    console.print(Text(f"report  {out / 'report.html'}"), soft_wrap=True)


def finished(recipe: Recipe) -> str:
    """That a run has no round left, and whether it may get more."""
    last, text = recipe.phase[-1], f"is finished, {recipe.rounds:,} rounds"
    if not last.extendable:
        return f"{text}, and its last phase takes no more"
    if last.horizon is not None and last.rounds >= last.horizon:
        return f"{text}, and its cosine schedule at its end"
    return f"{text}; --rounds +100 adds some"


def _traffic(summary: Mapping[str, Any]) -> Table:
    tiers, fedavg = summary["federation"]["tiers"], summary["fedavg_bytes"]["uplink"]
    table = _grid(2)
    high, low = (Text(f"{name} tier ({tiers.count(name)})", style="bold") for name in ("high", "low"))
    table.add_row("", high, low)
    for name, way in (("sent", "uplink"), ("received", "downlink")):
        table.add_row(name, *(words.size(summary["bytes"][way][tier]) for tier in ("high", "low")))
    table.add_row("FedAvg, each way", *(words.size(fedavg[tier]) for tier in ("high", "low")), style="dim")
    return table


def show_comparison(comparison: Comparison, *, as_json: bool = False) -> None:
    """A table over seeds for each split, sentences that read them, what was chosen, where the page is."""
    if as_json:
        consoles.print_json(_described(comparison))
        return
    if not comparison.finished:
        return
    console = consoles.out()
    for split in dict.fromkeys(cell.split for cell in comparison.cells):
        if split:
            console.print(Text(split, style="bold underline"))
        console.print(_comparison_table(comparison, split, narrow=console.width < _NARROW))
        for text in _gaps(comparison, split):
            console.print(Text(consoles.plain(text), style="dim"))
        console.print()
    seeds = words.plural(max(row["n"] for row in comparison.rows), "seed")
    more = f"; ±: points over {comparison.baseline}, seed by seed" if len(comparison.finished) > 1 else ""
    console.print(Text(f"mean (sd) of {seeds}{more}", style="dim"))
    console.print()
    for text in (*reading(comparison), *_choices(comparison)):
        console.print(Text(consoles.plain(text)))
    console.print()
    console.print(Text(f"page  {comparison.page}"), soft_wrap=True)


def _described(comparison: Comparison) -> dict[str, Any]:
    return {
        "out": str(comparison.out),
        "name": comparison.name,
        "baseline": comparison.baseline,
        "cells": [
            {"method": cell.method, "split": cell.split, "runs": list(map(str, cell.runs)), "choice": cell.choice}
            for cell in comparison.cells
        ],
        "failed": comparison.failed,
        "trials": [{**dataclasses.asdict(trial), "folder": str(trial.folder)} for trial in comparison.trials],
        "rows": comparison.rows,
    }


def _choices(comparison: Comparison) -> Iterator[str]:
    """What was chosen for whom, and by what."""
    chosen = [cell for cell in comparison.cells if cell.choice]
    if not comparison.trials:
        return
    yield ""
    for cell in chosen:
        yield f"{grid.label(cell.method, cell.split)}: {grid.in_words(cell.choice)}"
    trials, seeds = comparison.trials, sorted({trial.seed for trial in comparison.trials})
    where = "seed" if len(seeds) == 1 else "seeds"
    text = f"chosen by accuracy on validation shares, from {words.plural(len(trials), 'trial')}"
    yield f"{text} with {where} {', '.join(map(str, seeds))}" if chosen else "nothing was chosen: trials failed"
    tuned = {trial.method for trial in trials}
    if others := [method for method in dict.fromkeys(cell.method for cell in comparison.cells) if method not in tuned]:
        yield f"not tuned: {', '.join(others)}"


def _comparison_table(comparison: Comparison, split: str, *, narrow: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    table.add_column("", overflow="fold")
    most = max(row["n"] for row in comparison.rows)
    for heading in (
        "accuracy %",
        "±",
        "low-held %",
        "±",
        "worst %",
        "low client\nsends",
        *(() if narrow else ("time",)),
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in comparison.rows:
        if row["split"] != split:
            continue
        first = row["label"] == comparison.baseline
        accuracy, held = (words.points(row[f"{key}_difference"]) for key in ("accuracy", "low_held_accuracy"))
        table.add_row(
            Text(str(row["label"]) + _fewer(row, most), style="bold" if first else ""),
            _share(row, "accuracy"),
            "" if first else _signed(accuracy),
            _share(row, "low_held_accuracy"),
            "" if first else _signed(held),
            _share(row, "worst_class_accuracy"),
            words.size(row["low_client_uplink_bytes_mean"]),
            *(() if narrow else (words.duration(row["seconds_mean"]),)),
        )
    return table


def _fewer(row: Mapping[str, Any], most: int) -> str:
    """How many seeds a row has, where others have more."""
    return "" if row["n"] == most else f" ({words.plural(row['n'], 'seed')})"


def _gaps(comparison: Comparison, split: str) -> Iterator[str]:
    """What a table's numbers do not show: methods without a finished run, seeds that define no low-held accuracy."""
    none = [cell.method for cell in comparison.cells if cell.split == split and not cell.runs]
    if none:
        yield f"no finished run: {', '.join(none)}"
    found = [row for row in comparison.rows if row["split"] == split and row["low_held_accuracy_n"] < row["n"]]
    if found:
        seeds = {(row["low_held_accuracy_n"], row["n"]) for row in found}
        counts = ", ".join(f"{known} of {words.plural(n, 'seed')}" for known, n in sorted(seeds))
        yield f"low-held classes: there are such classes on {counts}"


def _share(row: Mapping[str, Any], key: str) -> str:
    mean, sd = row[f"{key}_mean"], row[f"{key}_sd"]
    if mean is None:
        return words.UNDEFINED
    return f"{100 * mean:.1f}" + (f" ({100 * sd:.1f})" if sd is not None else "")


def _signed(text: str) -> Text:
    return Text(text, style="green" if text.startswith("+") else "red" if text.startswith("−") else "")


def show_plan(plan: Plan) -> None:
    """Who takes part, what each turn and the whole run cost, and what was measured here."""
    console = consoles.out()
    model = f"{plan.parameters:,} parameters, {words.size(plan.model_bytes)}"
    console.print(Text(f"{plan.recipe}, seed {plan.seed}: {model}", style="bold"))
    for tier in ("high", "low"):
        clients, samples = words.plural(plan.clients[tier], "client"), words.plural(plan.samples[tier], "sample")
        console.print(f"{tier} tier: {clients}, {samples}")
    for phase in plan.phases:
        rounds, cohort = words.plural(phase.rounds, "round"), words.plural(phase.cohort, "client")
        console.print(f"{phase.kind}: {rounds} × {cohort}")
    console.print()
    console.print(_costs(plan, narrow=console.width < _NARROW))
    console.print()
    console.print(_estimates(plan))
    console.print()
    text = "turn: one client in one round; bytes are payload. Time and memory are estimates from a little work on this "
    console.print(Text(text + f"machine ({plan.device}), one client after the other; the rest is exact.", style="dim"))


def _costs(plan: Plan, *, narrow: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1 if narrow else 2, 0, 0), header_style="bold")
    for heading in ("", "tier", "turns", "forward", "backward", "up", "down", "up\nin all", "down\nin all"):
        table.add_column(heading, justify="left" if heading in ("", "tier") else "right", no_wrap=True)
    for phase in plan.phases:
        tiers = [tier for tier in ("high", "low") if phase.turns[tier]]
        for tier in tiers:
            turns = phase.turns[tier]
            table.add_row(
                phase.kind if tier == tiers[0] else "",
                tier,
                f"{turns:,}",
                words.amount(phase.forward_samples[tier] / turns),
                words.amount(phase.backward_samples[tier] / turns),
                words.size(phase.uplink_bytes[tier] / turns),
                words.size(phase.downlink_bytes[tier] / turns),
                words.size(phase.uplink_bytes[tier]),
                words.size(phase.downlink_bytes[tier]),
            )
    both = {"in all": (plan.uplink_bytes, plan.downlink_bytes), "FedAvg": (plan.fedavg_bytes, plan.fedavg_bytes)}
    for label, ways in both.items():
        for tier in ("high", "low"):
            name, style = label if tier == "high" else "", "dim" if label == "FedAvg" else ""
            table.add_row(name, tier, *[""] * 5, *(words.size(way[tier]) for way in ways), style=style)
    for tier in [tier for tier in ("high", "low") if plan.clients[tier]]:
        each = (way[tier] / plan.clients[tier] for way in (plan.uplink_bytes, plan.downlink_bytes))
        table.add_row("a client", tier, *[""] * 5, *map(words.size, each))
    return table


def _estimates(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("estimated here")
    for heading in ("memory of a client", "model", "work", "a turn", "time"):
        table.add_column(heading, justify="right")
    for phase in plan.phases:
        memory = {
            tier: (phase.held_bytes[tier], phase.working_bytes[tier]) for tier in ("high", "low") if phase.turns[tier]
        }
        times = (_brief(phase.request_seconds), words.duration(phase.seconds))
        differ = len(set(memory.values())) > 1
        for tier, (held, working) in list(memory.items())[: 2 if differ else 1]:
            name = f"{phase.kind}, {tier}" if differ else phase.kind
            table.add_row(name, *map(words.size, (held + working, held, working)), *times)
            times = ("", "")
    table.add_row("in all", "", "", "", "", words.duration(plan.seconds))
    return table


def _brief(seconds: float) -> str:
    """A time that may be milliseconds."""
    return f"{1000 * seconds:.3g}\N{NO-BREAK SPACE}ms" if seconds < 1 else words.duration(seconds)


def _grid(numbers: int) -> Table:
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column()
    for _ in range(numbers):
        table.add_column(justify="right")
    return table
