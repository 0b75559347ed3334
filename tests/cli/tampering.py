"""Changes to a ledger behind its back."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path


def execute(folder: Path, statement: str, *values: object) -> None:
    """Run a statement on a run's ledger."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute(statement, values)


def flip(folder: Path, column: str, round: int, at: int = -1) -> None:
    """Flip the lowest bit of a byte of a round."""
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        (found,) = connection.execute(f"SELECT {column} FROM rounds WHERE round = ?", (round,)).fetchone()
        changed = bytearray(found)
        changed[at] ^= 1
        connection.execute(f"UPDATE rounds SET {column} = ? WHERE round = ?", (bytes(changed), round))


def cut(folder: Path, last: int, *, ended: str | None = "interrupted") -> None:
    """What a run that was stopped after a round leaves: no later rounds, and how it ended, if it could still say."""
    execute(folder, "DELETE FROM rounds WHERE round > ?", last)
    execute(folder, "DELETE FROM run WHERE key = 'ended'")
    if ended is not None:
        execute(folder, "INSERT INTO run VALUES ('ended', ?)", f'{{"status": "{ended}"}}'.encode())
    for name in ("summary.json", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
