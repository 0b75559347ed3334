"""How a command ends that does not end well: what is said, and the exit code."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from cyclopts import CycloptsError

from zowarmup.cli import consoles
from zowarmup.errors import ZOWarmUpError

INTERRUPTED = 130


def explain(error: BaseException) -> int:
    """Say on stderr what went wrong; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        consoles.complain("interrupted", note=consoles.note_of(error))
        return INTERRUPTED
    if isinstance(error, CycloptsError):
        text = str(error).strip().rstrip(".")
        consoles.complain(text[:1].lower() + text[1:], hint="`zowarmup --help`, or `zowarmup COMMAND --help`")
        return 2
    if isinstance(error, ZOWarmUpError):
        consoles.complain(error.message, hint=error.hint, note=consoles.note_of(error))
        return error.exit_code
    hint = "this is a mistake in zowarmup, or in your own code that it calls; --debug shows where"
    consoles.complain(f"{type(error).__name__}: {error}", hint=hint, note=consoles.note_of(error))
    return 1


@contextlib.contextmanager
def sigterm_is_ctrl_c() -> Iterator[None]:
    """While open, SIGTERM stops a run as Ctrl-C does, so that it leaves a readable directory."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut short what the first began
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
