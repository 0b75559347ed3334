"""What the links of a ledger are made from; docs/spec/ledger.md says why."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

_ASIDE = {
    "data": ("source", "path", "name"),
    "model": ("weights",),
    "run": ("snapshot-every", "keep-snapshots", "replay-budget", "sync"),
}
_ASIDE_AT_THE_TOP = ("name", "method", "versions")


def identity(recipe: Mapping[str, Any]) -> bytes:
    """What of a resolved recipe bits depend on, as canonical JSON.

    Left out is what changes no bit (names, how often to take snapshots), what other digests cover (where data and first
    weights lie), and the rounds of the last phase, so that a run may be extended, unless it ends with an average over
    its last rounds; a cosine's horizon is filled in.

    Args:
        recipe: tables as TOML gives them, with every default.

    >>> phase = {"kind": "zeroth-order", "rounds": 3, "schedule": "constant"}
    >>> identity({"name": "x", "seed": 0, "phase": [phase]})
    b'{"phase":[{"kind":"zeroth-order","schedule":"constant"}],"seed":0}'
    """
    kept = {key: value for key, value in recipe.items() if key not in _ASIDE_AT_THE_TOP}
    for name, keys in _ASIDE.items():
        if name in kept:
            kept[name] = {key: value for key, value in kept[name].items() if key not in keys}
    phases = [_fixed(phase, phase["rounds"]) for phase in recipe["phase"]]
    if "average-last" not in phases[-1]:  # whose last round is another than the same round of a longer run
        del phases[-1]["rounds"]
    kept["phase"] = phases
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def _fixed(table: Mapping[str, Any], rounds: int) -> dict[str, Any]:
    """A phase, or a table within it, with the horizon of a cosine and without any other."""
    kept = {key: _fixed(value, rounds) if isinstance(value, Mapping) else value for key, value in table.items()}
    horizon = kept.pop("schedule-rounds", None) or rounds
    return kept | ({"schedule-rounds": horizon} if kept.get("schedule") == "cosine" else {})


def shared(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    """How many rounds two runs have in common, bit by bit: those of their first phases, as long as these are the same.

    Args:
        a: resolved recipe of one, as for :func:`identity`.
        b: of the other.

    >>> first, second = {"kind": "zeroth-order", "rounds": 3}, {"kind": "zeroth-order", "rounds": 4}
    >>> shared({"seed": 0, "phase": [first, first, second]}, {"seed": 0, "phase": [first, first]})
    6
    """
    rounds = 0
    for count, pair in enumerate(zip(a["phase"], b["phase"], strict=False), 1):
        lengths = {phase["rounds"] for phase in pair}
        if len(lengths) > 1 or beginning(a, count) != beginning(b, count):
            break
        rounds += lengths.pop()
    return rounds


def beginning(recipe: Mapping[str, Any], phases: int) -> bytes:
    """The identity of a run's first phases."""
    return identity({**recipe, "phase": recipe["phase"][:phases]})


def genesis(identity: bytes, table: bytes, data: bytes) -> bytes:
    """What the link of round 0 follows from.

    Args:
        identity: see :func:`identity`.
        table: canonical bytes of the tensor table.
        data: digest of data, partition and tiers, 32 bytes.
    """
    return digest(b"zowarmup/ledger/1" + _sized(identity) + digest(table) + data)


def link(previous: bytes, round: int, phase: int, entry: bytes, state: bytes, metrics: bytes) -> bytes:
    """The link of a round, 32 bytes."""
    place = struct.pack("<Qi", round, phase)
    return digest(b"zowarmup/round/1" + previous + place + _sized(entry) + state + _sized(metrics))


def shortened(a: str, b: str) -> tuple[str, str]:
    """Two digests for a message: 12 digits, or as many as it takes to tell them apart.

    >>> shortened("ab" * 32, "cd" * 32)
    ('blake2b:abababababab', 'blake2b:cdcdcdcdcdcd')
    >>> shortened("ab" * 32, "ab" * 7 + "cd" * 25)
    ('blake2b:abababababababa', 'blake2b:abababababababc')
    """
    digits = next((number for number in range(12, len(a)) if a[:number] != b[:number]), len(a))
    return f"blake2b:{a[:digits]}", f"blake2b:{b[:digits]}"


def unlike(a: Any, b: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Values that differ, by path."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from unlike(a.get(key), b.get(key), f"{path}.{key}" if path else key)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from unlike(left, right, f"{path}.{index}")
    elif a != b:
        yield path, (a, b)


def _sized(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def digest(*parts: bytes | memoryview) -> bytes:
    """BLAKE2b of the parts behind each other, 32 bytes: every hash of the record."""
    hasher = hashlib.blake2b(digest_size=32)
    for part in parts:
        hasher.update(part)
    return hasher.digest()
