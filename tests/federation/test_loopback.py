"""Three nodes over loopback: the bits of one process, and nothing left behind."""

from __future__ import annotations

import subprocess

from processes import END_SECONDS, Federation, tool


def test_the_chain_is_that_of_one_process(federation: Federation, same_as_local) -> None:
    server = federation.serve()
    federation.ended(server, federation.join_all())
    assert federation.survivors() == []
    assert federation.status["state"] == "finished"
    assert federation.status["drop_outs"] == 0
    same_as_local(federation)
    command = [tool("zowarmup"), "verify", "run"]
    done = subprocess.run(command, cwd=federation.folder, capture_output=True, text=True, timeout=END_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run: everything holds\n")
