"""A lean node that does something wrong in some rounds: `odd_node.py HOST:PORT HOME CLIENT ROUND=FAULT...`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from zowarmup import protocol
from zowarmup.engines import wire
from zowarmup.engines.lean import Lean, Link
from zowarmup.engines.node import Node, Sized
from zowarmup.engines.workshop import Materials
from zowarmup.errors import WireError

LATE_SECONDS = 6.0


def reporting(**changes: object) -> Callable[[wire.Done], wire.Done]:
    """A report with other values."""

    def change(done: wire.Done) -> wire.Done:
        report = msgspec.structs.replace(protocol.decode(done.report), **changes)
        return msgspec.structs.replace(done, report=protocol.encode(report))

    return change


def late(done: wire.Done) -> wire.Done:
    """The same, when nobody waits any more."""
    time.sleep(LATE_SECONDS)
    return done


def astray(done: wire.Done) -> wire.Done:
    """It claims to hold another state than the server's."""
    return msgspec.structs.replace(done, position=msgspec.structs.replace(done.position, link=bytes(32)))


FAULTS: dict[str, Callable[[wire.Done], wire.Done]] = {
    "not-finite": reporting(slopes=np.full(3, np.nan, np.float32)),
    "wrong-shape": reporting(slopes=np.zeros(4, np.float32)),
    "another-round": reporting(round=1),
    "late": late,
    "astray": astray,
    "twice": lambda done: done,
}


@dataclass
class Odd(Node):
    """Does as it is told in the rounds of ``faults``."""

    faults: dict[int, str] = field(default_factory=dict)
    now: str = ""
    """What is wrong with the answer that was given last."""

    def answer(self, content: bytes) -> bytes:
        """See :class:`Node`."""
        answer, self.now = wire.decode_answer(super().answer(content)), ""
        with contextlib.suppress(WireError):
            question = wire.decode_question(content)
            if isinstance(question, wire.Work) and isinstance(answer, wire.Done):
                self.now = self.faults.get(question.round + 1, "")
        return wire.encode(FAULTS[self.now](answer) if self.now else answer)


class OddLean(Lean):
    """Sends some answers twice."""

    @contextlib.contextmanager
    def _session(self) -> Iterator[tuple[Any, Any]]:
        with super()._session() as (client, node):
            push = client.PushMessages

            def twice(request: Any) -> Any:
                if self.node.now == "twice":
                    push(request)
                return push(request)

            client.PushMessages = twice
            yield client, node


def main(address: str, home: str, client: str, *faults: str) -> None:
    """Take part until the run is over."""
    told = dict(fault.split("=") for fault in faults)
    node = Odd(
        Path(home),
        Materials(),
        lambda recipe: Sized("high", "as told"),
        client=int(client),
        faults={int(round): fault for round, fault in told.items()},
    )
    OddLean(node, Link(address, idle_seconds=0.5), print).run()
    sys.stdout.write("the run is over\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
