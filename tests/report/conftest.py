"""Run directories made from formulas, not from training: what a report reads, with every number known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

RECIPE = """\
name = "digits"
method = "zowarmup"
seed = {seed}

[data]
source = "digits"
clients = {clients}

[model]
net = "mlp"
"""
FIRST = """
[[phase]]
kind = "first-order"
tier = "high"
rounds = {rounds}
cohort = "all"
lr = 0.1
schedule = "constant"
batch = 16
"""
ZEROTH = """
[[phase]]
kind = "zeroth-order"
tier = "all"
rounds = {rounds}
cohort = "all"
directions = 3
pool = "shared"
difference = "one-sided"
lr = 0.04
schedule = "cosine"
batch = 16
"""

Make = Callable[..., Path]


def build(
    path: Path,
    *,
    seed: int = 0,
    method: str = "zowarmup",
    phases: tuple[tuple[str, str, int], ...] = (("first-order", "high", 50), ("zeroth-order", "all", 150)),
    clients: int = 20,
    high: int = 4,
    classes: int | None = 10,
    names: list[str] | None = None,
    parameters: int = 2410,
    every: int = 10,
    top: float = 0.815,
    stop: int | None = None,
    status: str = "finished",
    refused: int = 0,
    nan_from: int | None = None,
    versions: dict[str, str] | None = None,
) -> Path:
    """Write a run directory whose accuracy climbs to ``top`` by a formula; ``stop`` ends it early."""
    path.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng([seed, len(method)])
    rounds = sum(count for *_, count in phases)
    last = rounds if stop is None else stop
    tiers = ["high" if k in draw.permutation(clients)[:high] else "low" for k in range(clients)]
    tiers = ["high"] * high + ["low"] * (clients - high)
    draw.shuffle(tiers)
    held = list(range(0, classes, 2)) if classes else []
    counts = _holdings(draw, tiers, classes, held) if classes else None
    top += 0.02 * float(draw.standard_normal())
    wobble = 0.02 * draw.standard_normal(rounds + 1)
    first = phases[0][2] if phases[0][0] == "first-order" and len(phases) > 1 else 0
    zeroth = any(kind == "zeroth-order" for kind, *_ in phases)
    low = clients - high
    up, down, forward, backward = ({"high": 0, "low": 0} for _ in range(4))
    lines: list[dict[str, Any]] = []
    fedavg = {way: {"high": 0, "low": 0} for way in ("uplink", "downlink")}
    for t in range(last + 1):
        index, (kind, tier, _) = _phase(phases, t)
        cohort = {"high": high, "low": low, "all": clients}[tier]
        if t > 0:
            present = {"high": high if tier != "low" else 0, "low": low if tier != "high" else 0}
            for name, count in present.items():
                model = 4 * parameters * count
                up[name] += 12 * count if kind == "zeroth-order" else model
                down[name] += 12 * count if kind == "zeroth-order" else model
                if kind == "zeroth-order" and t == first + 1 and name == "low":
                    down[name] += model
                forward[name] += 64 * count
                backward[name] += 0 if kind == "zeroth-order" else 60 * count
                fedavg["uplink"][name] += model
                fedavg["downlink"][name] += model
        line: dict[str, Any] = {
            "round": t, "phase": index if t else None, "kind": kind if t else None, "lr": 0.1 if t else None,
            "cohort": cohort if t else 0, "refused": 0,
            "uplink_bytes": dict(up), "downlink_bytes": dict(down),
            "forward_samples": dict(forward), "backward_samples": dict(backward), "seconds": 0.1 * t,
        }  # fmt: skip
        ends = {sum(count for *_, count in phases[: k + 1]) for k in range(len(phases))}
        if t % every == 0 or t in ends or t == last:
            line |= _scores(t, first, rounds, top, classes, held, float(wobble[t]))
            if nan_from is not None and t >= nan_from:
                line["loss"] = math.nan
        lines.append(line)
    final = {key: lines[-1].get(key) for key in _scores(0, 0, 1, top, classes, held, 0.0)}
    start, table = 1, []
    for kind, tier, count in phases:
        if start <= last:
            peak = 412_000_000 if kind == "first-order" else 298_000_000
            cohort = {"high": high, "low": low, "all": clients}[tier]
            table.append({
                "kind": kind, "tier": tier, "first_round": start, "last_round": min(start + count - 1, last),
                "cohort": cohort, "seconds": 0.1 * count, "peak_memory_bytes": peak, "refused": refused,
            })  # fmt: skip
        start += count
    summary = {
        "format": 1, "status": status, "method": method, "recipe": "digits", "seed": seed, "rounds": rounds,
        "parameters": parameters, "net": "mlp", "device": "cpu", "threads": 1, "pivot": first if zeroth else None,
        "phases": table, "final": final, "bytes": {"uplink": up, "downlink": down}, "fedavg_bytes": fedavg,
        "federation": {
            "tiers": tiers, "sizes": [60] * clients, "class_counts": counts, "class_names": names,
            "low_held_classes": held if classes else None,
        },
        "refused": refused, "peak_memory_bytes": 412_000_000, "seconds": 0.1 * last,
        "state_digest": "9f3c" * 16,
        "versions": versions or {"zowarmup": "0.1.0", "torch": "2.13.0"},
    }  # fmt: skip
    recipe = RECIPE.format(seed=seed, clients=clients)
    recipe += "".join((FIRST if k == "first-order" else ZEROTH).format(rounds=count) for k, _, count in phases)
    (path / "run.toml").write_text(recipe, encoding="utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return path


def _phase(phases: tuple[tuple[str, str, int], ...], t: int) -> tuple[int, tuple[str, str, int]]:
    before = 0
    for index, phase in enumerate(phases):
        before += phase[2]
        if t <= before:
            return index, phase
    raise AssertionError(t)


def _holdings(draw: np.random.Generator, tiers: list[str], classes: int, held: list[int]) -> list[list[int]]:
    shares = draw.dirichlet([0.12] * classes, size=len(tiers))
    for row, tier in zip(shares, tiers, strict=True):
        if tier == "high":
            row[held] *= 0.05
    shares /= shares.sum(axis=1, keepdims=True)
    return [[int(value) for value in np.round(60 * row)] for row in shares]


def _scores(
    t: int, first: int, rounds: int, top: float, classes: int | None, held: list[int], wobble: float
) -> dict[str, Any]:
    warm = 1 - math.exp(-6 * min(t, first or rounds) / (first or rounds))
    late = 1 - math.exp(-3.5 * max(0, t - first) / max(1, rounds - first)) if first else 0.0
    overall = 0.1 + (top - 0.1) * ((0.62 * warm + 0.38 * late) if first else warm)
    accuracy = min(1.0, overall + wobble * (t > 0) * 0.5)
    scores: dict[str, Any] = {"accuracy": accuracy, "loss": 2.3 * math.exp(-2.4 * accuracy) + 0.1}
    if classes is None:
        return scores | dict.fromkeys(("class_accuracy", "low_held_accuracy", "worst_class_accuracy")) | {
            "low_client_accuracy": accuracy - 0.02, "high_client_accuracy": accuracy, "client_accuracy_p10": None,
        }  # fmt: skip
    gap = 0.42 * warm * (1 - 0.75 * late)
    each = []
    for k in range(classes):
        base = accuracy + (-gap if k in held else gap * 0.8) + 0.05 * math.sin(2.4 * k + 1)
        each.append(min(0.99, max(0.01, base)))
    low_held = sum(each[k] for k in held) / len(held) if held else None
    return scores | {
        "class_accuracy": each, "low_held_accuracy": low_held, "worst_class_accuracy": min(each),
        "low_client_accuracy": max(0.0, accuracy - gap * 0.5), "high_client_accuracy": min(1.0, accuracy + gap * 0.45),
        "client_accuracy_p10": max(0.0, accuracy - 0.1 - gap),
    }  # fmt: skip


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a run directory: ``make("name", seed=1, ...)``; see :func:`build`."""
    return lambda name="run", **settings: build(tmp_path / name, **settings)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Three labels with three seeds each."""
    root = tmp_path_factory.mktemp("runs")
    return build_runs(root)


def build_runs(root: Path, seeds: int = 3) -> dict[str, list[Path]]:
    """Runs of three methods, ``seeds`` each, under ``root``."""
    warm, zeroth = ("first-order", "high", 50), ("zeroth-order", "all", 150)
    methods: dict[str, dict[str, Any]] = {
        "high-res-only": {"phases": (warm, ("first-order", "high", 150)), "top": 0.645},
        "zeroth-order only": {"phases": (("zeroth-order", "all", 200),), "top": 0.788},
        "zowarmup": {"phases": (warm, zeroth), "top": 0.82},
    }
    return {
        label: [build(root / f"{label}-{seed}", seed=seed, method=label, **settings) for seed in range(seeds)]
        for label, settings in methods.items()
    }


class Checker(HTMLParser):
    """Counts tags that are opened and closed, and gathers ids and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag, attrs):
        self._attributes(attrs)

    def _attributes(self, attrs):
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "src", "xlink:href", "action"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_page(text: str, size: int = 400_000) -> Checker:
    """A page that is balanced, of less than ``size`` bytes, loads nothing, repeats no id; its pictures are XML."""
    page = Checker(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in page.addresses)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert "http" not in re.sub(r"data:[^\"]*", "", text).replace("http-equiv", "")
    assert "script" not in page.tags
    assert len(text.encode()) < size
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(svg)
    return page


@pytest.fixture
def check() -> Callable[..., Checker]:
    """See :func:`check_page`."""
    return check_page
