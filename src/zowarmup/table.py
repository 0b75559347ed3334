"""Which numbers of the flat vector are which parameter."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass
from functools import cached_property

from zowarmup.directions import Segment, segments


@dataclass(frozen=True)
class Table:
    """Which numbers of the flat vector are which parameter; the same on every replica.

    Args:
        names: of the parameters, in order.
        shapes: of the parameters, in the same order.

    >>> table = Table(("weight", "bias"), ((2, 3), (2,)))
    >>> table.sizes, table.size
    ((6, 2), 8)
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each parameter."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """d: numbers in all parameters together."""
        return sum(self.sizes)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """Where each parameter lies in the flat vector and in the directions' index space."""
        return segments(self.sizes)

    def digest(self) -> str:
        """blake2b-256 of the table, as hex.

        The canonical bytes are ``zowarmup/table/1``, the number of parameters (u32), then for each its name in UTF-8
        behind its length (u32), its number of dimensions (u32) and its dimensions (u64), all little-endian.

        >>> Table(("weight",), ((2, 3),)).digest()[:16]
        '69044c7f843b4921'
        """
        hasher = hashlib.blake2b(b"zowarmup/table/1" + struct.pack("<I", len(self.names)), digest_size=32)
        for name, shape in zip(self.names, self.shapes, strict=True):
            text = name.encode()
            hasher.update(struct.pack("<I", len(text)) + text)
            hasher.update(struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        return hasher.hexdigest()
