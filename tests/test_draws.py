"""Keyed draws: the same everywhere, different for every part of the key."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zowarmup.draws import Draw


def test_the_key_is_blake2b_of_the_canonical_tuple():
    import hashlib

    canonical = struct.pack("<I", 5) + b"batch" + struct.pack("<4q", 7, 3, 11, 2)
    expected = int.from_bytes(hashlib.blake2b(canonical, digest_size=8).digest(), "little")
    assert Draw(7, "batch", 3, 11, 2).key() == expected


def test_the_words_are_known():
    """Philox4x64-10 of NumPy: its raw stream is fixed; this pins ours to it."""
    assert [hex(word) for word in Draw(0, "test").words(2)] == ["0x3c05126f672e938d", "0xf0b51191512edd61"]


@pytest.mark.parametrize(
    "other",
    [Draw(1, "a", 2, 3, 4), Draw(0, "b", 2, 3, 4), Draw(0, "a", 1, 3, 4), Draw(0, "a", 2, 2, 4), Draw(0, "a", 2, 3, 5)],
)
def test_every_part_of_the_key_matters(other):
    assert Draw(0, "a", 2, 3, 4).key() != other.key()


@given(st.integers(0, 200), st.integers(0, 2**63 - 1))
def test_a_permutation_holds_every_number_once(count, seed):
    assert sorted(Draw(seed, "p").permutation(count)) == list(range(count))


@given(st.integers(1, 200), st.data())
def test_a_choice_is_ascending_and_without_repetition(count, data):
    size = data.draw(st.integers(0, count))
    chosen = Draw(5, "c").choose(count, size)
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    assert not size or (chosen[0] >= 0 and chosen[-1] < count)


def test_integers_are_even():
    counts = np.bincount(Draw(0, "i").integers(9, 90_000), minlength=9)
    # Each count is binomial with mean 10,000 and sd 94: five sd is a chance of 5e-6 for nine counts.
    assert len(counts) == 9
    assert np.abs(counts - 10_000).max() < 5 * 94
