"""What a client computes is what its settings say: against the same thing written out by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import zowarmup
from zowarmup import recipes
from zowarmup.data import ClientData, Federation, Samples, Split
from zowarmup.draws import Draw
from zowarmup.estimators import slopes
from zowarmup.metrics import evaluate
from zowarmup.model import Model
from zowarmup.phases import Client, Scope, build
from zowarmup.protocol import Request, SlopesRequest
from zowarmup.recipe import FirstOrder, ZerothOrder
from zowarmup.state import State
from zowarmup.task import Classification

ROUND = 5


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(384, 4)
    )


def images():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, size=(60, 3, 8, 8), dtype=np.uint8)
    return Split(x=x, y=np.arange(60) % 4, columns={})


def client_and_scope(batch_norm="frozen", micro_batch=7):
    model = Model(net(), batch_norm=batch_norm)
    buffers = {name: value + 0.25 if value.is_floating_point() else value for name, value in model.buffers().items()}
    samples = Samples(images(), mean=[0.5], std=[0.25])
    client = Client(
        index=3,
        seed=11,
        samples=samples,
        indices=np.arange(5, 45),
        model=model,
        state=State(model.weights(), buffers),
        task=Classification(),
    )
    scope = Scope(
        seed=11,
        phase=0,
        first_round=1,
        members=(3,),
        samples=(0, 0, 0, 40),
        table=model.table,
        directions=model.directions,
        micro_batch=micro_batch,
    )
    return client, scope


@pytest.mark.parametrize("difference", ["one-sided", "two-sided"])
@pytest.mark.parametrize("batch", [12, "all"])
@pytest.mark.parametrize("augment", ["none", "standard"])
@pytest.mark.parametrize("batch_norm, micro_batch", [("frozen", 7), ("batch", "all")])
def test_zeroth_order_work_is_slopes_on_the_clients_batch(difference, batch, augment, batch_norm, micro_batch):
    client, scope = client_and_scope(batch_norm, micro_batch)
    settings = ZerothOrder(rounds=9, lr=0.1, difference=difference, batch=batch, augment=augment, eps=1e-3, tau=0.5)
    request = SlopesRequest(round=ROUND, phase=0, client=3, seed=99, rank=2)
    sent = build(settings, scope).work(request, client)

    rows = client.indices if batch == "all" else client.indices[Draw(11, "batch", ROUND, 3).choose(40, 12)]
    x, y = client.samples.batch(rows, augment=Draw(11, "augment", ROUND, 3) if augment == "standard" else None)
    by_hand = Model(net(), batch_norm=batch_norm)
    by_hand.load_buffers(client.state.buffers)
    expected = slopes(
        by_hand,
        x,
        y,
        client.task,
        seed=99,
        streams=[6, 7, 8],
        eps=1e-3,
        tau=0.5,
        difference=difference,
        micro_batch=micro_batch,
    )
    assert np.array_equal(sent.slopes, expected.astype(np.float32))


@pytest.mark.parametrize("augment", ["none", "standard"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_first_order_work_is_sgd_on_the_clients_batches(augment, precision):
    client, scope = client_and_scope()
    settings = FirstOrder(rounds=9, lr=0.2, batch=13, epochs=2, schedule="cosine", augment=augment, precision=precision)
    sent = build(settings, scope).work(Request(round=ROUND, phase=0, client=3), client)

    module = net().train()
    Model(module, batch_norm="frozen").load_buffers(client.state.buffers)
    optimiser = torch.optim.SGD(module.parameters(), lr=settings.lr_at(ROUND - 1))
    torch.manual_seed(Draw(11, "module", ROUND, 3).key() & (2**63 - 1))
    step = 0
    for epoch in range(2):
        order = client.indices[Draw(11, "batches", ROUND, 3, epoch).permutation(40)]
        # 40 = 13 + 13 + 13 + 1: one sample has no variance to normalise by, and joins the batch before it
        for rows in (order[:13], order[13:26], order[26:]):
            key = Draw(11, "augment", ROUND, 3, step) if augment == "standard" else None
            x, y = client.samples.batch(rows, augment=key)
            optimiser.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                outputs = module(x)
            nn.functional.cross_entropy(outputs.float(), y).backward()
            optimiser.step()
            step += 1
    assert np.array_equal(sent.weights, torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy())
    for name, value in Model(module, batch_norm="frozen").buffers().items():
        assert np.array_equal(sent.buffers[name], value.numpy()), name


def test_dropout_follows_from_the_run_seed_alone():
    client, scope = client_and_scope()
    phase = build(FirstOrder(rounds=9, lr=0.2), scope)
    sent = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        sent.append(phase.work(Request(round=ROUND, phase=0, client=3), client).weights.copy())
        assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(*sent)
    other = phase.work(Request(round=ROUND + 1, phase=0, client=3), client).weights
    assert not np.array_equal(sent[0], other)


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
def test_evaluation_is_a_plain_loop(batch_norm):
    client, _ = client_and_scope(batch_norm, "all")
    everyone = np.arange(60)
    federation = Federation(
        clients=(ClientData(index=0, tier="high", train=everyone, validation=everyone[:0]),),
        classes=4,
        class_counts=np.full((1, 4), 15),
    )
    client.model.module.train()
    found = evaluate(client.model, client.state, client.samples, client.task, federation)
    assert client.model.module.training

    module = copy.deepcopy(net()).eval()
    x, y = client.samples.batch(everyone)
    buffers = dict(module.named_buffers())
    for name, value in client.state.buffers.items():
        buffers[name].copy_(value)
    if batch_norm == "batch":
        module[1].track_running_stats, module[1].running_mean, module[1].running_var = False, None, None
    with torch.no_grad():
        outputs = module(x).double()
    correct = (outputs.argmax(1) == y).double()
    # NumPy and torch add the 60 losses in different orders.
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(outputs, y)), rel=1e-14)
    assert found["accuracy"] == float(correct.mean())
    assert found["class_accuracy"] == [float(correct[y == label].mean()) for label in range(4)]


def test_a_phase_begins_with_nothing_remembered_and_the_recipes_threads():
    second = {"kind": "zeroth-order", "rounds": 1, "lr": 0.01, "step": "rms", "pool": "shared", "batch": 16}
    table = {"phase": [second | {"rounds": 3}, second], "run.threads": 2}
    seen = {}

    def look(progress):
        seen[progress.round] = dict(progress.state.phase)
        assert torch.get_num_threads() == 2

    recipe = recipes.load("digits-zo-scratch", overrides=table)
    before = torch.get_num_threads()
    zowarmup.run(recipe, callbacks=[look])
    assert torch.get_num_threads() == before
    assert seen[2]["v"] != seen[1]["v"]
    # The slopes of the second phase's round are of one size with the others: with a memory of three rounds, v would be
    # 0.95 of what it was.
    assert not 0.94 < seen[4]["v"] / seen[3]["v"] < 0.99


def test_an_interrupted_run_holds_the_weights_its_summary_names(tmp_path):
    def stop(progress):
        if progress.round == 5:
            raise KeyboardInterrupt

    overrides = {
        "phase.0.rounds": 3,
        "phase.1.rounds": 4,
        "run.evaluate-every": 3,
        "model.net": "python:test_net:Normed",
        "model.args": {},
        "model.batch-norm": "frozen",
    }
    import sys
    import types

    class Normed(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    sys.modules["test_net"] = types.ModuleType("test_net")
    sys.modules["test_net"].Normed = Normed
    with pytest.raises(KeyboardInterrupt):
        zowarmup.run("digits", overrides=overrides, out=tmp_path / "run", callbacks=[stop])
    loaded = zowarmup.load(tmp_path / "run")
    model = Model(loaded.module, batch_norm="frozen")
    state = State(model.weights(), model.buffers())
    assert state.digest() == loaded.summary["state_digest"]
    assert state.digest() == loaded.summary["state_digest"]
    assert loaded.summary["rounds"] == 5
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Interrupted after round 5 of 7" in text


def test_validation_shares_are_evaluated_and_never_trained_on():
    trained = zowarmup.run("digits", overrides={"data.validation": 0.2, "phase.0.rounds": 2, "phase.1.rounds": 2})
    final = trained.summary["final"]
    assert 0 <= final["validation_accuracy"] <= 1
    assert np.isfinite(final["validation_loss"])
    assert sum(trained.summary["federation"]["sizes"]) < 1200
    assert (
        "validation_accuracy"
        not in zowarmup.run("digits", overrides={"phase.0.rounds": 1, "phase.1.rounds": 1}).summary["final"]
    )
