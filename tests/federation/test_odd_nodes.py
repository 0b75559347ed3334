"""A node that answers late, twice, or what cannot count: the round goes on without it, and it is asked again."""

from __future__ import annotations

import sys
from pathlib import Path

from processes import Federation

import zowarmup
from zowarmup.ledger import Ledger

FAULTS = {6: "not-finite", 8: "wrong-shape", 10: "another-round", 12: "twice", 14: "late", 18: "astray"}
LATEST = 17
"""While the node is late it may miss the rounds after that, until this one."""


def test_what_cannot_count_does_not_and_nobody_counts_twice(federation: Federation) -> None:
    federation.overrides |= {"phase.1.rounds": 20}
    server = federation.serve("--deadline", "4")
    script = str(Path(__file__).with_name("odd_node.py"))
    told = [f"{round}={fault}" for round, fault in FAULTS.items()]
    odd = federation.start("node-odd", [sys.executable, script, federation.address, "home-odd", "2", *told])
    federation.ended(server, [federation.join(0), federation.join(1), odd])
    with Ledger.open(federation.out) as ledger:
        entries = {row.round: row.decoded() for row in ledger.rows(1)}
    assert {round: dict(entry.refused) for round, entry in entries.items() if entry.refused} == {
        6: {2: "non-finite slopes"},
        8: {2: "slopes of shape (4,) and float32, expected (3,) and float32"},
        10: {2: "reported for round 1"},
    }
    zeroth = {round: entry.participants for round, entry in entries.items() if round > 4}
    assert len(zeroth) == 20
    without = {round for round, clients in zeroth.items() if clients == (0, 1)}
    assert {6, 8, 10, 14} <= without <= {6, 8, 10, *range(14, LATEST + 1)}
    assert all(clients == (0, 1, 2) for round, clients in zeroth.items() if round not in without)
    assert federation.status["late"] >= 1
    assert zowarmup.verify(federation.out).holds
