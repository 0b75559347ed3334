"""`zowarmup export`: a ledger as lines of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from zowarmup.disk import Disk
from zowarmup.history import History
from zowarmup.ledger import Ledger

FORMAT = "zowarmup/export/1"


def lines(folder: Path) -> Iterator[bytes]:
    """A line about the run, then one for each round there is now.

    Raises:
        OutputError: not a run directory.
        LedgerError: the ledger is damaged.
    """
    with Ledger.open(folder) as ledger:
        history, head = History(ledger), ledger.head
        table = [
            {"name": name, "shape": shape} for name, shape in zip(head.table.names, head.table.shapes, strict=True)
        ]
        about = {
            "format": FORMAT,
            "recipe": head.recipe,
            "identity": head.identity.decode(),
            "table": table,
            "data": head.data,
            "genesis": head.genesis().hex(),
            "facts": head.facts,
            "status": history.status(),
            "rounds": ledger.last,
            "sessions": ledger.sessions(),
        }
        yield _encoded(about)
        for row in ledger.rows():
            yield _encoded(history.describe(row))


def write(folder: Path, out: Path) -> None:
    """Write the lines to a file, whole or not at all.

    Raises:
        OutputError, LedgerError: see :func:`lines`.
        DiskError: the file cannot be written.
    """
    Disk().write(out, lines(folder))


def _encoded(line: object) -> bytes:
    return msgspec.json.encode(line) + b"\n"
