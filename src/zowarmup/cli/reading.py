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
    """What the baseline reaches, each other method against it, seed by seed; and who sends how many bytes.

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
        sent = {label: _mean(_column(group, "low_client_uplink_bytes").values()) for label, group in found.items()}
        yield f"{split.name}: {sentence(accuracy, sent)}" if split.name else sentence(accuracy, sent)


def sentence(accuracy: Mapping[str, Scores], sent: Mapping[str, float | int | None]) -> str:
    """The sentence.

    Args:
        accuracy: label -> seed -> share of 1; the first label leads.
        sent: label -> bytes that a low-resource client sends over a run, on average.

    >>> accuracy = {"a": {0: 0.8, 1: 0.9}, "b": {0: 0.6, 1: 0.7}, "c": {0: 0.95, 1: 0.91}}
    >>> text = sentence(accuracy, {"a": 12, "b": 0, "c": 60})
    >>> print(text.replace(". ", ".\\n").replace("; ", ";\\n"))
    a reaches 85.0 %.
    Against it: c +8.0 points (better on 2 of 2 seeds), b −20.0 (0 of 2).
    A low-resource client of a sends 12 B;
    of c 5 × as much.
    """
    first, *others = accuracy
    mean = _mean(accuracy[first].values())
    if mean is None:
        return f"{first} has no accuracy to compare."
    gaps = {label: gap for label in others if (gap := _gap(accuracy[first], accuracy[label]))}
    text = f"{first} reaches {words.percent(mean)}."
    if gaps:
        best, *rest = sorted(gaps, key=lambda label: -gaps[label][0])
        told = [_told(best, *gaps[best], brief=False), *(_told(label, *gaps[label], brief=True) for label in rest)]
        text += f" Against it: {', '.join(told)}."
    if mine := sent[first]:
        text += f" A low-resource client of {first} sends {words.size(mine)}"
        ratios = {label: (sent[label] or 0.0) / mine for label in others}
        text += "".join(
            f"; of {label} {words.times(ratio)} as much" for label, ratio in ratios.items() if ratio > _MORE
        )
        text += "."
    return text.replace("\N{NO-BREAK SPACE}", " ")


def _gap(first: Scores, other: Scores) -> tuple[float, int, int] | None:
    """The mean of ``other - first`` over shared seeds, on how many it is better, of how many; None where none."""
    shared = sorted(first.keys() & other.keys())
    gap = _mean(other[seed] - first[seed] for seed in shared)
    return None if gap is None else (gap, sum(other[seed] > first[seed] for seed in shared), len(shared))


def _told(label: str, gap: float, better: int, shared: int, *, brief: bool) -> str:
    """``b +20.0 (2 of 2)``, with units where not brief."""
    if brief:
        return f"{label} {words.points(gap)} ({better} of {shared})"
    return f"{label} {words.points(gap)} points (better on {better} of {words.plural(shared, 'seed')})"


def _column(group: Mapping[int, Mapping[str, float | None]], key: str) -> dict[int, float]:
    return {seed: float(value) for seed, values in group.items() if (value := values[key]) is not None}


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
