"""Messages to simulated nodes travel together.

A message costs Flower's simulation more than a small answer takes, and any of its processes can answer for any of its
nodes. So messages that are small go in parcels, each to the node of the first one in it. What turns out large, or is
for a node that the process does not know, comes back undone and goes alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from zowarmup.engines.transport import Received, Transport

_MOST = 16
"""Messages in a parcel."""
_PARCELS = 4
"""For each processor at the least, so that processes end together."""
_SMALL_BYTES = 8192
_ANSWERS_BYTES = 65536
"""In a parcel's answers; what follows behind them is undone."""


class _Parcel(msgspec.Struct, frozen=True, array_like=True, tag="parcel"):
    letters: tuple[tuple[int, bytes], ...]
    """Nodes, and what they are asked."""


class _Answers(msgspec.Struct, frozen=True, array_like=True, tag="answers"):
    answers: tuple[bytes | None, ...]
    """Of each letter; None for one that is undone."""


_ENCODER = msgspec.msgpack.Encoder()
_PARCEL = msgspec.msgpack.Decoder(_Parcel)
_ANSWERS = msgspec.msgpack.Decoder(_Answers)


class _Letter(NamedTuple):
    name: str
    node: int
    content: bytes
    seconds: float


def answer(content: bytes, ask: Callable[[int, bytes], bytes | None]) -> bytes | None:
    """Answer a parcel.

    Args:
        content: of a message.
        ask: asks a node; None where it is not known here.

    Returns:
        The answers; None where the message is no parcel.
    """
    try:
        parcel = _PARCEL.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    answers: list[bytes | None] = []
    room = _ANSWERS_BYTES
    for node, letter in parcel.letters:
        answers.append(ask(node, letter) if room > 0 else None)
        room -= len(answers[-1] or b"")
    return _ENCODER.encode(_Answers(tuple(answers)))


class Parcels:
    """A transport that sends small messages together.

    Args:
        transport: what carries parcels.
    """

    ordered = False  # any process of a simulation takes any node's

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._sent: dict[str, list[_Letter]] = {}
        self._known: set[int] = set()
        self._least = _PARCELS * (os.cpu_count() or 1)

    def nodes(self) -> Collection[int]:
        """See :class:`Transport`."""
        return self._transport.nodes()

    def send(self, batch: Sequence[tuple[int, bytes]], *, seconds: float) -> Sequence[str | None]:
        """See :class:`Transport`."""
        small = [i for i, (node, content) in enumerate(batch) if node in self._known and len(content) <= _SMALL_BYTES]
        size = min(_MOST, max(1, math.ceil(len(small) / self._least)))
        groups = [small[i : i + size] for i in range(0, len(small), size)]
        groups += [[i] for i in sorted(set(range(len(batch))) - set(small))]
        posted = self._transport.send([_packed([batch[i] for i in group]) for group in groups], seconds=seconds)
        names: list[str | None] = [None] * len(batch)
        for name, group in zip(posted, groups, strict=True):
            if name is not None:
                self._sent[name] = [_Letter(f"{name}/{i}", *batch[i], seconds) for i in group]
                for i, letter in zip(group, self._sent[name], strict=True):
                    names[i] = letter.name
        return names

    def receive(self) -> Iterator[Received]:
        """See :class:`Transport`."""
        undone: list[_Letter] = []
        for received in self._transport.receive():
            letters = self._sent.pop(received.message, [])
            answers, error = _unpacked(received, len(letters))
            for letter, content in zip(letters, answers, strict=True):
                if content is None and not error:
                    undone.append(letter)
                    continue
                if content is not None:
                    self._known.add(letter.node)
                yield Received(letter.name, letter.node, content, error)
        yield from self._alone(undone)

    def _alone(self, letters: Iterable[_Letter]) -> Iterator[Received]:
        """Send each as a message of its own; those that cannot be sent."""
        for letter in letters:
            (name,) = self._transport.send([(letter.node, letter.content)], seconds=letter.seconds)
            if name is None:
                yield Received(letter.name, letter.node, None, "the message could not be sent")
            else:
                self._sent[name] = [letter]


def _packed(letters: Sequence[tuple[int, bytes]]) -> tuple[int, bytes]:
    if len(letters) == 1:
        return letters[0]
    return letters[0][0], _ENCODER.encode(_Parcel(tuple(letters)))


def _unpacked(received: Received, count: int) -> tuple[Sequence[bytes | None], str]:
    """An answer for each letter of a parcel, or what went wrong."""
    if received.content is None or count == 1:
        return [received.content] * count, received.error
    try:
        answers = _ANSWERS.decode(received.content).answers
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return [None] * count, f"a parcel has no answers: {error}"
    if len(answers) != count:
        return [None] * count, f"a parcel of {count} messages has {len(answers)} answers"
    return answers, ""
