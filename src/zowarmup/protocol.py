"""The messages of a round: requests, reports and entries, their encoding, and their size in bytes.

``payload_bytes`` counts the numbers that a message exists for, without names and framing; ``len(encode(message))`` is
the whole message. In one process messages are passed as they are; on a network they are encoded with msgpack, strictly
typed, and nothing is ever unpickled. Entries are arrays without names, one encoding each: those bytes are also what the
ledger keeps (docs/spec/ledger.md).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from zowarmup.errors import RunError

Array = np.ndarray[Any, np.dtype[Any]]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_EXPONENTS = (-66, 100)  # docs/spec/directions.md
_DTYPES = ("<f4", "<f8", "<f2", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1")


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True, rename="kebab", eq=False):
    round: int
    """1 to T."""
    phase: int
    """Index of the phase in the recipe."""


class Request(_Message, frozen=True, kw_only=True):
    """What a sampled client is asked; the client knows the recipe, and has caught up with the state before."""

    client: int

    @property
    def carried_bytes(self) -> int:
        """Of a model that comes along; 0 where the client catches up with the state before the round."""
        return 0

    @property
    def payload_bytes(self) -> int:
        """The round number."""
        return 4


class SlopesRequest(Request, frozen=True, kw_only=True):
    """Evaluate slopes along this round's directions; which of them follows from the client's rank in the cohort."""

    seed: int
    """The seed of the round's directions, u64; direction k is stream k of it."""
    rank: int
    """The client's place in the cohort, from 0."""

    @property
    def payload_bytes(self) -> int:
        """Round number, seed and rank."""
        return 4 + 8 + 4


class PartRequest(Request, frozen=True, kw_only=True):
    """Train a part of the model, which comes along: its client never holds the whole."""

    weights: Array
    """fp32, shape ``(d_part,)``."""
    buffers: dict[str, Array] = {}
    """By name, as the part has them."""

    @property
    def carried_bytes(self) -> int:
        """4 bytes a parameter of the part, and its buffers."""
        return self.weights.nbytes + sum(buffer.nbytes for buffer in self.buffers.values())

    @property
    def payload_bytes(self) -> int:
        """The round number, and the part."""
        return 4 + self.carried_bytes


class Slopes(_Message, frozen=True, kw_only=True):
    """What a client sends in a zeroth-order round: one number a direction."""

    client: int
    slopes: Array
    """fp32, in the order of the client's streams, of all local steps: shape ``(T m,)``. Where that is more than a pool
    of K, their sums by direction: shape ``(K,)``."""

    @property
    def payload_bytes(self) -> int:
        """4 bytes a direction."""
        return self.slopes.nbytes


class Weights(_Message, frozen=True, kw_only=True):
    """What a client sends in a first-order round: its whole model."""

    client: int
    weights: Array
    """fp32, shape ``(d,)``."""
    buffers: dict[str, Array] = {}
    """By name."""

    @property
    def payload_bytes(self) -> int:
        """4 bytes a parameter, and the buffers."""
        return self.weights.nbytes + sum(buffer.nbytes for buffer in self.buffers.values())


class Part(_Message, frozen=True, kw_only=True):
    """What a client sends in a sub-network round: the part of the model that it trains."""

    client: int
    weights: Array
    """fp32, shape ``(d_part,)``."""
    classes: bytes = b""
    """Classes that it holds, as :func:`members` packs them; empty where that does not matter."""

    @property
    def payload_bytes(self) -> int:
        """4 bytes a parameter, and a bit a class."""
        return self.weights.nbytes + len(self.classes)


class Sums(_Message, frozen=True, kw_only=True):
    """What a client sends in the first round of a head phase: sums over its samples, which can be added up anywhere."""

    client: int
    features: Array
    """fp32: of f f', packed, shape ``(p (p + 1) / 2,)``; of f^2, shape ``(p,)``; or empty."""
    targets: Array
    """fp32: of f y', y one-hot, shape ``(p, classes)``."""

    @property
    def payload_bytes(self) -> int:
        """4 bytes a number."""
        return self.features.nbytes + self.targets.nbytes


class ChannelSums(_Message, frozen=True, kw_only=True):
    """What a client sends in a statistics phase: sums over the inputs x of every BatchNorm layer, less the running mean
    that everybody has, so that little is lost to cancellation. Layers lie behind each other."""

    client: int
    counts: Array
    """int64, shape ``(layers,)``: values that each channel's sums run over."""
    sums: Array
    """fp32, shape ``(channels of all layers,)``: of x - m."""
    squares: Array
    """fp32, the same shape: of (x - m)^2."""

    @property
    def payload_bytes(self) -> int:
        """8 bytes a layer, and 8 a channel."""
        return self.counts.nbytes + self.sums.nbytes + self.squares.nbytes


class Losses(_Message, frozen=True, kw_only=True):
    """What a client sends in the second round of a head phase: its mean loss at each temperature."""

    client: int
    losses: Array
    """fp32, shape ``(temperatures,)``."""

    @property
    def payload_bytes(self) -> int:
        """4 bytes a temperature."""
        return self.losses.nbytes


class _Entry(_Message, frozen=True, kw_only=True, array_like=True):
    members: bytes = b""
    """Clients whose reports count, as :func:`members` packs them."""
    refused: dict[int, str] = {}
    """Clients whose reports do not, and why; ascending."""

    @property
    def participants(self) -> tuple[int, ...]:
        """Clients whose reports count, ascending."""
        return bits(self.members)


class Update(_Entry, frozen=True, kw_only=True, tag="update", array_like=True):
    """A zeroth-order round: the update itself, in integers, the same bits for every replica (docs/spec)."""

    seed: int
    """The round's seed, u64."""
    coefficients: Array
    """int32, shape ``(K,)``, of streams 0 to K - 1; empty where nothing is to be applied."""
    exponent: int
    """What is added is the sum of coefficient times direction, times 2 ** -exponent."""
    state: dict[str, float] = {}
    """The phase state after the round; the server's alone."""
    frozen: bytes = b""
    """Parameters that stay as they are, by their place in the table, as :func:`members` packs them."""

    @property
    def stays(self) -> tuple[int, ...]:
        """Places in the table of the parameters that stay as they are, ascending."""
        return bits(self.frozen)

    @property
    def payload_bytes(self) -> int:
        """What a replica needs: seed, exponent, and 4 bytes a direction."""
        return 8 + 4 + self.coefficients.nbytes


class Replacement(_Entry, frozen=True, kw_only=True, tag="replacement", array_like=True):
    """A first-order round: new weights and buffers, in a snapshot of this digest."""

    snapshot: str
    moments: str = ""
    """Digest of the tensors of the phase state, the server's alone; empty where there are none."""

    @property
    def payload_bytes(self) -> int:
        """The digest; the snapshot itself is counted where it is sent."""
        return 32


class Patch(_Entry, frozen=True, kw_only=True, tag="patch", array_like=True):
    """A round that puts exact values in the place of some parameters and buffers, and leaves the others."""

    values: dict[str, Array] = {}
    """fp32, by the parameter's name in the table; empty where nothing is to be changed."""
    buffers: dict[str, Array] = {}
    """In the buffer's type and shape, by its name."""

    @property
    def payload_bytes(self) -> int:
        """4 bytes a value."""
        return sum(value.nbytes for value in (*self.values.values(), *self.buffers.values()))


Report = Slopes | Weights | Part | Sums | ChannelSums | Losses
Entry = Update | Replacement | Patch
Message = Request | SlopesRequest | PartRequest | Report


def members(clients: Iterable[int]) -> bytes:
    """Clients as bits: bit ``c & 7`` of byte ``c >> 3`` for client ``c``, without zero bytes at the end.

    >>> members([0, 3, 9]).hex()
    '0902'
    """
    bits = np.zeros(max((chosen := tuple(clients)), default=-1) + 1, np.uint8)
    bits[list(chosen)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def bits(packed: bytes) -> tuple[int, ...]:
    """What :func:`members` packed, ascending.

    >>> bits(members([0, 3, 9]))
    (0, 3, 9)
    """
    return tuple(np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")).tolist())


def encode(message: Message | Entry) -> bytes:
    """The message as msgpack."""
    return _ENCODER.encode(message)


def decode(data: bytes) -> Message:
    """The message in ``data``.

    Raises:
        RunError: not a message, or one that does not have its type's fields.

    >>> report = Slopes(round=1, phase=0, client=3, slopes=np.zeros(3, np.float32))
    >>> report.payload_bytes, len(encode(report)), decode(encode(report)).client
    (12, 63, 3)
    """
    try:
        return cast(Message, _DECODER.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"message of {len(data)} bytes does not decode: {error}") from None


def decode_entry(data: bytes) -> Entry:
    """The entry in ``data``.

    Raises:
        RunError: not an entry, one that does not have its type's fields, values that no entry has, or not its
            canonical bytes.
    """
    try:
        entry = cast(Entry, _ENTRIES.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RunError(f"entry of {len(data)} bytes does not decode: {error}") from None
    if encode(entry) != data or entry.members[-1:] == b"\0" or list(entry.refused) != sorted(entry.refused):
        raise RunError(f"entry of {len(data)} bytes is not in its canonical form")
    if (fault := _fault(entry)) is not None:
        raise RunError(f"entry of {len(data)} bytes does not decode: {fault}")
    return entry


def _fault(entry: Entry) -> str | None:
    """A value that no entry has, though its type is right."""
    if isinstance(entry, Replacement):
        digests = (entry.snapshot, entry.moments) if entry.moments else (entry.snapshot,)
        wrong = [digest for digest in digests if not _DIGEST.fullmatch(digest)]
        return f"digest {wrong[0]!r}, expected 64 hexadecimal digits" if wrong else None
    if isinstance(entry, Patch):
        wrong = [name for name, values in entry.values.items() if values.dtype != np.float32]
        return f"values of {wrong[0]} are {entry.values[wrong[0]].dtype}, expected float32" if wrong else None
    if not 0 <= entry.seed < 2**64:
        return f"seed {entry.seed}, expected 64 bits"
    if entry.coefficients.dtype != np.int32 or entry.coefficients.ndim != 1:
        return f"coefficients of {entry.coefficients.dtype} and shape {entry.coefficients.shape}, expected int32 (K,)"
    if not _EXPONENTS[0] <= entry.exponent <= _EXPONENTS[1]:
        return f"exponent {entry.exponent}, expected {_EXPONENTS[0]} to {_EXPONENTS[1]}"
    return None


def _pack(value: Any) -> Any:
    array = np.asarray(value, order="C")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return [little.dtype.str, array.shape, little.reshape(-1).view(np.uint8).data]


def _unpack(kind: Any, value: Any) -> NDArray[Any]:
    dtype, shape, data = msgspec.convert(
        value, tuple[str, tuple[int, ...], bytearray]
    )  # torch warns of memory it may not write
    if dtype not in _DTYPES:
        raise ValueError(f"array of dtype {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if min(shape, default=0) < 0 or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"array of {len(data)} bytes does not have shape {shape} and dtype {dtype}")
    return np.frombuffer(data, dtype).reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_pack)
_DECODER = msgspec.msgpack.Decoder(Message, dec_hook=_unpack)
_ENTRIES = msgspec.msgpack.Decoder(Entry, dec_hook=_unpack)
