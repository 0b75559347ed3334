"""Zeroth-order rounds in plain loops: what the phase does fast, written out for exact slopes, local steps and pools.

In the manner of examples/round.py, which is the paper's round; a test holds the engine to this, bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zowarmup.directions import philox, quantise
from zowarmup.draws import Draw
from zowarmup.experiment import prepare

F = torch.nn.functional


def train(recipe):
    """The weights after a recipe of zeroth-order phases with plain steps and without augmentation, shape ``(d,)``."""
    run = prepare(recipe, device="cpu", directions=philox.NumpyDirections())
    w, t = run.initial.weights, 0
    for phase in recipe.phase:
        for index in range(phase.rounds):
            t += 1
            w = one_round(run, phase, t, index, w)
    return w


def one_round(run, phase, t, index, w):
    """Every client measures, moves and measures again; the server repeats the mean of the moves."""
    seed = Draw(run.recipe.seed, "directions", -1 if phase.pool_seed == "run" else t).key()
    clients = range(len(run.federation.clients))
    n = {j: len(run.federation.clients[j].train) for j in clients}
    S, T = phase.directions, phase.local_steps
    K = {"distinct": S * T * len(n), "shared": S * T}.get(phase.pool, phase.pool)
    a = np.zeros(K)
    for j in clients:
        sent, own = [], w
        difference = (j in run.federation.members("high") and phase.high_difference) or phase.difference
        for step in range(T):
            x, y = run.train.batch(batch(run, phase, t, step, j))
            served = directions(run, phase, t, step, j, K, difference)
            slopes = {"exact": exact_slopes, "two-sided": two_sided, "one-sided": one_sided}[difference]
            found = slopes(run, phase, own, x, y, seed, served)
            sent += list(zip(served, found, strict=True))
            move = np.array(found) / len(served)
            own = moved(run, own, seed, served, -phase.local_lr_at(index) * phase.tau * move)
        if len(sent) > K:
            sent = [(k, sum(slope for other, slope in sent if other == k)) for k in range(K)]
        for k, slope in sent:
            a[k] += n[j] * (S / len(served)) * float(np.float32(slope))  # the 4 bytes that travel
    return moved(run, w, seed, range(K), -phase.lr_at(index) * phase.tau * (a / (sum(n.values()) * S)))


def batch(run, phase, t, step, j):
    """The samples of a client's local step."""
    mine = run.federation.clients[j].train
    if phase.batch == "all" or phase.batch >= len(mine):
        return mine
    return mine[Draw(run.recipe.seed, "batch", t, j, step).choose(len(mine), phase.batch)]


def directions(run, phase, t, step, j, K, difference):
    """Which of the K directions a client serves in a local step; everybody takes part, so its rank is its index."""
    S, T = phase.directions, phase.local_steps
    if phase.pool == "distinct":
        return range((j * T + step) * S, (j * T + step + 1) * S)
    if phase.pool == "shared":
        return range(step * S, (step + 1) * S)
    if difference == "exact":
        return range(K)
    draw = Draw(run.recipe.seed, "pool", t, j)
    if T == 1:
        return [int(k) for k in draw.choose(K, S)]
    return [int(k) for k in draw.integers(K, T * S)[step * S : (step + 1) * S]]


def signs(run, seed, k):
    """Direction k, shape ``(d,)``."""
    bits = [philox.bits(seed, k, base, size) for _, size, base in run.model.table.segments]
    return np.where(np.concatenate(bits), -1, 1)


def two_sided(run, phase, w, x, y, seed, served):
    """Two forward passes a direction."""
    steps = [probe(phase) * torch.from_numpy(signs(run, seed, k)) for k in served]
    return [(loss(run, w + step, x, y) - loss(run, w - step, x, y)) / (2 * phase.eps) for step in steps]


def one_sided(run, phase, w, x, y, seed, served):
    """A forward pass a direction, and one more."""
    steps = [probe(phase) * torch.from_numpy(signs(run, seed, k)) for k in served]
    return [(loss(run, w + step, x, y) - loss(run, w, x, y)) / phase.eps for step in steps]


def probe(phase):
    """How far weights are moved to measure a slope."""
    return torch.tensor(phase.eps * phase.tau, dtype=torch.float32)


def loss(run, w, x, y):
    """The mean loss."""
    vector_to_parameters(w, run.model.module.parameters())
    with torch.inference_mode():
        return float(F.cross_entropy(run.model.module(x).double(), y))


def exact_slopes(run, phase, w, x, y, seed, served):
    """One backward pass for all directions."""
    net = run.model.module
    vector_to_parameters(w.clone(), net.parameters())
    net.zero_grad()
    for start in range(0, len(x), run.recipe.run.micro_batch):
        stop = start + run.recipe.run.micro_batch
        losses = F.cross_entropy(net(x[start:stop]).double(), y[start:stop], reduction="none")
        (losses.sum() / len(x)).backward()
    gradient = parameters_to_vector(parameter.grad for parameter in net.parameters())
    where = {"seeds": np.full(len(served), seed, np.uint64), "streams": np.array(served, np.uint32)}
    return phase.tau * philox.NumpyDirections().dots(gradient, segments=run.model.table.segments, **where)


def moved(run, w, seed, served, a):
    """What integers make of ``w``: A of each direction, rounded once, and one sum."""
    A, exponent = quantise(a)
    update = sum(int(A_k) * signs(run, seed, k) for A_k, k in zip(A, served, strict=True))
    return w + torch.from_numpy(update.astype(np.float32)) * 2.0**-exponent
