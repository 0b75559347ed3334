"""zsign/1 in NumPy, line by line as ``docs/spec/directions.md`` says it: slow, and what other backends are held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int32, UInt32, UInt64
from numpy import ndarray
from torch import Tensor

from zowarmup.directions.contract import (
    GROUP,
    Segment,
    Step,
    T,
    check_directions,
    check_replay,
    check_update,
    gaps,
    refuse_device,
    refuse_perturb,
)

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
SIGNS = 0x315A4F53
"""Domain tag of signs v1, the last word of every counter."""
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox(counter: UInt64[ndarray, "n 4"], key: tuple[int, int]) -> UInt64[ndarray, "n 4"]:
    """Philox4x32-10 (Salmon et al. 2011, doi:10.1145/2063384.2063405; as in Random123).

    Args:
        counter: 32-bit words held in 64 bits.
        key: two 32-bit words.
    Returns:
        32-bit words held in 64 bits.

    >>> [f"{word:08x}" for word in philox(np.zeros((1, 4), np.uint64), (0, 0))[0]]
    ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    c0, c1, c2, c3 = counter.T
    k0, k1 = key
    for _ in range(ROUNDS):
        left, right = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1, c2, c3 = (
            (right >> _32) ^ c1 ^ np.uint64(k0),
            right & _LOW,
            (left >> _32) ^ c3 ^ np.uint64(k1),
            left & _LOW,
        )
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def words(seed: int, stream: int, block: int, count: int) -> UInt64[ndarray, "count 4"]:
    """Words of ``count`` blocks from ``block`` on, of one direction.

    >>> [f"{word:08x}" for word in words(0x0123456789ABCDEF, 0, 0, 1)[0]]
    ['7d42a660', 'e04f7c84', '78408be8', '9cf1c004']
    """
    blocks = np.uint64(block) + np.arange(count, dtype=np.uint64)
    counter = np.stack([blocks & _LOW, blocks >> _32, np.full_like(blocks, stream), np.full_like(blocks, SIGNS)], 1)
    return philox(counter, (seed & 0xFFFFFFFF, seed >> 32))


def bits(seed: int, stream: int, base: int, size: int) -> Bool[ndarray, " size"]:
    """Bits of the elements ``base`` to ``base + size`` of a direction; z is -1 where the bit is set, else +1.

    >>> "".join(str(int(bit)) for bit in bits(0x0123456789ABCDEF, 0, 0, 32))
    '00000010000001010111100101111100'
    """
    first, last = base // GROUP, (base + max(size, 1) - 1) // GROUP
    word = words(seed, stream, 32 * first, 32 * (last + 1 - first)).reshape(-1, 1, 128)
    row = np.arange(32, dtype=np.uint64).reshape(1, 32, 1)
    start = base - GROUP * first
    found: ndarray = ((word >> row & np.uint64(1)) == 1).reshape(-1)
    return found[start : start + size]


class NumpyDirections:
    """The reference backend; its scratch grows with the largest segment."""

    name = "numpy"
    device = torch.device("cpu")

    def perturb(self, w: Tensor, out: Tensor, *, base: int, seed: int, stream: int, c: float) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        refuse_perturb(w, out, base, seed, stream, c)
        c32 = np.float32(c)
        bit = bits(seed, stream, base, w.numel())
        _array(out)[:] = _array(w) + np.where(bit, -c32, c32)

    def update(
        self,
        w: Float[Tensor, " d"],
        out: Float[Tensor, " d"],
        *,
        segments: Sequence[Segment],
        seeds: UInt64[ndarray, " K"],
        streams: UInt32[ndarray, " K"],
        coefficients: Int32[ndarray, " K"],
        exponent: int,
    ) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        check_update(w, out, segments, seeds, streams, coefficients, exponent)
        segments = segments if seeds.size else ()
        old, new = _array(w), _array(out)
        for part in gaps(segments, w.numel()):
            new[part] = old[part]
        for offset, size, base in segments:
            total = np.zeros(size, np.int32)
            for seed, stream, a in zip(seeds.tolist(), streams.tolist(), coefficients, strict=True):
                bit = bits(seed, stream, base, size)
                total += np.where(bit, np.negative([a]), [a])  # arrays wrap silently
            part = slice(offset, offset + size)
            new[part] = old[part] + total.astype(np.float32) * np.float32(2.0**-exponent)

    def replay(
        self, w: Float[Tensor, " d"], out: Float[Tensor, " d"], *, segments: Sequence[Segment], steps: Sequence[Step]
    ) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        check_replay(w, out, segments, steps)
        _array(out)[:] = _array(w)
        for step in steps:
            self.update(out, out, segments=segments, **step._asdict())

    def dots(
        self,
        v: Float[Tensor, " d"],
        *,
        segments: Sequence[Segment],
        seeds: UInt64[ndarray, " K"],
        streams: UInt32[ndarray, " K"],
    ) -> Float64[ndarray, " K"]:
        """See :class:`zowarmup.directions.Directions`."""
        check_directions(v, segments, seeds, streams)
        directions = zip(seeds.tolist(), streams.tolist(), strict=True)
        return np.array([_dot(_array(v), segments, seed, stream) for seed, stream in directions], np.float64)

    def every_thread(self, work: Callable[[], T]) -> list[T]:
        """See :class:`zowarmup.directions.Directions`."""
        return [work()]


def _dot(v: Float[ndarray, " d"], segments: Sequence[Segment], seed: int, stream: int) -> float:
    total = 0.0
    for offset, size, base in segments:
        if size:
            signed = np.where(bits(seed, stream, base, size), -1.0, 1.0) * v[offset : offset + size]
            for group in _groups(signed, base):
                total += _sum(group)
    return total


def _groups(signed: Float64[ndarray, " size"], base: int) -> Float64[ndarray, "groups 32 128"]:
    """A segment as whole groups, zeros where it does not reach."""
    before = base % GROUP
    after = -(before + signed.size) % GROUP
    return np.pad(signed, (before, after)).reshape(-1, 32, 128)


def _sum(group: Float64[ndarray, "32 128"]) -> float:
    """The sum of a group in the one order that all backends keep."""
    column = np.zeros(128)
    for row in group:
        column = column + row
    while column.size > 1:
        left, right = np.split(column, 2)
        column = left + right
    return float(column[0])


def _array(w: Tensor) -> Float[ndarray, " d"]:
    if w.device.type != "cpu":
        refuse_device("numpy", w)
    array: ndarray = w.detach().view(-1).numpy()
    return array
