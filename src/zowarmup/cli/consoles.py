"""Where output goes: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.text import Text

from zowarmup.errors import LedgerError, NonFiniteError, UsageError, ZOWarmUpWarning

_WIDE = 160  # columns of a table that no terminal limits


def out() -> Console:
    """The console for results; a pipe or a file gets wide lines and no colours."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def help_console() -> Console:
    """The console for help: lines that are easy to read, however wide the window is."""
    return Console(highlight=False, width=min(100, Console().width))


def err() -> Console:
    """The console for everything else."""
    return Console(stderr=True, highlight=False)


def forgive_encodings() -> None:
    """Let an output that cannot show a character show a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def plain(text: str) -> str:
    """With ordinary spaces, for lines that are searched and cut."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def complain(message: str, *, hint: str | None = None, note: str | None = None) -> None:
    """``zowarmup: <message>`` on stderr, then a note and a hint on lines of their own."""
    console = err()
    console.print(Text.assemble(("zowarmup: ", "bold red"), message), soft_wrap=True)
    if note is not None:
        console.print(Text(note), soft_wrap=True)
    if hint is not None:
        console.print(Text.assemble(("hint: ", "bold"), hint), soft_wrap=True)


def note(message: str) -> None:
    """``zowarmup: note: <message>`` on stderr, above a live display if there is one."""
    sys.stderr.write(f"zowarmup: note: {message}\n")


@contextlib.contextmanager
def warnings_are_notes() -> Iterator[None]:
    """While open, this package's warnings come as notes; others stay as they are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=ZOWarmUpWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, ZOWarmUpWarning):
                note(str(message))
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def print_path(path: Path) -> None:
    """A path on stdout, on one line however long it is."""
    out().print(str(path), markup=False, highlight=False, soft_wrap=True)


def print_json(value: object) -> None:
    """JSON on stdout, indented."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def status(text: str) -> contextlib.AbstractContextManager[Any]:
    """A spinner while something takes time; nothing where stderr is no terminal."""
    console = err()
    return console.status(text) if console.is_terminal else contextlib.nullcontext()


@contextlib.contextmanager
def told_where(folder: Path, *, again: bool = False) -> Iterator[None]:
    """Add to an error that passes through where the rounds until then are kept, and how to go on.

    Args:
        folder: the run directory.
        again: the same command goes on, in the place of `zowarmup resume`.
    """
    before = _stamps(folder)
    try:
        yield
    except (UsageError, LedgerError):
        raise  # nothing was written, and where the ledger changed another process writes it; or going on fails again
    except BaseException as error:
        after = _stamps(folder)
        if any(after) and after != before:
            where = shlex.quote(str(folder))
            if again:
                go_on = "the same command goes on"
            elif isinstance(error, NonFiniteError):  # and would be again
                go_on = f"`zowarmup run --beginning {where}` with other settings begins with its whole phases"
            else:
                go_on = f"`zowarmup resume {where}` goes on"
            error.add_note(f"the rounds until then are in {folder}; {go_on}")
        raise


def note_of(error: BaseException) -> str | None:
    """What :func:`told_where` added."""
    notes = getattr(error, "__notes__", [])
    return notes[-1] if notes else None


def _stamps(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """Tells a ledger from what it was before."""
    return tuple(_stamp(folder / name) for name in ("ledger.db", "ledger.db-wal"))


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
