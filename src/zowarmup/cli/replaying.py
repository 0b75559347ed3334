"""`zowarmup replay`: the weights after a round, in a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zowarmup.cli import consoles, tables
from zowarmup.errors import OutputError, UsageError
from zowarmup.report import words

if TYPE_CHECKING:
    from zowarmup.ledger import Ledger


class Replayed(NamedTuple):
    """What was written."""

    round: int
    state: str
    """The state's digest, hex."""
    out: Path
    bytes: int


def check(out: Path, *, force: bool) -> None:
    """Refuse a file that cannot be written, or that is there already (and not ``force``)."""
    if out.is_dir():
        raise OutputError(f"{out}: is a folder, expected a file", path=out)
    if out.exists() and not force:
        raise OutputError(f"{out}: exists", hint="choose another --out, or --force to replace it", path=out)
    if not out.parent.is_dir():
        raise OutputError(f"{out}: there is no folder {out.parent}", path=out)
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"{out}: cannot be written: no permission", path=out)


def number(ledger: Ledger, round: int, option: str) -> int:
    """A round's number; a negative one counts from the end.

    Raises:
        OutputError: the ledger has no round yet.
        UsageError: there is no such round.
    """
    if ledger.last < 0:
        from zowarmup.ledger import no_round_yet

        raise no_round_yet(ledger)
    found = round if round >= 0 else ledger.last + 1 + round
    if not 0 <= found <= ledger.last:
        raise UsageError(f"{option} {round}: {ledger.path.parent} has rounds 0 to {ledger.last}")
    return found


def replay(folder: Path, round: int, out: Path) -> Replayed:
    """Rebuild the state after a round, and write it as a safetensors file.

    Raises:
        OutputError, UsageError: not a run directory, or it has no such round.
        LedgerError: the round cannot be rebuilt, or something of the ledger is damaged.
        DiskError: the file cannot be written.
    """
    import safetensors.torch

    from zowarmup.disk import Disk
    from zowarmup.ledger import Ledger
    from zowarmup.replay import Replay
    from zowarmup.snapshots import Snapshots, tensors

    with Ledger.open(folder) as ledger:
        table = ledger.head.table
        wanted = number(ledger, round, "--to-round")
        state = Replay(ledger, Snapshots(folder, table)).state(wanted)
    content = safetensors.torch.save(tensors(state, table))
    Disk().write(out, content)
    return Replayed(wanted, state.digest(), out, len(content))


def show(replayed: Replayed, *, as_json: bool) -> None:
    """The round, its digest, the file."""
    if as_json:
        consoles.print_json(replayed._asdict() | {"out": str(replayed.out)})
        return
    console = consoles.out()
    found = [
        ("round", f"{replayed.round:,}"),
        ("state", tables.digest(replayed.state, console)),
        ("file", f"{replayed.out}, {words.size(replayed.bytes)}"),
    ]
    tables.show(console, tables.facts(found))
