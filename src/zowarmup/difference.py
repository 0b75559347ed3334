"""The round where two runs part, from their ledgers alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zowarmup.chain import shortened, unlike
from zowarmup.ledger import Ledger, Row
from zowarmup.protocol import Entry, Patch, Replacement, Update


@dataclass(frozen=True)
class Difference:
    """Where two runs part.

    Args:
        rounds: the last round of each.
        recipe: what differs in the recipes, of what bits depend on: path -> both values.
        about: ``"model"`` and ``"data"``, where the tables or the data's digests differ.
        round: the first round that differs in more than its metrics; None where there is none.
        what: in what it differs: ``"phase"``, ``"entry"``, ``"state"``, with details.
        metrics: rounds whose metrics alone differ.
    """

    rounds: tuple[int, int]
    recipe: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    about: tuple[str, ...] = ()
    round: int | None = None
    what: tuple[str, ...] = ()
    metrics: tuple[int, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the runs have the same rounds, bit for bit, to their ends."""
        return self.round is None and not self.about and self.rounds[0] == self.rounds[1]

    @property
    def identical(self) -> bool:
        """Whether everything that links cover is the same."""
        return self.same and not self.recipe and not self.metrics


def diff(a: str | Path, b: str | Path) -> Difference:
    """Compare two runs by their ledgers.

    Raises:
        OutputError: one is not a run directory.
        LedgerError: one is damaged.
    """
    with Ledger.open(Path(a)) as one, Ledger.open(Path(b)) as other:
        heads = one.head, other.head
        differ = {"model": heads[0].table != heads[1].table, "data": heads[0].data != heads[1].data}
        about = [name for name, found in differ.items() if found]
        parted: int | None = None
        what: tuple[str, ...] = ()
        metrics = []
        unlike_heads = dict(unlike(*(json.loads(head.identity) for head in heads)))
        for left, right in zip(one.rows(), other.rows(), strict=False):
            if (*left[:3], left.state) != (*right[:3], right.state):
                parted, what = left.round, tuple(_what(left, right))
                break
            if left.metrics != right.metrics:
                metrics.append(left.round)
            elif left.chain != right.chain and not (metrics or about or unlike_heads):
                parted, what = left.round, ("chain: " + " and ".join(shortened(left.chain.hex(), right.chain.hex())),)
                break
        return Difference(
            rounds=(one.last, other.last),
            recipe=unlike_heads,
            about=tuple(about),
            round=parted,
            what=what,
            metrics=tuple(metrics),
        )


def _what(a: Row, b: Row) -> Iterator[str]:
    """In what two rows differ, in words."""
    if a.phase != b.phase:
        yield f"phase: {a.phase} and {b.phase}"
    if a.entry != b.entry:
        one, other = a.decoded(), b.decoded()
        if type(one) is not type(other) or one is None or other is None:
            yield f"entry: {type(one).__name__.lower()} and {type(other).__name__.lower()}"
        else:
            yield from (f"entry: {text}" for text in _fields(one, other))
    if a.state != b.state:
        yield "state: " + " and ".join(shortened(a.state.hex(), b.state.hex()))


def _fields(a: Entry, b: Entry) -> Iterator[str]:
    if a.participants != b.participants:
        yield f"clients that took part: {len(a.participants)} and {len(b.participants)}"
    if a.refused != b.refused:
        yield f"refused: {a.refused or 'nobody'} and {b.refused or 'nobody'}"
    if isinstance(a, Update) and isinstance(b, Update):
        if a.seed != b.seed:
            yield f"seed: {a.seed:#018x} and {b.seed:#018x}"
        if (a.exponent, len(a.coefficients)) != (b.exponent, len(b.coefficients)):
            yield (
                f"{len(a.coefficients)} coefficients times 2^-{a.exponent} "
                f"and {len(b.coefficients)} times 2^-{b.exponent}"
            )
        elif (unlike := np.flatnonzero(a.coefficients != b.coefficients)).size:
            k = int(unlike[0])
            yield (
                f"{unlike.size} of {len(a.coefficients)} coefficients, first that of direction {k}: "
                f"{a.coefficients[k]} and {b.coefficients[k]}"
            )
        if a.state != b.state:
            yield f"phase state: {a.state} and {b.state}"
    elif isinstance(a, Patch) and isinstance(b, Patch):
        names = sorted(a.values.keys() | b.values.keys() | a.buffers.keys() | b.buffers.keys())
        yield f"values of {', '.join(names) or 'nothing'}"
    elif isinstance(a, Replacement) and isinstance(b, Replacement) and a.moments != b.moments:
        yield "phase state"
