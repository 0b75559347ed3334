"""The state that a node holds, on its disk: a snapshot, and the rounds behind it; nothing is believed unchecked.

FOLDER/base.safetensors   weights and buffers; in its metadata: run, round, link, state digest
FOLDER/steps              the rounds behind it, each as its length (u32) and msgpack; a torn end is cut off
FOLDER/*.part             snapshots that are still coming in

Everybody's state is the same, so clients that share a machine may share a replica: a file lock orders them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import msgspec
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError

from zowarmup import chain
from zowarmup.chain import shortened
from zowarmup.directions import Directions
from zowarmup.disk import Disk, writing
from zowarmup.engines.wire import Piece, Position, Step
from zowarmup.errors import ReplayMismatch, RunError, WireError
from zowarmup.phases.apply import apply
from zowarmup.protocol import Replacement, Update, decode_entry
from zowarmup.snapshots import tensors
from zowarmup.state import State
from zowarmup.table import Table

_BASE, _STEPS, _LOCK = "base.safetensors", "steps", "lock"
_LENGTH = struct.Struct("<I")
_PATIENCE_SECONDS = 60
_REBASE = 2e9
"""Directions x parameters of the rounds behind the snapshot, beyond which it is made anew: a fifth of a second."""
_MOST = 1000
"""Rounds behind the snapshot, likewise."""


@dataclass(frozen=True)
class Held:
    """A state, and where in the run it belongs.

    Args:
        state: weights and buffers.
        round: that it is the state after.
        link: of that round.
        digest: of the state.
    """

    state: State
    round: int
    link: bytes
    digest: bytes


class Replica:
    """A node's copy of the run's state.

    Args:
        folder: made where it is not there.
        run: the run's genesis.
        table: where each parameter lies.
        directions: the backend that replays rounds.
    """

    def __init__(self, folder: Path, run: bytes, table: Table, directions: Directions) -> None:
        self._folder, self._run, self._table, self._directions = folder, run, table, directions
        self._disk = Disk(sync=False)  # what a power cut takes, the server sends again
        self._disk.mkdir(folder)
        self._lock = filelock.FileLock(folder / _LOCK, timeout=_PATIENCE_SECONDS)
        self._held: Held | None = None
        self._cost, self._count = 0.0, 0  # of the rounds behind the snapshot
        self._known: tuple[tuple[int, int], tuple[int, bytes]] | None = None

    @property
    def held(self) -> Held | None:
        """The state; None where there is none. Read from disk where it is not in memory yet."""
        if self._held is None:
            with self._lock:
                self._held = self._read()
        return self._held

    @property
    def position(self) -> Position:
        """Where it stands."""
        held = self.held
        return Position() if held is None else Position(self._run, held.round, held.link)

    def receive(self, piece: Piece, name: str) -> int:
        """Take part of a snapshot in; the last part makes it the state that is held.

        Args:
            piece: the next one, or one that is here already.
            name: whose snapshot it is, where several clients share the folder.

        Returns:
            How many bytes of it are here.

        Raises:
            WireError, ReplayMismatch: it is complete and not the state that it should be; it is dropped.
            DiskError: it cannot be written.
        """
        part = self._folder / f"{name}-{piece.round}-{piece.state.hex()[:12]}.part"
        if len(piece.content) == piece.total:  # all of it: what a killed process left of it is of no use
            self._disk.unlink(part)
        with writing(part):
            have = part.stat().st_size if part.exists() else 0
            if have != piece.offset:
                return have
            with part.open("ab") as file:
                file.write(piece.content)
        have += len(piece.content)
        if have >= piece.total:
            try:
                self._adopt(part, Position(piece.run, piece.round, piece.link), piece.state)
            finally:
                for rest in self._folder.glob(f"{name}-*.part"):
                    self._disk.unlink(rest)
        return have

    def advance(self, steps: Sequence[Step], *, round: int, link: bytes) -> Held | None:
        """Go on to the state after ``round``.

        Args:
            steps: the rounds up to there; some of them may have been made already.
            round: the last of them.
            link: of that round.

        Returns:
            The state; None where these steps do not lead there from what is held.

        Raises:
            WireError: a step does not decode, or is one that only a snapshot brings across.
            ReplayMismatch: they lead to another state.
            DiskError: they cannot be written.
        """
        first = round - len(steps) + 1
        if self._held is None or self._held.round < first - 1:
            with self._lock:  # another client on this machine may have gone on
                self._held = self._read()
        held = self._held
        if held is None or not first - 1 <= held.round <= round:
            return None
        todo = steps[held.round - first + 1 :]
        after = self._stepped(held, todo)
        if after.link != link:
            return None
        if todo:
            with self._lock:
                self._write_steps(after, todo)
        self._held = after
        return after

    def _stepped(self, held: Held, steps: Sequence[Step]) -> Held:
        if not steps:
            return held
        number, link, entries = held.round, held.link, []
        for step in steps:
            number += 1
            link = chain.link(link, number, step.phase, step.entry, step.state, step.metrics)
            try:
                entry = decode_entry(step.entry)
            except RunError as error:
                raise WireError(f"round {number}: {error.message}") from None
            if isinstance(entry, Replacement):
                raise WireError(f"round {number}: is a first-order round, and came without its snapshot")
            entries.append(entry)
            if isinstance(entry, Update):
                self._cost += len(entry.coefficients) * self._table.size
        self._count += len(steps)
        state = apply(held.state, *entries, table=self._table, directions=self._directions).begun()
        after = Held(state, number, link, steps[-1].state)
        _check(after)
        return after

    def _adopt(self, part: Path, position: Position, digest: bytes) -> None:
        """Make a snapshot that has come in the state that is held."""
        held = _load(part, self._table)
        if (self._run, held.round, held.link, held.digest) != (position.run, position.round, position.link, digest):
            got = f"that of round {held.round}, or another run's"
            raise WireError(f"round {position.round}: the snapshot that came is {got}")
        _check(held)
        with self._lock:
            self._disk.unlink(self._folder / _STEPS)
            self._disk.rename(part, self._folder / _BASE)
        self._held, self._cost, self._count = held, 0.0, 0

    def _write_steps(self, after: Held, steps: Sequence[Step]) -> None:
        stored = self._stored()
        gap = stored is None or stored[0] < after.round - len(steps)  # another client began with an older snapshot
        if stored is None or gap or self._cost > _REBASE or self._count > _MOST:
            self._disk.unlink(self._folder / _STEPS)
            content = snapshot(after.state, self._table, self._run, after.round, after.link)
            self._disk.write(self._folder / _BASE, content)
            self._cost, self._count = 0.0, 0
            return
        path = self._folder / _STEPS
        with writing(path), path.open("ab") as file:
            for step in steps[max(0, len(steps) - (after.round - stored[0])) :]:
                packed = msgspec.msgpack.encode(step)
                file.write(_LENGTH.pack(len(packed)) + packed)
        self._known = (self._stamp(), (after.round, after.link))

    def _stored(self) -> tuple[int, bytes] | None:
        """Round and link of what the disk has."""
        if self._known is not None and self._known[0] == self._stamp():
            return self._known[1]
        try:
            base, _ = _metadata(self._folder / _BASE)
        except WireError:
            return None
        if base.run != self._run:
            return None
        found = _link(base, self._steps())
        self._known = (self._stamp(), found)
        return found

    def _stamp(self) -> tuple[int, int]:
        """Changes when another process writes."""
        found = []
        for name in (_BASE, _STEPS):
            try:
                status = (self._folder / name).stat()
                found.append(status.st_mtime_ns if name == _BASE else status.st_size)
            except FileNotFoundError:
                found.append(0)
        return found[0], found[1]

    def _read(self) -> Held | None:
        """What the disk has, from what is held on where that is on the way; None where there is nothing that holds."""
        try:
            base, _ = _metadata(self._folder / _BASE)
            if base.run != self._run:
                return None
            steps, held = list(self._steps()), self._held
            behind = -1 if held is None else held.round - base.round
            if held is not None and behind >= 0 and _link(base, steps[:behind]) == (held.round, held.link):
                return self._stepped(held, steps[behind:])
            self._cost, self._count = 0.0, 0
            held = _load(self._folder / _BASE, self._table)
            _check(held)
            return self._stepped(held, steps)
        except (WireError, ReplayMismatch):
            return None  # none yet, or damaged: the server sends a snapshot

    def _steps(self) -> Iterator[Step]:
        """The rounds behind the snapshot; a torn end is cut off."""
        path = self._folder / _STEPS
        content = path.read_bytes() if path.exists() else b""
        at = 0
        while at + _LENGTH.size <= len(content):
            (length,) = _LENGTH.unpack_from(content, at)
            packed = content[at + _LENGTH.size : at + _LENGTH.size + length]
            try:
                step = msgspec.msgpack.decode(packed, type=Step)
            except (msgspec.DecodeError, UnicodeDecodeError):
                break
            at += _LENGTH.size + length
            yield step
        if at < len(content):
            with writing(path), path.open("r+b") as file:
                file.truncate(at)


def _link(base: Position, steps: Iterable[Step]) -> tuple[int, bytes]:
    """Round and link behind some rounds."""
    round, link = base.round, base.link
    for step in steps:
        round += 1
        link = chain.link(link, round, step.phase, step.entry, step.state, step.metrics)
    return round, link


def snapshot(state: State, table: Table, run: bytes, round: int, link: bytes) -> bytes:
    """A snapshot as it is sent, and as a replica keeps it: safetensors, with its place in the run in the metadata."""
    metadata = {"run": run.hex(), "round": str(round), "link": link.hex(), "state": state.digest()}
    return safetensors.torch.save(tensors(state, table), metadata)


def _metadata(path: Path) -> tuple[Position, bytes]:
    """Where in a run a snapshot belongs, and the digest of its state.

    Raises:
        WireError: it is not there, or no snapshot.
    """
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            found = file.metadata()
        position = Position(bytes.fromhex(found["run"]), int(found["round"]), bytes.fromhex(found["link"]))
        return position, bytes.fromhex(found["state"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WireError(f"{path}: no snapshot of a run: {error}") from None


def _load(path: Path, table: Table) -> Held:
    """The state in a snapshot, read tensor by tensor, so that there is one copy of it in memory.

    Raises:
        WireError: it is no snapshot, or one of another model.
    """
    position, digest = _metadata(path)
    weights, buffers = torch.empty(table.size), {}
    with safetensors.safe_open(str(path), framework="pt") as file:
        names = set(file.keys())
        for name, shape in zip(table.names, table.shapes, strict=True):
            value = file.get_tensor(name) if name in names else None
            if value is None or tuple(value.shape) != shape or value.dtype != torch.float32:
                got = "nothing" if value is None else f"{value.dtype} {tuple(value.shape)}"
                raise WireError(f"round {position.round}: the snapshot has {got} for {name}, expected float32 {shape}")
            weights[table.place(name)] = value.reshape(-1)
        for name in sorted(names - set(table.names)):
            buffers[name] = file.get_tensor(name).clone()
    return Held(State(weights, buffers), position.round, position.link, digest)


def _check(held: Held) -> None:
    got, expected = held.state.digest(), held.digest.hex()
    if got != expected:
        ours, theirs = shortened(got, expected)
        raise ReplayMismatch(
            f"round {held.round}: what this node holds is {ours}, the ledger says {theirs}",
            hint="the snapshot or a round was changed on the way, or this processor computes other bits",
            round=held.round,
            expected=expected,
            got=got,
        )
