"""Numbers as people read them; an undefined one (None, NaN, infinite) is an en dash."""

from __future__ import annotations

import math
from typing import TypeGuard

Number = float | int  # a checker at run time tells them apart
UNDEFINED = "–"
_SPACE = "\N{NO-BREAK SPACE}"


def defined(value: Number | None) -> TypeGuard[Number]:
    """Whether ``value`` is a finite number."""
    return value is not None and math.isfinite(value)


def percent(share: Number | None) -> str:
    """A share of 1 as percent, one decimal.

    >>> percent(0.8154), percent(None)
    ('81.5\\xa0%', '–')
    """
    return f"{100 * share:.1f}{_SPACE}%" if defined(share) else UNDEFINED


def number(value: Number | None) -> str:
    """Four significant digits.

    >>> number(0.81536), number(2.0), number(12345.0)
    ('0.8154', '2', '12,340')
    """
    if not defined(value):
        return UNDEFINED
    if abs(value) >= 1000:
        return f"{float(f'{value:.4g}'):,.0f}"
    return f"{value:.4g}"


def points(difference: Number | None) -> str:
    """A difference of two shares of 1, in percentage points, always with its sign.

    >>> points(0.17), points(-0.004)
    ('+17.0', '−0.4')
    """
    return signed(f"{100 * difference:+.1f}") if defined(difference) else UNDEFINED


def signed(text: str) -> str:
    """A minus sign in the place of a hyphen."""
    return text.replace("-", "−")


def size(count: Number | None) -> str:
    """A number of bytes, three digits, decimal units (1 kB = 1000 B).

    >>> size(12), size(9640), size(44_695_848), size(999_999)
    ('12\\xa0B', '9.64\\xa0kB', '44.7\\xa0MB', '1\\xa0MB')
    """
    if not defined(count):
        return UNDEFINED
    return _scaled(float(count), 1000.0, ("B", "kB", "MB", "GB", "TB", "PB"))


def amount(count: Number | None) -> str:
    """A count of samples, three digits: thousands and millions spelt as k and M.

    >>> amount(950), amount(182_400), amount(3e6)
    ('950', '182\\xa0k', '3\\xa0M')
    """
    if not defined(count):
        return UNDEFINED
    return _scaled(float(count), 1000.0, ("", "k", "M", "G", "T")).rstrip()


def times(ratio: Number | None) -> str:
    """A factor: two digits below ten, then whole numbers of three digits.

    >>> times(3216.4), times(4.25), times(3_724_654)
    ('3,220\\xa0×', '4.2\\xa0×', '3.72\\xa0million\\xa0×')
    """
    if not defined(ratio):
        return UNDEFINED
    if ratio >= 1e6:
        return f"{float(f'{ratio / 1e6:.3g}'):,.10g}{_SPACE}million{_SPACE}×"
    rounded = float(f"{ratio:.2g}" if ratio < 10 else f"{ratio:.3g}")
    return (f"{rounded:.0f}" if rounded < 10 and rounded == int(rounded) else _grouped(rounded)) + f"{_SPACE}×"


def duration(seconds: Number | None) -> str:
    """Wall time, two units at most.

    >>> duration(0.42), duration(38.4), duration(754), duration(9000)
    ('0.4\\xa0s', '38\\xa0s', '12\\xa0min 34\\xa0s', '2\\xa0h 30\\xa0min')
    """
    if not defined(seconds):
        return UNDEFINED
    if seconds < 59.5:
        return f"{seconds:.1f}{_SPACE}s" if seconds < 10 else f"{seconds:.0f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}{_SPACE}h {minutes}{_SPACE}min"


def plural(count: int, noun: str) -> str:
    """``1 client``, ``2 clients``.

    >>> plural(1, "client"), plural(1200, "client")
    ('1\\xa0client', '1,200\\xa0clients')
    """
    return f"{count:,}{_SPACE}{noun}{'' if count == 1 else 's'}"


def shorten(text: str, length: int) -> str:
    """At most ``length`` characters, the cut marked.

    >>> shorten("aeroplane", 5)
    'aero…'
    """
    return text if len(text) <= length else text[: length - 1] + "…"


def squeeze(text: str, length: int) -> str:
    """At most ``length`` characters, the middle cut out: names of methods differ in how they begin and in how they end.

    >>> squeeze("cifar10-small-high-res-only", 20)
    'cifar10-sm…-res-only'
    """
    return text if len(text) <= length else text[: length // 2] + "…" + text[len(text) - (length - length // 2 - 1) :]


def _grouped(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    for unit in units:
        rounded = float(f"{value:.3g}")
        if abs(rounded) < step or unit == units[-1]:
            break
        value /= step
    return f"{rounded:.3g}{_SPACE}{unit}" if rounded < step else f"{rounded:,.0f}{_SPACE}{unit}"
