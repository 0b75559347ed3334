"""Nodes that come late, leave, sleep and are cut off: the run waits within its bounds, and ends."""

from __future__ import annotations

import random
import signal
import time

from processes import END_SECONDS, RUN_SECONDS, START_SECONDS, Federation
from proxy import Proxy

import zowarmup
from zowarmup.ledger import Ledger

CUT_SECONDS = 20.0


def took_part(federation: Federation) -> list[tuple[int, ...]]:
    """The clients of each round."""
    with Ledger.open(federation.out) as ledger:
        return [entry.participants for row in ledger.rows(1) if (entry := row.decoded()) is not None]


def test_a_node_that_comes_late_takes_part_from_then_on(federation: Federation) -> None:
    federation.overrides |= {"phase.1.rounds": 30}
    server = federation.serve("--nodes", "2", "--quorum", "0.3", "--deadline", "20")
    nodes = [federation.join(client) for client in (1, 2)]
    federation.until_round(8, server)
    nodes.append(federation.join(0))
    federation.ended(server, nodes)
    rounds = took_part(federation)[int(federation.overrides["phase.0.rounds"]) :]
    first = next(index for index, clients in enumerate(rounds) if 0 in clients)
    assert first >= 4
    assert all(clients == (1, 2) for clients in rounds[:first])
    assert all(clients == (0, 1, 2) for clients in rounds[first:])
    assert zowarmup.verify(federation.out).holds


def test_a_third_of_the_nodes_drops_out_of_every_round(federation: Federation) -> None:
    """They stand still until the round has closed without them; one of them is killed on the way and comes back."""
    clients = 6
    federation.overrides |= {"data.clients": clients, "phase.0.rounds": 2, "phase.1.rounds": 40}
    draws = random.Random(7)
    server = federation.serve("--deadline", "2", "--quorum", "0.5", "--enough", "0.6")
    nodes = federation.join_all()
    federation.until_round(3, server)
    ends = time.monotonic() + RUN_SECONDS
    drops, killed = 0, False
    while federation.last < federation.rounds - 5:
        before, away = federation.last, draws.sample(range(clients), clients // 3)
        for client in away:
            nodes[client].signal(signal.SIGSTOP)
        federation.until(lambda last=before: federation.last > last, "a round", alive=server, seconds=START_SECONDS)
        for client in away:
            nodes[client].signal(signal.SIGCONT)
        drops += 1
        if not killed and federation.last > federation.rounds // 2:
            killed = True
            nodes[away[0]].kill()
            nodes[away[0]] = federation.join(away[0])
        assert time.monotonic() < ends
    assert server.wait(RUN_SECONDS) == 0
    assert killed
    rounds = took_part(federation)
    assert len(rounds) == federation.rounds
    assert all(len(present) >= clients // 2 for present in rounds[2:])
    assert sum(len(present) < clients for present in rounds[3:]) >= drops // 2
    assert len(set().union(*rounds[-10:])) >= clients - 1, "who stands still goes on"
    assert zowarmup.verify(federation.out).holds


def test_a_node_that_stands_still_for_a_while_goes_on(federation: Federation, same_as_local) -> None:
    federation.overrides |= {"phase.1.rounds": 30}
    server = federation.serve("--quorum", "1")
    nodes = federation.join_all()
    federation.until_round(8, server)
    nodes[0].signal(signal.SIGSTOP)
    stood = federation.last
    time.sleep(CUT_SECONDS)
    assert federation.last <= stood + 1, "a round without its quorum"
    nodes[0].signal(signal.SIGCONT)
    federation.ended(server, nodes)
    same_as_local(federation)


def test_a_cable_that_is_pulled_for_a_while(federation: Federation, same_as_local) -> None:
    federation.overrides |= {"phase.1.rounds": 30}
    server = federation.serve("--quorum", "1")
    federation.until_said(server, "listening on")
    with Proxy(federation.port) as wire:
        nodes = [federation.join(0, address=wire.address), *(federation.join(client) for client in (1, 2))]
        federation.until_round(8, server)
        wire.cut()
        stood = federation.last
        time.sleep(CUT_SECONDS)
        assert federation.last <= stood + 1, "a round without its quorum"
        wire.mend()
        federation.ended(server, nodes)
    same_as_local(federation)


def test_a_connection_that_is_closed_for_a_while(federation: Federation, same_as_local) -> None:
    """The node comes back as another one, shows whose place it had, and is asked again."""
    federation.overrides |= {"phase.1.rounds": 30}
    server = federation.serve("--quorum", "1")
    federation.until_said(server, "listening on")
    with Proxy(federation.port) as wire:
        nodes = [federation.join(0, address=wire.address), *(federation.join(client) for client in (1, 2))]
        federation.until_round(8, server)
        wire.cut()
        wire.drop()
        time.sleep(CUT_SECONDS)
        wire.mend()
        federation.until_said(nodes[0], "connected to ", times=2, seconds=START_SECONDS)
        federation.ended(server, nodes, seconds=END_SECONDS)
    assert "no connection to " in nodes[0].said
    same_as_local(federation)
