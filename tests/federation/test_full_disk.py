"""The server's disk is full: what was acknowledged stays, and the same command goes on when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import RUN_SECONDS, Federation

KILO = 1024
SIZE = 8 * KILO * KILO


@pytest.fixture
def small(federation: Federation) -> Iterator[Path]:
    """A run directory that holds a few megabytes."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs root on Linux, to mount a small tmpfs")
    federation.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(federation.out)]
    if (done := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield federation.out
    finally:
        federation.end()
        subprocess.run(["umount", str(federation.out)], check=True)


def test_no_acknowledged_round_is_lost(federation: Federation, small: Path, same_as_local) -> None:
    federation.overrides |= {"phase.0.rounds": 12, "phase.1.rounds": 40}
    server = federation.serve()
    nodes = federation.join_all()
    federation.until_round(6, server)
    filler = small / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4 * KILO))
            except OSError:
                break
    assert server.wait(RUN_SECONDS) == 1
    assert "Traceback" not in server.said
    assert "zowarmup: " in server.said
    assert "No space left on device" in server.said or "disk is full" in server.said, server.said
    acknowledged = federation.last
    assert 6 <= acknowledged < federation.rounds
    filler.unlink()
    federation.ended(federation.serve(), nodes)
    same_as_local(federation)
    assert federation.survivors() == []
