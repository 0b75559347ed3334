"""Choosing settings: every value of a grid is run, and what the clients hold back for validation decides."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from zowarmup.errors import UsageError
from zowarmup.report import Trial, load_run


def values_of(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """``KEY=v1,v2,v3`` as values by key; each value in TOML, and a bare word is a string.

    Raises:
        UsageError: not of this form, or a key given twice.

    >>> values_of(["phase.1.lr=0.01,0.02", "phase.1.step=plain,rms"])
    {'phase.1.lr': (0.01, 0.02), 'phase.1.step': ('plain', 'rms')}
    """
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not equals or not key.strip() or not values.strip():
            raise UsageError(f"--tune {text}: expected KEY=VALUE,VALUE,..., for instance phase.1.lr=0.01,0.02")
        if key.strip() in found:
            raise UsageError(f"--tune: {key.strip()} is given twice", hint="all its values go into one")
        found[key.strip()] = _parsed(values)
    return found


def score(folder: Path) -> float | None:
    """The accuracy on validation shares at the end of a run; None where it was not a finite number.

    Raises:
        OutputError: not the directory of a run that has ended.
    """
    found = load_run(folder).summary["final"].get("validation_accuracy")
    return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


def best(trials: Sequence[Trial]) -> Mapping[str, Any] | None:
    """The values with the highest mean score; the first of equal ones.

    Values of which a trial failed, or has no score, are out.

    Args:
        trials: of one method at one split, those of one combination of values behind each other.

    Returns:
        None where every combination is out.

    >>> scores = [(0.1, 0.25), (0.1, 0.5), (0.2, 0.5), (0.2, 0.5), (0.4, 0.75), (0.4, None)]
    >>> best([Trial("zo", "", {"lr": lr}, 0, score, Path()) for lr, score in scores])
    {'lr': 0.2}
    """
    means: list[tuple[float, Mapping[str, Any]]] = []
    for values, group in itertools.groupby(trials, key=lambda trial: trial.values):
        scores = [trial.score for trial in group]
        known = [each for each in scores if each is not None]
        if len(known) == len(scores):
            means.append((math.fsum(known) / len(known), values))
    return max(means, key=lambda pair: pair[0])[1] if means else None


def _parsed(text: str) -> tuple[Any, ...]:
    try:
        return tuple(tomllib.loads(f"values = [{text}]")["values"])
    except tomllib.TOMLDecodeError:
        return tuple(map(_word, text.split(",")))


def _word(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
