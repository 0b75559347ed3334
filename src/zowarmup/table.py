"""Which numbers of the flat vector are which parameter."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from zowarmup import chain

if TYPE_CHECKING:
    from zowarmup.directions import Segment


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
        from zowarmup.directions import segments  # imports torch, which a reader of a ledger does without

        return segments(self.sizes)

    def moving(self, frozen: Collection[str]) -> tuple[Segment, ...]:
        """Segments of the parameters that are not among ``frozen``."""
        return tuple(each for name, each in zip(self.names, self.segments, strict=True) if name not in frozen)

    def place(self, name: str) -> slice:
        """Where a parameter lies in the flat vector.

        Raises:
            KeyError: there is none of that name.

        >>> Table(("weight", "bias"), ((2, 3), (2,))).place("bias")
        slice(6, 8, None)
        """
        return self._places[name]

    @cached_property
    def _places(self) -> dict[str, slice]:
        ends = list(itertools.accumulate(self.sizes, initial=0))
        return {name: slice(*pair) for name, pair in zip(self.names, itertools.pairwise(ends), strict=True)}

    def unlike(self, other: Table) -> str:
        """The first parameter in which another table differs, in words; empty where they are equal."""
        mine, theirs = (list(zip(table.names, table.shapes, strict=True)) for table in (self, other))
        for own, expected in itertools.zip_longest(mine, theirs):
            if own != expected:
                got, wanted = ("nothing" if each is None else f"{each[0]} {each[1]}" for each in (own, expected))
                return f"it has {got}, expected {wanted}"
        return ""

    def canonical(self) -> bytes:
        """The table as bytes.

        ``zowarmup/table/1``, the number of parameters (u32), then for each its name in UTF-8 behind its length (u32),
        its number of dimensions (u32) and its dimensions (u64), all little-endian.
        """
        parts = [_TAG, struct.pack("<I", len(self.names))]
        for name, shape in zip(self.names, self.shapes, strict=True):
            text = name.encode()
            parts += [struct.pack("<I", len(text)), text, struct.pack(f"<I{len(shape)}Q", len(shape), *shape)]
        return b"".join(parts)

    @classmethod
    def parse(cls, content: bytes) -> Table:
        """The table of :meth:`canonical` bytes.

        Raises:
            ValueError: they are not.

        >>> table = Table(("weight", "bias"), ((2, 3), (2,)))
        >>> Table.parse(table.canonical()) == table
        True
        """
        names, shapes = [], []
        try:
            (count,) = struct.unpack_from("<I", content, len(_TAG))
            at = len(_TAG) + 4
            for _ in range(count):
                (length,) = struct.unpack_from("<I", content, at)
                names.append(content[at + 4 : at + 4 + length].decode())
                (dimensions,) = struct.unpack_from("<I", content, at := at + 4 + length)
                shapes.append(struct.unpack_from(f"<{dimensions}Q", content, at + 4))
                at += 4 + 8 * dimensions
        except (struct.error, UnicodeDecodeError, MemoryError) as error:
            raise ValueError(f"not a tensor table: {error}") from None
        table = cls(tuple(names), tuple(shapes))
        if table.canonical() != content:
            raise ValueError("not a tensor table: something else before, between or behind its rows")
        if len(set(names)) < len(names):
            raise ValueError("not a tensor table: two parameters of one name")
        return table

    def digest(self) -> str:
        """blake2b-256 of the canonical bytes, as hex.

        >>> Table(("weight",), ((2, 3),)).digest()[:16]
        '69044c7f843b4921'
        """
        return chain.digest(self.canonical()).hex()


_TAG = b"zowarmup/table/1"
