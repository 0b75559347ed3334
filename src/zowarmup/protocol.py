"""The messages of a round: requests, reports and entries, their encoding, and their size in bytes.

``payload_bytes`` counts the numbers that a message exists for, without names and framing; ``len(encode(message))`` is
the whole message. In one process messages are passed as they are; on a network they are encoded with msgpack, strictly
typed, and nothing is ever unpickled.
"""

from __future__ import annotations

import math
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from zowarmup.errors import RunError

Array = np.ndarray[Any, np.dtype[Any]]

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
    def payload_bytes(self) -> int:
        """The round number."""
        return 4


class SlopesRequest(Request, frozen=True, kw_only=True):
    """Evaluate slopes along this round's directions; which of them follows from the client's rank in the cohort."""

    seed: int
    """The round's seed, u64; direction k is stream k of it."""
    rank: int
    """The client's place in the cohort, from 0."""

    @property
    def payload_bytes(self) -> int:
        """Round number, seed and rank."""
        return 4 + 8 + 4


class Slopes(_Message, frozen=True, kw_only=True):
    """What a client sends in a zeroth-order round: one number a direction."""

    client: int
    slopes: Array
    """fp32, shape ``(S,)``, in the order of the client's streams."""

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


class _Entry(_Message, frozen=True, kw_only=True):
    participants: tuple[int, ...]
    """Clients whose reports count, ascending."""
    refused: dict[int, str] = {}
    """Clients whose reports do not, and why."""


class Update(_Entry, frozen=True, kw_only=True):
    """A zeroth-order round: the update itself, in integers, the same bits for every replica (docs/spec)."""

    seed: int
    """The round's seed, u64."""
    coefficients: Array
    """int32, shape ``(K,)``, of streams 0 to K - 1; empty where nothing is to be applied."""
    exponent: int
    """What is added is the sum of coefficient times direction, times 2 ** -exponent."""
    state: dict[str, float] = {}
    """The phase state after the round; the server's alone."""

    @property
    def payload_bytes(self) -> int:
        """What a replica needs: seed, exponent, and 4 bytes a direction."""
        return 8 + 4 + self.coefficients.nbytes


class Replacement(_Entry, frozen=True, kw_only=True):
    """A first-order round: new weights and buffers, in a snapshot of this digest."""

    snapshot: str

    @property
    def payload_bytes(self) -> int:
        """The digest; the snapshot itself is counted where it is sent."""
        return 32


Report = Slopes | Weights
Entry = Update | Replacement
Message = Request | SlopesRequest | Slopes | Weights | Update | Replacement


def encode(message: Message) -> bytes:
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
    except msgspec.DecodeError as error:
        raise RunError(f"message of {len(data)} bytes does not decode: {error}") from None


def _pack(value: Any) -> Any:
    array = np.asarray(value, order="C")
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return [little.dtype.str, array.shape, little.reshape(-1).view(np.uint8).data]


def _unpack(kind: Any, value: Any) -> NDArray[Any]:
    dtype, shape, data = msgspec.convert(value, tuple[str, tuple[int, ...], bytes])
    if dtype not in _DTYPES:
        raise ValueError(f"array of dtype {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if min(shape, default=0) < 0 or len(data) != math.prod(shape) * np.dtype(dtype).itemsize:
        raise ValueError(f"array of {len(data)} bytes does not have shape {shape} and dtype {dtype}")
    return np.frombuffer(data, dtype).reshape(shape)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_pack)
_DECODER = msgspec.msgpack.Decoder(Message, dec_hook=_unpack)
