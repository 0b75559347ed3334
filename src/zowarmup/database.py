"""The ledger's SQLite file: its tables, how it is opened, and SQLite's errors as ours; docs/spec/ledger.md."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from zowarmup.disk import Disk, writing
from zowarmup.errors import LedgerError, OutputError
from zowarmup.rows import Head

NAME = "ledger.db"
VERSION = 1

_APPLICATION = 0x7A6F7755  # "zowU"
_PATIENCE_SECONDS = 30.0
_SCHEMA = f"""
PRAGMA page_size = 2048;
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {VERSION};
BEGIN;
CREATE TABLE run (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE rounds (round INTEGER PRIMARY KEY, phase INTEGER NOT NULL, entry BLOB NOT NULL, metrics BLOB NOT NULL,
                     state BLOB NOT NULL, chain BLOB NOT NULL, clock BLOB NOT NULL);
CREATE TABLE snapshots (digest BLOB PRIMARY KEY, file BLOB NOT NULL, bytes INTEGER NOT NULL)
                     WITHOUT ROWID;
CREATE TABLE sessions (first_round INTEGER NOT NULL, facts BLOB NOT NULL);
"""


def connect(path: str | Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE_SECONDS, check_same_thread=False)


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, from a read-only medium too.

    Where a commit without WAL was killed, its journal is rolled back first, which SQLite does on a connection that may
    write. A journal whose writer lives is left alone.
    """
    modes = ["mode=ro"]
    if path.with_name(f"{NAME}-journal").exists():
        modes.append("mode=rw")
    elif not path.with_name(f"{NAME}-wal").exists():
        modes.append("mode=ro&immutable=1")
    for mode in modes:
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?{mode}", uri=True, isolation_level=None, timeout=_PATIENCE_SECONDS
        )
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if mode == modes[-1]:
                raise
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: in SQLite's own message
            connection.close()
            raise LedgerError(f"{path}: is damaged, or no ledger: {error}", path=path) from error
        else:
            return connection
    raise AssertionError


def synchronise(connection: sqlite3.Connection, disk: Disk) -> None:
    connection.execute(f"PRAGMA synchronous={'FULL' if disk.sync else 'OFF'}")


def fill(connection: sqlite3.Connection, head: Head) -> None:
    """The tables and the head, in a transaction that is still open."""
    connection.executescript(_SCHEMA)
    values = {
        "recipe": head.recipe.encode(),
        "identity": head.identity,
        "table": head.table.canonical(),
        "data": bytes.fromhex(head.data),
        "facts": json.dumps(head.facts).encode(),
    }
    connection.executemany("INSERT INTO run VALUES (?, ?)", values.items())


def check_form(connection: sqlite3.Connection, path: Path) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise OutputError(f"{path}: is an SQLite database, but not a ledger", path=path)
    if version > VERSION:
        raise OutputError(
            f"{path}: is a ledger of version {version}, this zowarmup reads version {VERSION}",
            hint="read it with a newer zowarmup",
            path=path,
        )


@contextlib.contextmanager
def sqlite(path: Path) -> Iterator[None]:
    """Turn SQLite's errors on writing into ours."""
    with writing(path):
        try:
            yield
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise LedgerError(f"{path}: is damaged: {error}", path=path) from error
