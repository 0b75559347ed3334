"""kill -9 of nodes, of the server, and of Flower's part of it: the run ends as if nothing had happened."""

from __future__ import annotations

import pytest
from processes import CLIENTS, END_SECONDS, Federation

import zowarmup
from zowarmup.ledger import Ledger

LONGER = {"phase.0.rounds": 12, "phase.1.rounds": 40}


def took_part(federation: Federation) -> list[tuple[int, ...]]:
    """The clients of each round, in the order of the ledger."""
    with Ledger.open(federation.out) as ledger:
        return [entry.participants for row in ledger.rows(1) if (entry := row.decoded()) is not None]


def sent(federation: Federation, client: int) -> int:
    """Bytes of reports that the server has counted for a client."""
    return sum(phase["payload_up"] for phase in federation.status["clients"][str(client)]["bytes"].values())


def test_a_killed_node_misses_rounds_and_catches_up(federation: Federation) -> None:
    """It is killed at work, comes back with what is on its disk, and nobody is counted twice."""
    federation.overrides |= {"phase.1.rounds": 60}
    server = federation.serve("--deadline", "3")
    nodes = federation.join_all()
    federation.until_round(6, server)
    nodes[0].kill()
    killed_after = federation.last
    federation.until_round(killed_after + 3, server)
    nodes[0] = federation.join(0)
    federation.ended(server, nodes)
    rounds = took_part(federation)[int(federation.overrides["phase.0.rounds"]) :]
    missed = [clients for clients in rounds if 0 not in clients]
    assert len(missed) >= 3
    assert set(missed) == {(1, 2)}
    assert rounds[-1] == (0, 1, 2), "it has caught up"
    assert sent(federation, 0) * len(rounds) == sent(federation, 1) * (len(rounds) - len(missed)), "counted twice"
    assert federation.status["drop_outs"] == len(missed)
    assert zowarmup.verify(federation.out).holds


@pytest.mark.parametrize(("phase", "round"), [("first-order", 3), ("zeroth-order", 20)])
def test_a_killed_server_goes_on(federation: Federation, same_as_local, phase: str, round: int) -> None:
    """The same command goes on, nodes come back by themselves, and the chain is that of a run without a crash."""
    federation.overrides |= LONGER
    server = federation.serve()
    nodes = federation.join_all()
    federation.until_round(round, server)
    federation.kill_server(server)
    acknowledged = federation.last
    assert round <= acknowledged < federation.rounds
    assert federation.status["kind"] == phase
    assert all(node.alive for node in nodes)
    again = federation.serve()
    federation.ended(again, nodes)
    assert federation.status["drop_outs"] == 0
    same_as_local(federation)
    assert federation.survivors() == []


def test_a_server_killed_alone_takes_its_processes_along(federation: Federation, same_as_local) -> None:
    """As the kernel kills it when memory is short: what it has started ends too, and frees port and ledger."""
    federation.overrides |= LONGER
    server = federation.serve()
    nodes = federation.join_all()
    federation.until_round(20, server)
    server.popen.kill()
    server.popen.wait(END_SECONDS)
    names = ("flower-superlink", "flower-superexec", "flwr-serverapp")
    federation.until(
        lambda: not any(federation.named(name) for name in names),
        "Flower's processes have ended",
        alive=nodes[0],
        seconds=END_SECONDS,
    )
    assert federation.last < federation.rounds
    federation.ended(federation.serve(), nodes)
    same_as_local(federation)


@pytest.mark.parametrize("program", ["flower-superlink", "flower-superexec", "flwr-serverapp"])
def test_the_server_starts_what_was_killed_again(federation: Federation, same_as_local, program: str) -> None:
    federation.overrides |= LONGER
    server = federation.serve()
    nodes = federation.join_all()
    federation.until_round(20, server)
    found = federation.named(program)
    assert len(found) == 1, found
    found[0].kill()
    federation.ended(server, nodes)
    assert server.said.count("starting them again") == 1
    assert federation.status["clients"].keys() == {str(client) for client in range(CLIENTS)}
    same_as_local(federation)
