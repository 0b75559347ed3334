"""The state of a run: weights, buffers, and what a phase remembers between rounds; and its digests."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from zowarmup.chain import digest
from zowarmup.errors import ModelError


@dataclass(frozen=True)
class State:
    """What the run is after a round. Never changed in place: a round makes a new one.

    Args:
        weights: every parameter in the order of the model's table, fp32, shape ``(d,)``.
        buffers: the model's persistent buffers by name (running statistics), never perturbed.
        phase: what the current phase remembers: moments of a server optimiser, the RMS ``v`` (a float64).
            Empty at the start of every phase.
    """

    weights: Float[Tensor, " d"]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    phase: Mapping[str, float | Tensor] = field(default_factory=dict)

    @property
    def model_bytes(self) -> int:
        """Bytes of weights and buffers: what a snapshot carries."""
        return sum(tensor.nbytes for tensor in (self.weights, *self.buffers.values()))

    def begun(self) -> State:
        """The same weights and buffers at the beginning of a phase, which remembers nothing yet."""
        return State(self.weights, self.buffers) if self.phase else self

    def weights_digest(self) -> str:
        """blake2b-256, as hex, of the digests of the flat fp32 weights' pieces (docs/spec/ledger.md)."""
        return tree(self.weights).hex()

    def digest(self) -> str:
        """blake2b-256, as hex, of the weights' digest and of each buffer with its name, dtype and shape, by name."""
        return self._digest

    def moments(self) -> dict[str, Tensor]:
        """What of the phase state is tensors: the moments of a server optimiser."""
        return {name: value for name, value in self.phase.items() if isinstance(value, Tensor)}

    @cached_property
    def _digest(self) -> str:
        return digest(tree(self.weights), *_frames(self.buffers)).hex()


def moments_digest(moments: Mapping[str, Tensor]) -> str:
    """blake2b-256, as hex, of tensors with their names, dtypes and shapes; empty where there are none."""
    return digest(*_frames(moments)).hex() if moments else ""


def check_dtypes(buffers: Mapping[str, Tensor]) -> None:
    """Refuse buffers of a type that snapshots do not have.

    Raises:
        ModelError: there is one.
    """
    for name, buffer in buffers.items():
        if buffer.dtype not in _DTYPES:
            kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            raise ModelError(f"buffer {name} is {str(buffer.dtype).removeprefix('torch.')}, expected one of {kinds}")


def tree(tensor: Tensor) -> bytes:
    """blake2b-256 of the blake2b-256 digests of a tensor's pieces of 2**20 bytes, little-endian.

    Pieces of a large tensor are hashed side by side; hashlib releases the interpreter's lock.
    """
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    pieces = [content[start : start + _PIECE] for start in range(0, len(content), _PIECE)]
    threads = min(len(pieces) // 2, _THREADS, os.cpu_count() or 1)
    if threads <= 1:
        return digest(*map(digest, pieces))
    with ThreadPoolExecutor(threads) as pool:
        return digest(*pool.map(digest, pieces))


def _frames(tensors: Mapping[str, Tensor]) -> Iterator[bytes]:
    for name in sorted(tensors):
        tensor = tensors[name]
        for text in (name.encode(), _DTYPES[tensor.dtype].encode()):
            yield struct.pack("<I", len(text)) + text
        yield struct.pack(f"<I{tensor.ndim}Q", tensor.ndim, *tensor.shape) + tree(tensor)


_PIECE = 1 << 20
_THREADS = 4
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.uint16: "U16",
    torch.uint32: "U32",
    torch.uint64: "U64",
}
