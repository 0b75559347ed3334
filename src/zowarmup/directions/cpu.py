"""The backend for processors: Numba kernels, spread over a private pool of threads.

Numba's own threads are not used: its omp layer kills forked children, its workqueue layer aborts when two Python
threads call it. Serial kernels that release the interpreter's lock survive both.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64, UInt32, UInt64
from numpy import ndarray
from torch import Tensor

from zowarmup.directions import kernels
from zowarmup.directions.contract import (
    GROUP,
    LIMIT,
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

_CHUNK_GROUPS = 16
_WAVE_GROUPS = 512
_CALL_WORK = 2**20
"""Groups x directions in one call into a kernel at most, a third of a second: Ctrl-C is heard between two calls."""
_WORTH_THREADS = 2 * _CHUNK_GROUPS * GROUP


class NumbaDirections:
    """The fast backend on a CPU.

    Args:
        threads: threads that share a large piece, the caller's included; results do not depend on it.
    """

    name = "numba"
    device = torch.device("cpu")

    def __init__(self, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads is {threads}, expected 1 or more")
        self.threads = threads
        self._pool = _Pool(threads)

    def perturb(self, w: Tensor, out: Tensor, *, base: int, seed: int, stream: int, c: float) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        n, here, there = w.numel(), w.data_ptr(), out.data_ptr()
        # Written for few microseconds; what is wrong is told apart where it no longer matters.
        if (
            w.dtype is not torch.float32
            or out.dtype is not torch.float32
            or not (w.is_cpu and out.is_cpu and w.is_contiguous() and out.is_contiguous())
            or out.numel() != n
            or not 0 <= base <= LIMIT - n
            or not 0 <= seed < 2**64
            or not 0 <= stream < 2**32
            or 0 < abs(here - there) < 4 * n
        ):
            _refuse(w, out, base, seed, stream, c)
        if n < _WORTH_THREADS or self.threads == 1:
            if not kernels.perturb(here, there, 0, n, base, seed, stream, c):
                _refuse(w, out, base, seed, stream, c)
            return
        if not kernels.perturb(here, there, 0, 0, base, seed, stream, c):
            _refuse(w, out, base, seed, stream, c)

        def part(start: int, stop: int) -> None:
            # Cut where groups end, so that no words are made twice.
            first, last = (min(max(0, group * GROUP - base % GROUP), n) for group in (start, stop))
            kernels.perturb(here, there, first, last, base, seed, stream, c)

        self._pool.share(part, -(-(base % GROUP + n) // GROUP))

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
        self._replay(w, out, segments, [Step(seeds, streams, coefficients, exponent)])

    def replay(
        self, w: Float[Tensor, " d"], out: Float[Tensor, " d"], *, segments: Sequence[Segment], steps: Sequence[Step]
    ) -> None:
        """See :class:`zowarmup.directions.Directions`."""
        check_replay(w, out, segments, steps)
        self._replay(w, out, segments, steps)

    def _replay(self, w: Tensor, out: Tensor, segments: Sequence[Segment], steps: Sequence[Step]) -> None:
        if not (w.is_cpu and out.is_cpu):
            refuse_device("numba", w)
        steps = [step for step in steps if step.seeds.size]  # others keep the bits, -0.0 included
        segments = segments if steps else ()
        here, there = w.data_ptr(), out.data_ptr()
        if here != there:
            for part in gaps(segments, w.numel()):
                out.detach()[part] = w.detach()[part]
        if not segments:
            return
        groups, published = _groups(tuple(segments)), _published(steps)

        def work(start: int, stop: int) -> None:
            kernels.replay(here, there, *groups.part(start, stop), *published)

        self._pool.share(work, groups.number, directions=published.seeds.size)

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
        if not v.is_cpu:
            refuse_device("numba", v)
        groups, address, total = _groups(tuple(segments)), v.data_ptr(), np.zeros(seeds.size)
        published = (np.ascontiguousarray(seeds), np.ascontiguousarray(streams))
        # In waves, so that the sums of groups take little memory and are still added in order.
        for first in range(0, groups.number, _WAVE_GROUPS):
            wave = _Groups(*groups.part(first, first + _WAVE_GROUPS))
            total = self._add(total, address, wave, published)
        return total

    def _add(
        self,
        total: Float64[ndarray, " K"],
        address: int,
        wave: _Groups,
        published: tuple[UInt64[ndarray, " K"], UInt32[ndarray, " K"]],
    ) -> Float64[ndarray, " K"]:
        sums = np.empty((wave.number, total.size))

        def work(start: int, stop: int) -> None:
            kernels.dots(address, *wave.part(start, stop), *published, sums[start:stop])

        self._pool.share(work, wave.number, directions=total.size)
        total = total.copy()
        kernels.add_in_order(total, sums)
        return total

    def every_thread(self, work: Callable[[], T]) -> list[T]:
        """See :class:`zowarmup.directions.Directions`."""
        return self._pool.every_thread(work)


class _Groups(NamedTuple):
    """The groups of segments, in order; those at a segment's ends may be cut."""

    offsets: Int64[ndarray, " n"]
    firsts: Int64[ndarray, " n"]
    sizes: Int64[ndarray, " n"]

    @property
    def number(self) -> int:
        return self.offsets.size

    def part(self, start: int, stop: int) -> tuple[Int64[ndarray, " m"], ...]:
        return self.offsets[start:stop], self.firsts[start:stop], self.sizes[start:stop]


@lru_cache(maxsize=8)  # a run has one set of segments, or a few: local steps ask for it at each step
def _groups(segments: tuple[Segment, ...]) -> _Groups:
    columns: list[tuple[ndarray, ndarray, ndarray]] = []
    for offset, size, base in segments:
        before = base % GROUP
        cuts = np.arange(0, before + size + GROUP, GROUP, dtype=np.int64)[: -(-(before + size) // GROUP) + 1] - before
        cuts = cuts.clip(0, size) if size else cuts[:1]
        columns.append((offset + cuts[:-1], base + cuts[:-1], np.diff(cuts)))
    if not columns:
        return _Groups(*(np.zeros(0, np.int64) for _ in range(3)))
    return _Groups(*map(np.concatenate, zip(*columns, strict=True)))


class _Published(NamedTuple):
    """Steps as the kernel takes them: directions of all steps in a row, ``bounds[t]`` the first of step t."""

    seeds: UInt64[ndarray, " K"]
    streams: UInt32[ndarray, " K"]
    coefficients: Int32[ndarray, " K"]
    bounds: Int64[ndarray, " T+1"]
    scales: Float64[ndarray, " T"]


def _published(steps: Sequence[Step]) -> _Published:
    return _Published(
        np.concatenate([step.seeds for step in steps]),
        np.concatenate([step.streams for step in steps]),
        np.concatenate([step.coefficients for step in steps]),
        np.cumsum([0, *(step.seeds.size for step in steps)], dtype=np.int64),
        np.array([2.0**-step.exponent for step in steps]),
    )


class _Pool:
    """Threads that share ranges of work with the caller; made when first needed, and again after a fork."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._owner = 0

    def share(self, work: Callable[[int, int], None], count: int, *, directions: int = 1) -> None:
        """Call ``work(start, stop)`` over ``range(count)`` groups, by chunks that idle threads take.

        Args:
            work: does as much for each group as ``directions`` says.
            count: groups.
            directions: for how many directions each group is worked on.
        """
        alone = self._threads == 1 or count <= _CHUNK_GROUPS
        size = max(1, min(count if alone else _CHUNK_GROUPS, _CALL_WORK // max(1, directions)))
        chunks = deque(range(0, count, size))

        def take() -> None:
            try:
                while chunks:
                    try:
                        start = chunks.popleft()
                    except IndexError:  # another thread was faster
                        return
                    work(start, min(start + size, count))
            except BaseException:  # Ctrl-C, say: other threads stop, too
                chunks.clear()
                raise

        if alone:
            take()
        else:
            _with_helpers(self._workers(), min(self._threads, len(chunks)) - 1, take)

    def every_thread(self, work: Callable[[], T]) -> list[T]:
        """Results of ``work`` in the caller and in each worker; a worker waits until all have begun."""
        if self._threads == 1:
            return [work()]
        barrier = threading.Barrier(self._threads)

        def once() -> T:
            barrier.wait()
            return work()

        with self._lock:  # two barriers at once could each hold half of the workers
            workers = self._workers()
            futures = [workers.submit(once) for _ in range(self._threads - 1)]
            return [once(), *(future.result() for future in futures)]

    def _workers(self) -> ThreadPoolExecutor:
        if self._executor is None or self._owner != os.getpid():
            self._executor = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="zowarmup-directions")
            self._owner = os.getpid()
        return self._executor


def _with_helpers(workers: ThreadPoolExecutor, helpers: int, take: Callable[[], None]) -> None:
    futures: list[Future[None]] = [workers.submit(take) for _ in range(helpers)]
    try:
        take()
    finally:  # they write into the caller's memory: never leave before they do
        for future in futures:
            future.result()


def _refuse(w: Tensor, out: Tensor, base: int, seed: int, stream: int, c: float) -> None:
    refuse_perturb(w, out, base, seed, stream, c)
    refuse_device("numba", w)
