"""`zowarmup verify` and `zowarmup diff`: what holds, what does not; where two runs part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from zowarmup.cli import consoles, tables
from zowarmup.cli.inspecting import spans
from zowarmup.ledger import Ledger
from zowarmup.report import words

if TYPE_CHECKING:
    from zowarmup.difference import Difference
    from zowarmup.proof import Proof


def show_proof(proof: Proof, folder: Path, *, as_json: bool) -> None:
    """What holds, what was only linked, and every problem on a line of its own."""
    if as_json:
        problems = [problem._asdict() for problem in proof.problems]
        facts = {name: getattr(proof, name) for name in ("rounds", "chain", "snapshots", "replayed", "unproved")}
        consoles.print_json({"run": str(folder), "holds": proof.holds, **facts, "problems": problems})
        return
    console = consoles.out()
    if proof.holds:
        tables.say(console, f"{folder}: everything holds", "bold green")
    else:
        count = words.plural(len(proof.problems), "problem")
        tables.say(console, f"{folder}: {count}", "bold red")
        for problem in proof.problems:
            tables.say(console, problem.message)
    console.print()
    tables.show(console, tables.facts(_checked(proof, console)))


def _checked(proof: Proof, console: Console) -> Iterable[tuple[str, str]]:
    if not proof.chain:
        yield "rounds", "none yet"
        return
    yield "rounds", f"0 to {proof.rounds:,}" + ("; each link follows from the one before" if proof.holds else "")
    if proof.holds:
        yield "chain", tables.digest(proof.chain, console)
    yield "snapshots", f"{proof.snapshots:,} that hold the state they are named after"
    yield "replayed", f"{words.plural(proof.replayed, 'round')} that give the state in the ledger"
    if proof.unproved:
        ranges = ", ".join(f"{a}" if a == b else f"{a}\N{EN DASH}{b}" for a, b in proof.unproved)
        yield "linked only", f"rounds {ranges}: without a snapshot to compare"


def show_difference(difference: Difference, a: Path, b: Path, *, as_json: bool) -> None:
    """That two runs are identical, or where they part and in what."""
    with Ledger.open(a) as ledger:
        chain = ledger.row(ledger.last).chain.hex() if ledger.last >= 0 else None
    if as_json:
        names = ("identical", "same", "rounds", "recipe", "about", "round", "what", "metrics")
        found: dict[str, Any] = {name: getattr(difference, name) for name in names}
        consoles.print_json({"runs": [str(a), str(b)], **found, "chain": chain if difference.identical else None})
        return
    console = consoles.out()
    if difference.identical:
        text = f"{words.plural(difference.rounds[0], 'round')}, chain blake2b:{chain}" if chain else "no round yet"
        tables.say(console, f"identical: {text}")
        return
    tables.say(console, _headline(difference, a, b), "bold")
    for line in _details(difference):
        tables.say(console, f"  {line}")


def _headline(difference: Difference, a: Path, b: Path) -> str:
    """Where they part, in a sentence."""
    one, other = difference.rounds
    if difference.round is not None:
        return f"they part at round {difference.round}"
    if one != other:
        shorter, longer = (a, b) if one < other else (b, a)
        least, most = sorted(difference.rounds)
        if least < 0:
            return f"{shorter} has no round yet, {longer} has {most}"
        return f"the same up to round {least}, where {shorter} ends; {longer} has {words.plural(most, 'round')}"
    if difference.about:
        return f"every round is the same, but not {' and '.join(difference.about)}"
    return f"the same weights in all {words.plural(one, 'round')}"


def _details(difference: Difference) -> Iterable[str]:
    for path, (one, other) in difference.recipe.items():
        yield f"recipe: {path} is {_value(one)} and {_value(other)}"
    for name in difference.about:
        yield f"{name}: {'another tensor table' if name == 'model' else 'another digest of data, partition and tiers'}"
    yield from difference.what
    if difference.metrics:
        alone = "" if difference.round is not None or difference.recipe or difference.about else " alone"
        yield f"metrics{alone}: in {_rounds(difference.metrics)}"


def _rounds(rounds: tuple[int, ...]) -> str:
    return f"round {rounds[0]}" if len(rounds) == 1 else f"{len(rounds):,} rounds: {words.shorten(spans(rounds), 60)}"


def _value(value: object) -> str:
    return "not there" if value is None else str(value)
