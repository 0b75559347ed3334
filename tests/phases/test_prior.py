"""The head phase that only corrects for label shares: against its formula, and everything that can be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup
from zowarmup.directions import select
from zowarmup.errors import ModelError, RecipeError
from zowarmup.phases import Scope, build
from zowarmup.plan import plan
from zowarmup.protocol import Losses, Sums
from zowarmup.recipe import Head
from zowarmup.state import State
from zowarmup.table import Table

PRIOR = 'kind = "head"\nform = "prior"\nrounds = 1'


@pytest.mark.parametrize("smoothing", [1.0, 0.25])
def test_the_bias_gets_the_log_of_the_ratio_of_shares_and_nothing_else_changes(short, smoothing):
    experiment, found = short.run(short.recipe(PRIOR + f"\nsmoothing = {smoothing}"))
    counts, table = experiment.federation.class_counts, experiment.model.table
    shares = []
    for clients in (experiment.federation.members("all"), experiment.federation.members("high")):
        held = [sum(int(counts[client][label]) for client in clients) + smoothing for label in range(10)]
        shares.append(np.array(held) / sum(held))
    before, after = found[2].state.weights, found[3].state.weights
    place = table.place("3.bias")
    expected = before[place].double().numpy() + np.log(shares[0]) - np.log(shares[1])
    # Counts travel exactly; the new bias is rounded to fp32 once.
    np.testing.assert_array_equal(after[place].numpy(), expected.astype(np.float32))
    assert set(found[3].entry.values) == {"3.bias"} and found[3].entry.buffers == {}
    for name in set(table.names) - {"3.bias"}:
        assert torch.equal(before[table.place(name)], after[table.place(name)])
    assert found[3].evaluation["low_held_accuracy"] > found[2].evaluation["low_held_accuracy"]


def test_clients_send_four_bytes_a_class_and_run_nothing(short):
    made = short.recipe(PRIOR)
    trained, planned = zowarmup.run(made), plan(made)
    assert trained.summary["bytes"]["uplink"]["low"] == 16 * 4 * 10
    assert trained.metrics[-1]["forward_samples"] == trained.metrics[2]["forward_samples"]
    assert planned.uplink_bytes == trained.summary["bytes"]["uplink"]
    assert planned.downlink_bytes == trained.summary["bytes"]["downlink"]


def test_a_run_with_it_is_replayed_resumed_and_proved(short, kept):
    kept(short.recipe(PRIOR, 'kind = "zeroth-order"\nrounds = 1\nlr = 0.01', PRIOR), 3, 4)


def phase(layers=("w", "b"), high=(0,), members=(0, 1), **settings):
    table = Table(layers, ((2, 3), (2,))[: len(layers)])
    scope = Scope(0, 0, 1, members, (40, 10), table, select("cpu"), "all", frozenset(high))
    from zowarmup.head import HeadLayer

    layer = HeadLayer("fc", "w", "b" if "b" in layers else None, 3, 2)
    return build(Head(**{"form": "prior", "rounds": 1} | settings), scope, lambda name: layer)


def counts(client, *values, kind=np.float32, round=1):
    return Sums(round=round, phase=0, client=client, features=np.zeros(0, np.float32), targets=np.array(values, kind))


def test_a_label_that_nobody_trained_on_has_a_share():
    state = State(torch.zeros(8))
    entry, _ = phase(smoothing=0.5).close(1, [counts(0, 40, 0), counts(1, 0, 10)], state)
    shares = np.array([40.5, 10.5]) / 51 / (np.array([40.5, 0.5]) / 41)
    np.testing.assert_array_equal(entry.values["b"], np.log(shares).astype(np.float32))


REFUSED = {
    "a class too many": (counts(1, 1, 2, 3), "counts of shape (3,) and float32, expected (2,) and float32"),
    "another type": (counts(1, 1, 2, kind=np.int64), "counts of shape (2,) and int64, expected (2,) and float32"),
    "nan": (counts(1, np.nan, 1), "non-finite counts"),
    "negative": (counts(1, -1, 1), "negative counts"),
    "another round": (counts(1, 1, 1, round=2), "reported for round 2"),
    "another message": (Losses(round=1, phase=0, client=1, losses=np.zeros(2, np.float32)), "sent Losses"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_report_is_refused_and_the_others_count(case):
    bad, reason = REFUSED[case]
    entry, _ = phase().close(1, [counts(0, 30, 10), bad], State(torch.ones(8)))
    assert reason in entry.refused[1] and entry.participants == (0,)
    np.testing.assert_array_equal(entry.values["b"], np.ones(2, np.float32))  # the trained are all that answered


def test_without_an_answer_of_those_who_trained_nothing_changes():
    phased, state = phase(), State(torch.ones(8))
    entry, blobs = phased.close(1, [counts(1, 5, 5)], state)
    assert entry.values == {} and entry.participants == ()
    assert torch.equal(phased.apply(entry, blobs, state).weights, state.weights)


def test_clients_with_few_samples_are_not_asked():
    assert [request.client for request in phase(min_samples=20).plan(1, State(torch.ones(8)))] == [0]


def test_phases_that_cannot_be():
    with pytest.raises(ModelError, match='fc: has no bias, which form = "prior" would add to'):
        phase(layers=("w",))
    with pytest.raises(RecipeError, match="compares with high-resource clients' labels, and there are none"):
        phase(high=())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PRIOR.replace("rounds = 1", "rounds = 2"), "nothing to choose a temperature for: set `rounds` to 1"),
        (PRIOR + '\ntier = "low"', '`tier` must be "all", not "low"'),
        (PRIOR + "\nsmoothing = 0.0", r"Expected `float` > 0.0 - at `\$.phase\[1\].smoothing`"),
        (PRIOR + "\nmin-samples = 5000", "no client of the tier holds as many"),
    ],
)
def test_a_recipe_that_cannot_be(short, text, message):
    with pytest.raises(RecipeError, match=message):
        short.run(short.recipe(text))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return 2 * self.fc(x.flatten(1))


def test_a_layer_that_is_not_the_networks_last_is_refused(short):
    with pytest.raises(ModelError, match="fc: its outputs are not the network's"):
        zowarmup.run(short.recipe(PRIOR), model=Twice(), data=zowarmup.data.digits())
