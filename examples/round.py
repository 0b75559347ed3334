"""The paper's algorithm in plain loops: no engine, no messages, one file.

ZOWarmUp, arXiv:2509.03503v1, Alg. 1. The engines are the fast form of this; a test holds them to it, bit for bit.

    python examples/round.py [RECIPE]      prints the state_digest that `zowarmup run RECIPE` gives
"""

import sys

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zowarmup import load_recipe
from zowarmup.directions import philox, quantise
from zowarmup.draws import Draw
from zowarmup.experiment import arithmetic, prepare
from zowarmup.state import State


def cohort(run, phase, t):
    """The clients of round ``t``: drawn from the phase's tier by the run seed."""
    members = np.array(run.federation.members(phase.tier))
    size = len(members) if phase.cohort == "all" else phase.cohort
    return [int(j) for j in members[Draw(run.recipe.seed, "cohort", t).choose(len(members), size)]]


def warm_up_round(run, phase, t, lr, w, net, loss):
    """FedAvg: what local SGD makes of ``w`` on each client, averaged by n_j."""
    clients, total = cohort(run, phase, t), 0
    for j in clients:
        vector_to_parameters(w.clone(), net.parameters())
        optimiser = torch.optim.SGD(net.parameters(), lr=lr)
        mine = run.federation.clients[j].train
        for epoch in range(phase.epochs):
            order = mine[Draw(run.recipe.seed, "batches", t, j, epoch).permutation(len(mine))]
            for start in range(0, len(mine), phase.batch):
                x, y = run.train.batch(order[start : start + phase.batch])
                optimiser.zero_grad()
                loss(net(x), y).backward()
                optimiser.step()
        total = total + len(mine) * parameters_to_vector(net.parameters()).detach().double()
    return (total / sum(len(run.federation.clients[j].train) for j in clients)).float()


def zeroth_order_round(run, phase, t, lr, w, net, loss):
    """Each client sends S slopes along its own directions; each replica adds the same integers, scaled."""
    clients, S, tau = cohort(run, phase, t), phase.directions, phase.tau
    n = {j: len(run.federation.clients[j].train) for j in clients}
    seed, segments = Draw(run.recipe.seed, "directions", t).key(), run.model.table.segments
    bits = lambda k: np.concatenate([philox.bits(seed, k, base, size) for _, size, base in segments])  # noqa: E731
    Z = [np.where(bits(k), -1, 1) for k in range(S * len(clients))]
    c = torch.tensor(phase.eps * tau, dtype=torch.float32)
    a = np.zeros(len(Z))  # what is added along each direction

    def evaluate(weights, x, y):
        vector_to_parameters(weights, net.parameters())
        with torch.inference_mode():
            return float(loss(net(x).double(), y))

    for rank, j in enumerate(clients):
        x, y = run.train.batch(run.federation.clients[j].train)
        for k in range(rank * S, (rank + 1) * S):
            z = torch.from_numpy(Z[k])
            slope = (evaluate(w + c * z, x, y) - evaluate(w - c * z, x, y)) / (2 * phase.eps)
            a[k] = n[j] * float(np.float32(slope))  # the 4 bytes that travel
    A, exponent = quantise(-lr * tau * (a / (sum(n.values()) * S)))
    update = sum(int(A_k) * z for A_k, z in zip(A, Z, strict=True))
    return w + torch.from_numpy(update.astype(np.float32)) * 2.0**-exponent


def train(recipe):
    """Warm-up, pivot, zeroth-order: the final weights, shape ``(d,)``."""
    run = prepare(recipe, device="cpu", directions=philox.NumpyDirections())
    w, t = run.initial.weights, 0
    for phase in recipe.phase:
        one_round = warm_up_round if phase.kind == "first-order" else zeroth_order_round
        for index in range(phase.rounds):
            t += 1
            w = one_round(run, phase, t, phase.lr_at(index), w, run.model.module, torch.nn.functional.cross_entropy)
    return w


if __name__ == "__main__":
    recipe = load_recipe(sys.argv[1] if len(sys.argv) > 1 else "examples/paper-digits.toml")
    with arithmetic(recipe, torch.device("cpu")):
        print(State(train(recipe)).digest())
