"""The ledger: the only record of a run, in an SQLite database; docs/spec/ledger.md is its format.

A round is one transaction, committed before the round counts as done, and linked to the round before by a hash.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sqlite3
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from zowarmup import chain, database
from zowarmup.database import NAME, VERSION
from zowarmup.disk import Disk, network_file_system
from zowarmup.errors import LedgerError, OutputError
from zowarmup.rows import INITIAL, Clock, File, Head, Metrics, Row
from zowarmup.table import Table

_BATCH = 256  # rounds read at a time
__all__ = [
    "FILES",
    "INITIAL",
    "NAME",
    "VERSION",
    "Clock",
    "File",
    "Head",
    "Ledger",
    "Metrics",
    "Row",
    "broken",
    "no_round_yet",
]

FILES = (NAME, f"{NAME}-wal", f"{NAME}-shm", f"{NAME}-journal")


class Ledger:
    """The record of one run. Made by :meth:`create`, :meth:`memory` or :meth:`open`; a context manager that closes it.

    Args:
        connection: to the database.
        path: of the database, for messages.
        disk: what commits; None for a reader.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, disk: Disk | None) -> None:
        self._connection, self.path, self._disk = connection, path, disk
        with self._reading():
            database.check_form(connection, path)
            values = dict(connection.execute("SELECT key, value FROM run"))
        self.refresh()
        self.head = self._head(values)

    @classmethod
    def create(cls, folder: Path, head: Head, *, disk: Disk) -> Ledger:
        """Make the ledger of a folder: it is there with its head, or not at all; open it to write.

        Raises:
            DiskError, OutputError: it cannot be written, or the file system cannot sync.
        """
        path = folder / NAME
        temporary = folder / f".{NAME}"
        disk.unlink(temporary)
        with database.sqlite(path), contextlib.closing(database.connect(temporary)) as connection:
            database.synchronise(connection, disk)
            database.fill(connection, head)
            disk.commit(connection, path)
        disk.rename(temporary, path)
        return cls.open(folder, disk=disk)

    @classmethod
    def memory(cls, head: Head) -> Ledger:
        """A ledger that goes with the process."""
        connection, disk = database.connect(":memory:"), Disk(sync=False)
        database.fill(connection, head)
        disk.commit(connection, Path(":memory:"))
        return cls(connection, Path(":memory:"), disk)

    @classmethod
    def open(cls, folder: Path, *, disk: Disk | None = None) -> Ledger:
        """Open the ledger in a folder.

        Args:
            folder: the run directory.
            disk: to write, what commits; only to read where left out.

        Raises:
            OutputError: there is none, it is no ledger, it is of a newer version, or it cannot be opened.
            LedgerError: it is damaged.
        """
        path = folder / NAME
        if not path.is_file():
            problem = "no such folder" if not folder.is_dir() else f"it has no {NAME}"
            raise OutputError(f"{folder}: not a run directory: {problem}", path=folder)
        connection = None
        try:
            connection = database.connect(path) if disk is not None else database.connect_reader(path)
            ledger = cls(connection, path, disk)
            if disk is not None:
                with database.sqlite(path):
                    database.synchronise(connection, disk)  # first: changing the mode syncs
                    mode = "DELETE" if network_file_system(folder) else "WAL"
                    connection.execute(f"PRAGMA journal_mode={mode}").fetchone()
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.OperationalError):
                rest = path.with_name(f"{NAME}-wal")
                hint = f"its last rounds are in {rest.name}: copy the folder to where it can be written"
                known = disk is None and rest.exists()
                raise OutputError(
                    f"{path}: cannot be opened: {error}", hint=hint if known else None, path=path
                ) from error
            raise
        return ledger

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; one that was written becomes a single file again, unless somebody reads it."""
        if self._disk is not None:
            try:
                self._connection.execute("PRAGMA busy_timeout=1000")
                self._connection.execute("PRAGMA journal_mode=DELETE").fetchone()
            except sqlite3.Error:
                with contextlib.suppress(sqlite3.Error):  # somebody reads: at least, ledger.db has every round
                    self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._connection.close()

    @property
    def last(self) -> int:
        """The last round; -1 where there is none yet."""
        return int(self._last)

    def row(self, round: int) -> Row:
        """A round.

        Raises:
            LedgerError: there is none.
        """
        for row in self.rows(round, round):
            return row
        raise LedgerError(f"{self.path}: has no round {round}, its last is {self.last}", path=self.path, round=round)

    def rows(self, first: int = 0, last: int | None = None) -> Iterator[Row]:
        """The rounds from ``first`` to ``last``, both included.

        Raises:
            LedgerError: one is missing, or the database is damaged.
        """
        last = self.last if last is None else min(last, self.last)
        query = (
            "SELECT round, phase, entry, metrics, state, chain, clock FROM rounds WHERE round BETWEEN ? AND ? "
            "ORDER BY round"
        )
        for start in range(first, last + 1, _BATCH):  # read whole, so that a reader who waits keeps no writer waiting
            stop = min(start + _BATCH - 1, last)
            with self._reading():
                found = [Row(*values) for values in self._connection.execute(query, (start or -(2**63), stop))]
            for expected, row in itertools.zip_longest(range(start, stop + 1), found):
                if row is None or row.round != expected:
                    raise LedgerError(f"{self.path}: round {expected} is missing", path=self.path, round=expected)
                if not row.well_formed():
                    raise LedgerError(
                        f"{self.path}: round {row.round}: a column is of another type or length",
                        path=self.path,
                        round=row.round,
                    )
                yield row

    def kept(self, last: int) -> list[int]:
        """Rounds up to ``last`` of whose state there is a snapshot, ascending."""
        query = "SELECT round FROM rounds JOIN snapshots ON state = digest WHERE round BETWEEN 0 AND ? ORDER BY round"
        with self._reading():
            return [round for (round,) in self._connection.execute(query, (last,)).fetchall()]

    def refresh(self) -> None:
        """Look for rounds that another process has written since."""
        with self._reading():
            (self._last,) = self._connection.execute("SELECT ifnull(max(round), -1) FROM rounds").fetchone()

    def check(self) -> None:
        """Check every link, that every entry decodes, and that the recipe gives the identity.

        Raises:
            LedgerError: the first that is wrong; says in which round.
        """
        previous = self.head.genesis()
        for row in self.rows():
            if not row.follows(previous):
                raise broken(self, row)
            row.decoded()
            row.measured()
            previous = row.chain
        if (error := self.contradiction()) is not None:
            raise error

    def contradiction(self) -> LedgerError | None:
        """What is wrong with the recipe: it has another identity than the one that the chain begins with."""
        try:
            if chain.identity(tomllib.loads(self.head.recipe)) == self.head.identity:
                return None
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            pass
        return LedgerError(f"{self.path}: the recipe is another than the one that the chain begins with")

    def files(self) -> dict[bytes, File]:
        """Snapshots that may be relied on, by digest."""
        with self._reading():
            found = [File(*values) for values in self._connection.execute("SELECT digest, file, bytes FROM snapshots")]
        if not all(isinstance(value, bytes) and len(value) == 32 for file in found for value in file[:2]):
            raise LedgerError(f"{self.path}: snapshots: a column is of another type or length", path=self.path)
        return {file.digest: file for file in found}

    def sessions(self) -> list[dict[str, Any]]:
        """Who wrote rounds, and from which round on."""
        with self._reading():
            rows = self._connection.execute("SELECT first_round, facts FROM sessions ORDER BY rowid").fetchall()
        return [{"first_round": first, **self._json("sessions", facts)} for first, facts in rows]

    def value(self, key: str) -> Any:
        """What ``run`` says under a key, from JSON; None where it says nothing."""
        with self._reading():
            found = self._connection.execute("SELECT value FROM run WHERE key = ?", (key,)).fetchone()
        return None if found is None else self._json(key, found[0])

    def append(
        self,
        phase: int,
        entry: bytes,
        metrics: Metrics,
        state: str,
        clock: Clock,
        *,
        add: Iterable[File] = (),
        drop: Iterable[bytes] = (),
    ) -> Row:
        """Commit the next round; when this returns, it is on the medium.

        Args:
            phase: its index; -1 for round 0.
            entry: canonical bytes.
            metrics: what it is recorded with.
            state: digest of the state after it, hex.
            clock: time and memory.
            add: snapshots that are durable by now.
            drop: digests of snapshots that may no longer be relied on; their files may be removed afterwards.

        Raises:
            DiskError: it could not be committed; the ledger is as it was.
        """
        number = self.last + 1
        previous = self.head.genesis() if number == 0 else self.row(self.last).chain
        measured, after = msgspec.msgpack.encode(metrics), bytes.fromhex(state)
        linked = chain.link(previous, number, phase, entry, after, measured)
        row = Row(number, phase, entry, measured, after, linked, msgspec.msgpack.encode(clock))
        with self._transaction() as connection:
            connection.execute("INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            connection.executemany("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", add)
            connection.executemany("DELETE FROM snapshots WHERE digest = ?", [(digest,) for digest in drop])
        self._last = number
        return row

    def note(self, **values: object) -> None:
        """Put values under keys of ``run``, as JSON; None removes one."""
        with self._transaction() as connection:
            for key, value in values.items():
                if value is None:
                    connection.execute("DELETE FROM run WHERE key = ?", (key,))
                else:
                    pair = (key, json.dumps(value).encode())
                    connection.execute("INSERT OR REPLACE INTO run VALUES (?, ?)", pair)

    def begin(self, facts: Mapping[str, Any], first: int | None = None) -> None:
        """Note that a process goes on from here, or from round ``first``."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM run WHERE key = 'ended'")
            connection.execute(
                "INSERT INTO sessions VALUES (?, ?)",
                (self.last + 1 if first is None else first, json.dumps(facts).encode()),
            )

    def amend(self, recipe: str) -> None:
        """Put another recipe of the same identity in the place of the recipe."""
        with self._transaction() as connection:
            connection.execute("UPDATE run SET value = ? WHERE key = 'recipe'", (recipe.encode(),))
        self.head = replace(self.head, recipe=recipe)

    def integrity(self) -> str:
        """What SQLite finds wrong with the file; ``"ok"`` where nothing."""
        with self._reading():
            return str(self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0])

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._disk is not None, "opened to read"
        with database.sqlite(self.path):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self._connection
                self._disk.commit(self._connection, self.path)
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                with contextlib.suppress(LedgerError):
                    self.refresh()  # Ctrl-C may be heard when the commit is over
                raise

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{self.path}: cannot be read: {error}", path=self.path) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise LedgerError(f"{self.path}: is damaged: {error}", path=self.path) from error

    def _json(self, what: str, content: Any, *, form: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        try:
            value = json.loads(content, object_hook=form)
        except (ValueError, TypeError) as error:
            raise LedgerError(f"{self.path}: {what} is damaged: {error}", path=self.path) from None
        if not isinstance(value, dict):
            raise LedgerError(f"{self.path}: {what} is damaged: no table", path=self.path)
        return value

    def _head(self, values: Mapping[str, Any]) -> Head:
        try:
            self._json("identity", values["identity"])
            return Head(
                recipe=values["recipe"].decode(),
                identity=bytes(values["identity"]),
                table=Table.parse(values["table"]),
                data=values["data"].hex(),
                facts=self._json("facts", values["facts"], form=lambda table: _Facts(self.path, table)),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            what = f"run has no {error}" if isinstance(error, KeyError) else str(error)
            raise LedgerError(f"{self.path}: is damaged: {what}", path=self.path) from None


class _Facts(dict[str, Any]):
    """Facts, at any depth. No link covers them: one that is missing is told where it is asked for."""

    def __init__(self, path: Path, table: Mapping[str, Any]) -> None:
        super().__init__(table)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise LedgerError(f"{self._path}: is damaged: facts has no '{key}'", path=self._path)


def no_round_yet(ledger: Ledger) -> OutputError:
    """The error for a ledger without a round."""
    folder = ledger.path.parent
    return OutputError(f"{folder}: has no round yet", hint=f"`zowarmup resume {folder}` starts it", path=folder)


def broken(ledger: Ledger, row: Row) -> LedgerError:
    """The error for a row whose link does not follow."""
    return LedgerError(
        f"{ledger.path}: round {row.round}: the link does not follow from the round before and what the round says",
        hint="the entry, the metrics, a digest or the chain was changed after the round was committed",
        path=ledger.path,
        round=row.round,
    )
