"""Recipes: what they refuse, and with which words."""

import pytest

from zowarmup import recipes
from zowarmup.errors import RecipeError
from zowarmup.recipe import FirstOrder, Recipe, ZerothOrder

GOOD = """
name = "x"
[data]
source = "digits"
clients = 4
[model]
net = "mlp"
[[phase]]
kind = "first-order"
rounds = 2
lr = 0.1
[[phase]]
kind = "zeroth-order"
rounds = 3
lr = 0.1
"""


def test_a_small_recipe_reads():
    recipe = recipes.parse(GOOD)
    assert recipe.rounds == 5
    assert [phase.kind for phase in recipe.phase] == ["first-order", "zeroth-order"]


@pytest.mark.parametrize("name", recipes.shipped())
def test_every_shipped_recipe_reads_and_is_named_like_its_file(name):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.method is not None
    assert recipes.shipped_text(name).startswith("# ")
    assert recipes.parse(recipes.to_toml(recipe)) == recipe


def test_what_keeps_a_run_has_defaults_and_reads_back():
    settings = recipes.parse(GOOD).run
    assert (settings.snapshot_every, settings.replay_budget, settings.keep_snapshots) == (1, 1e11, 2)
    assert (settings.sync, settings.catch_up) == ("full", "bytes")
    given = ["snapshot-every=3", "replay-budget=0", "keep-snapshots=all", "sync=off", "catch-up=work"]
    recipe = recipes.parse(GOOD, overrides=[f"run.{pair}" for pair in given])
    assert recipe.run.keep_snapshots == "all"
    assert recipes.parse(recipes.to_toml(recipe)) == recipe


BAD = {
    "not toml": ("name = ", [], "recipe: not TOML"),
    "unknown key": (GOOD, ["data.colour=1"], "Object contains unknown field `colour` - at `$.data`"),
    "unknown key in a phase": (GOOD, ["phase.1.epz=1e-3"], "Object contains unknown field `epz` - at `$.phase[1]`"),
    "wrong type": (GOOD, ["phase.0.lr='fast'"], "Expected `float`, got `str` - at `$.phase[0].lr`"),
    "bare word": (GOOD, ["phase.0.lr=fast"], "Expected `float`, got `str` - at `$.phase[0].lr`"),
    "out of range": (GOOD, ["phase.1.eps=0.0"], "Expected `float` > 0.0 - at `$.phase[1].eps`"),
    "rounds of zero": (GOOD, ["phase.1.rounds=0"], "Expected `int` >= 1 - at `$.phase[1].rounds`"),
    "infinite": (GOOD, ["phase.1.lr=inf"], "Expected a finite `float`, got `inf` - at `$.phase[1].lr`"),
    "not a number": (GOOD, ["phase.1.lr=nan"], "Expected a finite `float`, got `nan` - at `$.phase[1].lr`"),
    "unknown kind": (GOOD, ["phase.1.kind='third-order'"], "Invalid value 'third-order' - at `$.phase[1].kind`"),
    "unknown tier": (GOOD, ["phase.0.tier='middle'"], "Invalid enum value 'middle' - at `$.phase[0].tier`"),
    "negative seed": (GOOD, ["seed=-1"], "Expected `int` >= 0 - at `$.seed`"),
    "seed too large": (GOOD, ["seed=9223372036854775808"], "`int`"),
    "no clients": (GOOD.replace("clients = 4", ""), [], "`clients` is required unless the partition is natural"),
    "parquet without a path": (GOOD, ["data.source=parquet"], 'source = "parquet" requires `path` - at `$.data`'),
    "hub without a name": (GOOD, ["data.source=hub"], 'source = "hub" requires `name` - at `$.data`'),
    "snapshots every 0 rounds": (GOOD, ["run.snapshot-every=0"], "Expected `int` >= 1 - at `$.run.snapshot-every`"),
    "a negative budget": (GOOD, ["run.replay-budget=-1.0"], "Expected `float` >= 0.0 - at `$.run.replay-budget`"),
    "no snapshots kept": (GOOD, ["run.keep-snapshots=0"], "Expected `int` >= 1 - at `$.run.keep-snapshots`"),
    "a word for a number of snapshots": (GOOD, ["run.keep-snapshots=none"], "none"),
    "half a sync": (GOOD, ["run.sync=normal"], "Invalid enum value 'normal' - at `$.run.sync`"),
    "least of nothing": (GOOD, ["run.catch-up=time"], "Invalid enum value 'time' - at `$.run.catch-up`"),
    "unknown source": (GOOD, ["data.source=disk"], 'not "disk" - at `$.data`'),
    "half a python name": (GOOD, ["data.source='python:module'"], 'not "python:module" - at `$.data`'),
    "unknown task": (GOOD, ["model.task=regression"], 'not "regression" - at `$.model`'),
    "std of zero": (GOOD, ["data.std=[0.0]"], "`std` must be > 0 - at `$.data`"),
    "pool smaller than directions": (GOOD, ["phase.1.pool=2"], "`pool` is 2, smaller than `directions`, which is 3"),
    "a pool of the run without a number": (GOOD, ["phase.1.pool-seed=run"], '`pool-seed` is "run", so `pool` must be'),
    "local steps of the server's kind": (
        GOOD,
        ["phase.1.local-steps=2", "phase.1.step=rms"],
        '`local-steps` above 1 goes with step = "plain"',
    ),
    "a rate of steps that are not made": (GOOD, ["phase.1.local-lr=0.1"], "`local-lr` goes with `local-steps` above 1"),
    "no local steps": (GOOD, ["phase.1.local-steps=0"], "Expected `int` >= 1 - at `$.phase[1].local-steps`"),
    "exact in half": (GOOD, ["phase.1.difference=forward"], "Invalid enum value 'forward'"),
    "the high tier's way without it": (
        GOOD,
        ["phase.1.tier=low", "phase.1.high-difference=exact"],
        "`high-difference` is for high-resource clients",
    ),
    "steps without an interval": (GOOD, ["phase.0.schedule=step"], "`step-every` goes with schedule"),
    "an interval without steps": (GOOD, ["phase.0.step-every=3"], "`step-every` goes with schedule"),
    "batch norm over a micro-batch": (GOOD, ["model.batch-norm=batch"], 'set run.micro-batch = "all", not 64'),
    "no phase": (GOOD.split("[[phase]]")[0], [], "Object missing required field `phase`"),
    "override without a value": (GOOD, ["seed"], "expected KEY=VALUE"),
    "override beyond the list": (GOOD, ["phase.7.lr=1"], "`phase` has entries 0 to 1, not `7`"),
    "override inside a value": (GOOD, ["name.x=1"], "`name` is a value, not a table"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_recipe_is_refused_with_its_path(case):
    text, overrides, message = BAD[case]
    with pytest.raises(RecipeError) as caught:
        recipes.parse(text, overrides=overrides)
    assert message in str(caught.value)


def test_overrides_take_toml_values():
    recipe = recipes.parse(
        GOOD, overrides=["phase.1.eps=1e-3", "data.partition={kind='iid'}", "data.high-resource=[0, 3]", "name=other"]
    )
    assert recipe.phase[1].eps == 1e-3
    assert recipe.data.high_resource == (0, 3)
    assert recipe.name == "other"


def test_overrides_may_be_a_mapping():
    assert recipes.parse(GOOD, overrides={"phase.0.lr": 0.5}).phase[0].lr == 0.5


def test_a_star_stands_for_every_phase_that_has_the_key():
    head = GOOD + '[[phase]]\nkind = "head"\n'
    recipe = recipes.parse(head, overrides={"phase.*.lr": 0.5, "phase.*.eps": 0.01, "phase.*.cohort": 2})
    assert [phase.lr for phase in recipe.phase[:2]] == [0.5, 0.5]
    assert recipe.phase[1].eps == 0.01
    assert [phase.cohort for phase in recipe.phase] == [2, 2, 2]
    with pytest.raises(RecipeError, match=r"unknown field `nope` - at `\$\.phase\[0\]`"):
        recipes.parse(head, overrides={"phase.*.nope": 1})


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(RecipeError, match="did you mean digits"):
        recipes.load("digit")


def test_a_file_that_is_not_there():
    with pytest.raises(RecipeError, match=r"nope\.toml: cannot be read"):
        recipes.load("nope.toml")


def test_versions_are_read_and_ignored(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(GOOD + "\n[versions]\ntorch = '1'\n")
    assert recipes.load(path).versions == {"torch": "1"}


def test_schedules():
    constant = FirstOrder(rounds=4, lr=2.0)
    step = FirstOrder(rounds=4, lr=2.0, schedule="step", step_every=2, step_factor=0.5)
    cosine = ZerothOrder(rounds=4, lr=2.0, schedule="cosine", schedule_rounds=8)
    assert [constant.lr_at(t) for t in range(4)] == [2.0, 2.0, 2.0, 2.0]
    assert [step.lr_at(t) for t in range(4)] == [2.0, 2.0, 1.0, 1.0]
    assert cosine.lr_at(0) == 2.0
    assert cosine.lr_at(4) == pytest.approx(1.0)  # half-way to the horizon; cos(pi / 2) is not exactly 0
    assert cosine.lr_at(100) == 0.0


def test_local_steps_have_the_rate_of_the_round_or_their_own():
    same = ZerothOrder(rounds=4, lr=2.0, schedule="cosine", local_steps=2)
    own = ZerothOrder(rounds=4, lr=2.0, schedule="cosine", local_steps=2, local_lr=0.5)
    assert [same.local_lr_at(t) for t in range(4)] == [same.lr_at(t) for t in range(4)]
    assert [own.local_lr_at(t) for t in range(4)] == [own.lr_at(t) / 4 for t in range(4)]


def test_every_key_has_a_docstring():
    import ast
    import inspect

    import zowarmup.recipe

    tree = ast.parse(inspect.getsource(zowarmup.recipe))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            for here, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(here, ast.AnnAssign):
                    assert isinstance(after, ast.Expr), f"{node.name}.{ast.unparse(here.target)} says nothing"


def test_a_recipe_is_immutable():
    recipe: Recipe = recipes.parse(GOOD)
    with pytest.raises(AttributeError):
        recipe.seed = 1
