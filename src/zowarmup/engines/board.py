"""What there is to say about a federation while it runs: who is awaited, who is away, and the bytes of each client."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from zowarmup.engines.workshop import Tier

FORMAT = 1
_WRITE_SECONDS = 0.5
_SAY_SECONDS = 5.0
_SHOWN = 8

Counts = dict[str, int]


class Socket(TypedDict):
    """What a node has counted at its socket when it was heard last."""

    counter: str
    up: int
    down: int


_WAYS = ("payload_up", "payload_down", "wire_up", "wire_down")


@dataclass
class Board:
    """Notes what happens; hands a status on, at most twice a second.

    Args:
        write: gets the status, which is JSON.
        say: gets a line for people.
        rounds: of the whole run.
        before: the last status of the same run, from which counts go on; empty where there is none.
        clock: seconds, monotonic.
        now: the time of day.
    """

    write: Callable[[Mapping[str, Any]], None]
    say: Callable[[str], None]
    rounds: int = 0
    before: Mapping[str, Any] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _status: dict[str, Any] = field(default_factory=dict, init=False)
    _clients: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)
    _bytes: dict[int, dict[str, Counts]] = field(default_factory=dict, init=False)
    _sockets: dict[int, Socket] = field(default_factory=dict, init=False)
    _phase: str = field(default="", init=False)
    _written: float = field(default=float("-inf"), init=False)
    _said: tuple[str, float] = field(default=("", float("-inf")), init=False)

    def __post_init__(self) -> None:
        self._status = {
            "format": FORMAT,
            "state": "starting",
            "round": 0,
            "rounds": self.rounds,
            "since": self._time(0.0),
            "phase": None,
            "kind": None,
            "cohort": 0,
            "answered": 0,
            "awaited": [],
            "until": None,
            "drop_outs": 0,
            "late": 0,
            "turned": {},
            "accuracy": None,
            "loss": None,
        }
        if self.before.get("format") == FORMAT:
            self._go_on()

    def _go_on(self) -> None:
        self._status |= {key: self.before[key] for key in ("since", "drop_outs", "late")}
        for key, known in self.before["clients"].items():
            client = int(key)
            self._clients[client] = {name: known[name] for name in ("tier", "round", "missed") if name in known}
            self._bytes[client] = {phase: dict(counts) for phase, counts in known["bytes"].items()}
            if "socket" in known:
                self._sockets[client] = known["socket"]

    def status(self) -> dict[str, Any]:
        """Everything, as JSON: see docs/deploy.md."""
        total = {way: sum(each[way] for by in self._bytes.values() for each in by.values()) for way in _WAYS}
        clients = {
            str(client): {**known, "bytes": self._bytes.get(client, {})} for client, known in self._clients.items()
        }
        for client, socket in self._sockets.items():
            clients[str(client)]["socket"] = socket
        return {**self._status, "at": self._time(0.0), "bytes": total, "clients": clients}

    def began(self) -> None:
        """A session has begun; what the last one left is out of date."""
        self._changed(now=True)

    def gathering(self, come: int, count: int, seconds: float) -> None:
        """So many nodes have come, of so many; the wait ends in ``seconds``."""
        self._status |= {"state": "waiting for nodes", "answered": come, "cohort": count, "until": self._time(seconds)}
        self._repeat(f"waiting for nodes: {come} of {count} are there, until {self._clock(seconds)}")
        self._changed()

    def joined(self, client: int, node: int, tier: Tier, why: str) -> None:
        """A node has become a client of a tier."""
        self._status["turned"] = {other: told for other, told in self._status["turned"].items() if other != str(node)}
        self._clients[client] = self._clients.get(client, {}) | {
            "node": str(node),
            "tier": tier,
            "why": why,
            "joined": self._time(0.0),
        }
        self.say(f"client {client} is node {node}, {tier} tier{f' ({why})' if why else ''}")
        self._changed(now=True)

    def turned(self, node: int, why: str) -> None:
        """A node can take no part."""
        self._status["turned"] = {**self._status["turned"], str(node): why}
        self.say(f"node {node} can take no part: {why}")
        self._changed(now=True)

    def unheard(self, node: int, why: str) -> None:
        """A message to a node has no answer."""
        self.say(f"node {node} does not answer: {why}")

    def opened(self, round: int, phase: int, kind: str, cohort: int) -> None:
        """A round has begun."""
        self._phase = f"{phase} {kind}"
        self._status |= {"state": "running", "round": round, "phase": phase, "kind": kind, "cohort": cohort}
        self._status |= {"answered": 0, "awaited": [], "until": None}
        self._changed()

    def sent(self, client: int, payload_bytes: int) -> None:
        """A client was asked."""
        self._count(client)["payload_down"] += payload_bytes

    def answered(self, client: int, payload_bytes: int, seconds: float, peak_memory_bytes: int) -> None:
        """A client's report came in time."""
        self._count(client)["payload_up"] += payload_bytes
        known = self._clients.setdefault(client, {})
        known.pop("error", None)
        known |= {"round": self._status["round"], "seconds": seconds, "peak_memory_bytes": peak_memory_bytes}
        self._status["answered"] += 1
        self._changed()

    def counted(self, client: int, counter: bytes, up: int, down: int) -> None:
        """A node's socket has sent and received so much by now, by a counter that began at 0 and has a name."""
        name, count = counter.hex(), self._count(client)
        last = self._sockets.get(client)
        before = (last["up"], last["down"]) if last and last["counter"] == name else (0, 0)
        count["wire_up"] += up - before[0]
        count["wire_down"] += down - before[1]
        self._sockets[client] = {"counter": name, "up": up, "down": down}
        self._clients.setdefault(client, {})

    def waiting(self, clients: Sequence[int], seconds: float) -> None:
        """The round waits for these; until then at most."""
        shown = ", ".join(map(str, clients[:_SHOWN])) + (", ..." if len(clients) > _SHOWN else "")
        self._status |= {"awaited": list(clients), "until": self._time(seconds)}
        text = f"round {self._status['round']}: waiting for {len(clients)} of {self._status['cohort']} clients"
        self._repeat(f"{text} ({shown}), until {self._clock(seconds)}", first=_SAY_SECONDS)
        self._changed()

    def failed(self, client: int, why: str) -> None:
        """A client could not do what it was asked."""
        self._clients.setdefault(client, {})["error"] = why
        self.say(f"round {self._status['round']}: client {client}: {why}")
        self._changed()

    def late(self, client: int, round: int) -> None:
        """An answer came when its round had closed, or a second time."""
        self._status["late"] += 1

    def closed(self, missing: Sequence[int]) -> None:
        """A round has closed without these."""
        self._status["drop_outs"] += len(missing)
        self._status |= {"awaited": [], "until": None}
        for client in missing:
            known = self._clients.setdefault(client, {})
            known["missed"] = known.get("missed", 0) + 1
        self._changed()

    def measured(self, line: Mapping[str, Any]) -> None:
        """A round is in the ledger."""
        for key in ("accuracy", "loss"):
            if line.get(key) is not None:
                self._status[key] = line[key]
        self._changed(now=line.get("accuracy") is not None)

    def ended(self, state: str, error: str | None = None) -> None:
        """The run has ended."""
        self._status |= {"state": state, "awaited": [], "until": None} | ({"error": error} if error else {})
        self._changed(now=True)

    def _count(self, client: int) -> Counts:
        return self._bytes.setdefault(client, {}).setdefault(self._phase, dict.fromkeys(_WAYS, 0))

    def _repeat(self, text: str, first: float = 0.0) -> None:
        """Say something that stays true, now and then; the first time after it has been true for ``first`` seconds."""
        subject, now = text.partition(", until")[0], self.clock()
        if subject != self._said[0]:
            self._said = subject, now - _SAY_SECONDS + first
        if now - self._said[1] >= _SAY_SECONDS:
            self._said = subject, now
            self.say(text)

    def _changed(self, *, now: bool = False) -> None:
        if now or self.clock() - self._written >= _WRITE_SECONDS:
            self._written = self.clock()
            self.write(self.status())

    def _time(self, seconds: float) -> str:
        return (self.now() + timedelta(seconds=seconds)).isoformat(timespec="seconds")

    def _clock(self, seconds: float) -> str:
        return (self.now() + timedelta(seconds=seconds)).astimezone().strftime("%H:%M:%S")
