"""zsign/1 in plain torch integer operations: any device torch knows, nothing compiled, no wait for the device.

Words are 32-bit numbers held in int64, as torch has no unsigned arithmetic everywhere. Scratch is bounded by
``CHUNK`` elements, whatever the size of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32, UInt32, UInt64
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
    refuse_perturb,
)
from zowarmup.directions.philox import MULTIPLIERS, ROUNDS, SIGNS, WEYL

CHUNK = 2**20
_LOW = 0xFFFFFFFF


class TorchDirections:
    """The backend for devices without kernels of their own."""

    name = "torch"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    @torch.no_grad()
    def perturb(self, w: Tensor, out: Tensor, *, base: int, seed: int, stream: int, c: float) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        refuse_perturb(w, out, base, seed, stream, c)
        old, new, seed = w.view(-1), out.view(-1), int(seed)
        for part, first in _chunks(Segment(0, w.numel(), base)):
            signs = _signs(seed, stream, first, part.stop - part.start, w.device)
            torch.add(old[part], signs.to(torch.float32).mul_(c), out=new[part])  # +-1 times c is exact

    @torch.no_grad()
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
        for part in gaps(segments, w.numel()):
            out[part] = w[part]
        published = list(zip(seeds.tolist(), streams.tolist(), coefficients.tolist(), strict=True))
        for part, first in (chunk for piece in segments for chunk in _chunks(piece)):
            size = part.stop - part.start
            total = torch.zeros(size, dtype=torch.int32, device=w.device)
            for seed, stream, a in published:
                total += _signs(seed, stream, first, size, w.device).mul_(a)
            torch.add(w[part], total.to(torch.float32).mul_(2.0**-exponent), out=out[part])

    @torch.no_grad()
    def replay(
        self, w: Float[Tensor, " d"], out: Float[Tensor, " d"], *, segments: Sequence[Segment], steps: Sequence[Step]
    ) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        check_replay(w, out, segments, steps)
        out.copy_(w)
        for step in steps:
            self.update(out, out, segments=segments, **step._asdict())

    @torch.no_grad()
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
        v = v.cpu() if v.device.type == "mps" else v  # Metal has no float64
        directions = list(zip(seeds.tolist(), streams.tolist(), strict=True))
        sums = []
        for part, first in (chunk for piece in segments for chunk in _chunks(piece)):
            size, before = part.stop - part.start, first % GROUP
            padding = (before, -(before + size) % GROUP)
            values = v[part].to(torch.float64)
            signed = [values * _signs(seed, stream, first, size, v.device) for seed, stream in directions]
            sums += [torch.stack([_sums(torch.nn.functional.pad(one, padding)) for one in signed])] if signed else []
        if not sums:
            return np.zeros(seeds.size)
        groups: ndarray = torch.cat(sums, dim=1).cpu().numpy()
        # Not np.sum, whose order is its own. Adding to +0.0 first makes a sum of -0.0 what it is elsewhere.
        return np.asarray(np.cumsum(np.pad(groups, ((0, 0), (1, 0))), axis=1)[:, -1])

    def every_thread(self, work: Callable[[], T]) -> list[T]:
        """See :class:`zowarmup.directions.Directions`."""
        return [work()]


def _chunks(piece: Segment) -> Iterator[tuple[slice, int]]:
    """Parts of a segment that begin at a group, and the index of each part's first element in direction space."""
    done = 0
    while done < piece.size:
        first = piece.base + done
        step = min(CHUNK - first % GROUP, piece.size - done)
        yield slice(piece.offset + done, piece.offset + done + step), first
        done += step


def _signs(seed: int, stream: int, base: int, size: int, device: torch.device) -> Int[Tensor, " size"]:
    """+1 and -1 of the elements ``base`` to ``base + size``, int32."""
    first, last = base // GROUP, (base + size - 1) // GROUP
    word = _words(seed, stream, 32 * first, 32 * (last + 1 - first), device).view(-1, 1, 128)
    row = torch.arange(32, dtype=torch.int32, device=device).view(1, 32, 1)
    bit = (word >> row) & 1
    start = base - GROUP * first
    return (1 - 2 * bit).view(-1)[start : start + size]


def _words(seed: int, stream: int, block: int, count: int, device: torch.device) -> Int[Tensor, "count 4"]:
    """Words of ``count`` blocks from ``block`` on, as int32 with the same bits."""
    blocks = block + torch.arange(count, dtype=torch.int64, device=device)
    c0, c1, c2, c3 = blocks & _LOW, blocks >> 32, torch.full_like(blocks, int(stream)), torch.full_like(blocks, SIGNS)
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & _LOW, (k1 + WEYL[1]) & _LOW
    unsigned = torch.stack([c0, c1, c2, c3], dim=1)
    return ((unsigned ^ 0x80000000) - 0x80000000).to(torch.int32)


def _product(a: Int[Tensor, " n"], multiplier: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """High and low 32 bits of a 32x32 product, by halves of the multiplier: int64 never overflows."""
    low, high = a * (multiplier & 0xFFFF), a * (multiplier >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _LOW


def _sums(v: Float[Tensor, " n"]) -> Float[Tensor, " groups"]:
    """Sums of whole groups, in the order of :meth:`Directions.dots`."""
    column = torch.zeros(v.numel() // GROUP, 128, dtype=v.dtype, device=v.device)
    for row in v.view(-1, 32, 128).unbind(dim=1):
        column = column + row
    while column.shape[1] > 1:
        left, right = column.chunk(2, dim=1)
        column = left + right
    return column[:, 0]
