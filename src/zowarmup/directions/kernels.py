"""zsign/1 as Numba kernels: serial functions over raw memory that release the interpreter's lock.

Compiled on import, and kept in Numba's cache where there is a place for it. What looks odd is there for speed:

* memory comes as addresses, as unpacking tensors into arrays would cost more than perturbing a small one;
* 32-bit values are wrapped in ``np.uint32`` again and again, since ``uint32 & uint32`` promotes to 64-bit lanes;
* loops run over at most 128 consecutive elements, the length that LLVM turns into vector code;
* in place is a loop of its own, since a loop over two arrays that are one falls back to scalars;
* Philox runs two blocks abreast, as one alone waits for its own products;
* a sum over directions has two forms, the same integers from both: ``replay`` chooses.

All kernels live in this one file, long as it is: all are built on ``_blocks``, and Numba's cache does not notice a
change in another file. It does keep processors and their features apart, whether those of the machine or those set by
NUMBA_CPU_NAME and NUMBA_CPU_FEATURES, so what is decided from them here needs no further care.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, no_type_check

import numba
import numpy as np
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from zowarmup.directions.philox import MULTIPLIERS, SIGNS, WEYL

F = TypeVar("F", bound=Callable[..., Any])

_SEEDS_AT_ONCE = 3
_TRIPLES = 5  # looked up in one pass over the sums; with fewer, those are loaded and stored too often
_BATCH = 3 * _TRIPLES
_WORDS = 136  # 128, and room for the block that makes their number even

_u32, _u64, _i32, _f32, _f64 = np.uint32, np.uint64, np.int32, np.float32, np.float64
_LEFT, _RIGHT = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
_WEYL_0, _WEYL_1 = np.uint32(WEYL[0]), np.uint32(WEYL[1])
_TAG = np.uint32(SIGNS)
_NIBBLES = np.uint32(0x11111111)


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
def _subtract(total, words, twice, first, stop):
    """Subtract ``twice[s]`` from the totals of rows ``first`` to ``stop`` wherever the bit of seed s is set."""
    a0, a1, a2 = twice[0], twice[1], twice[2]
    for b in range(first, stop):
        bit = _u32(_u32(1) << _u32(b))
        row = total[128 * b : 128 * b + 128]
        for q in range(128):
            two = _u32(_pick(words[q], bit, a0) + _pick(words[_WORDS + q], bit, a1))
            row[q] -= _u32(two + _pick(words[2 * _WORDS + q], bit, a2))


@_kernel()
@no_type_check
def _subtract_one(total, words, a, first, stop):
    """The same for one seed."""
    for b in range(first, stop):
        bit = _u32(_u32(1) << _u32(b))
        row = total[128 * b : 128 * b + 128]
        for q in range(128):
            row[q] -= _pick(words[q], bit, a)


@_kernel()
@no_type_check
def _rows(g, size):
    """The rows of a group that ``size`` elements from ``g`` on lie in: the first, and the one after the last.

    Sums are written for whole rows: what other elements of them get means nothing and is never read.
    """
    before = g & 4095
    return before >> 7, ((before + size - 1) >> 7) + 1


@_kernel()
@no_type_check
def _write_by_tests(total, words, twice, g, size, begin, end, seeds, streams, coefficients):
    """Write the sum of ``+-A_k`` over directions ``begin`` to ``end``, wrapping, to the totals, testing each bit."""
    first, stop = _rows(g, size)
    # sum +-A = sum A - 2 sum (A where the bit is set), modulo 2^32: one test and one sum a seed
    all_plus = _u32(0)
    for k in range(begin, end):
        all_plus = _u32(all_plus + _u32(coefficients[k]))
    total[128 * first : 128 * stop] = all_plus
    for k in range(begin, end, _SEEDS_AT_ONCE):
        for s in range(_SEEDS_AT_ONCE):
            twice[s] = _u32(0)
            if k + s < end:
                twice[s] = _u32(_u32(2) * _u32(coefficients[k + s]))
                _group(words[s * _WORDS :], g, size, seeds[k + s], streams[k + s])
        if k + 1 == end:
            _subtract_one(total, words, twice[0], first, stop)
        else:
            _subtract(total, words, twice, first, stop)


@no_type_check
def _vectors(builder, sums, signs, table, shift):
    """``sums[q] += table[8 t + ((signs[512 t + q] >> shift) & 7)]`` for 8 columns q and each triple t of a batch.

    All but ``shift`` are addresses of 32-bit integers. Written as vectors, in LLVM's own language, since its compiler
    makes one instruction of a look-up among 8 numbers in a register and eight of one in memory.
    """
    word, lanes = ir.IntType(32), range(8)
    vector = ir.VectorType(word, 8)

    def at(address, offset):
        return builder.inttoptr(builder.add(address, address.type(4 * offset)), vector.as_pointer())

    def load(address, offset):
        found = builder.load(at(address, offset))
        found.align = 4
        return found

    shifts = ir.Constant(vector, ir.Undefined)
    for lane in lanes:
        shifts = builder.insert_element(shifts, builder.trunc(shift, word), word(lane))
    total = load(sums, 0)
    for triple in range(_TRIPLES):
        index = builder.and_(builder.lshr(load(signs, 512 * triple), shifts), ir.Constant(vector, [7] * 8))
        values, found = load(table, 8 * triple), ir.Constant(vector, ir.Undefined)
        for lane in lanes:
            value = builder.extract_element(values, builder.extract_element(index, word(lane)))
            found = builder.insert_element(found, value, word(lane))
        total = builder.add(total, found)
    builder.store(total, at(sums, 0)).align = 4


@no_type_check
@intrinsic
def _look_up(context, sums, signs, table, shift):
    """See `_vectors`."""

    @no_type_check
    def generate(context, builder, signature, arguments):
        _vectors(builder, *arguments)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp, types.int64), generate


@no_type_check
def _looks_up():
    """Whether the processor that Numba compiles for has an instruction for look-ups (vpermd, from AVX2 on).

    LLVM is asked rather than the processor: a few vectors are compiled for Numba's target and read.
    """
    triple, processor, features = cpu_target.target_context.codegen().magic_tuple()
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 4)
    function = ir.Function(module, kind, "look_up")
    builder = ir.IRBuilder(function.append_basic_block())
    _vectors(builder, *function.args)
    builder.ret_void()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=processor, features=features)
    assembly = machine.emit_assembly(binding.parse_assembly(str(module)))
    return "vpermd" in assembly or "vpermps" in assembly  # the same one, moving integers or floats


LOOKS_UP = _looks_up()


@_kernel()
@no_type_check
def _pack(signs, words):
    """Put the bits of three directions side by side: row ``4 i + j`` is in the bits from ``4 i`` on of part j."""
    for j in range(4):
        part, shift = signs[128 * j : 128 * j + 128], _u32(j)
        for q in range(128):
            a = _u32(_u32(words[q] >> shift) & _NIBBLES)
            b = _u32(_u32(words[_WORDS + q] >> shift) & _NIBBLES)
            c = _u32(_u32(words[2 * _WORDS + q] >> shift) & _NIBBLES)
            part[q] = _u32(_u32(a | _u32(b << _u32(1))) | _u32(c << _u32(2)))


@_kernel()
@no_type_check
def _add_by_look_ups(total, words, signs, table, g, size, begin, seeds, streams, coefficients):
    """Add the sum of ``+-A_k`` over the batch of directions from ``begin`` on, wrapping, to the totals.

    The bits of three directions make a number below 8, and a table of 8 has the sum of the three: one look-up for
    three tests and three sums.
    """
    for s in range(_BATCH):
        k, triple, place = begin + s, s // 3, s % 3
        _blocks(words[place * _WORDS :], 0, _u64(g >> 12) * _u64(32), 16, seeds[k], streams[k])
        a = _u32(coefficients[k])
        for i in range(8):
            before = table[8 * triple + i] if place else _u32(0)
            table[8 * triple + i] = _u32(before + (_u32(-a) if (i >> place) & 1 else a))
        if place == 2:
            _pack(signs[512 * triple :], words)
    first, stop = _rows(g, size)
    sums, packed, values = total.ctypes.data, signs.ctypes.data, table.ctypes.data
    for row in range(first, stop):
        for q in range(0, 512, 32):
            _look_up(sums + 512 * row + q, packed + 512 * (row & 3) + q, values, row & 28)


@_kernel(
    "void(intp, intp, int64[::1], int64[::1], int64[::1], "
    "uint64[::1], uint32[::1], int32[::1], int64[::1], float64[::1])"
)
@no_type_check
def replay(w_address, out_address, offsets, firsts, sizes, seeds, streams, coefficients, bounds, scales):
    """Integer updates, one after the other, of groups: memory offset, index in direction space and size of each.

    The directions of step t are those from ``bounds[t]`` to ``bounds[t + 1]``. A group goes through all steps before
    the next group begins: its weights travel from memory and back once, and stay in the cache between.
    """
    words, twice = np.zeros(_SEEDS_AT_ONCE * _WORDS, np.uint32), np.empty(_SEEDS_AT_ONCE, np.uint32)
    total = np.empty(4096, np.uint32)
    signs, table = np.empty(512 * _TRIPLES, np.uint32), np.empty(8 * _TRIPLES, np.uint32)
    for j in range(offsets.size):
        g, size, start = firsts[j], sizes[j], 4 * offsets[j]
        new, sums = numba.carray(_address(out_address + start), size, np.float32), total[g & 4095 :]
        if w_address != out_address:
            new[:] = numba.carray(_address(w_address + start), size, np.float32)
        for t in range(scales.size):
            k, end, scale = bounds[t], bounds[t + 1], _f32(scales[t])
            # Whole batches are looked up where the processor has an instruction for it. The rest is tested: a batch
            # that is not full would cost more than its tests do.
            batches = k + (end - k) % _BATCH if LOOKS_UP else end
            _write_by_tests(total, words, twice, g, size, k, batches, seeds, streams, coefficients)
            if LOOKS_UP:  # a constant: elsewhere nothing of this is compiled
                for batch in range(batches, end, _BATCH):
                    _add_by_look_ups(total, words, signs, table, g, size, batch, seeds, streams, coefficients)
            for i in range(size):
                new[i] += _f32(_i32(sums[i])) * scale


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
