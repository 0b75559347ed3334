"""What a client downloads to catch up, and what is counted where."""

import numpy as np

from zowarmup.phases import Passes
from zowarmup.protocol import Replacement, Request, Slopes, SlopesRequest, Update
from zowarmup.traffic import Traffic

MODEL = 1000


def zeroth_order(traffic, round, clients, directions=3):
    for rank, client in enumerate(clients):
        traffic.ask(SlopesRequest(round=round, phase=1, client=client, seed=1, rank=rank), Passes(6, 0))
        traffic.report(Slopes(round=round, phase=1, client=client, slopes=np.zeros(directions, np.float32)))
    coefficients = np.zeros(directions * len(clients), np.int32)
    traffic.commit(
        Update(
            round=round, phase=1, participants=tuple(clients), seed=1, coefficients=coefficients, exponent=0, state={}
        )
    )


def first_order(traffic, round, clients):
    for client in clients:
        traffic.ask(Request(round=round, phase=0, client=client), Passes(10, 10))
    traffic.commit(Replacement(round=round, phase=0, participants=tuple(clients), snapshot="x"))


def test_across_a_first_order_round_only_a_snapshot_will_do():
    traffic = Traffic(["high", "low"], MODEL)
    first_order(traffic, 1, [0])
    first_order(traffic, 2, [0])
    assert traffic.downlink == {"high": 2 * (MODEL + 4), "low": 0}
    zeroth_order(traffic, 3, [0, 1])
    assert traffic.downlink == {"high": 3 * MODEL + 8 + 16, "low": MODEL + 16}
    assert traffic.uplink == {"high": 12, "low": 12}


def test_who_sat_out_pays_for_the_entries_since():
    traffic = Traffic(["low", "low"], MODEL)
    zeroth_order(traffic, 1, [0, 1])
    for round in (2, 3, 4):
        zeroth_order(traffic, round, [0])
    before = traffic.downlink["low"]
    assert traffic.catch_up(1, 4) == (12 + 4 * 6) + 3 * (12 + 4 * 3)
    zeroth_order(traffic, 5, [1])
    assert traffic.downlink["low"] - before == 36 + 3 * 24 + 16
    assert traffic.catch_up(1, 5) == 24


def test_a_snapshot_is_sent_where_it_is_less():
    traffic = Traffic(["low", "low"], 100)
    zeroth_order(traffic, 1, [0, 1])
    for round in range(2, 20):
        zeroth_order(traffic, round, [0])
    assert traffic.catch_up(1, 19) == 100


def test_work_and_fedavgs_bytes_are_counted_by_tier():
    traffic = Traffic(["high", "low"], MODEL)
    first_order(traffic, 1, [0])
    zeroth_order(traffic, 2, [0, 1])
    assert traffic.forward == {"high": 16, "low": 6}
    assert traffic.backward == {"high": 10, "low": 0}
    assert traffic.fedavg == {"high": 2 * MODEL, "low": MODEL}
    assert set(traffic.counts()) == {"uplink_bytes", "downlink_bytes", "forward_samples", "backward_samples"}
