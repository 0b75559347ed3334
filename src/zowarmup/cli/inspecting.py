"""`zowarmup inspect`: what a run is and how far it has come; a round in full."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from zowarmup.cli import consoles, tables
from zowarmup.cli.replaying import number
from zowarmup.history import History
from zowarmup.ledger import FILES, Ledger
from zowarmup.report import words
from zowarmup.writers import in_words, writer

_FEW = 8  # values of a list that are shown on a terminal
_NARROW = 76  # columns below which a session's table has fewer builds
_COUNTS = {
    "uplink_bytes": "sent",
    "downlink_bytes": "received",
    "forward_samples": "forward samples",
    "backward_samples": "backward samples",
    "replayed_directions": "directions replayed",
}


def about_run(folder: Path) -> dict[str, Any]:
    """What a ledger says of the run as a whole.

    Raises:
        OutputError: not a run directory.
        LedgerError: the ledger is damaged.
    """
    with Ledger.open(folder) as ledger:
        if (error := ledger.contradiction()) is not None:
            raise error
        history, who = History(ledger), writer(folder, ledger)
        recipe, last = history.recipe, ledger.row(ledger.last) if ledger.last >= 0 else None
        sizes = [(folder / name).stat().st_size for name in FILES if (folder / name).is_file()]
        ended = ledger.value("ended") or {}
        return {
            "run": str(folder),
            "recipe": recipe.name,
            "method": recipe.method or recipe.name,
            "seed": recipe.seed,
            "status": "running" if who is not None else history.status(),
            "error": ended.get("error"),
            "writer": who,
            "rounds": ledger.last,
            "planned_rounds": recipe.rounds,
            "phases": _phases(history, ledger.last),
            "parameters": ledger.head.table.size,
            "chain": None if last is None else last.chain.hex(),
            "state": None if last is None else last.state.hex(),
            "data": ledger.head.data,
            "ledger_bytes": sum(sizes),
            "bytes_a_round": round(sizes[0] / (ledger.last + 1), 1) if last and len(sizes) == 1 else None,
            "snapshots": _snapshots(ledger),
            "sessions": ledger.sessions(),
        }


def about_round(folder: Path, round: int) -> dict[str, Any]:
    """What a ledger says of one round; a negative number counts from the end.

    Raises:
        OutputError, UsageError: not a run directory, or it has no such round.
        LedgerError: the ledger is damaged.
    """
    with Ledger.open(folder) as ledger:
        row = ledger.row(number(ledger, round, "--round"))
        found = {"run": str(folder), **History(ledger).describe(row)}
        return found | {"entry_bytes": len(row.entry), "snapshot": row.state in ledger.files()}


def _phases(history: History, last: int) -> list[dict[str, Any]]:
    found = []
    for phase, first in zip(history.recipe.phase, history.recipe.first_rounds, strict=True):
        end = first + phase.rounds - 1
        done = min(max(last - first + 1, 0), phase.rounds)
        found.append({"kind": phase.kind, "tier": phase.tier, "first_round": first, "last_round": end, "done": done})
    return found


def _snapshots(ledger: Ledger) -> list[dict[str, Any]]:
    """Files that may be relied on, in the order of the rounds that they belong to."""
    files, found = ledger.files(), []
    for row in ledger.rows():
        for what, digest in zip(("state", "moments"), row.digests(), strict=False):
            if digest in files:
                size = files[digest].bytes
                found.append({"round": row.round, "holds": what, "bytes": size, "digest": digest.hex()})
    return found


def show_run(about: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Where it stands, phases, digests, sizes, and who wrote it."""
    if as_json:
        consoles.print_json(about)
        return
    console = consoles.out()
    done = f"{about['rounds']:,} of {about['planned_rounds']:,} rounds" if about["rounds"] >= 0 else "no round yet"
    tables.say(console, f"{about['recipe']}, seed {about['seed']}: {about['status']}, {done}", "bold")
    if about["status"] == "failed":
        tables.say(console, str(about["error"]), "red")
    if about["writer"] is not None:
        tables.say(console, f"being written by {in_words(about['writer'])}")
    console.print()
    tables.show(console, _phase_table(about["phases"]))
    console.print()
    tables.show(console, tables.facts(_run_facts(about, console)))
    if about["sessions"]:
        console.print()
        tables.show(console, _session_table(about["sessions"], narrow=console.width < _NARROW))


def _phase_table(phases: Sequence[Mapping[str, Any]]) -> Table:
    table = tables.table("phase", "kind", "tier", ">rounds", ">done")
    for index, phase in enumerate(phases):
        span = f"{phase['first_round']:,}\N{EN DASH}{phase['last_round']:,}"
        table.add_row(str(index), phase["kind"], phase["tier"], span, f"{phase['done']:,}")
    return table


def _run_facts(about: Mapping[str, Any], console: Console) -> Iterable[tuple[str, str]]:
    for name in ("chain", "state", "data"):
        if about[name] is not None:
            yield name, tables.digest(about[name], console)
    yield "model", words.plural(about["parameters"], "parameter")
    each = f", {words.size(about['bytes_a_round'])} a round" if about["bytes_a_round"] is not None else ""
    yield "ledger", f"{words.size(about['ledger_bytes'])}{each}"
    yield "snapshots", _snapshots_in_words(about["snapshots"])


def _snapshots_in_words(snapshots: Sequence[Mapping[str, Any]]) -> str:
    if not snapshots:
        return "none"
    sizes = {words.size(file["bytes"]) for file in snapshots}
    total = sum({file["digest"]: file["bytes"] for file in snapshots}.values())
    each = f"{sizes.pop()} each" if len(sizes) == 1 else f"{words.size(total)} in all"
    rounds = [file["round"] for file in snapshots if file["holds"] == "state"]
    text = f"of rounds {spans(rounds)}; {each}"
    moments = [file["round"] for file in snapshots if file["holds"] == "moments"]
    return text + (f"; moments of a server optimiser after rounds {spans(moments)}" if moments else "")


def _session_table(sessions: Sequence[Mapping[str, Any]], *, narrow: bool) -> Table:
    builds = ("torch",) if narrow else ("zowarmup", "torch", "python")
    table = tables.table(">from round", "host", "device", "processor", *builds)
    for session in sessions:
        own = (str(session.get(key, words.UNDEFINED)) for key in ("host", "device", "processor"))
        versions = session.get("versions", {})
        table.add_row(f"{session['first_round']:,}", *own, *(versions.get(key, words.UNDEFINED) for key in builds))
    return table


def show_round(about: Mapping[str, Any], *, as_json: bool = False) -> None:
    """A round: what it was, its entry, its digests, and what was counted and measured until then."""
    if as_json:
        consoles.print_json(about)
        return
    console, entry = consoles.out(), about["entry"]
    kind = f"{about['kind']}, phase {about['phase']}" if entry else "initial weights"
    tables.say(console, f"round {about['round']:,}: {kind}", "bold")
    console.print()
    found = [*(_entry_facts(entry, about["lr"], console) if entry else ()), *_digest_facts(about, console)]
    tables.show(console, tables.facts(found))
    console.print()
    tables.show(console, _count_table(about))
    if scores := list(_scores(about)):
        console.print()
        tables.show(console, tables.facts(scores))


def _entry_facts(entry: Mapping[str, Any], lr: float | None, console: Console) -> Iterable[tuple[str, str]]:
    if lr is not None:
        yield "lr", words.number(lr)
    who = entry["participants"]
    yield "took part", words.plural(len(who), "client") + (f": {spans(who)}" if who else "")
    for client, reason in entry["refused"].items():
        yield f"refused {client}", reason
    if entry["kind"] == "update":
        yield "seed", entry["seed"]
        count = words.plural(len(entry["coefficients"]), "direction")
        yield "update", f"{count}, coefficients times 2^{-entry['exponent']}: {_few(entry['coefficients'])}"
        if entry["state"]:
            yield "phase state", ", ".join(f"{name} = {value:.6g}" for name, value in entry["state"].items())
    elif entry["kind"] == "patch":
        yield "new values", ", ".join([*entry["values"], *entry["buffers"]]) or "none"
    elif entry["moments"]:
        yield "moments", tables.digest(entry["moments"], console)


def _digest_facts(about: Mapping[str, Any], console: Console) -> Iterable[tuple[str, str]]:
    yield "state", tables.digest(about["state"], console)
    yield "chain", tables.digest(about["chain"], console)
    yield "snapshot", "kept" if about["snapshot"] else "none"
    yield "entry", words.size(about["entry_bytes"])
    yield "time", f"{words.duration(about['seconds'])} since the run began"
    yield "memory", f"{words.size(about['peak_memory_bytes'])} at most in this phase"


def _count_table(about: Mapping[str, Any]) -> Table:
    table = tables.table("since round 0", ">high tier", ">low tier")
    for key, name in _COUNTS.items():
        shown = words.size if key.endswith("bytes") else words.amount
        table.add_row(name, *(shown(about[key][tier]) for tier in ("high", "low")))
    return table


def _scores(about: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """What was evaluated: shares of 1 as percent, other numbers as they are."""
    known = {"round", "phase", "kind", "lr", "cohort", "refused", "seconds", "peak_memory_bytes", "entry_bytes"}
    for key, value in about.items():
        if key in known or isinstance(value, str | bool | dict):
            continue
        shown = words.percent if "accuracy" in key else words.number
        name = key.replace("_", " ")
        if isinstance(value, list):
            yield name, _few([words.percent(each) if "accuracy" in key else words.number(each) for each in value], 16)
        elif key != "entry":
            yield name, shown(value)


def spans(numbers: Sequence[int]) -> str:
    """Ascending numbers, those in a row drawn together.

    >>> spans([0, 3, 4, 5, 9])
    '0, 3–5, 9'
    """
    found: list[list[int]] = []
    for each in numbers:
        if found and each == found[-1][1] + 1:
            found[-1][1] = each
        else:
            found.append([each, each])
    return ", ".join(f"{a}" if a == b else f"{a}\N{EN DASH}{b}" for a, b in found)


def _few(values: Sequence[object], most: int = _FEW) -> str:
    """
    >>> _few([1, 2, 3, 4], 3)
    '1, 2, 3 and 1 more'
    """
    text = ", ".join(map(str, values[:most]))
    return text if len(values) <= most else f"{text} and {len(values) - most:,} more"
