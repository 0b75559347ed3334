"""Snapshots: weights and buffers of a round, or tensors of its phase state, as safetensors files named by digest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from zowarmup.chain import digest as digest_of
from zowarmup.chain import shortened
from zowarmup.disk import Disk
from zowarmup.errors import LedgerError, ReplayMismatch
from zowarmup.ledger import File
from zowarmup.protocol import Entry, Patch, Update
from zowarmup.recipe import RunSettings
from zowarmup.state import State, moments_digest
from zowarmup.table import Table

FOLDER = "snapshots"
SUFFIX = ".safetensors"


class Snapshots:
    """The snapshots of a run directory.

    Args:
        folder: the run directory.
        table: which tensors of a state's snapshot are the weights.
    """

    def __init__(self, folder: Path, table: Table) -> None:
        self.folder = folder / FOLDER
        self._table = table

    def write(self, state: State, disk: Disk) -> list[File]:
        """Make a state durable, and the moments of its phase; what a transaction may then name.

        Raises:
            DiskError: for instance, the disk is full; no file was made.
        """
        held = {state.digest(): tensors(state, self._table)}
        if moments := state.moments():
            held[moments_digest(moments)] = moments
        return [
            self.put(bytes.fromhex(digest), safetensors.torch.save(dict(content)), disk)
            for digest, content in held.items()
        ]

    def read(self, file: File) -> State:
        """Weights and buffers from a snapshot, on the CPU.

        Raises:
            LedgerError: the file is missing or changed.
            ReplayMismatch: it holds another state than the one of its name.
        """
        found = self._read(file)
        path = self.path(file.digest)
        missing = [name for name in self._table.names if name not in found]
        if missing:
            raise LedgerError(f"{path}: lacks {', '.join(missing)}", path=path)
        weights = [found.pop(name) for name in self._table.names]
        for name, shape, value in zip(self._table.names, self._table.shapes, weights, strict=True):
            if tuple(value.shape) != shape or value.dtype != torch.float32:
                raise LedgerError(f"{path}: {name} is {value.dtype} {tuple(value.shape)}, expected float32 {shape}")
        state = State(torch.cat([value.reshape(-1) for value in weights]), dict(sorted(found.items())))
        self._compare(file, state.digest())
        return state

    def read_moments(self, file: File) -> dict[str, Tensor]:
        """Tensors of a phase state.

        Raises:
            LedgerError, ReplayMismatch: as :meth:`read`.
        """
        found = dict(sorted(self._read(file).items()))
        self._compare(file, moments_digest(found))
        return found

    def content(self, file: File) -> bytes:
        """The bytes of a snapshot, as they were written.

        Raises:
            LedgerError: the file is missing or changed.
        """
        path = self.path(file.digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise LedgerError(f"{path}: is missing", path=path) from None
        except OSError as error:
            raise LedgerError(f"{path}: cannot be read: {error.strerror}", path=path) from error
        if len(data) != file.bytes:
            raise LedgerError(f"{path}: has {len(data)} bytes, expected {file.bytes}", path=path)
        if (got := digest_of(data)) != file.file:
            ours, theirs = shortened(got.hex(), file.file.hex())
            raise LedgerError(f"{path}: was changed: the file is {ours}, the ledger says {theirs}", path=path)
        return data

    def put(self, digest: bytes, content: bytes, disk: Disk) -> File:
        """Make the bytes of a snapshot durable."""
        disk.mkdir(self.folder)
        disk.write(self.path(digest), content)
        return File(digest, digest_of(content), len(content))

    def path(self, digest: bytes) -> Path:
        """Where a snapshot lies."""
        return self.folder / f"{digest.hex()}{SUFFIX}"

    def remove(self, digests: Iterable[bytes], disk: Disk) -> None:
        """Remove files that no row names any more."""
        for digest in digests:
            disk.unlink(self.path(digest))

    def sweep(self, known: Mapping[bytes, Any], disk: Disk) -> None:
        """Remove what interrupted writes have left."""
        with contextlib.suppress(OSError):
            for path in self.folder.iterdir():
                if not (path.name.endswith(SUFFIX) and _digest_of(path) in known):
                    disk.unlink(path)

    def _read(self, file: File) -> dict[str, Tensor]:
        path, data = self.path(file.digest), self.content(file)
        try:
            return safetensors.torch.load(data)
        except (SafetensorError, ValueError) as error:
            raise LedgerError(f"{path}: is no safetensors file: {error}", path=path) from error

    def _compare(self, file: File, got: str) -> None:
        if got != file.digest.hex():
            ours, theirs = shortened(got, file.digest.hex())
            raise ReplayMismatch(
                f"{self.path(file.digest)}: holds {ours}, its name says {theirs}",
                expected=file.digest.hex(),
                got=got,
            )


class Keeper:
    """Decides which rounds have a snapshot, and which of them are kept: docs/spec/ledger.md, Writing.

    Args:
        settings: the recipe's ``run`` table.
        ends: the last round of every phase.
        parameters: d.
        kept: rounds that have a snapshot already, with the digests of their files.
        cost: directions x parameters behind the last of them.
    """

    def __init__(
        self,
        settings: RunSettings,
        ends: Iterable[int],
        parameters: int,
        *,
        kept: Mapping[int, tuple[bytes, ...]] | None = None,
        cost: int = 0,
    ) -> None:
        self._settings, self._pinned, self._parameters = settings, {0, *ends}, parameters
        self._kept, self._cost = dict(kept or {}), cost

    def due(self, round: int, index: int, entry: Entry | None) -> bool:
        """Whether a round gets a snapshot.

        Args:
            round: its number.
            index: its place in its phase, from 0.
            entry: None for round 0.
        """
        if isinstance(entry, Update):
            self._cost += len(entry.coefficients) * self._parameters
            due = self._cost > self._settings.replay_budget
        elif isinstance(entry, Patch):
            due = False
        else:
            due = entry is None or (index + 1) % self._settings.snapshot_every == 0
        return due or round in self._pinned

    def add(self, round: int, files: Iterable[File]) -> list[bytes]:
        """Note a round's snapshot; digests of files that no kept round needs any more."""
        self._cost = 0
        self._kept[round] = tuple(file.digest for file in files)
        if self._settings.keep_snapshots == "all":
            return []
        passing = [number for number in self._kept if number not in self._pinned]
        gone = [self._kept.pop(number) for number in passing[: -self._settings.keep_snapshots]]
        needed = {digest for digests in self._kept.values() for digest in digests}
        return [digest for digests in gone for digest in digests if digest not in needed]


def tensors(state: State, table: Table) -> dict[str, Tensor]:
    """A state as named tensors on the CPU: parameters in their shapes, and buffers."""
    flat = torch.split(state.weights.detach().cpu(), list(table.sizes))
    named = {name: part.reshape(shape) for name, shape, part in zip(table.names, table.shapes, flat, strict=True)}
    return named | {name: buffer.detach().cpu().contiguous() for name, buffer in state.buffers.items()}


def _digest_of(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.name.removesuffix(SUFFIX))
    except ValueError:
        return b""
