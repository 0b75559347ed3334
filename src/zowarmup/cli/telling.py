"""A federation's status in words and tables: lines for people, its clients, and what its bytes went into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zowarmup.cli import consoles, tables
from zowarmup.cli.inspecting import spans
from zowarmup.cli.standing import Counts, Look, Member, Status
from zowarmup.report import words

MOST_CLIENTS = 30
_LONGEST = 60  # characters of a list of clients
_NODE = 5  # digits of a node that tell it from others
_WAYS = {"payload\nup": "payload_up", "payload\ndown": "payload_down", "wire\nup": "wire_up", "wire\ndown": "wire_down"}
_ROOM: tuple[tuple[int, frozenset[str]], ...] = (
    (2, frozenset()),
    (1, frozenset()),
    (1, frozenset({"node"})),
    (1, frozenset({"node", "missed", "peak\nmemory"})),
)
"""Spaces between columns and columns left out, from the widest table to the narrowest."""


def parts(
    look: Look, console: Console, *, notice: str | None = None, most: int = MOST_CLIENTS
) -> Iterator[Text | Table]:
    """A status in words and tables, from top to bottom.

    Args:
        look: what there is to show.
        console: where to; its width is kept to.
        notice: something to say beside it.
        most: clients to show.
    """
    status = look.status
    yield line(_head(look), "bold red" if status.state == "failed" else "bold")
    yield from _lines(look, notice)
    if status.clients:
        chosen = _chosen(status, most)
        yield Text()
        yield _fitted(console, lambda padding, without: _client_table(status, chosen, padding, without))
        if rest := len(status.clients) - len(chosen):
            yield line(f"and {rest:,} more; --json has all", "dim")
        yield from (line(f"client {each}: {why}", "red") for each in chosen if (why := status.clients[each].error))
    if any(member.bytes for member in status.clients.values()):
        yield Text()
        yield _fitted(console, lambda padding, without: _phase_table(status, padding))
        yield line(_about_bytes(look), "dim")
    if status.turned:
        yield Text()
        yield from (line(f"turned away: node {node}: {why}", "yellow") for node, why in status.turned.items())


def brief(look: Look) -> str:
    """What changes as a run goes on, in a line that can be searched."""
    status = look.status
    found = [] if status.state == "running" else [status.state]
    if status.state == "waiting for nodes":
        found.append(f"{status.answered}/{status.cohort} are there")
    elif status.round:
        found += [f"round {status.round}/{status.rounds}", str(status.kind)]
        found += [f"{status.answered}/{status.cohort} answered", f"accuracy {words.percent(status.accuracy)}"]
    if status.error:
        found.append(status.error.splitlines()[0])
    return str(line("  ".join(found)))


def _head(look: Look) -> str:
    """The state of the run, and how far it is."""
    status = look.status
    if status.state == "waiting for nodes":
        until = f", until {_time(status.until, look)}" if status.until else ""
        return f"waiting for nodes: {status.answered:,} of {status.cohort:,} are there{until}"
    if not status.round:
        return status.state
    where = f"round {status.round:,} of {status.rounds:,}, {status.kind} (phase {status.phase})"
    answered = f", {status.answered:,} of {status.cohort:,} have answered" if status.state == "running" else ""
    return f"{status.state}: {where}{answered}"


def _lines(look: Look, notice: str | None) -> Iterator[Text]:
    """What is to be known beside how far it is."""
    status = look.status
    if notice is not None:
        yield line(notice, "yellow")
    elif (age := look.stale_seconds) is not None:
        yield line(f"last heard {words.duration(age)} ago", "yellow")
    if status.awaited:
        clients = words.shorten(spans(sorted(status.awaited)), _LONGEST)
        until = f" until {_time(status.until, look)}" if status.until else ""
        yield line(f"waiting for {words.plural(len(status.awaited), 'client')}{until}: {clients}", "yellow")
    if status.round:
        scores = f"accuracy {words.percent(status.accuracy)}, loss {words.number(status.loss)}"
        absent = f"{words.plural(status.drop_outs, 'drop-out')}, {words.plural(status.late, 'late answer')}"
        yield line(f"{scores}; {absent}")
    if status.error:
        yield line(status.error, "red")


def _chosen(status: Status, most: int) -> Sequence[int]:
    """The clients to show: all in their order, or those first that are awaited, have failed or were missed."""
    if len(status.clients) <= most:
        return sorted(status.clients)
    awaited = frozenset(status.awaited)

    def calm(client: int) -> tuple[bool, bool, int, int]:
        member = status.clients[client]
        return client not in awaited, not member.error, -member.missed, client

    return sorted(status.clients, key=calm)[:most]


class _Column(NamedTuple):
    heading: str
    cell: Callable[[int, Member], str]
    number: bool = True


def _client_columns() -> Iterable[_Column]:
    yield _Column("client", lambda client, member: str(client))
    yield _Column("tier", lambda client, member: member.tier or words.UNDEFINED, number=False)
    yield _Column("node", lambda client, member: words.shorten(member.node or words.UNDEFINED, _NODE + 1), number=False)
    yield _Column("last\nround", lambda client, member: f"{member.round:,}" if member.round else words.UNDEFINED)
    yield _Column("missed", lambda client, member: f"{member.missed:,}")
    yield _Column("last\nwork", lambda client, member: _work(member.seconds))
    yield _Column("peak\nmemory", lambda client, member: words.size(member.peak_memory_bytes or None))
    for heading, way in _WAYS.items():
        yield _Column(heading, partial(_sent, way))


def _client_table(status: Status, chosen: Iterable[int], padding: int, without: frozenset[str]) -> Table:
    columns = [column for column in _client_columns() if column.heading not in without]
    table = _table([("" if not column.number else ">") + column.heading for column in columns], padding)
    awaited = frozenset(status.awaited)
    for client in chosen:
        member = status.clients[client]
        style = "yellow" if client in awaited else "red" if member.error else ""
        table.add_row(*(Text(_clean(column.cell(client, member))) for column in columns), style=style)
    return table


def _phase_table(status: Status, padding: int) -> Table:
    """Bytes of all clients, a row for each phase."""
    table = _table(["bytes of all clients", *(f">{heading}" for heading in _WAYS)], padding)
    phases = _by_phase(status)
    for phase in sorted(phases, key=_number):
        table.add_row(Text(_clean(phase) or "before round 1"), *(_bytes(phases[phase], way) for way in _WAYS.values()))
    if len(phases) > 1:
        total = sum(phases.values(), start=Counts())
        table.add_row("in all", *(_bytes(total, way) for way in _WAYS.values()), style="bold")
    return table


def _by_phase(status: Status) -> Mapping[str, Counts]:
    found: dict[str, Counts] = {}
    for member in status.clients.values():
        for phase, counts in member.bytes.items():
            found[phase] = found.get(phase, Counts()) + counts
    return found


def _number(phase: str) -> int:
    """
    >>> [_number(phase) for phase in ("", "0 first-order", "10 zeroth-order")]
    [-1, 0, 10]
    """
    first = phase.partition(" ")[0]
    return int(first) if first.isdecimal() else -1


def _about_bytes(look: Look) -> str:
    """Since when bytes are counted, and whose are not."""
    totals = [member.total for member in look.status.clients.values() if member.bytes]
    counted = sum(total.wire_up > 0 for total in totals)
    some = f"; wire for {counted:,} of {words.plural(len(totals), 'client')}" if 0 < counted < len(totals) else ""
    since = f"since {_time(look.status.since, look)}, when" if look.status.since else "since"
    return f"{since} counting began{some}"


def _fitted(console: Console, make: Callable[[int, frozenset[str]], Table]) -> Table:
    """The widest table that there is room for."""
    unlimited = console.options.update(max_width=10_000)
    for padding, without in _ROOM:
        table = make(padding, without)
        if console.measure(table, options=unlimited).maximum <= console.width:
            break
    return table


def _table(headings: Iterable[str], padding: int) -> Table:
    table = tables.table(*headings)
    table.padding = (0, padding, 0, 0)
    return table


def _bytes(counts: Counts, way: str) -> str:
    """A number of bytes; none on the wire are none that were measured."""
    count = getattr(counts, way)
    return words.size(count if count or not way.startswith("wire") else None)


def _sent(way: str, client: int, member: Member) -> str:
    return _bytes(member.total, way)


def _work(seconds: float | None) -> str:
    """
    >>> _work(0.0042), _work(42.0)
    ('4.2\\xa0ms', '42\\xa0s')
    """
    if seconds is None or seconds >= 1:
        return words.duration(seconds)
    return f"{1000 * seconds:.3g}\N{NO-BREAK SPACE}ms"


def _time(moment: datetime, look: Look) -> str:
    """A time of day here; with its date where that is another than the day on which somebody looked."""
    local = moment.astimezone()
    today = local.date() == look.looked_at.astimezone().date()
    return f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"


def line(text: str, style: str = "") -> Text:
    """A sentence that a terminal can show, whoever wrote it."""
    return Text(_clean(consoles.plain(text)), style=style)


def _clean(text: str) -> str:
    """Without what would move a terminal's cursor: names and errors are others' words.

    >>> _clean("one\\x1b[2J\\ntwo")
    'one?[2J\\ntwo'
    """
    kept = {"\n", "\N{NO-BREAK SPACE}"}
    return "".join(char if char.isprintable() or char in kept else "?" for char in text)
