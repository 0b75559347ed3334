"""`zowarmup report` of a run: everything that is made from its ledger, made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import filelock

from zowarmup import report, writers
from zowarmup.cli import consoles
from zowarmup.disk import Disk
from zowarmup.errors import OutputError
from zowarmup.history import History
from zowarmup.ledger import NAME as LEDGER
from zowarmup.ledger import Ledger, no_round_yet


def rebuild(folder: Path) -> Path:
    """Make run.toml, metrics.jsonl, summary.json and report.html again; the report's path.

    Without a ledger, the report alone is made of the files there are. While a process writes the run, those files are
    its own, and the report alone is made from the ledger.

    Raises:
        OutputError: not a run directory, one without a round, or one that cannot be written to.
        LedgerError: the ledger is damaged.
        DiskError: a file cannot be written.
    """
    if not (folder / LEDGER).is_file():
        return report.write(folder)
    while True:
        lock = writers.lock(folder)
        try:
            with lock:
                return _all(folder)
        except filelock.Timeout:
            path = _page(folder)
        except (OSError, NotImplementedError) as error:
            what = error.strerror if isinstance(error, OSError) else error
            raise OutputError(f"{folder}: cannot be locked: {what}", path=folder) from error
        if writers.held(folder):  # else the run ended while the page was made, and what we wrote is older than its own
            return path


def _all(folder: Path) -> Path:
    from zowarmup.recorder import derived

    with Ledger.open(folder) as ledger:
        disk = _checked(ledger)
        for name, content in derived(ledger).items():
            disk.write(folder / name, content)
    return report.write(folder)


def _page(folder: Path) -> Path:
    with Ledger.open(folder) as ledger:
        disk, history = _checked(ledger), History(ledger)
        summary = history.summary()
        record = report.RunRecord(
            path=folder,
            summary=cast(Any, summary),
            metrics=cast(Any, list(history.lines())),
            recipe=ledger.head.recipe,
        )
        who = writers.in_words(ledger.value("writer") or {})
    path = folder / "report.html"
    disk.write(path, report.render(record).encode())
    consoles.note(
        f"{folder}: is being written by {who}: the report is that of round {summary['rounds']} of "
        f"{summary['planned_rounds']}, and nothing else was made again"
    )
    return path


def _checked(ledger: Ledger) -> Disk:
    """How to write, if there is something to report."""
    if ledger.last < 0:
        raise no_round_yet(ledger)
    return Disk(sync=History(ledger).recipe.run.sync == "full")
