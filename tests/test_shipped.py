"""A short run of every shipped recipe, on the data it is for."""

import functools

import msgspec
import numpy as np
import pytest

import zowarmup
from zowarmup import recipes
from zowarmup.data import load

DIGITS = [name for name in recipes.shipped() if name.startswith("digits")]
SMALL = [name for name in recipes.shipped() if name.startswith("cifar10-small")]
PAPER = [name for name in recipes.shipped() if name.startswith("paper/")]


def short(name, cifar10=None, **more):
    """A recipe with one round in each phase (a head's own number of them), and few local steps."""
    overrides = more
    for index, phase in enumerate(recipes.load(name).phase):
        if phase.kind != "head":
            overrides[f"phase.{index}.rounds"] = 1
        if getattr(phase, "average_last", None) is not None:
            overrides[f"phase.{index}.average-last"] = 1
        if getattr(phase, "local_steps", 1) > 5:
            overrides[f"phase.{index}.local-steps"] = 5
    if cifar10 is not None:
        overrides["data.path"] = str(cifar10)
    return recipes.load(name, overrides=overrides)


@pytest.mark.parametrize("name", DIGITS)
def test_the_digits_recipes_run(name):
    trained = zowarmup.run(short(name))
    assert trained.summary["status"] == "finished"
    assert trained.metrics[-1]["loss"] != trained.metrics[0]["loss"]
    assert trained.summary["refused"] == 0


@pytest.mark.parametrize("name", SMALL)
def test_the_small_cifar10_recipes_run(name, cifar10):
    recipe = short(name, cifar10, **{"data.take": 500, "data.clients": 10})
    trained = zowarmup.run(recipe, data=few(recipe))
    assert trained.summary["status"] == "finished"
    assert trained.summary["parameters"] == 24346
    assert trained.metrics[-1]["loss"] != trained.metrics[0]["loss"]
    assert trained.summary["refused"] == 0


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "paper/cifar10-resnet18-10-90" else pytest.mark.slow) for name in PAPER],
)
def test_the_papers_recipes_run(name, cifar10):
    recipe = short(name, cifar10, **{"data.take": 150})
    trained = zowarmup.run(recipe, data=few(recipe))
    assert trained.summary["status"] == "finished"
    assert trained.summary["parameters"] == 11173962
    assert trained.metrics[-1]["loss"] != trained.metrics[0]["loss"]
    assert trained.summary["refused"] == 0
    high = round(float(recipe.data.high_resource) * 50)
    assert trained.summary["federation"]["tiers"].count("high") == high


@pytest.mark.parametrize("name", [name for name in PAPER if name.startswith("paper/cifar10-resnet18-10-90")])
def test_the_papers_recipes_run_at_an_eighth_of_the_width(name, cifar10):
    """With 8 channels in the first layer in the place of 64, and two clients a round."""
    small = {f"phase.{index}.cohort": 2 for index in range(len(recipes.load(name).phase))}
    recipe = short(name, cifar10, **{"data.take": 150, "model.args.width": 8}, **small)
    trained = zowarmup.run(recipe, data=few(recipe))
    assert trained.summary["status"] == "finished"
    assert trained.summary["parameters"] == 176402
    assert np.isfinite(trained.metrics[-1]["loss"])
    assert trained.metrics[-1]["loss"] != trained.metrics[0]["loss"]
    assert trained.summary["refused"] == 0


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_have_its_rounds_and_clients(name):
    """500 rounds, beside what HeteroFL and a control do once training has ended; no cohort is larger than its tier."""
    recipe = recipes.load(name)
    after = {"paper/cifar10-resnet18-10-90-heterofl": 17, "paper/cifar10-resnet18-10-90-high-res-only-head": 2}
    assert recipe.rounds == 500 + after.get(name, 0)
    assert (recipe.name, recipe.data.clients, recipe.data.validation) == (name, 50, 0.1)
    tiers = {"high": round(float(recipe.data.high_resource) * 50), "all": 50}
    assert all(phase.cohort == "all" or phase.cohort <= tiers[phase.tier] for phase in recipe.phase)


def few(recipe):
    """The recipe's data with 100 test images: an evaluation costs as much as many rounds."""
    return _few(msgspec.structs.replace(recipe.data, high_resource=0.1))  # which no sample depends on


@functools.cache
def _few(settings):
    dataset = load(settings, seed=0)
    return zowarmup.Dataset(
        train=dataset.train,
        test=dataset.test.rows(np.arange(100)),
        classes=dataset.classes,
        class_names=dataset.class_names,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DIGITS, "cifar10-small"])
def test_the_same_recipe_twice_gives_the_same_bits(name, cifar10):
    more = {} if name in DIGITS else {"phase.0.rounds": 3, "phase.1.rounds": 3, "data.path": str(cifar10)}
    recipe = recipes.load(name, overrides=more)
    once = zowarmup.run(recipe).summary
    assert zowarmup.run(recipe).summary["state_digest"] == once["state_digest"]


@pytest.mark.slow
def test_the_demos_claim_on_fresh_seeds():
    """Warm-up and zeroth-order rounds end at least 10 points above High-Res-Only, in the mean of three seeds."""
    seeds = (20, 21, 22)
    accuracy = {
        name: np.mean([zowarmup.run(name, seed=seed).summary["final"]["accuracy"] for seed in seeds])
        for name in ("digits", "digits-high-res-only")
    }
    assert accuracy["digits"] > accuracy["digits-high-res-only"] + 0.10
