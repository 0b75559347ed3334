"""The state of a run: weights, buffers, and what a phase remembers between rounds; and its digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor


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

    def weights_digest(self) -> str:
        """blake2b-256 of the flat fp32 weights, little-endian, as hex."""
        return _blake2b(_bytes(self.weights))

    def digest(self) -> str:
        """blake2b-256 of weights and buffers, as hex; buffers by name, each behind its name, dtype and shape."""
        parts: list[memoryview | bytes] = [_bytes(self.weights)]
        for name, buffer in self.buffers.items():
            parts += [f"\0{name}\0{buffer.dtype}\0{tuple(buffer.shape)}\0".encode(), _bytes(buffer)]
        return _blake2b(*parts)


def _bytes(tensor: Tensor) -> memoryview:
    array = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array.data


def _blake2b(*parts: memoryview | bytes) -> str:
    hasher = hashlib.blake2b(digest_size=32)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()
