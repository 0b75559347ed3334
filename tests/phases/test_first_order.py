"""The first-order phase: local SGD against torch's optimiser, server steps against their papers, what is refused."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from zowarmup.data import Samples, Split
from zowarmup.model import Model
from zowarmup.phases import Client, Scope, build
from zowarmup.protocol import Request, Slopes, Weights
from zowarmup.recipe import FirstOrder
from zowarmup.state import State
from zowarmup.task import Classification

SIZES = (10, 30, 60)


def phase(size=4, **settings):
    model = Model(nn.Linear(size, 1, bias=False))
    scope = Scope(
        seed=5,
        phase=0,
        first_round=1,
        members=(0, 1, 2),
        samples=SIZES,
        table=model.table,
        directions=model.directions,
        micro_batch=64,
    )
    return build(FirstOrder(**{"rounds": 10, "lr": 0.1} | settings), scope)


def report(client, weights, **buffers):
    return Weights(
        round=1,
        phase=0,
        client=client,
        weights=np.asarray(weights, np.float32),
        buffers={name: np.asarray(value) for name, value in buffers.items()},
    )


def close(made, reports, state):
    entry, blobs = made.close(1, reports, state)
    return entry, made.apply(entry, blobs, state)


def test_fedavg_is_the_mean_by_samples():
    state = State(torch.zeros(2))
    entry, after = close(phase(), [report(0, [1, 2]), report(1, [3, 4]), report(2, [5, 6])], state)
    assert torch.equal(after.weights, torch.tensor([(10 + 90 + 300) / 100, (20 + 120 + 360) / 100]))
    assert entry.participants == (0, 1, 2)
    assert entry.snapshot == after.digest()


def test_floating_buffers_are_averaged_and_integer_ones_take_the_maximum():
    state = State(torch.zeros(1), {"mean": torch.zeros(2), "count": torch.tensor(3)})
    reports = [
        report(0, [0], mean=np.array([1, 2], np.float32), count=np.array(4)),
        report(1, [0], mean=np.array([5, 6], np.float32), count=np.array(9)),
    ]
    _, after = close(phase(), reports, state)
    assert torch.equal(after.buffers["mean"], torch.tensor([4.0, 5.0]))
    assert after.buffers["count"].item() == 9
    assert after.buffers["count"].dtype == torch.int64


def test_fedavgm_and_fedadam_follow_reddi_et_al():
    """arXiv:2003.00295: Alg. 2 for FedAdam; FedAvgM as in arXiv:1909.06335."""
    deltas = [np.array([0.5, -1.0]), np.array([0.25, 2.0])]
    settings = {"server_lr": 0.3, "server_momentum": 0.8, "beta1": 0.7, "beta2": 0.6, "adaptivity": 0.01}
    momentum, m, v = np.zeros(2), np.zeros(2), np.full(2, 0.01**2)
    plain = {"fedavg": np.ones(2), "fedavgm": np.ones(2), "fedadam": np.ones(2)}
    states = {server: State(torch.ones(2)) for server in plain}
    for delta in deltas:
        momentum = 0.8 * momentum + delta
        m, v = 0.7 * m + 0.3 * delta, 0.6 * v + 0.4 * delta**2
        plain["fedavg"] = plain["fedavg"] + 0.3 * delta
        plain["fedavgm"] = plain["fedavgm"] + 0.3 * momentum
        plain["fedadam"] = plain["fedadam"] + 0.3 * m / (np.sqrt(v) + 0.01)
        for server, state in states.items():
            sent = state.weights.numpy() + delta.astype(np.float32)
            _, states[server] = close(phase(server=server, **settings), [report(0, sent)], state)
    for server, state in states.items():
        # Weights are rounded to fp32 once a round, and so is what the client sends.
        np.testing.assert_allclose(state.weights.numpy(), plain[server], rtol=2**-20)


REFUSED = {
    "nan": (report(1, [math.nan, 0]), "non-finite weights"),
    "too few": (report(1, [0]), "weights of shape (1,) and float32, expected (2,) and float32"),
    "wrong dtype": (Weights(round=1, phase=0, client=1, weights=np.zeros(2)), "and float64, expected"),
    "no buffer": (Weights(round=1, phase=0, client=1, weights=np.zeros(2, np.float32)), "buffers [], expected ['b']"),
    "buffer's shape": (
        report(1, [0, 0], b=np.zeros(3, np.float32)),
        "buffer b is float32 of shape (3,), expected float32 of shape ()",
    ),
    "buffer's value": (report(1, [0, 0], b=np.array(math.inf, np.float32)), "non-finite buffer b"),
    "wrong message": (Slopes(round=1, phase=0, client=1, slopes=np.zeros(2, np.float32)), "sent Slopes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_report_is_refused_and_the_others_count(case):
    bad, reason = REFUSED[case]
    state = State(torch.zeros(2), {"b": torch.tensor(0.5)})
    good = report(0, [1, 2], b=np.array(1.5, np.float32))
    entry, after = close(phase(), [good, bad], state)
    assert reason in entry.refused[1]
    assert entry.participants == (0,)
    assert torch.equal(after.weights, torch.tensor([1.0, 2.0]))
    assert after.buffers["b"] == 1.5


def test_a_round_in_which_all_are_bad_leaves_the_model_as_it_was():
    state = State(torch.ones(2), {}, {"momentum": torch.ones(2)})
    entry, after = close(phase(server="fedavgm"), [report(client, [math.nan, 0]) for client in range(3)], state)
    assert after is state
    assert sorted(entry.refused) == [0, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch": 7, "epochs": 2},
        {"batch": "all"},
        {"momentum": 0.9, "epochs": 2},
        {"weight_decay": 0.1},
        {"clip_norm": 0.01},
        {"momentum": 0.5, "weight_decay": 0.1, "clip_norm": 0.05},
    ],
    ids=str,
)
def test_local_sgd_is_torchs(settings):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model, task = Model(net), Classification()
    x, y = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32), np.arange(40) % 3
    samples = Samples(Split(x=x, y=y, columns={}), mean=None, std=None, device="cpu")
    made = phase(batch=16, **settings) if "batch" not in settings else phase(**settings)
    state, indices = State(model.weights()), np.arange(5, 35)
    client = Client(index=1, seed=5, samples=samples, indices=indices, model=model, state=state, task=task)
    sent = made.work(Request(round=1, phase=0, client=1), client)

    model.bind(state.weights.clone())
    optimiser = torch.optim.SGD(
        net.parameters(),
        lr=0.1,
        momentum=made.settings.momentum,
        weight_decay=made.settings.weight_decay,
    )
    for batch_x, batch_y in made._batches(1, client):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(batch_x), batch_y).backward()
        if made.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(net.parameters(), made.settings.clip_norm)
        optimiser.step()
    if made.settings.clip_norm is None:
        assert np.array_equal(sent.weights, model.weights().numpy())
    else:  # torch sums the norm tensor by tensor, this package over one vector
        np.testing.assert_allclose(sent.weights, model.weights().numpy(), rtol=1e-5, atol=1e-7)


def test_work_leaves_state_and_gradients_alone():
    torch.manual_seed(3)
    net = nn.Linear(6, 3)
    model = Model(net)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    samples = Samples(Split(x=x, y=np.arange(8) % 3, columns={}), mean=None, std=None, device="cpu")
    state = State(model.weights())
    before = state.weights.clone()
    client = Client(
        index=0, seed=5, samples=samples, indices=np.arange(8), model=model, state=state, task=Classification()
    )
    sent = phase().work(Request(round=1, phase=0, client=0), client)
    assert torch.equal(state.weights, before)
    assert not np.array_equal(sent.weights, before.numpy())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_passes_count_samples():
    assert phase(epochs=3).passes(10, 0) == (30, 30)
