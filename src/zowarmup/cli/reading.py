"""A comparison in a sentence, worked out from its runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from zowarmup.report import words

if TYPE_CHECKING:
    from zowarmup.manifest import Comparison

Scores = Mapping[int, float]
_MORE = 1.5  # times as many bytes are worth a word


def reading(comparison: Comparison) -> Iterator[str]:
    """What the baseline reaches, against each other method, seed by seed; and who sends how many bytes.

    A sentence for each split; none where the baseline has no runs, as there is nothing to say then.
    """
    from zowarmup.report.grid import load_grid
    from zowarmup.report.tables import by_seed

    for split in load_grid(comparison.finished, baseline=comparison.baseline).splits:
        if comparison.baseline not in split.groups:
            continue
        first = {comparison.baseline: split.groups[comparison.baseline]}
        found = {label: by_seed(group) for label, group in {**first, **split.groups}.items()}
        accuracy = {label: _column(group, "accuracy") for label, group in found.items()}
        sent = {label: _mean(_column(group, "low_uplink_bytes").values()) for label, group in found.items()}
        yield f"{split.name}: {sentence(accuracy, sent)}" if split.name else sentence(accuracy, sent)


def sentence(accuracy: Mapping[str, Scores], sent: Mapping[str, float | int | None]) -> str:
    """The sentence.

    Args:
        accuracy: label -> seed -> share of 1; the first label leads.
        sent: label -> bytes from low-resource clients over a run.

    >>> accuracy = {"a": {0: 0.8, 1: 0.9}, "b": {0: 0.6, 1: 0.7}, "c": {0: 0.95, 1: 0.91}}
    >>> text = sentence(accuracy, {"a": 12, "b": 0, "c": 60})
    >>> print(text.replace(". ", ".\\n").replace("; ", ";\\n"))
    a reaches 85.0 %: 20.0 points above b (better on 2 of 2 seeds), 8.0 below c (0 of 2).
    Its low-resource clients send 12 B;
    those of c send 5 × as much.
    """
    first, *others = accuracy
    mean = _mean(accuracy[first].values())
    if mean is None:
        return f"{first} has no accuracy to compare."
    against: list[str] = []
    for label in others:
        against += _against(accuracy[first], label, accuracy[label], brief=bool(against))
    text = f"{first} reaches {words.percent(mean)}" + (f": {', '.join(against)}." if against else ".")
    if mine := sent[first]:
        text += f" Its low-resource clients send {words.size(mine)}"
        ratios = {label: (sent[label] or 0.0) / mine for label in others}
        text += "".join(
            f"; those of {label} send {words.times(ratio)} as much" for label, ratio in ratios.items() if ratio > _MORE
        )
        text += "."
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _against(first: Scores, label: str, other: Scores, *, brief: bool) -> list[str]:
    """``20.0 above b (2 of 2)``, with units where not brief; nothing where no seed is shared."""
    shared = sorted(first.keys() & other.keys())
    gap = _mean(first[seed] - other[seed] for seed in shared)
    if gap is None:
        return []
    wins = sum(first[seed] > other[seed] for seed in shared)
    points, better, seeds = (
        ("", "", "") if brief else (" points", "better on ", " seeds" if len(shared) > 1 else " seed")
    )
    side = "above" if gap >= 0 else "below"
    return [f"{100 * abs(gap):.1f}{points} {side} {label} ({better}{wins} of {len(shared)}{seeds})"]


def _column(group: Mapping[int, Mapping[str, float | None]], key: str) -> dict[int, float]:
    return {seed: float(value) for seed, values in group.items() if (value := values[key]) is not None}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
