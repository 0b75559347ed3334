"""The sub-network phase: against HeteroFL in plain loops, against FedAvg, and everything that can be wrong."""

from __future__ import annotations

import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup
from zowarmup import recipes
from zowarmup.draws import Draw
from zowarmup.errors import ClientError, ModelError, RecipeError
from zowarmup.experiment import prepare
from zowarmup.head import find
from zowarmup.loop import local, rounds
from zowarmup.model import Model
from zowarmup.phases import Scope, build
from zowarmup.plan import plan
from zowarmup.protocol import Part, PartRequest, Request, Slopes, decode, encode, members
from zowarmup.recipe import FirstOrder, SubNetwork
from zowarmup.state import State
from zowarmup.subnetwork import Cut, Narrow

WHOLE, HALF = 2410, 16 * 65 + 10 * 17  # parameters of 64-32-10 and of 64-16-10


def recipe(**overrides):
    """The digits recipe with one short phase; its data are the digits, or given as images."""
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    table = {"kind": "sub-network", "rounds": 2, "lr": 0.1, "batch": 16, **values.pop("phase.0", {})}
    return recipes.load("digits-heterofl", overrides={"phase": [table], **values})


def images(count=80):
    """Some of the digits as images."""
    digits = zowarmup.data.digits()
    train, test = ((part.x[:count].reshape(-1, 1, 8, 8), part.y[:count]) for part in (digits.train, digits.test))
    return zowarmup.from_arrays(train, test)


def run(made, **more):
    """Every round of an experiment."""
    experiment = prepare(made, device="cpu", **more)
    return experiment, list(rounds(experiment, local(experiment)))


def by_hand(experiment, *, rate=0.5, scaler=True, mask=True, average="clients", count=2):
    """HeteroFL on 64-32-10 as its paper has it: one client, one layer, one weight after the other."""
    seed, low = experiment.recipe.seed, experiment.federation.members("low")
    experiment.model.bind(experiment.initial.weights)
    whole = [value.detach().clone() for value in experiment.model.parameters()]
    for number in range(1, count + 1):
        total = [np.zeros(value.shape) for value in whole]
        holders = [np.zeros(value.shape) for value in whole]
        for client in experiment.federation.clients:
            r = rate if client.index in low else 1.0
            h = math.ceil(r * 32)
            blocks = [np.s_[:h], np.s_[:h], np.s_[:, :h], np.s_[:]]
            own = [value[block].clone().requires_grad_() for value, block in zip(whole, blocks, strict=True)]
            optimiser = torch.optim.SGD(own, lr=0.1)
            order = client.train[Draw(seed, "batches", number, client.index, 0).permutation(len(client.train))]
            labels = set(experiment.train.batch(client.train)[1].tolist())
            absent = [label for label in range(10) if label not in labels] if mask else []
            for start in range(0, len(order), 16):
                x, y = experiment.train.batch(order[start : start + 16])
                z = nn.functional.linear(x.flatten(1), own[0], own[1])
                logits = nn.functional.linear(torch.relu(z / r if scaler else z), own[2], own[3])
                logits = logits.index_fill(1, torch.tensor(absent, dtype=torch.int64), 0.0)
                optimiser.zero_grad()
                nn.functional.cross_entropy(logits, y).backward()
                optimiser.step()
            n = len(client.train) if average == "samples" else 1
            for i, block in enumerate(blocks):
                sent, here = np.zeros(whole[i].shape), np.zeros(whole[i].shape)
                sent[block], here[block] = own[i].detach().numpy(), 1.0
                if i >= 2:
                    here[absent] = 0.0
                total[i] += n * here * sent
                holders[i] += n * here
        for i, value in enumerate(whole):
            mean = np.where(holders[i] > 0, total[i] / np.maximum(holders[i], 1.0), value.numpy())
            whole[i] = torch.from_numpy(mean.astype(np.float32))
    return torch.cat([value.reshape(-1) for value in whole])


CASES = {
    "the paper": {},
    "a third": {"low-width": 0.3},
    "no scaler": {"scaler": False},
    "no mask": {"mask": False},
    "by samples": {"average": "samples"},
    "the whole": {"low-width": 1.0},
}


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_two_rounds_are_those_of_a_plain_loop(settings):
    """Bit for bit: the loop makes the same tensors of the same shapes, and folds in float64 in client order."""
    made = recipe(**{"phase.0": settings, "data.partition": {"kind": "dirichlet-by-class", "alpha": 0.3}})
    experiment, found = run(made)
    assert len(set(experiment.federation.sizes)) > 1
    expected = by_hand(experiment, **{{"low-width": "rate"}.get(key, key): value for key, value in settings.items()})
    assert torch.equal(found[-1].state.weights, expected)


def test_with_whole_networks_unmasked_and_by_samples_it_is_fedavg():
    unequal = {"data.partition": {"kind": "dirichlet-by-class", "alpha": 0.3}, "seed": 3}
    more = {"momentum": 0.5, "epochs": 2, "clip-norm": 1.0, "freeze": ["1.bias"], "schedule": "cosine"}
    whole = {"low-width": 1.0, "mask": False, "average": "samples", **more}
    table = {"kind": "first-order", "tier": "all", "rounds": 2, "lr": 0.1, "batch": 16, **more}
    fedavg = recipes.load("digits-heterofl", overrides={"phase": [table], **unequal})
    (_, ours), (_, theirs) = run(recipe(**{"phase.0": whole, **unequal})), run(fedavg)
    assert ours[-1].state.digest() == theirs[-1].state.digest()
    assert ours[-1].traffic.counts() == theirs[-1].traffic.counts()


def scope(members_=(0, 1, 2), high=(0,)):
    model = Model(nn.Linear(4, 3, bias=False))
    made = Scope(
        seed=5,
        phase=0,
        first_round=1,
        members=members_,
        samples=(10, 30, 60),
        table=model.table,
        directions=model.directions,
        micro_batch=64,
        high=frozenset(high),
    )
    return model, made


def phase(**settings):
    """A linear model of 4 inputs and 3 classes, of which low-resource clients hold 2 inputs."""
    model, made = scope()
    inner = Model(nn.Linear(2, 3, bias=False))
    narrow = Narrow(inner, Cut(model.table, inner.table))
    table = SubNetwork(**{"rounds": 9, "lr": 0.1} | settings)
    return build(table, made, lambda name: find(model, name, 3), narrow=lambda settings: narrow)


def part(client, weights, classes=(0, 1, 2), **more):
    packed = members(classes)
    return Part(**{"round": 1, "phase": 0} | more, client=client, weights=np.array(weights, np.float32), classes=packed)


def close(made, reports, state):
    entry, blobs = made.close(1, reports, state)
    after = made.apply(entry, blobs, state)
    assert entry.snapshot == after.digest()
    return entry, after.weights.reshape(3, 4).tolist()


BEFORE = State(torch.full((12,), 7.0))


def test_each_weight_is_the_mean_over_the_clients_that_hold_it():
    reports = [part(0, range(12)), part(1, [10.0] * 6), part(2, [20.0] * 6)]
    _, plain = close(phase(), reports, BEFORE)
    third = [[(value + 30) / 3 for value in row] for row in ([0, 1], [4, 5], [8, 9])]
    expected = [[*np.float32(held).tolist(), *own] for held, own in zip(third, ([2, 3], [6, 7], [10, 11]), strict=True)]
    assert plain == expected
    _, weighted = close(phase(average="samples"), reports, BEFORE)
    assert weighted[1] == [np.float32((10 * v + 30 * 10 + 60 * 20) / 100).item() for v in (4, 5)] + [6, 7]


def test_what_nobody_holds_stays():
    _, upper = close(phase(), [part(1, [1.0] * 6), part(2, [3.0] * 6)], BEFORE)
    assert upper == [[2, 2, 7, 7]] * 3
    _, rows = close(phase(), [part(0, [1.0] * 12, [0]), part(1, [3.0] * 6, [0, 2])], BEFORE)
    assert rows == [[2, 2, 1, 1], [7, 7, 7, 7], [3, 3, 7, 7]]


REFUSED = {
    "nan": (part(1, [math.nan] * 6), "non-finite weights"),
    "the whole": (part(1, [0.0] * 12), "weights of shape (12,) and float32, expected (6,) and float32"),
    "dtype": (Part(round=1, phase=0, client=1, weights=np.zeros(6)), "and float64, expected (6,) and float32"),
    "no class": (part(1, [0.0] * 6, []), "classes (), expected some of 0 to 2"),
    "a class there is not": (part(1, [0.0] * 6, [1, 3]), "classes (1, 3), expected some of 0 to 2"),
    "another message": (
        Slopes(round=1, phase=0, client=1, slopes=np.zeros(6, np.float32)),
        "sent Slopes, expected Part",
    ),
    "another round": (part(1, [0.0] * 6, round=2), "reported for round 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_report_is_refused_and_the_others_count(case):
    bad, reason = REFUSED[case]
    entry, after = close(phase(), [part(0, [1.0] * 12), bad], BEFORE)
    assert reason in entry.refused[1]
    assert entry.participants == (0,)
    assert after == [[1.0] * 4] * 3


def test_classes_are_refused_where_they_do_not_matter():
    entry, after = close(phase(mask=False), [part(0, [1.0] * 12, [0])], BEFORE)
    assert entry.refused == {0: "classes (0,), expected none"}
    assert after == [[7.0] * 4] * 3


def test_requests_carry_the_part_and_messages_survive_encoding():
    state = State(torch.arange(12.0))
    whole, carried, again = phase().plan(1, state)
    assert type(whole) is Request and whole.carried_bytes == 0
    assert carried.weights is again.weights
    assert carried.weights.tolist() == [0, 1, 4, 5, 8, 9]
    assert (carried.carried_bytes, carried.payload_bytes) == (24, 28)
    back = decode(encode(carried))
    assert isinstance(back, PartRequest) and np.array_equal(back.weights, carried.weights)
    sent = decode(encode(part(1, [1.0] * 6, [2])))
    assert isinstance(sent, Part) and (sent.classes, sent.payload_bytes) == (members([2]), 25)


def test_bytes_passes_and_plan_are_those_of_the_parts():
    made = recipe(phase__0={"rounds": 3, "cohort": 12})
    summary = zowarmup.run(made).summary
    experiment = prepare(made, device="cpu")
    of = experiment.phases[0]
    turns = {"high": 0, "low": 0}
    classes = {"high": 0, "low": 0}
    for number in (1, 2, 3):
        for client in of.scope.cohort(number, of.settings):
            data = experiment.federation.clients[client]
            turns[data.tier] += 1
            classes[data.tier] += 2 if experiment.train.targets(data.train).max() >= 8 else 1
    assert summary["bytes"]["downlink"] == {
        "high": turns["high"] * (4 * WHOLE + 4),
        "low": turns["low"] * (4 * HALF + 4),
    }
    assert summary["bytes"]["uplink"] == {
        "high": turns["high"] * 4 * WHOLE + classes["high"],
        "low": turns["low"] * 4 * HALF + classes["low"],
    }
    planned = plan(made, device="cpu")
    assert planned.downlink_bytes == summary["bytes"]["downlink"]
    assert planned.fedavg_bytes == {tier: number * 4 * WHOLE for tier, number in turns.items()}
    assert planned.phases[0].held_bytes == {"high": 4 * WHOLE, "low": 4 * HALF}
    working = planned.phases[0].working_bytes
    # A copy of what the client holds, its gradient, and activations: more than twice the part, less than for the whole.
    assert 2 * 4 * HALF < working["low"] < working["high"]


def test_who_held_a_part_downloads_the_whole_for_another_phase():
    table = {"kind": "sub-network", "rounds": 1, "lr": 0.1, "batch": 16}
    after = {"kind": "zeroth-order", "rounds": 1, "lr": 0.01, "pool": "shared", "batch": 16}
    summary = zowarmup.run(recipes.load("digits-heterofl", overrides={"phase": [table, after]})).summary
    assert summary["bytes"]["downlink"]["low"] == 16 * (4 * HALF + 4 + 4 * WHOLE + 16)


def test_a_run_that_is_resumed_ends_where_one_ends_that_was_not_interrupted(tmp_path):
    parts = {"kind": "sub-network", "rounds": 2, "lr": 0.1, "batch": 16, "cohort": 12}
    made = recipes.load("digits-heterofl", overrides={"phase": [parts, parts], "run.evaluate-every": 1})

    def stop(progress):
        if progress.round == 3:
            raise KeyboardInterrupt

    whole = zowarmup.run(made, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run(made, out=tmp_path / "run", callbacks=[stop])
    resumed = zowarmup.resume(tmp_path / "run")
    assert resumed.summary["state_digest"] == whole.summary["state_digest"]
    assert resumed.summary["bytes"] == whole.summary["bytes"]
    assert zowarmup.diff(tmp_path / "run", tmp_path / "whole").identical


NORMED = {
    "data.source": "given",
    "data.clients": 4,
    "data.high-resource": 0.5,
    "model.net": "resnet18",
    "model.args": {"width": 4},
    "model.batch-norm": "frozen",
    "phase.0": {"rounds": 1},
}


def test_batch_norm_trains_on_the_batch_and_its_running_statistics_stay():
    experiment, found = run(recipe(**NORMED), dataset=images())
    assert experiment.model.has_batch_norm
    for name, buffer in found[-1].state.buffers.items():
        assert torch.equal(buffer, experiment.initial.buffers[name]), name
    assert not torch.equal(found[-1].state.weights, experiment.initial.weights)
    low = next(request for request in experiment.phases[0].plan(1, found[-1].state) if isinstance(request, PartRequest))
    assert low.buffers["1.running_mean"].shape == (2,)


def test_a_client_with_the_whole_unmasked_does_what_a_first_order_client_does():
    experiment = prepare(recipe(**NORMED | {"phase.0": {"mask": False}}), device="cpu", dataset=images())
    of, state = experiment.phases[0], experiment.initial
    client = local(experiment).client(experiment.federation.members("high")[0], state)
    request = Request(round=1, phase=0, client=client.index)
    sent = of.work(request, client).weights.copy()
    first = build(FirstOrder(rounds=1, lr=0.1, batch=16), of.scope).work(request, client)
    assert np.array_equal(sent, first.weights)


class Counting(nn.Sequential):
    """Counts its forward passes, in a buffer."""

    def __init__(self, classes, rate=1.0):
        width = math.ceil(rate * 8)
        super().__init__(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x)


class Quiet(Counting):
    """Has a buffer, and leaves it."""

    def forward(self, x):
        return nn.Sequential.forward(self, x)


class Headless(nn.Module):
    """Its logits are those of a convolution."""

    def __init__(self, classes, rate=1.0):
        super().__init__()
        self.inner, self.outer = nn.Conv2d(1, math.ceil(rate * 4), 3), nn.Conv2d(math.ceil(rate * 4), classes, 6)

    def forward(self, x):
        return self.outer(torch.relu(self.inner(x))).flatten(1)


@pytest.fixture(autouse=True)
def own_nets(monkeypatch):
    module = ModuleType("own_sub_networks")
    module.Counting, module.Quiet, module.Headless = Counting, Quiet, Headless
    module.fixed = lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    monkeypatch.setitem(sys.modules, "own_sub_networks", module)


def own(name, **table):
    model = {"model.net": f"python:own_sub_networks:{name}", "model.args": {}}
    return recipe(**model, **{"data.source": "given", "phase.0": table})


def test_a_net_of_ones_own_that_takes_a_rate_is_trained():
    _, found = run(own("Quiet", rounds=1), dataset=images())
    assert found[-1].entry.refused == {}
    _, found = run(own("Headless", rounds=1, mask=False), dataset=images())
    assert len(found[-1].entry.participants) == 20


def test_a_buffer_that_changes_in_training_is_refused():
    with pytest.raises(ClientError, match="buffer seen changes in training; a sub-network phase leaves buffers"):
        run(own("Counting", rounds=1), dataset=images())


MISTAKES = {
    "no rate": (own("fixed"), ModelError, "phase 0 (sub-network): low-width = 0.5: model.net = ", "mlp, cnn, lenet"),
    "vit": (
        recipe(
            **{
                "data.source": "given",
                "model.net": "vit",
                "model.args": {"width": 8, "depth": 1, "heads": 1},
            }
        ),
        ModelError,
        'low-width = 0.5: model.net = "vit" takes no `rate`',
        "mlp, cnn, lenet, resnet8, resnet18 do",
    ),
    "no head": (own("Headless"), ModelError, "phase 0 (sub-network): mask = true: no linear layer", "set mask = false"),
    "groups": (
        recipe(**{"data.source": "given", "model.net": "cnn", "model.args": {}, "phase.0": {"low-width": 0.3}}),
        ModelError,
        "low-width = 0.3: cnn: model.args.groups is 2, expected a divisor of the width, 5",
        "",
    ),
    "nobody": (
        recipe(**{"data.high-resource": 1.0, "phase.0": {"tier": "low"}}),
        RecipeError,
        "has no clients",
        "data.",
    ),
    "freeze": (
        recipe(**{"phase.0": {"freeze": ["fc.*"]}}),
        RecipeError,
        'freeze = "fc.*" fits no parameter',
        "1.weight",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_what_cannot_be_run_is_refused_before_round_1(case):
    made, kind, message, hint = MISTAKES[case]
    with pytest.raises(kind) as caught:
        prepare(made, device="cpu", dataset=images(200))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("width", [0.0, 1.1])
def test_a_width_out_of_range_is_refused(width):
    with pytest.raises(RecipeError, match=r"\$.phase\[0\].low-width"):
        recipe(**{"phase.0": {"low-width": width}})


def test_a_module_from_python_has_no_narrower_one_and_needs_none_at_whole_width():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match="cannot be made of a module that was passed from Python"):
        zowarmup.run(recipe(), model=module)
    trained = zowarmup.run(recipe(**{"phase.0": {"low-width": 1.0}}), model=module)
    assert trained.summary["refused"] == 0


@pytest.mark.parametrize("tier", ["high", "low"])
def test_a_tier_alone_can_be_trained(tier):
    experiment, found = run(recipe(**{"phase.0": {"tier": tier}}))
    before, after = (state.weights[: 32 * 64].reshape(32, 64) for state in (experiment.initial, found[-1].state))
    changed = (before != after).any(dim=1)
    assert changed[:16].any()
    assert bool(changed[16:].any()) == (tier == "high")
    assert found[-1].traffic.turns["low" if tier == "high" else "high"] == 0
