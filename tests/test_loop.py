"""Whole runs on real data: the engine against the example, the same bits twice, what is left behind."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import zowarmup
from zowarmup import recipes
from zowarmup.directions import philox
from zowarmup.engines import Local
from zowarmup.errors import ClientError, DataError, ModelError, OutputError, RecipeError
from zowarmup.experiment import arithmetic, prepare
from zowarmup.loop import local
from zowarmup.model import Model
from zowarmup.rundir import METRICS, MODEL, RECIPE, REPORT, SUMMARY
from zowarmup.state import State

ROOT = Path(__file__).parents[1]
SHORT = {"phase.0.rounds": 3, "phase.1.rounds": 4, "run.evaluate-every": 2}


def short(name="digits", **more):
    return recipes.load(name, overrides=SHORT | {key.replace("__", "."): value for key, value in more.items()})


def digest(recipe, **options):
    return zowarmup.run(recipe, **options).summary["state_digest"]


def test_the_engine_gives_the_examples_bits():
    spec = importlib.util.spec_from_file_location("round_example", ROOT / "examples" / "round.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    recipe = recipes.load(ROOT / "examples" / "paper-digits.toml", overrides={"phase.0.rounds": 3, "phase.1.rounds": 4})
    with arithmetic(recipe, torch.device("cpu")):
        expected = State(example.train(recipe)).digest()
    assert digest(recipe) == expected


def test_the_same_recipe_and_seed_give_the_same_bits_whatever_the_order_of_clients():
    once = digest(short())
    assert digest(short()) == once
    assert digest(short(), seed=1) != once
    backwards = digest(short(), engine=lambda experiment: visiting(experiment, lambda requests: requests[::-1]))
    assert backwards == once
    odd_first = digest(short(), engine=lambda experiment: visiting(experiment, odd_before_even))
    assert odd_first == once


def visiting(experiment, order):
    made = local(experiment)
    return Local(made.federation, made.samples, made.model, made.task, made.seed, visit=order)


def odd_before_even(requests):
    return [*requests[1::2], *requests[::2]]


def test_backends_of_directions_give_the_same_bits():
    recipe = short(phase__0__rounds=1, phase__1__rounds=2)
    assert digest(recipe, directions=philox.NumpyDirections()) == digest(recipe)


def test_a_phase_may_be_of_any_kind_first():
    recipe = recipes.load("digits-zo-scratch", overrides={"phase.0.rounds": 2})
    trained = zowarmup.run(recipe)
    assert trained.summary["pivot"] == 0
    assert trained.summary["bytes"]["uplink"] == {"high": 2 * 4 * 3 * 4, "low": 2 * 16 * 3 * 4}


def test_what_a_run_leaves_behind(tmp_path):
    trained = zowarmup.run(short(), out=tmp_path / "run")
    kept = {RECIPE, METRICS, SUMMARY, MODEL, REPORT, "ledger.db", "snapshots", "writer.lock"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == kept
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert summary == json.loads(json.dumps(trained.summary))
    assert summary["status"] == "finished"
    assert (summary["method"], summary["recipe"], summary["seed"], summary["rounds"]) == ("zowarmup", "digits", 0, 7)
    assert summary["pivot"] == 3
    assert [phase["last_round"] for phase in summary["phases"]] == [3, 7]
    assert summary["parameters"] == 64 * 32 + 32 + 32 * 10 + 10
    assert [row["base"] for row in summary["table"]] == [0, 4096, 8192, 12288]
    assert [row["shape"] for row in summary["table"]] == [[32, 64], [32], [10, 32], [10]]
    assert set(summary["final"]) >= {
        "accuracy",
        "loss",
        "low_held_accuracy",
        "worst_class_accuracy",
        "low_client_accuracy",
        "high_client_accuracy",
    }
    assert summary["peak_memory_bytes"] > 1_000_000
    assert summary["versions"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (tmp_path / "run" / METRICS).read_text().splitlines()]
    assert [line["round"] for line in lines] == list(range(8))
    assert [line["round"] for line in lines if "accuracy" in line] == [0, 2, 3, 4, 6, 7]
    assert lines[-1]["accuracy"] == summary["final"]["accuracy"]
    again = zowarmup.run(tmp_path / "run" / RECIPE)
    assert again.summary["state_digest"] == summary["state_digest"]


def test_bytes_are_what_the_messages_carry(tmp_path):
    trained = zowarmup.run(short())
    d, up, down = 2410, trained.summary["bytes"]["uplink"], trained.summary["bytes"]["downlink"]
    # Warm-up: 4 high-resource clients send and fetch the model, and are asked with 4 bytes.
    # Then everybody sends 3 slopes; fetches the model once, and 24 bytes of entry a later round; is asked in 16.
    assert up == {"high": 3 * 4 * 4 * d + 4 * 4 * 12, "low": 4 * 16 * 12}
    assert down == {
        "high": 3 * 4 * (4 * d + 4) + 4 * (4 * d + 3 * 24 + 4 * 16),
        "low": 16 * (4 * d + 3 * 24 + 4 * 16),
    }
    assert trained.summary["fedavg_bytes"]["uplink"]["low"] == 4 * 16 * 4 * d


def test_a_run_that_is_loaded_predicts_as_it_did(tmp_path):
    trained = zowarmup.run(short(), out=tmp_path / "run")
    loaded = zowarmup.load(tmp_path / "run")
    x = zowarmup.data.load(trained.recipe.data, seed=0).test.x
    assert torch.equal(loaded.predict(x), trained.predict(x))
    accuracy = (loaded.predict(x).argmax(1).numpy() == zowarmup.data.load(trained.recipe.data, seed=0).test.y).mean()
    assert accuracy == trained.summary["final"]["accuracy"]
    assert loaded.summary == json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert set(load_file(tmp_path / "run" / MODEL)) == set(trained.module.state_dict())


def test_a_run_is_read_from_its_ledger_alone(tmp_path):
    trained = zowarmup.run(short(phase__0__rounds=1, phase__1__rounds=1), out=tmp_path / "run")
    for name in (RECIPE, SUMMARY, METRICS, MODEL, REPORT):
        (tmp_path / "run" / name).unlink()
    loaded = zowarmup.load(tmp_path / "run")
    assert (loaded.summary, loaded.metrics) == (trained.summary, trained.metrics)
    assert all(map(torch.equal, loaded.module.parameters(), trained.module.parameters()))
    (tmp_path / "run" / "ledger.db").unlink()
    with pytest.raises(OutputError, match=r"not a run directory: it has no ledger\.db"):
        zowarmup.load(tmp_path / "run")


def test_ctrl_c_leaves_a_readable_directory(tmp_path):
    def stop(progress):
        if progress.round == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zowarmup.run(short(), out=tmp_path / "run", callbacks=[stop])
    loaded = zowarmup.load(tmp_path / "run")
    assert loaded.summary["status"] == "interrupted"
    assert loaded.summary["rounds"] == 5
    assert loaded.summary["final_round"] == 4
    assert (tmp_path / "run" / REPORT).is_file()


class Breaks(nn.Module):
    """Fails for samples of 1e7, and gives NaN for samples of 1e38."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        if float(x.flatten()[0]) == 1e7:
            raise RuntimeError("cannot go on")
        return self.layer(x) + x.square().sum(1, keepdim=True) * 0.0


def spoilt(recipe, value, clients):
    """The digits, with one value in place of some clients' samples."""
    dataset = zowarmup.data.load(recipe.data, seed=0)
    federation = zowarmup.data.federate(recipe.data, dataset, seed=0)
    x = dataset.train.x.copy()
    for client in clients:
        x[federation.clients[client].train] = value
    return zowarmup.Dataset(
        train=zowarmup.Split(x=x, y=dataset.train.y, columns={}), test=dataset.test, classes=10, class_names=None
    )


def test_an_error_names_client_round_and_phase(tmp_path):
    overrides = {"phase.0.rounds": 2, "data.partition": {"kind": "iid"}}
    recipe = recipes.load("digits-zo-scratch", overrides=overrides)
    data = spoilt(recipe, 1e7, [7])
    assert not {0, 1} & set(zowarmup.data.federate(recipe.data, data, seed=0).clients[7].train)
    with pytest.raises(ClientError, match=r"round 1, phase 0 \(zeroth-order\), client 7: RuntimeError: cannot go on"):
        zowarmup.run(recipe, model=Breaks(), data=data, out=tmp_path / "run")
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert summary["status"] == "failed"
    assert "client 7" in summary["error"]


@pytest.mark.parametrize("name", ["digits-zo-scratch", "digits-fedavg"])
@pytest.mark.parametrize("clients", [[6], range(20)], ids=["one client", "all clients"])
def test_non_finite_results_are_refused_counted_and_reported(name, clients):
    overrides = {"phase.0.rounds": 2} | ({"phase.1.rounds": 1} if "fedavg" in name else {})
    recipe = recipes.load(name, overrides=overrides)
    torch.manual_seed(0)
    model = Breaks()
    initial = Model(model).weights()
    trained = zowarmup.run(recipe, data=spoilt(recipe, 1e38, clients), model=model)
    rounds = trained.summary["rounds"]
    assert trained.summary["refused"] == rounds * len(clients)
    assert set(trained.metrics[1]["refusals"]) == {str(client) for client in clients}
    assert all("non-finite" in reason for reason in trained.metrics[1]["refusals"].values())
    assert np.isfinite(trained.summary["final"]["loss"])
    unchanged = trained.summary["state_digest"] == State(initial).digest()
    assert unchanged == (len(clients) == 20)


def test_a_users_own_module_and_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 6)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    trained = zowarmup.run(
        "digits",
        model=nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)),
        data=zowarmup.from_arrays((x[:300], y[:300]), (x[300:], y[300:])),
        overrides={"phase.0.rounds": 5, "phase.1.rounds": 20},
    )
    assert trained.summary["net"] == "given"
    assert trained.summary["final"]["accuracy"] > 0.7
    assert trained.predict(x[:3]).shape == (3, 2)


def test_a_recipe_whose_parts_were_given_says_so(tmp_path):
    data = zowarmup.data.load(short().data, seed=0)
    zowarmup.run(short(), model=Breaks(), data=data, out=tmp_path / "run")
    with pytest.raises(DataError, match="got its data from Python"):
        zowarmup.run(tmp_path / "run" / RECIPE)
    with pytest.raises(ModelError, match="got its model from Python"):
        zowarmup.load(tmp_path / "run")
    assert zowarmup.load(tmp_path / "run", model=Breaks()).summary["net"] == "given"


def test_a_module_that_cannot_be_perturbed_is_refused_before_the_first_round(tmp_path):
    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, x):
            return x @ nn.Parameter(self.layer.weight).T + self.layer.bias

    with pytest.raises(ModelError, match=r"layer\.weight"):
        zowarmup.run(short(), model=Copies(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


BAD = {
    "batch norm and no policy": (
        {"model.net": "python:torch.nn:BatchNorm1d", "model.args": {"num_features": 64}},
        ModelError,
        "model.batch-norm is not set",
    ),
    "no clients in a tier": ({"data.high-resource": 0.0}, RecipeError, 'phase 0: tier = "high" has no clients'),
    "cohort larger than its tier": ({"phase.0.cohort": 5}, RecipeError, 'cohort = 5, but tier = "high" has 4 clients'),
    "more clients than samples": ({"data.clients": 1201}, DataError, "1201"),
    "augmentation of what is no image": ({"phase.0.augment": "standard"}, RecipeError, "needs images"),
    "a device that is not there": ({}, RecipeError, 'device = "cuda'),
    "a model that does not fit": (
        {"model.net": "python:torch.nn:Linear", "model.args": {"in_features": 9, "out_features": 10}},
        ModelError,
        "on samples of shape (3, 64): forward and loss fail: RuntimeError: mat1 and mat2",
    ),
    "a task that is not there": ({"model.task": "python:nowhere:Task"}, ModelError, "nowhere"),
    "a source that is not there": ({"data.source": "python:nowhere:data"}, DataError, "nowhere"),
    "a net that is not there": ({"model.net": "python:nowhere:net"}, ModelError, "nowhere"),
    "a net nobody knows": ({"model.net": "transformer"}, ModelError, "transformer"),
    "weights that are not there": ({"model.weights": "nowhere.safetensors"}, ModelError, "cannot be read"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_before_anything_is_written(case, tmp_path):
    overrides, kind, message = BAD[case]
    device = "cuda:7" if "device" in case else "cpu"
    with pytest.raises(kind) as caught:
        zowarmup.run("digits", overrides=overrides, out=tmp_path / "run", device=device)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_initial_weights_come_from_a_file(tmp_path):
    first = zowarmup.run(short(), out=tmp_path / "run")
    overrides = SHORT | {"model.weights": str(tmp_path / "run" / MODEL)}
    experiment = prepare(recipes.load("digits", overrides=overrides), device="cpu")
    assert experiment.initial.digest() == first.summary["state_digest"]


def test_a_task_of_ones_own_sets_loss_and_score():
    class Regression:
        def losses(self, outputs, targets):
            return (outputs[:, 0] - targets).square()

        def scores(self, outputs, targets):
            return -(outputs[:, 0] - targets).abs()

    import sys
    import types

    module = types.ModuleType("own_task")
    module.Regression = Regression
    sys.modules["own_task"] = module
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    y = (x @ np.array([1.0, -2.0, 0.5], np.float32)).astype(np.float32)
    data = zowarmup.Dataset(
        train=zowarmup.Split(x=x[:150], y=y[:150], columns={}),
        test=zowarmup.Split(x=x[150:], y=y[150:], columns={}),
        classes=None,
        class_names=None,
    )
    trained = zowarmup.run(
        "digits",
        model=nn.Linear(3, 1),
        data=data,
        overrides={
            "phase.0.rounds": 10,
            "phase.1.rounds": 10,
            "model.task": "python:own_task:Regression",
            "data.partition": {"kind": "iid"},
        },
    )
    assert trained.summary["classes"] is None
    assert trained.summary["final"]["loss"] < 0.1 * float(np.square(y[150:]).mean())
    assert "class_accuracy" not in trained.summary["final"]


def test_overrides_and_seed_apply_to_a_recipe_that_is_one_already():
    recipe = short(phase__0__rounds=1, phase__1__rounds=1)
    trained = zowarmup.run(recipe, overrides={"phase.1.rounds": np.int64(2)}, seed=4)
    assert (trained.summary["rounds"], trained.summary["seed"]) == (3, 4)
    assert len(repr(trained)) < 1000


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(RecipeError, match=r"\$\.seed"):
        recipes.load("digits", overrides={"seed": seed})


def test_what_is_given_must_be_of_its_kind():
    """In a process of its own: here, arguments of a wrong type do not even reach the function."""
    code = """
import zowarmup
for given in ({"model": "mlp"}, {"data": ([1], [2])}):
    try:
        zowarmup.run("digits", **given)
    except zowarmup.ZOWarmUpError as error:
        print(type(error).__name__, error.message, sep=": ")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "ModelError: model is a str, expected a torch.nn.Module",
        "DataError: data is a tuple, expected a Dataset",
    ]


def test_the_report_says_why_reports_were_refused_and_counts_turns(tmp_path):
    recipe = recipes.load("digits-zo-scratch", overrides={"phase.0.rounds": 3, "phase.0.cohort": 7})
    trained = zowarmup.run(recipe, data=spoilt(recipe, 1e38, range(20)), model=Breaks(), out=tmp_path / "run")
    turns = trained.summary["turns"]
    assert turns["high"] + turns["low"] == 21
    text = (tmp_path / "run" / REPORT).read_text()
    assert "non-finite slopes (21 times)" in text
    assert "Every report of the zeroth-order phase was refused: it did nothing." in text
