"""What every backend shares: the interface, where tensors lie, how a round becomes integers, what is refused.

``docs/spec/directions.md`` is the public contract, zsign/1, with known answers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, UInt32, UInt64
from numpy import ndarray
from torch import Tensor

from zowarmup.errors import NonFiniteError

GROUP = 4096
"""Elements that share 128 Philox words, one bit of each for an element; tensors begin at multiples of it."""
LIMIT = 2**63
"""Indices in direction space are below it, so that signed 64-bit integers hold them everywhere."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = -66, 100
"""Of an update's scale 2^-e: sum |a| < 2^96 gives the first, and 2^-e stays a normal fp32 up to the second."""

T = TypeVar("T")


class Segment(NamedTuple):
    """Where one tensor, or a shard of one, lies in memory and in direction space."""

    offset: int
    """First element in the flat vector."""
    size: int
    """Elements."""
    base: int
    """Index of the first element in direction space."""


class Step(NamedTuple):
    """What one update adds to the weights; :meth:`Directions.replay` takes many of them."""

    seeds: UInt64[ndarray, " K"]
    """Of the K directions; K may differ from step to step, and be 0."""
    streams: UInt32[ndarray, " K"]
    """Index of each direction's draw under its seed."""
    coefficients: Int32[ndarray, " K"]
    """A, from :func:`quantise`."""
    exponent: int
    """e, from :func:`quantise`."""


@runtime_checkable
class Directions(Protocol):
    """A backend: directions are made again from a seed wherever they are needed, and never stored.

    Backends differ in speed alone: ``perturb``, ``update`` and ``replay`` give the same bits on all of them, and so
    does ``dots``. Weights are fp32 and contiguous; memory is written behind autograd's back. Indices in direction space
    are below 2**63. What is out of range, of the wrong dtype or shape, or overlaps by a part, is a ``ValueError``.
    """

    name: str
    device: torch.device

    def perturb(self, w: Tensor, out: Tensor, *, base: int, seed: int, stream: int, c: float) -> None:
        """Write ``fl32(w + c z)``, one rounding an element, for one contiguous piece of the weights.

        Args:
            w: fp32 weights of any shape, read in C order.
            out: where to write, as many elements as ``w``; ``w`` itself, or memory apart from it.
            base: index of the first element in direction space; any, so that a shard is perturbed like the whole.
            seed: below 2**64.
            stream: index of the draw under this seed, below 2**32.
            c: eps times tau, in units of the weights, an exact fp32 number; negative for the minus side.
        """

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
        """Write ``fl32(w + fl32(sum_k A_k z_k) 2^-e)``, the sum in wrapping int32: a round, in one pass over memory.

        Nothing depends on the order of directions, on threads or on how the weights are cut into segments. Without
        directions (K = 0) the weights keep their bits, as they do outside the segments.

        Args:
            w: the flat weights.
            out: where to write, as many elements as ``w``; ``w`` itself, or memory apart from it.
            segments: by ascending offset, none overlapping another.
            seeds, streams: the K directions.
            coefficients, exponent: A and e, from :func:`quantise`.
        """

    def replay(
        self, w: Float[Tensor, " d"], out: Float[Tensor, " d"], *, segments: Sequence[Segment], steps: Sequence[Step]
    ) -> None:
        """Write what one ``update`` for each of ``steps`` would, in order: the first from ``w``, others in place.

        The same bits, whatever the steps; without any, a copy. A backend with kernels takes each group of weights
        through all steps at once, so that memory is read and written once, not once a step. Nothing is written
        where a step is refused; the ``ValueError`` names it, counting from 0.

        Args:
            w: the flat weights.
            out: where to write, as many elements as ``w``; ``w`` itself, or memory apart from it.
            segments: by ascending offset, none overlapping another; the same for all steps.
            steps: from the oldest to the newest.
        """

    def dots(
        self,
        v: Float[Tensor, " d"],
        *,
        segments: Sequence[Segment],
        seeds: UInt64[ndarray, " K"],
        streams: UInt32[ndarray, " K"],
    ) -> Float64[ndarray, " K"]:
        """``<v, z_k>`` in float64, for a gradient ``v``: the exact slopes of all K directions (times tau).

        Elements of a group are added along its 32 rows, then the 128 columns by halves, then groups in order.
        """

    def every_thread(self, work: Callable[[], T]) -> list[T]:
        """Results of ``work``, called once in each thread this backend computes in, the caller's first."""


def segments(sizes: Sequence[int]) -> tuple[Segment, ...]:
    """Segments of whole tensors of ``sizes`` elements that lie one behind the other in a flat vector.

    The padding to multiples of 4096 is in direction space only.

    Raises:
        ValueError: a size is negative.

    >>> segments([10, 4097, 3])
    (Segment(offset=0, size=10, base=0), Segment(offset=10, size=4097, base=4096), Segment(offset=4107, size=3, base=12288))
    """  # noqa: E501
    found, offset, base = [], 0, 0
    for size in sizes:
        if size < 0:
            raise ValueError(f"sizes must be >= 0, got {size}")
        found.append(Segment(offset, size, base))
        offset, base = offset + size, base + -(-size // GROUP) * GROUP
    return tuple(found)


def quantise(a: Float64[ndarray, " K"]) -> tuple[Int32[ndarray, " K"], int]:
    """The integers ``A`` and the exponent ``e`` a round publishes: ``A_k = rint(a_k 2^e)``, ``sum |A_k|`` about 2^30.

    Args:
        a: one coefficient a direction, in units of the weights: what is added to them is ``sum_k a_k z_k``.
    Returns:
        ``A``, shape ``(K,)``, and ``e`` in -66..100; 30 where all of ``a`` is zero.
    Raises:
        NonFiniteError: a coefficient is NaN or infinite, or ``sum |a_k| >= 2**96``.

    >>> quantise(np.array([1e-3, -2.5e-4, 3.1415926e-5]))
    (array([ 549755814, -137438953,   17271088], dtype=int32), 39)
    """
    bad = np.flatnonzero(~np.isfinite(a))
    if bad.size:
        k = int(bad[0])
        raise NonFiniteError(f"coefficient of direction {k} is {a[k]}, expected a finite number", direction=k)
    # Above 2**96 no sum is taken: it could overflow.
    total = math.inf if (np.abs(a) >= 2.0**96).any() else math.fsum(np.abs(a))
    if total >= 2.0**96:
        raise NonFiniteError(f"coefficients of a round sum to {total:.3g} in magnitude, expected less than 2**96")
    exponent = min(LARGEST_EXPONENT, 30 - math.frexp(total)[1])
    return np.rint(np.ldexp(a, exponent)).astype(np.int32), exponent


def keeps_denormals(directions: Directions) -> bool:
    """Whether ``perturb`` and ``update`` of ``directions`` are right for denormal weights, in this thread.

    Bits are compared, not numbers: a processor that flushes its inputs finds a denormal equal to zero.
    """
    normal, denormal, c = 0x00C00000, 0x00400000, 2.0**-126  # 1.5 * 2^-126 and 2^-127
    w = torch.full((128,), normal, dtype=torch.int32).view(torch.float32).to(directions.device)
    directions.perturb(w, w, base=0, seed=0, stream=0, c=c)
    if set(w.cpu().view(torch.int32).tolist()) != {denormal, 0x01200000}:
        return False
    w = torch.full((128,), denormal, dtype=torch.int32).view(torch.float32).to(directions.device)
    seeds, streams, zero = np.zeros(1, np.uint64), np.zeros(1, np.uint32), np.zeros(1, np.int32)
    directions.update(w, w, segments=(Segment(0, 128, 0),), seeds=seeds, streams=streams, coefficients=zero, exponent=0)
    return set(w.cpu().view(torch.int32).tolist()) == {denormal}


def refuse_perturb(w: Tensor, out: Tensor, base: int, seed: int, stream: int, c: float) -> None:
    """Raise the ``ValueError`` that says what is wrong with the arguments of ``perturb``, if anything is."""
    _check_pair(w, out)
    if not 0 <= base <= LIMIT - w.numel():
        raise ValueError(f"base is {base} for {w.numel()} elements, expected 0 or more and an end of at most 2**63")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}, expected 0 <= seed < 2**64")
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream is {stream}, expected 0 <= stream < 2**32")
    if not (math.isfinite(c) and abs(c) < 2.0**128 and float(np.float32(c)) == c):
        raise ValueError(f"c is {c!r}, expected a finite number that fp32 holds exactly: float(np.float32(eps * tau))")


def check_update(
    w: Tensor,
    out: Tensor,
    segments: Sequence[Segment],
    seeds: ndarray,
    streams: ndarray,
    coefficients: ndarray,
    exponent: int,
) -> None:
    """Raise ``ValueError`` for arguments of ``update`` that the contract refuses."""
    _check_pair(w, out)
    _check_segments(segments, w.numel())
    _check_step("", Step(seeds, streams, coefficients, exponent))


def check_replay(w: Tensor, out: Tensor, segments: Sequence[Segment], steps: Sequence[Step]) -> None:
    """Raise ``ValueError`` for arguments of ``replay`` that the contract refuses."""
    _check_pair(w, out)
    _check_segments(segments, w.numel())
    for at, step in enumerate(steps):
        _check_step(f"step {at}: ", step)


def check_directions(v: Tensor, segments: Sequence[Segment], seeds: ndarray, streams: ndarray) -> None:
    """Raise ``ValueError`` for a vector, segments or directions that the contract refuses."""
    _check_weights("the vector", v)
    _check_segments(segments, v.numel())
    _check_pool("", seeds, streams)


def _check_segments(segments: Sequence[Segment], numel: int) -> None:
    end = 0
    for at, piece in enumerate(segments):
        if piece.size < 0 or piece.offset < end or piece.offset + piece.size > numel:
            raise ValueError(
                f"segment {at} is elements {piece.offset}..{piece.offset + piece.size}, expected {end}..{numel} "
                "or a part of it: segments ascend, do not overlap and lie in the vector"
            )
        if not 0 <= piece.base <= LIMIT - piece.size:
            raise ValueError(f"segment {at} has base {piece.base}, expected 0 or more and an end of at most 2**63")
        end = piece.offset + piece.size


def _check_step(where: str, step: Step) -> None:
    _check_pool(where, step.seeds, step.streams)
    _check_array(f"{where}coefficients", step.coefficients, np.int32, step.seeds.size)
    if not SMALLEST_EXPONENT <= step.exponent <= LARGEST_EXPONENT:
        raise ValueError(f"{where}exponent is {step.exponent}, expected {SMALLEST_EXPONENT}..{LARGEST_EXPONENT}")


def _check_pool(where: str, seeds: ndarray, streams: ndarray) -> None:
    _check_array(f"{where}seeds", seeds, np.uint64, seeds.size)
    _check_array(f"{where}streams", streams, np.uint32, seeds.size)


def gaps(segments: Sequence[Segment], numel: int) -> Iterator[slice]:
    """The parts of a flat vector that no segment covers."""
    end = 0
    for piece in segments:
        if piece.offset > end:
            yield slice(end, piece.offset)
        end = piece.offset + piece.size
    if end < numel:
        yield slice(end, numel)


def _check_pair(w: Tensor, out: Tensor) -> None:
    _check_weights("w", w)
    _check_weights("out", out)
    if w.device != out.device:
        raise ValueError(f"w is on {w.device} and out on {out.device}, expected one device")
    if w.numel() != out.numel():
        raise ValueError(f"out has {out.numel()} elements, expected as many as w: {w.numel()}")
    if 0 < abs(w.data_ptr() - out.data_ptr()) < 4 * w.numel():
        raise ValueError("out overlaps w by a part, expected w itself or memory apart from it")


def _check_weights(name: str, w: Tensor) -> None:
    if w.dtype != torch.float32:
        raise ValueError(f"{name} is {w.dtype}, expected torch.float32")
    if not w.is_contiguous():
        raise ValueError(f"{name} is not contiguous, expected C order without gaps")


def _check_array(name: str, array: ndarray, dtype: type[np.generic], count: int) -> None:
    if array.dtype != dtype:
        raise ValueError(f"{name} are {array.dtype}, expected {np.dtype(dtype)}")
    if array.shape != (count,):
        raise ValueError(f"{name} have shape {array.shape}, expected {(count,)}")


def refuse_device(backend: str, w: Tensor) -> NoReturn:
    """Raise the ``ValueError`` for weights that are not where ``backend`` computes."""
    raise ValueError(f"w is on {w.device}, expected cpu for the {backend} backend")
