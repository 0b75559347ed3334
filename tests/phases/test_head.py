"""The head phase: against ridge regression by scikit-learn, against plain loops, and everything that can be wrong."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn

import zowarmup
from zowarmup import recipes
from zowarmup.data import Samples
from zowarmup.directions import select
from zowarmup.errors import ModelError, NonFiniteError, RecipeError, RunError
from zowarmup.experiment import prepare
from zowarmup.head import HeadLayer, features, find
from zowarmup.loop import local, rounds
from zowarmup.model import Model
from zowarmup.phases import Scope, build
from zowarmup.phases.head import HeadPhase
from zowarmup.plan import plan
from zowarmup.protocol import Losses, Sums, decode_entry, encode
from zowarmup.recipe import Head
from zowarmup.state import State

UNEQUAL = {"kind": "dirichlet-by-class", "alpha": 0.5}


def recipe(*phases: str, **overrides):
    """The digits recipe, two first-order rounds, then the phases."""
    text = recipes.to_toml(recipes.load("digits"))
    head = text[: text.index("[[phase]]")]
    first = '[[phase]]\nkind = "first-order"\ntier = "high"\nrounds = 2\nlr = 0.1\nbatch = 16\n'
    made = head + first + "".join(f"[[phase]]\n{phase}\n" for phase in phases)
    return recipes.parse(made, overrides={key.replace("__", "."): value for key, value in overrides.items()})


def run(made):
    """Every round of an experiment."""
    experiment = prepare(made, device="cpu")
    return experiment, list(rounds(experiment, local(experiment)))


def solved(made) -> tuple[np.ndarray, np.ndarray]:
    """The head's weight and bias at the end."""
    experiment, found = run(made)
    table, weights = experiment.model.table, found[-1].state.weights
    shape = dict(zip(table.names, table.shapes, strict=True))
    return tuple(weights[table.place(name)].reshape(shape[name]).numpy() for name in ("3.weight", "3.bias"))


def everything(made, tier: str = "all") -> tuple[np.ndarray, np.ndarray]:
    """Features of all samples of a tier after the warm-up, in float64, and their labels."""
    experiment, found = run(made)
    model = experiment.model
    model.bind(found[2].state.weights)
    clients = experiment.federation.members(tier)
    indices = np.concatenate([experiment.federation.clients[client].train for client in clients])
    x, y = experiment.train.batch(indices)
    with torch.inference_mode():
        hidden = model.module[:3](x)
    return hidden.double().numpy(), y.numpy()


@pytest.mark.parametrize("tier", ["all", "high"])
def test_the_sums_of_clients_give_the_ridge_regression_of_all_their_data(tier):
    made = recipe(f'kind = "head"\nrounds = 1\ntemperatures = [1.0]\nridge = 0.01\ntier = "{tier}"')
    f, y = everything(made, tier)
    f = np.hstack([f, np.ones((len(f), 1))])
    penalty = 0.01 * np.diag(f.T @ f).mean()
    expected = Ridge(alpha=penalty, fit_intercept=False).fit(f, np.eye(10)[y]).coef_
    weight, bias = solved(made)
    # Sums travel in fp32, so the solution has about their relative error times the system's condition.
    np.testing.assert_allclose(np.column_stack([weight, bias]), expected, atol=1e-4)


def test_means_are_the_nearest_class_mean():
    made = recipe('kind = "head"\nrounds = 1\ntemperatures = [1.0]\nform = "means"')
    f, y = everything(made)
    weight, bias = solved(made)
    means = np.stack([f[y == label].mean(axis=0) for label in range(10)])
    nearest = ((f[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert ((f @ weight.T + bias).argmax(axis=1) == nearest).mean() > 0.999


def test_diagonal_is_a_gaussian_for_each_class_with_one_variance():
    made = recipe('kind = "head"\nrounds = 1\ntemperatures = [1.0]\nform = "diagonal"\nridge = 0.1')
    f, y = everything(made)
    weight, bias = solved(made)
    means = np.stack([f[y == label].mean(axis=0) for label in range(10)])
    within = ((f - means[y]) ** 2).mean(axis=0)
    variance = within + 0.1 * within.mean()
    log_likelihood = -0.5 * (((f[:, None] - means) ** 2) / variance).sum(axis=2) + np.log(np.bincount(y) / len(y))
    ours = f @ weight.T + bias
    gap = ours - log_likelihood
    np.testing.assert_allclose(gap - gap[:, :1], 0.0, atol=1e-3)  # they differ by what all classes share


def test_shrinkage_moves_towards_the_diagonal():
    whole = solved(recipe('kind = "head"\nrounds = 1\ntemperatures = [1.0]\nshrinkage = 1.0\nridge = 0.0'))
    f, y = everything(recipe('kind = "head"\nrounds = 1\ntemperatures = [1.0]'))
    f = np.hstack([f, np.ones((len(f), 1))])
    expected = (f.T @ np.eye(10)[y]) / np.square(f).sum(axis=0)[:, None]
    np.testing.assert_allclose(np.column_stack(whole), expected.T, rtol=1e-3, atol=1e-6)


def test_the_temperature_with_the_least_loss_over_all_samples_is_kept():
    made = recipe('kind = "head"\ntemperatures = [0.5, 4.0, 8.0, 100.0]')
    experiment, found = run(made)
    before, after = found[3].state, found[4].state
    f, y = everything(made)
    table = experiment.model.table
    weight = before.weights[table.place("3.weight")].reshape(10, 32).double()
    bias = before.weights[table.place("3.bias")].double()
    logits = torch.from_numpy(f) @ weight.T + bias
    losses = [float(nn.functional.cross_entropy(t * logits, torch.from_numpy(y))) for t in (0.5, 4.0, 8.0, 100.0)]
    best = (0.5, 4.0, 8.0, 100.0)[int(np.argmin(losses))]
    place = table.place("3.weight")
    assert torch.equal(after.weights[place], best * before.weights[place])


def test_only_the_head_changes_and_entries_carry_it_whole():
    experiment, found = run(recipe('kind = "head"'))
    table = experiment.model.table
    for before, made in itertools.pairwise(found[2:]):
        assert set(made.entry.values) == {"3.weight", "3.bias"}
        assert made.entry.payload_bytes == 4 * (320 + 10)
        for name in ("1.weight", "1.bias"):
            assert torch.equal(before.state.weights[table.place(name)], made.state.weights[table.place(name)])
        assert encode(decode_entry(encode(made.entry))) == encode(made.entry)
    assert found[4].evaluation["low_held_accuracy"] > found[2].evaluation["low_held_accuracy"] + 0.3


def test_bytes_are_those_of_the_sums():
    for form, numbers in (("full", 33 * 34 // 2 + 330), ("diagonal", 33 + 330), ("means", 330)):
        trained = zowarmup.run(recipe(f'kind = "head"\nform = "{form}"'))
        assert trained.summary["bytes"]["uplink"]["low"] == 16 * 4 * (numbers + 6)
        # The model once, the solved head once more, and two requests.
        assert trained.summary["bytes"]["downlink"]["low"] == 16 * (4 * 2410 + 4 + 4 * 330 + 4)


def test_sums_do_not_depend_on_micro_batches_but_for_rounding():
    one, other = (
        solved(recipe('kind = "head"\nrounds = 1\ntemperatures = [1.0]', **{"run__micro-batch": size}))
        for size in (7, "all")
    )
    np.testing.assert_allclose(one[0], other[0], atol=1e-5)


def test_clients_with_few_samples_are_left_alone():
    experiment, found = run(recipe('kind = "head"\nmin-samples = 60', data__partition=UNEQUAL))
    enough = [client for client, n in enumerate(experiment.federation.sizes) if n >= 60]
    assert 0 < len(enough) < 20 and list(found[3].entry.participants) == enough


def test_a_run_with_heads_is_replayed_resumed_and_proved(tmp_path):
    made = recipe('kind = "head"', FROZEN, 'kind = "head"', ZEROTH)
    whole = zowarmup.run(made, out=tmp_path / "a")
    assert zowarmup.verify(tmp_path / "a").holds

    def stop(progress):
        if progress.round in (3, 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zowarmup.run(made, out=tmp_path / "b", callbacks=[stop])
    with pytest.raises(KeyboardInterrupt):
        zowarmup.resume(tmp_path / "b", callbacks=[stop])
    assert zowarmup.resume(tmp_path / "b").summary["chain"] == whole.summary["chain"]
    assert zowarmup.diff(tmp_path / "a", tmp_path / "b").identical


FROZEN = 'kind = "first-order"\nrounds = 2\nlr = 0.1\nweight-decay = 0.01\nmomentum = 0.9\nfreeze = ["head"]'
ZEROTH = 'kind = "zeroth-order"\nrounds = 3\nlr = 0.01\npool = "shared"'


@pytest.mark.parametrize("freeze", ['["head"]', '["3.*"]', '["3.weight", "*.bias"]'])
def test_frozen_parameters_keep_their_bits(freeze):
    experiment, found = run(recipe('kind = "head"', FROZEN.replace('["head"]', freeze)))
    table, frozen = experiment.model.table, {"3.weight"} | ({"3.bias"} if freeze != '["1"]' else set())
    for name in table.names:
        same = torch.equal(found[4].state.weights[table.place(name)], found[6].state.weights[table.place(name)])
        assert same == (name in frozen or (name == "1.bias" and "*.bias" in freeze)), name


def test_a_plan_of_a_head_is_what_the_run_costs():
    made = recipe('kind = "head"', ZEROTH)
    planned, ran = plan(made), zowarmup.run(made).summary
    assert planned.uplink_bytes == ran["bytes"]["uplink"]
    assert planned.downlink_bytes == ran["bytes"]["downlink"]


# What can be wrong.


def scope(samples=(3, 5), table=None) -> Scope:
    model = Model(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    return Scope(
        seed=0,
        phase=0,
        first_round=1,
        members=tuple(range(len(samples))),
        samples=samples,
        table=table or model.table,
        directions=select("cpu"),
        micro_batch="all",
    )


LAYER = HeadLayer("3", "3.weight", "3.bias", 3, 2)
STATE = State(torch.zeros(4 * 3 + 3 + 3 * 2 + 2))


def phase(**settings):
    return build(Head(**settings), scope(), lambda name: LAYER)


def sums(client: int, value: float = 1.0, size: int = 10) -> Sums:
    features = np.full(size, value, np.float32)
    return Sums(round=1, phase=0, client=client, features=features, targets=np.full((4, 2), value, np.float32))


def test_reports_that_do_not_fit_are_refused():
    three = build(Head(), scope(samples=(3, 5, 4)), lambda name: LAYER)
    entry, _ = three.close(1, [sums(0, np.nan), sums(1, size=9), sums(2)], STATE)
    assert entry.refused == {
        0: "non-finite features",
        1: "features of shape (9,) and float32, expected (10,) and float32",
    }
    assert entry.participants == (2,)
    losses = [Losses(round=2, phase=0, client=0, losses=np.zeros(2, np.float32)), sums(1)]
    entry, _ = phase().close(2, losses, STATE)
    assert entry.refused == {
        0: "losses of shape (2,) and float32, expected (6,) and float32",
        1: "reported for round 1",
    }


def test_a_singular_system_is_told_and_ridge_solves_it():
    with pytest.raises(NonFiniteError, match="the head's system of 4 equations is singular") as caught:
        phase(ridge=0.0).close(1, [sums(0)], STATE)
    assert "set ridge > 0: with fewer samples than features" in str(caught.value)
    entry, _ = phase(ridge=1e-3).close(1, [sums(0)], STATE)
    assert np.isfinite(entry.values["3.weight"]).all()


NOBODY = {
    "refused": ([sums(0, np.nan)], {}, "1 are refused, of client 0: non-finite features"),
    "silent": ([], {}, "none of 2 answered"),
    "too few samples": ([], {"min_samples": 6}, "none of the 2 sampled holds min-samples = 6"),
}


@pytest.mark.parametrize("case", NOBODY)
def test_a_head_that_nobody_answers_for_is_told(case):
    reports, settings, message = NOBODY[case]
    built = HeadPhase(Head(**settings), scope(), LAYER)
    with pytest.raises(RunError, match=f"round 1: no client's sums count, so no head is solved: {message}"):
        built.close(1, reports, STATE)


def test_fewer_samples_than_features_are_told_and_ridge_solves_it():
    text = 'kind = "head"\nrounds = 1\ntemperatures = [1.0]\nridge = '
    few = {"data__take": 40, "data__clients": 4, "data__high-resource": 0.5, "model__args": {"hidden": [128]}}
    with pytest.raises(NonFiniteError, match="system of 129 equations is singular, to the accuracy of fp32 sums"):
        run(recipe(f"{text}0.0", **few))
    weight, _ = solved(recipe(f"{text}1e-3", **few))
    assert np.abs(weight).max() < 10


def rounded(rank: int, p: int) -> np.ndarray:
    """The packed Gram matrix of a few samples, in fp32."""
    f = np.hstack([np.random.default_rng(0).normal(size=(rank, p - 1)), np.ones((rank, 1))])
    return (f.T @ f)[np.triu_indices(p)].astype(np.float32)


@pytest.mark.parametrize("rank", [40, 128, 400])
def test_rounding_does_not_hide_that_a_system_is_singular(rank):
    layer = HeadLayer("3", "3.weight", "3.bias", 128, 2)
    targets = np.ones((129, 2), np.float32)
    report = Sums(round=1, phase=0, client=0, features=rounded(rank, 129), targets=targets)
    built = build(Head(ridge=0.0), scope(), lambda name: layer)
    if rank > 129:
        assert built.close(1, [report], STATE).entry.participants == (0,)
        return
    with pytest.raises(NonFiniteError, match="is singular"):
        built.close(1, [report], STATE)


def test_a_temperature_beyond_fp32_is_told():
    with pytest.raises(NonFiniteError, match="round 1: the head that solves the clients' sums is not finite"):
        phase(rounds=1, temperatures=(1e300,)).close(1, [sums(0)], STATE)


def test_diagonal_variances_are_no_smaller_than_what_fp32_can_tell():
    """A feature of 1 in every sample has a variance of nothing but rounding, of either sign."""
    f = np.full((50, 4), 1.0) + np.array([0.02, 0.02, 0.0, 0.0]) * np.random.default_rng(0).normal(size=(50, 4))
    f[:, 3] = 1.0
    labels = np.eye(2)[np.arange(50) % 2]
    report = Sums(
        round=1,
        phase=0,
        client=0,
        features=np.square(f).sum(axis=0).astype(np.float32),
        targets=(f.T @ labels).astype(np.float32),
    )
    entry, _ = phase(form="diagonal", ridge=0.0, rounds=1, temperatures=(1.0,)).close(1, [report], STATE)
    assert np.abs(entry.values["3.weight"]).max() < 1e7


def test_a_solution_that_is_not_finite_is_told():
    with pytest.raises(NonFiniteError, match="round 1: the head that solves the clients' sums is not finite"):
        phase(form="diagonal", ridge=0.0).close(1, [_zeros()], STATE)


def _zeros() -> Sums:
    targets = np.zeros((4, 2), np.float32)
    targets[3] = 5
    return Sums(round=1, phase=0, client=0, features=np.zeros(4, np.float32), targets=targets)


NETS = {
    "no linear layer": (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), None, "no linear layer has 2 outputs"),
    "no such module": (nn.Linear(4, 2), "fc", 'module = "fc": there is no such module'),
    "not linear": (
        nn.Sequential(nn.Linear(4, 2), nn.ReLU()),
        "1",
        r'module = "1": is ReLU\(\), expected a linear layer',
    ),
    "a constant": (nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False)), None, "1.weight: does not"),
}


@pytest.mark.parametrize("case", NETS)
def test_a_model_without_the_head_that_is_asked_for(case):
    net, name, message = NETS[case]
    with pytest.raises(ModelError, match=message):
        find(Model(net), name, 2)
    with pytest.raises(ModelError, match="the targets of these data are not classes"):
        find(Model(net), name, None)


@pytest.mark.parametrize("name", [None, "1"])
def test_a_head_whose_weight_is_computed_is_told(name):
    net = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 2)))
    with pytest.raises(ModelError, match="1: its weight is computed from other parameters"):
        find(Model(net), name, 2)


class Aside(nn.Module):
    """The outputs are those of `fc`; a layer of the same width comes behind it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.aside = nn.Linear(64, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.fc(x) + 0 * self.aside(x).sum()


def test_freezing_the_head_needs_one_whose_outputs_are_the_networks():
    with pytest.raises(ModelError, match='freeze = "head" or "body": aside: its outputs are not') as caught:
        zowarmup.run("digits-high-res-only", model=Aside(), overrides={"phase.*.freeze": ["head"]})
    assert 'freeze can name parameters instead: "aside.weight"' in str(caught.value)


def test_the_head_that_a_head_phase_names_is_the_one_that_freeze_means():
    text = recipes.to_toml(recipe('kind = "head"\nmodule = "fc"', phase__0__freeze=["body"]))
    model = Aside()
    before = model.fc.weight.detach().clone(), model.aside.weight.detach().clone()
    zowarmup.run(recipes.parse(text), model=model)
    assert torch.equal(model.aside.weight, before[1]) and not torch.equal(model.fc.weight, before[0])


def test_a_plan_needs_no_solution_of_one_clients_sums():
    made = recipe('kind = "head"\nridge = 0.0')
    assert plan(made).uplink_bytes == zowarmup.run(made).summary["bytes"]["uplink"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return 2 * self.fc(x.flatten(1))


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        return self.fc(x.unflatten(1, (8, 8))).mean(dim=1)


@pytest.mark.parametrize(
    ("net", "message"),
    [(Twice(), "fc: its outputs are not the network's"), (Sequence(), r"fc: gets inputs of shapes \[\(\d, 8, 8\)\]")],
    ids=["not last", "several vectors"],
)
def test_a_layer_that_is_not_the_networks_last(net, message):
    data = zowarmup.data.digits()
    with pytest.raises(ModelError, match=message):
        zowarmup.run(recipe('kind = "head"'), model=net, data=data)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        (['kind = "head"\nrounds = 1'], "`rounds` is 1, so `temperatures` must have the one value"),
        (['kind = "head"\nmin-samples = 5000'], "min-samples = 5000: no client of the tier holds as many"),
        ([FROZEN.replace("head", "fc.*")], r'freeze = "fc\.\*" fits no parameter'),
        ([FROZEN.replace("head", "*")], "freeze leaves no parameter to train"),
        (['kind = "head"\ntemperatures = []'], "Expected `array` of length >= 1"),
    ],
)
def test_a_recipe_that_cannot_be(phases, message):
    with pytest.raises(RecipeError, match=message):
        run(recipe(*phases))


def test_the_head_of_shipped_nets_is_found():
    from zowarmup import nets

    for name, args, shape in (
        ("mlp", {}, (1, 8, 8)),
        ("cnn", {}, (3, 32, 32)),
        ("lenet", {}, (1, 28, 28)),
        ("resnet18", {"norm": "group", "width": 8, "groups": 2}, (3, 32, 32)),
        ("vit", {"width": 16, "depth": 1, "heads": 2}, (3, 32, 32)),
    ):
        model = Model(nets.build(name, input_shape=shape, classes=10, args=args))
        layer = find(model, None, 10)
        from zowarmup.head import check

        check(model, layer, torch.zeros(2, *shape))


def test_features_come_in_float64_with_one_appended():
    split = zowarmup.Split(x=np.ones((5, 4), np.float32), y=np.array([0, 1, 0, 1, 1]), columns={})
    net = nn.Linear(4, 2, bias=False)
    model = Model(net)
    samples = Samples(split, device=torch.device("cpu"))
    parts = list(features(model, find(model, None, 2), samples, np.arange(5), 2))
    assert [len(f) for f, _ in parts] == [2, 2, 1]
    assert all(f.dtype == np.float64 and (f == 1.0).all() and f.shape[1] == 5 for f, _ in parts)
    assert not net._forward_pre_hooks
