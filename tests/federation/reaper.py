"""Finds and ends the processes of a federation; as a program of its own also when the tests themselves are killed."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import psutil

MARK = "ZOWARMUP_TEST_FEDERATION"
"""A variable in the environment of all of them."""


def marked(value: str) -> Iterator[psutil.Process]:
    """Every process that has the mark, children of children that nobody knows of included."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process


def reap(value: str, seconds: float) -> list[psutil.Process]:
    """kill -9 all of them; those that are there still after so many seconds."""
    ends = time.monotonic() + seconds
    while (rest := list(marked(value))) and time.monotonic() < ends:
        for process in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(rest, 1.0)
    return rest


if __name__ == "__main__":
    sys.stdin.read()  # ends when the tests do, however they do
    reap(sys.argv[1], 60.0)
