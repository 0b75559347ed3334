"""What a client downloads to catch up, and what is counted where."""

import numpy as np

from zowarmup.catchup import CatchUp
from zowarmup.ledger import Metrics
from zowarmup.phases import Passes
from zowarmup.protocol import Replacement, Request, Slopes, SlopesRequest, Update, members
from zowarmup.traffic import Traffic

MODEL = 1000


def zeroth_order(traffic, round, clients, directions=3):
    for rank, client in enumerate(clients):
        traffic.ask(SlopesRequest(round=round, phase=1, client=client, seed=1, rank=rank), Passes(6, 0))
        traffic.report(Slopes(round=round, phase=1, client=client, slopes=np.zeros(directions, np.float32)))
    coefficients = np.zeros(directions * len(clients), np.int32)
    traffic.commit(
        Update(round=round, phase=1, members=members(clients), seed=1, coefficients=coefficients, exponent=0)
    )


def first_order(traffic, round, clients):
    for client in clients:
        traffic.ask(Request(round=round, phase=0, client=client), Passes(10, 10))
    traffic.commit(Replacement(round=round, phase=0, members=members(clients), snapshot="x"))


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
    assert traffic.catch_up(1, 4).bytes == (12 + 4 * 6) + 3 * (12 + 4 * 3)
    zeroth_order(traffic, 5, [1])
    assert traffic.downlink["low"] - before == 36 + 3 * 24 + 16
    assert traffic.catch_up(1, 5).bytes == 24
    assert traffic.directions["low"] == (6 + 3 + 3) + (6 + 3 * 3)


def test_a_snapshot_is_sent_where_it_is_less():
    traffic = Traffic(["low", "low"], 100)
    zeroth_order(traffic, 1, [0, 1])
    for round in range(2, 20):
        zeroth_order(traffic, round, [0])
    assert traffic.catch_up(1, 19) == CatchUp(snapshot=19, first=20, last=19, bytes=100, directions=0)


def test_work_and_fedavgs_bytes_are_counted_by_tier():
    traffic = Traffic(["high", "low"], MODEL)
    first_order(traffic, 1, [0])
    zeroth_order(traffic, 2, [0, 1])
    assert traffic.forward == {"high": 16, "low": 6}
    assert traffic.backward == {"high": 10, "low": 0}
    assert traffic.fedavg == {"high": 2 * MODEL, "low": MODEL}
    assert traffic.counts() == Metrics(
        uplink_bytes=(12, 12),
        downlink_bytes=(2 * MODEL + 4 + 16, MODEL + 16),
        fedavg_bytes=(2 * MODEL, MODEL),
        forward_samples=(16, 6),
        backward_samples=(10, 0),
        turns=(2, 1),
    )


def test_with_least_work_a_snapshot_is_sent_where_entries_were_fewer_bytes():
    by_bytes, by_work = Traffic(["low", "low"], MODEL), Traffic(["low", "low"], MODEL, least="work")
    for traffic in (by_bytes, by_work):
        zeroth_order(traffic, 1, [0, 1])
        zeroth_order(traffic, 2, [0])
        zeroth_order(traffic, 3, [1])
    # Each holds the initial state in round 1; client 0 misses nothing, client 1 rounds 1 and 2.
    assert by_bytes.directions == {"high": 0, "low": 6 + (6 + 3)}
    assert by_work.directions == {"high": 0, "low": 0}
    asked = 4 * 16
    assert by_bytes.downlink["low"] == 2 * MODEL + 36 + (36 + 24) + asked
    assert by_work.downlink["low"] == 2 * MODEL + MODEL + MODEL + asked


def test_one_that_goes_on_counts_as_one_that_was_never_interrupted():
    def rounds(traffic, first, last):
        for round in range(first, last):
            if round < 4:
                first_order(traffic, round, [round % 2])
            else:
                zeroth_order(traffic, round, [round % 3, 2])

    tiers = ["high", "low", "low"]
    for stop in range(1, 8):
        whole, begun, resumed = (Traffic(tiers, 200) for _ in range(3))
        entries = []
        begun.commit = lambda entry, begun=begun, entries=entries: (entries.append(entry), Traffic.commit(begun, entry))
        rounds(whole, 1, 8)
        rounds(begun, 1, stop)
        for entry in entries:
            resumed.recall(entry.participants, entry)
        resumed.resume(begun.counts())
        assert resumed.counts() == begun.counts()
        rounds(resumed, stop, 8)
        assert resumed.counts() == whole.counts()
