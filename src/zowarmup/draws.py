"""Every random draw of a run, keyed by what it is for; no generator state is ever kept.

A draw belongs to ``(run seed, purpose, round, client, index)``. The canonical bytes of that tuple go through
blake2b-64, the result is the key of a Philox4x64-10 counter generator, and only its raw 64-bit words are used, with
integer arithmetic alone. So a draw is the same on every platform and NumPy version, in whatever order clients work,
and a run that is resumed needs nothing but its seed. (The one exception is :func:`generator`, for the
floating-point draws of a Dirichlet partition; the partition itself is integers, and travels with the run.)

>>> draw = Draw(seed=0, purpose="batch", round=3, client=7)
>>> bool((draw.permutation(10) == Draw(seed=0, purpose="batch", round=3, client=7).permutation(10)).all())
True
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_NONE = -1


@dataclass(frozen=True, slots=True)
class Draw:
    """The key of one draw.

    Args:
        seed: the run seed, ``0 <= seed < 2**63``.
        purpose: what is drawn, for instance ``"cohort"`` or ``"batch"``.
        round: the round, or -1 where the draw belongs to the whole run.
        client: the client, or -1 where the draw belongs to the server.
        index: tells several draws for one purpose apart, for instance local epochs.
    """

    seed: int
    purpose: str
    round: int = _NONE
    client: int = _NONE
    index: int = 0

    def key(self) -> int:
        """The draw's 64-bit key: blake2b-64 of the tuple.

        The canonical bytes are the purpose in UTF-8 behind its length (u32), then the four integers (i64), all
        little-endian.

        >>> hex(Draw(seed=0, purpose="directions", round=1).key())
        '0x8ec612c871eba0cd'
        """
        text = self.purpose.encode()
        canonical = struct.pack("<I", len(text)) + text
        canonical += struct.pack("<4q", self.seed, self.round, self.client, self.index)
        return int.from_bytes(hashlib.blake2b(canonical, digest_size=8).digest(), "little")

    def words(self, count: int) -> NDArray[np.uint64]:
        """``count`` raw words of Philox4x64-10 under this key, shape ``(count,)``."""
        return np.random.Philox(key=self.key()).random_raw(count)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """A permutation of ``range(count)``, shape ``(count,)``."""
        return np.argsort(self.words(count), kind="stable").astype(np.int64)

    def choose(self, count: int, size: int) -> NDArray[np.int64]:
        """``size`` different numbers below ``count``, ascending, shape ``(size,)``."""
        return np.sort(self.permutation(count)[:size])

    def integers(self, high: int, size: int) -> NDArray[np.int64]:
        """``size`` numbers in ``range(high)``, shape ``(size,)``; ``high <= 2**31``, bias below ``high / 2**32``."""
        return ((self.words(size) >> np.uint64(32)) * np.uint64(high) >> np.uint64(32)).astype(np.int64)

    def generator(self) -> np.random.Generator:
        """A floating-point generator under this key, for partitions only."""
        return np.random.Generator(np.random.Philox(key=self.key()))
