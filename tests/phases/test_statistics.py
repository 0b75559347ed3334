"""The statistics phase: against all data pooled through the net layer by layer, and everything that can be wrong."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup
from zowarmup.data import Samples, Split
from zowarmup.directions import select
from zowarmup.errors import ModelError, NonFiniteError, RecipeError, RunError
from zowarmup.history import History
from zowarmup.ledger import Ledger
from zowarmup.model import Model
from zowarmup.norms import NormLayer, find, gather
from zowarmup.phases import Client, Scope, build
from zowarmup.plan import plan
from zowarmup.protocol import ChannelSums, Request, Sums, decode, decode_entry, encode
from zowarmup.recipe import Statistics
from zowarmup.state import State
from zowarmup.task import Classification

NET = {"model.args": {"hidden": [24, 16], "norm": "batch"}, "model.batch-norm": "frozen"}
TWO = 'kind = "statistics"\nrounds = 2'
UNEQUAL = {"kind": "dirichlet-by-class", "alpha": 0.5}


def pooled(experiment, state, tier="all"):
    """Statistics of every layer over the data of a tier, one layer after the other: name -> (mean, variance)."""
    indices = np.concatenate([experiment.federation.clients[i].train for i in experiment.federation.members(tier)])
    x, _ = experiment.train.batch(indices)
    module = experiment.model.module.eval()
    experiment.model.bind(state.weights)
    experiment.model.load_buffers(state.buffers)
    found = {}
    for layer in [part for part in module if isinstance(part, nn.BatchNorm1d)]:
        seen = []
        handle = layer.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            module(x)
            handle.remove()
            values = seen[0].double().numpy()
            mean, variance = values.mean(axis=0), values.var(axis=0, ddof=1)
            layer.running_mean.copy_(torch.from_numpy(mean))
            layer.running_var.copy_(torch.from_numpy(variance))
        name = next(key for key, part in module.named_modules() if part is layer)
        found[name] = mean, variance
    return found


def close_to(state, name, mean, variance):
    """Whether a layer has these statistics; sums travel in fp32, and what lies before a layer is rounded to fp32."""
    ours = [state.buffers[f"{name}.{key}"].numpy() for key in ("running_mean", "running_var")]
    scale = np.sqrt(variance).max()
    return np.allclose(ours[0], mean, atol=1e-5 * scale) and np.allclose(ours[1], variance, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("tier", ["all", "high"])
def test_after_as_many_rounds_as_layers_statistics_are_those_of_all_data(short, tier):
    experiment, found = short.run(short.recipe(TWO + f'\ntier = "{tier}"', **NET))
    expected = pooled(experiment, found[2].state, tier)
    assert list(expected) == ["2", "5"]
    one, two = found[3].state, found[4].state
    assert close_to(one, "2", *expected["2"]) and not close_to(one, "5", *expected["5"])
    assert close_to(two, "2", *expected["2"]) and close_to(two, "5", *expected["5"])


def test_only_running_statistics_change_and_entries_carry_them(short):
    _, found = short.run(short.recipe(TWO, **NET))
    for before, made in itertools.pairwise(found[2:]):
        assert torch.equal(before.state.weights, made.state.weights)
        names = {f"{layer}.{name}" for layer in "25" for name in ("running_mean", "running_var")}
        assert set(made.entry.buffers) == names and made.entry.values == {}
        assert made.entry.payload_bytes == 4 * 2 * (24 + 16)
        for name in set(before.state.buffers) - names:  # num_batches_tracked
            assert torch.equal(before.state.buffers[name], made.state.buffers[name])
        assert encode(decode_entry(encode(made.entry))) == encode(made.entry)


def test_a_plan_of_a_round_that_asks_nobody(short):
    """The one client that is sampled holds too few samples."""
    text = 'kind = "statistics"\nrounds = 1\ncohort = 1\nmin-samples = 100'
    made = short.recipe(text, **NET, **{"data.partition": UNEQUAL})
    *_, phase = plan(made).phases
    assert (sum(phase.turns.values()), phase.request_seconds, sum(phase.uplink_bytes.values())) == (0, 0.0, 0)


def test_bytes_and_passes_are_those_of_the_sums_and_of_the_plan(short):
    made = short.recipe(TWO, **NET)
    trained, planned = zowarmup.run(made), plan(made)
    assert trained.summary["bytes"]["uplink"]["low"] == 16 * 2 * (8 * 2 + 8 * (24 + 16))
    # The model once, the first round's statistics once more, and two requests.
    size = trained.summary["parameters"] * 4 + 4 * 2 * 40 + 2 * 8
    assert trained.summary["bytes"]["downlink"]["low"] == 16 * (size + 4 + 4 * 2 * 40 + 4)
    assert trained.metrics[-1]["forward_samples"]["low"] == 2 * 960
    assert trained.metrics[-1]["lr"] is None
    assert planned.uplink_bytes == trained.summary["bytes"]["uplink"]
    assert planned.downlink_bytes == trained.summary["bytes"]["downlink"]


def test_a_first_round_with_batches_is_as_exact_in_the_end_and_swings_less_before_it(short):
    from_running, from_batches = (
        short.run(short.recipe(TWO + f'\nbegin = "{begin}"', **NET)) for begin in ("running", "batch")
    )
    expected = pooled(from_batches[0], from_batches[1][2].state, "all")
    one, two = from_batches[1][3].state, from_batches[1][4].state
    assert close_to(one, "2", *expected["2"]) and not close_to(one, "5", *expected["5"])
    assert close_to(two, "2", *expected["2"]) and close_to(two, "5", *expected["5"])
    assert not torch.equal(one.buffers["5.running_var"], from_running[1][3].state.buffers["5.running_var"])


class Deep(nn.Module):
    """Layers that multiply by ten, in front of BatchNorm layers whose statistics are 0 and 1."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(3) for _ in range(6))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        for norm in self.norms:
            x = norm(10 * x)
        return self.head(x)


def test_statistics_that_begin_with_batches_do_not_swing():
    x = np.random.default_rng(2).normal(size=(65, 3)).astype(np.float32)  # micro-batches of 8, and one sample more
    largest = {}
    for begin in ("running", "batch"):
        made = client(Deep(), x)
        phased = phase(made, begin=begin, rounds=6, micro_batch=8)
        _, after = answered(made, phased, 1)
        largest[begin] = max(float(after.buffers[f"norms.{k}.running_var"].max()) for k in range(6))
    assert largest["batch"] < 1e3 < 1e9 < largest["running"]


def test_micro_batches_change_rounding_alone(short):
    states = [short.run(short.recipe(TWO, **NET, **{"run.micro-batch": size}))[1][-1].state for size in (7, "all")]
    for name, buffer in states[0].buffers.items():
        torch.testing.assert_close(buffer, states[1].buffers[name], rtol=1e-5, atol=1e-6)


def test_clients_with_few_samples_are_left_alone_and_a_resumed_run_knows_it(short, kept):
    made = short.recipe(TWO + "\nmin-samples = 60", data__partition=UNEQUAL, **NET)
    experiment, found = short.run(made)
    enough = [client for client, n in enumerate(experiment.federation.sizes) if n >= 60]
    assert 0 < len(enough) < 20 and list(found[3].entry.participants) == enough
    kept(made, 3)


def test_a_run_with_statistics_is_replayed_resumed_and_proved(short, kept, tmp_path, capsys):
    from zowarmup.cli import main

    kept(short.recipe(TWO, 'kind = "zeroth-order"\nrounds = 2\nlr = 0.01\npool = "shared"', TWO, **NET), 3, 5)
    with Ledger.open(tmp_path / "a") as ledger:
        described = History(ledger).describe(ledger.row(3))["entry"]
    assert list(described["buffers"]) == ["2.running_mean", "2.running_var", "5.running_mean", "5.running_var"]
    assert main(("inspect", str(tmp_path / "a"), "--round", "3")) == 0
    assert re.search(r"new values\s+2\.running_mean, 2\.running_var", capsys.readouterr().out)


def test_two_runs_that_part_in_statistics_say_where(short, tmp_path):
    for name, tier in (("a", "all"), ("b", "high")):
        zowarmup.run(short.recipe(TWO + f'\ntier = "{tier}"', **NET), out=tmp_path / name)
    found = zowarmup.diff(tmp_path / "a", tmp_path / "b")
    assert found.round == 3
    assert "entry: values of 2.running_mean, 2.running_var, 5.running_mean, 5.running_var" in found.what


class Twice(nn.Module):
    """One layer in two places, and one that no forward calls."""

    def __init__(self):
        super().__init__()
        self.norm, self.unused = nn.BatchNorm2d(3), nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(2.0 * self.norm(x)).mean(dim=(2, 3))


def client(net, x):
    model = Model(net, batch_norm="frozen")
    samples = Samples(Split(x=x, y=np.zeros(len(x), np.int64), columns={}))
    state = State(model.weights(), model.buffers())
    return Client(0, 0, samples, np.arange(len(x)), model, state, Classification())


def test_sums_run_over_samples_positions_and_calls():
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(11, 3, 4, 5)).astype(np.float32)
    made = client(Twice(), x)
    made.model.module.norm.running_mean.fill_(0.5)
    layers = find(made.model)
    assert [layer.name for layer in layers] == ["norm", "unused"]
    norm, unused = gather(made.model, layers, made.samples, made.indices, 4)
    values = x.astype(np.float64) - 0.5
    again = 2.0 * (values / np.sqrt(1.0 + 1e-5)) - 0.5
    both = np.concatenate([each.transpose(1, 0, 2, 3).reshape(3, -1) for each in (values, again)], axis=1)
    assert (norm.count, unused.count) == (2 * 11 * 20, 0)
    # The second call's inputs went through the first's fp32.
    np.testing.assert_allclose(norm.sums, both.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(norm.squares, np.square(both).sum(axis=1), rtol=1e-5)
    assert not any(part._forward_pre_hooks for part in made.model.module.modules())


def phase(made, micro_batch="all", **settings):
    scope = Scope(
        seed=0,
        phase=0,
        first_round=1,
        members=(0, 1),
        samples=(len(made.indices), 5),
        table=made.model.table,
        directions=select("cpu"),
        micro_batch=micro_batch,
    )
    return build(Statistics(**{"rounds": 2} | settings), scope, norms=lambda: find(made.model))


def answered(made, phased, round):
    report = phased.work(Request(round=round, phase=0, client=0), made)
    entry, blobs = phased.close(round, [decode(encode(report))], made.state)
    return entry, phased.apply(entry, blobs, made.state)


def test_sums_are_shifted_so_that_fp32_carries_the_spread():
    x = np.random.default_rng(0).normal(1e4, 1.0, size=(500, 4)).astype(np.float32)
    made = client(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), x)
    mean, variance = x.astype(np.float64).mean(axis=0), x.astype(np.float64).var(axis=0, ddof=1)
    phased = phase(made)
    _, once = answered(made, phased, 1)
    # About 0 as the running mean, 1e8 is subtracted from 1e8 with 24 bits each: nothing of a variance of 1 is left.
    assert (np.abs(once.buffers["0.running_var"].numpy() - variance) > 1e-2).any()
    made = Client(0, 0, made.samples, made.indices, made.model, once, made.task)
    _, twice = answered(made, phased, 2)
    np.testing.assert_allclose(twice.buffers["0.running_var"].numpy(), variance, rtol=1e-6)
    np.testing.assert_array_equal(twice.buffers["0.running_mean"].numpy(), mean.astype(np.float32))


def test_a_layer_that_is_not_called_keeps_its_statistics_and_a_constant_channel_has_no_variance():
    made = client(Twice(), np.ones((6, 3, 2, 2), np.float32))
    entry, after = answered(made, phase(made), 1)
    assert set(entry.buffers) == {"norm.running_mean", "norm.running_var"}
    assert torch.equal(after.buffers["unused.running_var"], torch.ones(2))
    assert (after.buffers["norm.running_var"] >= 0).all()


# What can be wrong.


def report(client=0, counts=(4,), sums=(1.0, 1.0), squares=(1.0, 1.0), round=1, kind=np.float32):
    return ChannelSums(
        round=round,
        phase=0,
        client=client,
        counts=np.array(counts, np.int64),
        sums=np.array(sums, kind),
        squares=np.array(squares, np.float32),
    )


REFUSED = {
    "a number too many": (report(sums=(1, 1, 1)), "sums of shape (3,) and float32, expected (2,) and float32"),
    "another type": (report(kind=np.float64), "sums of shape (2,) and float64, expected (2,) and float32"),
    "no count": (report(counts=()), "counts of shape (0,) and int64, expected (1,) and int64"),
    "nan": (report(sums=(np.nan, 0)), "non-finite sums"),
    "infinite": (report(squares=(np.inf, 0)), "non-finite squares"),
    "negative squares": (report(squares=(-1, 0)), "negative squares"),
    "negative count": (report(counts=(-4,)), "negative counts"),
    "another message": (
        Sums(round=1, phase=0, client=0, features=np.zeros(0, np.float32), targets=np.zeros(0, np.float32)),
        "sent Sums, expected ChannelSums",
    ),
    "another round": (report(round=2), "reported for round 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_report_is_refused_and_the_others_count(case):
    bad, reason = REFUSED[case]
    made = client(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), np.ones((4, 2), np.float32))
    entry, _ = phase(made).close(1, [bad, report(client=1, sums=(4, 8), squares=(7, 19))], made.state)
    assert entry.refused == {0: reason} and entry.participants == (1,)
    np.testing.assert_array_equal(entry.buffers["0.running_mean"], np.float32([1, 2]))
    np.testing.assert_array_equal(entry.buffers["0.running_var"], np.float32([1, 1]))


def test_a_round_in_which_all_are_bad_leaves_everything_as_it_was():
    made = client(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), np.ones((4, 2), np.float32))
    phased = phase(made)
    entry, blobs = phased.close(1, [report(sums=(np.nan, 0))], made.state)
    assert entry.buffers == {} and entry.participants == ()
    assert phased.apply(entry, blobs, made.state).digest() == made.state.digest()


def test_statistics_that_cannot_be_had_are_told():
    made = client(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), np.ones((4, 2), np.float32))
    with pytest.raises(RunError, match="round 1: 0: its channels have one value each in all samples together"):
        phase(made).close(1, [report(counts=(1,))], made.state)
    made.state.buffers["0.running_mean"].fill_(3e38)
    with pytest.raises(NonFiniteError, match=r"round 1: 0\.running_mean from the clients' sums is not finite"):
        phase(made).close(1, [report(counts=(2,), sums=(3e38, 0))], made.state)


def test_a_sum_beyond_fp32_is_refused_by_the_server():
    made = client(nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2)), np.full((4, 2), 1e25, np.float32))
    entry, _ = answered(made, phase(made), 1)
    assert entry.refused == {0: "non-finite squares"}


MODELS = {
    "none": (nn.Linear(2, 2), "frozen", "the model has no BatchNorm, so it has no running statistics to gather"),
    "untracked": (
        nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 2)),
        "batch",
        "0: BatchNorm with track_running_stats=False has no running statistics to gather",
    ),
}


@pytest.mark.parametrize("case", MODELS)
def test_a_model_without_running_statistics(case):
    net, policy, message = MODELS[case]
    with pytest.raises(ModelError, match=message):
        find(Model(net, batch_norm=policy))


@pytest.mark.parametrize(
    ("overrides", "kind", "message"),
    [
        ({}, ModelError, "the model has no BatchNorm"),
        ({**NET, "phase.1.min-samples": 5000}, RecipeError, "min-samples = 5000: no client of the tier holds as many"),
        ({**NET, "phase.1.cohort": 21}, RecipeError, 'cohort = 21, but tier = "all" has 20 clients'),
        ({**NET, "phase.1.rounds": 0}, RecipeError, r"Expected `int` >= 1 - at `\$.phase\[1\].rounds`"),
        (
            {**NET, "model.batch-norm": "batch", "run.micro-batch": "all"},
            RecipeError,
            'kind = "statistics" sets running statistics, and model.batch-norm = "batch" reads none',
        ),
    ],
)
def test_a_recipe_that_cannot_be(short, overrides, kind, message):
    with pytest.raises(kind, match=message):
        short.run(short.recipe(TWO, **overrides))


def test_names_of_a_layer_that_is_the_whole_network():
    assert (NormLayer("", 3).mean, NormLayer("a.b", 3).variance) == ("running_mean", "a.b.running_var")
