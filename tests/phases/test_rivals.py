"""DeComFL and FedKSeed: the phase against the papers' updates, restated with numpy on softmax regression."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from zowarmup.data import Samples, Split
from zowarmup.directions import philox, select
from zowarmup.draws import Draw
from zowarmup.model import Model
from zowarmup.phases import Client, Scope, build
from zowarmup.protocol import SlopesRequest
from zowarmup.recipe import ZerothOrder
from zowarmup.state import State
from zowarmup.task import Classification

SEED, FEATURES, CLASSES = 3, 6, 4
SIZES = (12, 20, 8)
ROUNDS = 3


class Setting:
    """A linear model, three clients, and one phase over all of them."""

    def __init__(self, sizes=SIZES, **settings):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(sum(sizes), FEATURES)).astype(np.float32)
        y = rng.integers(CLASSES, size=sum(sizes))
        torch.manual_seed(1)
        self.model = Model(nn.Linear(FEATURES, CLASSES))
        self.samples = Samples(Split(x=x, y=y, columns={}))
        self.owned = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
        self.phase = build(
            ZerothOrder(**{"rounds": ROUNDS, "tau": 1.0, "eps": 1e-2} | settings),
            Scope(
                seed=SEED,
                phase=0,
                first_round=1,
                members=tuple(range(len(sizes))),
                samples=tuple(sizes),
                table=self.model.table,
                directions=select("cpu"),
                micro_batch=64,
            ),
        )
        self.initial = State(self.model.weights())
        self.x, self.y = x.astype(np.float64), y

    def client(self, index, state):
        return Client(index, SEED, self.samples, self.owned[index], self.model, state, Classification())

    def engine(self):
        """The weights after the phase's rounds."""
        state = self.initial
        for t in range(1, ROUNDS + 1):
            reports = [self.phase.work(asked, self.client(asked.client, state)) for asked in self.phase.plan(t, state)]
            entry, blobs = self.phase.close(t, reports, state)
            assert entry.refused == {}
            state = self.phase.apply(entry, blobs, state)
        return state.weights.double().numpy()

    def direction(self, seed, k):
        """Signs, shape ``(d,)``."""
        bits = [philox.bits(seed, k, base, size) for _, size, base in self.model.table.segments]
        return np.where(np.concatenate(bits), -1.0, 1.0)

    def batch(self, t, step, client, size):
        """Which samples a client sees in a local step: the package's draw, as the papers say no more than "random"."""
        mine = self.owned[client]
        return mine[Draw(SEED, "batch", t, client, step).choose(len(mine), size)]

    def loss(self, w, rows):
        """Mean cross-entropy of the linear model, in float64."""
        weight, bias = w[: FEATURES * CLASSES].reshape(CLASSES, FEATURES), w[FEATURES * CLASSES :]
        logits = self.x[rows] @ weight.T + bias
        return float(np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(rows)), self.y[rows]]))


def decomfl(setting, eta, mu, K, P, batch):
    """arXiv:2405.15861: forward differences, K local steps of P perturbations that all clients share, plain means."""
    x = setting.initial.weights.double().numpy()
    for t in range(1, ROUNDS + 1):
        seed = Draw(SEED, "directions", t).key()
        z = [[setting.direction(seed, k * P + p) for p in range(P)] for k in range(K)]
        g = np.zeros((len(setting.owned), K, P))
        for i in range(len(setting.owned)):
            local = x.copy()
            for k in range(K):
                rows = setting.batch(t, k, i, batch)
                base = setting.loss(local, rows)
                for p in range(P):
                    g[i, k, p] = (setting.loss(local + mu * z[k][p], rows) - base) / mu
                local = local - eta * sum(g[i, k, p] * z[k][p] for p in range(P)) / P
        mean = g.mean(axis=0)
        for k in range(K):
            x = x - eta * sum(mean[k, p] * z[k][p] for p in range(P)) / P
    return x


def fedkseed(setting, eta, eps, K, tau, batch):
    """arXiv:2312.06353, Alg. 1: the model is w0 and K scalars; clients walk tau steps over a fixed pool of seeds."""
    w0 = setting.initial.weights.double().numpy()
    z = [setting.direction(Draw(SEED, "directions").key(), k) for k in range(K)]
    accumulated = np.zeros(K)
    sizes = [len(rows) for rows in setting.owned]
    for t in range(1, ROUNDS + 1):
        w_t = w0 - eta * sum(accumulated[k] * z[k] for k in range(K))
        after = accumulated.copy()
        for i in range(len(setting.owned)):
            w, drawn = w_t.copy(), Draw(SEED, "pool", t, i).integers(K, tau)
            for step in range(tau):
                rows, k = setting.batch(t, step, i, batch), int(drawn[step])
                g = (setting.loss(w + eps * z[k], rows) - setting.loss(w - eps * z[k], rows)) / (2 * eps)
                w = w - eta * g * z[k]
                after[k] += sizes[i] / sum(sizes) * g
        accumulated = after
    return w0 - eta * sum(accumulated[k] * z[k] for k in range(K))


# Weights and logits are of order 1 in the engine's fp32, so a loss is off by some 2**-24 and a slope by that over eps,
# 6e-6; a round moves each weight by fewer than 40 slopes times lr, plus two roundings a step. 3 rounds: below 1e-5.
TOLERANCE = 1e-5


@pytest.mark.parametrize(("K", "P"), [(1, 4), (3, 1), (4, 5)])
def test_decomfl_is_the_published_update(K, P):
    settings = {"lr": 0.05, "pool": "shared", "directions": P, "local_steps": K, "difference": "one-sided", "batch": 5}
    setting = Setting(sizes=(12, 12, 12), **settings)
    expected = decomfl(setting, eta=0.05, mu=1e-2, K=K, P=P, batch=5)
    np.testing.assert_allclose(setting.engine(), expected, rtol=0, atol=TOLERANCE)
    assert np.abs(expected - setting.initial.weights.numpy()).max() > 1000 * TOLERANCE


@pytest.mark.parametrize(("K", "tau"), [(16, 10), (8, 30)], ids=["slopes are sent", "sums are sent"])
def test_fedkseed_is_the_published_update(K, tau):
    settings = {"pool": K, "pool_seed": "run", "directions": 1, "local_steps": tau, "batch": 3}
    setting = Setting(lr=0.02, **settings)
    expected = fedkseed(setting, eta=0.02, eps=1e-2, K=K, tau=tau, batch=3)
    np.testing.assert_allclose(setting.engine(), expected, rtol=0, atol=TOLERANCE)
    assert np.abs(expected - setting.initial.weights.numpy()).max() > 1000 * TOLERANCE


def test_a_server_repeats_the_walk_of_its_only_client():
    settings = {"pool": 16, "pool_seed": "run", "directions": 2, "local_steps": 10, "batch": 3}
    setting = Setting(sizes=(12,), lr=0.02, **settings)
    request = setting.phase.plan(1, setting.initial)[0]
    walked = walk(setting, request)
    report = setting.phase.work(request, setting.client(0, setting.initial))
    entry, _ = setting.phase.close(1, [report], setting.initial)
    after = setting.phase.apply(entry, {}, setting.initial).weights
    # Ten roundings of the weights against one, and scalars in fp32 against float64.
    torch.testing.assert_close(after, walked, rtol=0, atol=1e-6)


def walk(setting, request):
    """A client's own weights after its last step: the request's T steps, and one more that only shows them."""
    longer = dataclasses.replace(
        setting.phase, settings=msgspec.structs.replace(setting.phase.settings, local_steps=11)
    )
    seen = []
    bind = setting.model.bind
    setting.model.bind = lambda weights: (seen.append(weights), bind(weights))[1]
    longer.work(request, setting.client(0, setting.initial))
    setting.model.bind = bind
    return seen[-1]


@pytest.mark.parametrize("lr", [1e30, 1e300], ids=["weights break down", "the step itself"])
def test_a_client_whose_local_weights_break_down_is_refused(lr):
    setting = Setting(lr=0.1, local_lr=lr, pool="shared", local_steps=3, batch=3)
    requests = setting.phase.plan(1, setting.initial)
    reports = [setting.phase.work(asked, setting.client(asked.client, setting.initial)) for asked in requests]
    entry, _ = setting.phase.close(1, reports, setting.initial)
    assert entry.refused == dict.fromkeys((0, 1, 2), "non-finite slopes")
    assert len(entry.coefficients) == 0


def test_local_steps_with_their_own_rate_move_the_client_and_not_the_server():
    settings = {"lr": 0.02, "pool": "shared", "local_steps": 2, "batch": "all"}
    same, slow = Setting(**settings), Setting(**settings, local_lr=1e-12)
    request = SlopesRequest(round=1, phase=0, client=0, seed=same.phase.pool.seed(1), rank=0)
    moved, stayed = (each.phase.work(request, each.client(0, each.initial)).slopes for each in (same, slow))
    S = same.phase.settings.directions
    assert moved[:S].tolist() == stayed[:S].tolist()
    assert not np.allclose(moved[S:], stayed[S:], rtol=1e-3)
    still = Setting(**(settings | {"local_steps": 1, "directions": 2 * S}))
    plain = still.phase.work(request, still.client(0, still.initial)).slopes
    # A step of 1e-12 changes no fp32 weight of order 0.1, so these are the slopes of one place.
    assert stayed.tolist() == plain.tolist()
