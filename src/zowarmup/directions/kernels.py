"""zsign/1 as Numba kernels: serial functions over raw memory that release the interpreter's lock.

Compiled on import, and kept in Numba's cache where there is a place for it. What looks odd is there for speed:

* memory comes as addresses, as unpacking tensors into arrays would cost more than perturbing a small one;
* 32-bit values are wrapped in ``np.uint32`` again and again, since ``uint32 & uint32`` promotes to 64-bit lanes;
* loops run over at most 128 consecutive elements, the length that LLVM turns into vector code;
* in place is a loop of its own, since a loop over two arrays that are one falls back to scalars;
* Philox runs two blocks abreast, as one alone waits for its own products.

All kernels live in this one file: Numba's cache does not notice a change in another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, no_type_check

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from zowarmup.directions.philox import MULTIPLIERS, SIGNS, WEYL

F = TypeVar("F", bound=Callable[..., Any])

_SEEDS_AT_ONCE = 3
_WORDS = 136  # 128, and room for the block that makes their number even

_u32, _u64, _i32, _f32, _f64 = np.uint32, np.uint64, np.int32, np.float32, np.float64
_LEFT, _RIGHT = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_WEYL_0, _WEYL_1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
_TAG = np.uint32(SIGNS)


def _kernel(signature: str | None = None) -> Callable[[F], F]:
    """Compile for one signature, now; without one, where it is called from."""

    def compile_(function: F) -> F:
        def jit(cache: bool) -> F:
            options = {"nogil": True, "cache": cache}
            found: F = numba.njit(signature, **options)(function) if signature else numba.njit(**options)(function)
            return found

        try:
            return jit(cache=True)
        except (RuntimeError, OSError):  # no place for a cache that can be written, or it is full
            return jit(cache=False)

    return compile_


@no_type_check
@intrinsic
def _address(context, address):
    """An integer as an address."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.intp), generate


@_kernel()
@no_type_check
def _blocks(words, first, block, half, seed, stream):
    """Write ``2 half`` blocks from ``block`` on into ``words[first:]``; a round as a function runs at half speed."""
    low, high = _u32(seed), _u32(seed >> _u64(32))
    for j in range(half):
        one = block + _u64(j)
        two = one + _u64(half)
        a0, a1, a2, a3 = _u32(one), _u32(one >> _u64(32)), _u32(stream), _TAG
        b0, b1, b2, b3 = _u32(two), _u32(two >> _u64(32)), _u32(stream), _TAG
        k0, k1 = low, high
        for _ in range(10):
            left_a, right_a = _u64(a0) * _LEFT, _u64(a2) * _RIGHT
            left_b, right_b = _u64(b0) * _LEFT, _u64(b2) * _RIGHT
            a0 = _u32(_u32(right_a >> _u64(32)) ^ a1 ^ k0)
            b0 = _u32(_u32(right_b >> _u64(32)) ^ b1 ^ k0)
            a2 = _u32(_u32(left_a >> _u64(32)) ^ a3 ^ k1)
            b2 = _u32(_u32(left_b >> _u64(32)) ^ b3 ^ k1)
            a1, a3 = _u32(right_a), _u32(left_a)
            b1, b3 = _u32(right_b), _u32(left_b)
            k0, k1 = _u32(k0 + _WEYL_0), _u32(k1 + _WEYL_1)
        here = first + 4 * j
        there = here + 4 * half
        words[here], words[here + 1], words[here + 2], words[here + 3] = a0, a1, a2, a3
        words[there], words[there + 1], words[there + 2], words[there + 3] = b0, b1, b2, b3


@_kernel()
@no_type_check
def _group(words, g, size, seed, stream):
    """Write those of the 128 words that ``size`` elements from ``g`` on need; they lie in one group."""
    group, m = _u64(g >> 12), g & 127
    if m + size >= 128:
        _blocks(words, 0, group * _u64(32), 16, seed, stream)
    else:
        first = m >> 2
        half = (((m + size - 1) >> 2) - first + 2) >> 1
        _blocks(words, 4 * first, group * _u64(32) + _u64(first), half, seed, stream)


@_kernel("boolean(intp, intp, int64, int64, int64, uint64, uint32, float64)")
@no_type_check
def perturb(w_address, out_address, start, stop, base, seed, stream, c):
    """``out = fl32(w + c z)`` for the elements ``start`` to ``stop`` of a piece; False if ``c`` is no fp32 number."""
    plus = _f32(c)
    if _f64(plus) != c or not np.isfinite(plus):
        return False
    minus = -plus
    w = numba.carray(_address(w_address), stop, np.float32)
    out = numba.carray(_address(out_address), stop, np.float32)
    words = np.empty(_WORDS, np.uint32)
    i = start
    while i < stop:
        g = base + i
        size = min(4096 - (g & 4095), stop - i)
        _group(words, g, size, seed, stream)
        end = i + size
        while i < end:
            g = base + i
            m = g & 127
            count = min(128 - m, end - i)
            bit = _u32(_u32(1) << _u32((g >> 7) & 31))
            word, new = words[m : m + count], out[i : i + count]
            if w_address == out_address:
                for q in range(count):
                    new[q] += plus if _u32(word[q] & bit) == _u32(0) else minus
            else:
                old = w[i : i + count]
                for q in range(count):
                    new[q] = old[q] + (plus if _u32(word[q] & bit) == _u32(0) else minus)
            i += count
    return True


@_kernel()
@no_type_check
def _pick(word, bit, a):
    return a if _u32(word & bit) != _u32(0) else _u32(0)


@_kernel()
@no_type_check
def _subtract(total, g, size, words, twice):
    """Subtract ``twice[s]`` from the totals of ``size`` elements from ``g`` on wherever the bit of seed s is set."""
    a0, a1, a2 = twice[0], twice[1], twice[2]
    i = 0
    while i < size:
        m = (g + i) & 127
        count = min(128 - m, size - i)
        bit = _u32(_u32(1) << _u32(((g + i) >> 7) & 31))
        row, word = total[i : i + count], words[m:]
        for q in range(count):
            two = _u32(_pick(word[q], bit, a0) + _pick(word[_WORDS + q], bit, a1))
            row[q] -= _u32(two + _pick(word[2 * _WORDS + q], bit, a2))
        i += count


@_kernel("void(intp, intp, int64[::1], int64[::1], int64[::1], uint64[::1], uint32[::1], int32[::1], float64)")
@no_type_check
def update(w_address, out_address, offsets, firsts, sizes, seeds, streams, coefficients, scale):
    """The integer update of groups: memory offset, index in direction space and size of each."""
    words = np.empty(_SEEDS_AT_ONCE * _WORDS, np.uint32)
    total = np.empty(4096, np.uint32)
    twice = np.zeros(_SEEDS_AT_ONCE, np.uint32)
    all_plus, scale32 = _u32(0), _f32(scale)
    for a in coefficients:
        all_plus = _u32(all_plus + _u32(a))
    for j in range(offsets.size):
        g, size, start = firsts[j], sizes[j], 4 * offsets[j]
        # sum +-A = sum A - 2 sum (A where the bit is set), modulo 2^32: one test and one sum a seed
        total[:size] = all_plus
        for k in range(0, seeds.size, _SEEDS_AT_ONCE):
            for s in range(_SEEDS_AT_ONCE):
                twice[s] = _u32(0)
                if k + s < seeds.size:
                    twice[s] = _u32(_u32(2) * _u32(coefficients[k + s]))
                    _group(words[s * _WORDS :], g, size, seeds[k + s], streams[k + s])
            _subtract(total, g, size, words, twice)
        old = numba.carray(_address(w_address + start), size, np.float32)
        new = numba.carray(_address(out_address + start), size, np.float32)
        if w_address == out_address:
            for i in range(size):
                new[i] += _f32(_i32(total[i])) * scale32
        else:
            for i in range(size):
                new[i] = old[i] + _f32(_i32(total[i])) * scale32


@_kernel()
@no_type_check
def _columns(column, v, g, words):
    """Add the elements of ``v``, which begin at ``g``, with their signs to the 128 columns, row after row."""
    i = 0
    while i < v.size:
        m = (g + i) & 127
        count = min(128 - m, v.size - i)
        bit = _u32(_u32(1) << _u32(((g + i) >> 7) & 31))
        sums, word, row = column[m : m + count], words[m : m + count], v[i : i + count]
        for q in range(count):
            x = row[q]
            sums[q] += _f64(x if _u32(word[q] & bit) == _u32(0) else -x)
        i += count


@_kernel("void(intp, int64[::1], int64[::1], int64[::1], uint64[::1], uint32[::1], float64[:, ::1])")
@no_type_check
def dots(v_address, offsets, firsts, sizes, seeds, streams, sums):
    """``sums[j, k]``: group j's part of ``<v, z_k>``."""
    words, column = np.empty(_WORDS, np.uint32), np.empty(128, np.float64)
    for j in range(offsets.size):
        g, size = firsts[j], sizes[j]
        v = numba.carray(_address(v_address + 4 * offsets[j]), size, np.float32)
        for k in range(seeds.size):
            _group(words, g, size, seeds[k], streams[k])
            column[:] = 0.0
            _columns(column, v, g, words)
            half = 64
            while half > 0:
                for q in range(half):
                    column[q] += column[half + q]
                half >>= 1
            sums[j, k] = column[0]


@_kernel("void(float64[::1], float64[:, ::1])")
@no_type_check
def add_in_order(total, sums):
    """Add the sums of groups to the total, one group after the other."""
    for j in range(sums.shape[0]):
        for k in range(total.size):
            total[k] += sums[j, k]
