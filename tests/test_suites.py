"""Suites from TOML, their grids, and every way one can be wrong."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest

import zowarmup
from zowarmup import grid, packaged, recipes, suites
from zowarmup.data import load
from zowarmup.errors import RecipeError, SuiteError, UsageError
from zowarmup.recipe import ZerothOrder
from zowarmup.survey import survey

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TOP = 'name = "try"\nseeds = [0, 1]\n'
DIGITS = '[[method]]\nname = "zo"\nrecipe = "digits"\n'
TODAY = '[[method]]\nname = "today"\nrecipe = "digits-high-res-only"\n'
SPLITS = '[[split]]\nname = "10/90"\n[[split]]\nname = "30/70"\noverrides = { "data.high-resource" = 0.3 }\n'


def planned(text: str, **settings: object) -> grid.Grid:
    """The grid of a suite."""
    return grid.of_suite(suites.parse(text), folder=Path(), **settings)  # type: ignore[arg-type]


def test_a_grid_is_methods_by_splits() -> None:
    found = planned(TOP + DIGITS + TODAY + SPLITS)
    assert [cell.label for cell in found.cells] == ["zo 10/90", "zo 30/70", "today 10/90", "today 30/70"]
    assert [str(cell.folder) for cell in found.cells[:2]] == ["zo/10-90", "zo/30-70"]
    assert [cell.recipe.data.high_resource for cell in found.cells[:2]] == [0.2, 0.3]
    assert (found.seeds, found.baseline, found.name) == ((0, 1), "zo", "try")
    assert [str(cell.folder) for cell in planned(TOP + DIGITS).cells] == ["zo"]  # no splits, no folder for them


def test_the_later_override_wins() -> None:
    """The suite's, the split's, the method's, the caller's."""
    text = TOP + '[overrides]\n"phase.1.lr" = 0.1\n"phase.1.eps" = 0.1\n"phase.1.tau" = 0.1\n"phase.1.directions" = 5\n'
    text += (
        '[[split]]\nname = "a"\noverrides = { "phase.1.eps" = 0.2, "phase.1.tau" = 0.2, "phase.1.directions" = 6 }\n'
    )
    text += DIGITS + 'overrides = { "phase.1.tau" = 0.3, "phase.1.directions" = 7 }\n'
    (cell,) = planned(text, overrides=["phase.1.directions=8"]).cells
    phase = cell.recipe.phase[1]
    assert isinstance(phase, ZerothOrder)
    assert (phase.lr, phase.eps, phase.tau, phase.directions) == (0.1, 0.2, 0.3, 8)


def test_a_method_may_run_at_some_splits() -> None:
    found = planned(TOP + SPLITS + DIGITS + TODAY + 'splits = ["30/70"]\n')
    assert [cell.label for cell in found.cells] == ["zo 10/90", "zo 30/70", "today 30/70"]


def test_a_recipe_may_be_named_by_split_or_lie_beside_the_suite(tmp_path: Path) -> None:
    method = '[[method]]\nname = "zo"\nrecipe = "paper/cifar10-resnet18-{split}"\n'
    assert planned(TOP + SPLITS + method).cells[1].recipe.data.high_resource == 0.3
    (tmp_path / "mine.toml").write_text(recipes.shipped_text("digits"))
    (tmp_path / "suite.toml").write_text(TOP + '[[method]]\nname = "zo"\nrecipe = "mine.toml"\n')
    found = survey(tmp_path / "suite.toml", out=tmp_path / "x")
    assert found.grid.cells[0].recipe.phase == recipes.load("digits").phase


def test_values_are_combined_and_folders_tell_them_apart() -> None:
    text = TOP + '[overrides]\n"data.validation" = 0.1\n' + DIGITS
    text += '[tune.values]\n"phase.1.lr" = [0.1, 0.2]\n"data.partition" = [{ kind = "iid" }, { kind = "shards" }]\n'
    (cell,) = planned(text).cells
    assert [values["phase.1.lr"] for values in cell.values] == [0.1, 0.1, 0.2, 0.2]
    names = [grid.trial_folder(values) for values in cell.values]
    assert len(set(names)) == 4
    assert all("/" not in name and len(name) < 120 for name in names)


def test_a_method_is_tuned_by_its_own_keys_or_by_those_it_has() -> None:
    text = TOP + '[overrides]\n"data.validation" = 0.1\n' + DIGITS + 'tune = { "phase.1.eps" = [1e-3, 1e-4] }\n'
    text += TODAY + '[[method]]\nname = "scratch"\nrecipe = "digits-zo-scratch"\n'
    text += '[tune.values]\n"phase.1.lr" = [0.1, 0.2, 0.3]\n'
    zo, today, scratch = planned(text).cells
    assert [list(cell.values[0]) if cell.values else [] for cell in (zo, today, scratch)] == [
        ["phase.1.eps"],
        ["phase.1.lr"],
        [],
    ]


def test_what_the_caller_tunes_stands_in_the_place_of_all_that_a_suite_would() -> None:
    text = TOP + '[overrides]\n"data.validation" = 0.1\n' + DIGITS + 'tune = { "phase.1.eps" = [1e-3, 1e-4] }\n' + TODAY
    text += '[tune.values]\n"phase.0.batch" = [8, 16]\n'
    found = survey(suites.parse(text), out=Path("x"), tune={"phase.1.lr": [0.1, 0.2]}).grid
    assert [list(cell.values) for cell in found.cells] == [[{"phase.1.lr": 0.1}, {"phase.1.lr": 0.2}]] * 2


def test_what_a_net_takes_can_be_tuned() -> None:
    text = TOP + VALID + DIGITS + 'tune = { "model.args.norm" = ["none", "batch"] }\n'
    (cell,) = planned(text).cells
    assert cell.values == ({"model.args.norm": "none"}, {"model.args.norm": "batch"})


@pytest.mark.parametrize("key", ["seed", "name", "method"])
def test_what_a_comparison_sets_itself_is_refused_from_the_caller(key: str) -> None:
    with pytest.raises(UsageError, match=f"{key} = 5: a comparison sets {key} itself"):
        planned(TOP + DIGITS, overrides={key: 5})


@pytest.mark.parametrize("name", suites.shipped())
def test_every_shipped_suite_expands(name: str, tmp_path: Path) -> None:
    found = survey(name, out=tmp_path / "x")
    assert found.grid.name == name
    assert found.finished == 0
    assert len(found.runs) == len(found.grid.cells) * len(found.grid.seeds)
    assert {cell.method for cell in found.grid.cells} >= {found.grid.baseline}
    assert packaged.text("suites", name).startswith("# ")
    assert name not in recipes.shipped()


def test_the_papers_pivots_have_500_rounds_each() -> None:
    found = grid.of_suite(suites.load("paper/pivot"), folder=Path())
    assert {cell.recipe.rounds for cell in found.cells} == {500}
    assert len({cell.recipe.phase for cell in found.cells}) == 12


# Methods that are more than a shipped recipe at another split or with another number.
OTHERS = {
    "paper/table2": ["zowarmup-fedkseed"],
    "paper/vit": ["zowarmup"],
    "paper/fedadam": ["zowarmup"],
    "paper/hi-lo": ["hi-lo"],
    "paper/local-steps": ["steps-2"],
    "paper/heads": ["head", "head-high", "prior", "statistics", "head-zo"],
    "paper/exact-slopes": ["exact-3", "exact-high", "exact-1000"],
    "paper/imagenet32": ["high-res-only", "heterofl", "zowarmup"],
}
EVERY = [
    pytest.param(name, method.name, marks=[] if method.name in OTHERS.get(name, ()) else pytest.mark.slow)
    for name in suites.shipped()
    if name.startswith("paper/")
    for method in suites.load(name).method
]


@pytest.mark.parametrize(("name", "method"), EVERY)
def test_the_papers_methods_run_a_round_of_each_phase(name: str, method: str, images: zowarmup.Dataset) -> None:
    """At their last split, with two clients a round, and nets of an eighth of the width or less."""
    *_, cell = [cell for cell in grid.of_suite(suites.load(name), folder=Path()).cells if cell.method == method]
    values: dict[str, object] = {"model.args.width": 8}
    if cell.recipe.model.net == "vit":
        values = {"model.args": {"width": 16, "depth": 1, "heads": 2}}
    elif cell.recipe.model.args["norm"] == "group":
        values["model.args.groups"] = 4
    for index, phase in enumerate(cell.recipe.phase):
        values[f"phase.{index}.cohort"] = 2
        if phase.kind != "head":
            values[f"phase.{index}.rounds"] = 1
        if getattr(phase, "local_steps", 1) > 6:
            values[f"phase.{index}.local-steps"] = 6
    if name == "paper/imagenet32":
        labels = np.random.default_rng(0).permutation(1000)
        images = zowarmup.from_arrays((images.train.x, labels[:150]), (images.test.x, labels[-100:]), classes=1000)
    trained = zowarmup.run(cell.filled(0, values), data=images)
    assert trained.summary["status"] == "finished"
    assert trained.summary["refused"] == 0
    assert np.isfinite(trained.metrics[-1]["loss"])
    assert trained.metrics[-1]["loss"] != trained.metrics[0]["loss"]


@pytest.fixture(scope="module")
def images(cifar10: Path) -> zowarmup.Dataset:
    """150 images to train on, three a client, and 100 to test on: decoding takes longer than the rounds."""
    values = {"data.take": 150, "data.path": str(cifar10)}
    dataset = load(recipes.load("paper/cifar10-resnet18-10-90", overrides=values).data, seed=0)
    return zowarmup.Dataset(
        train=dataset.train,
        test=dataset.test.rows(np.arange(100)),
        classes=dataset.classes,
        class_names=dataset.class_names,
    )


def test_imagenet32_is_read_from_files_by_the_types_of_their_columns(tmp_path: Path) -> None:
    """Two images and the last label say how many classes there are; a folder with `train` and `val` will do."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    encoded = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 0, 0)).save(encoded, format="PNG")
    for kind in ("train", "val"):
        rows = {"image": [{"bytes": encoded.getvalue(), "path": None}] * 2, "label": [0, 999]}
        pq.write_table(pa.table(rows), tmp_path / f"{kind}-00000-of-00001.parquet")
    found = grid.of_suite(suites.load("paper/imagenet32"), folder=Path(), overrides={"data.path": str(tmp_path)})
    assert {cell.recipe.data.path for cell in found.cells} == {str(tmp_path)}
    dataset = load(found.cells[0].recipe.data, seed=0)
    assert (dataset.classes, dataset.train.x.shape, len(dataset.test.y)) == (1000, (2, 3, 32, 32), 2)


def test_tiers_of_the_papers_suites_are_those_of_their_splits() -> None:
    """And no cohort is larger than its tier, wherever the two come from."""
    for name in suites.shipped():
        for cell in grid.of_suite(suites.load(name), folder=Path()).cells if name.startswith("paper/") else ():
            share = int((cell.split or "10/90").split("/")[0]) / 100
            assert cell.recipe.data.high_resource == share
            for phase in cell.recipe.phase:
                members = round(50 * share) if phase.tier == "high" else 50
                assert phase.cohort == "all" or phase.cohort <= members
                assert phase.tier != "high" or members <= 10 or phase.cohort != "all" or phase.kind == "head"


def test_what_a_gpu_runs_is_table_2_and_its_trial_is_the_same_at_a_small_scale(tmp_path: Path) -> None:
    """One warm-up serves the three methods, and no zeroth-order phase has a precision but fp32."""
    full, trial = (
        survey(BENCHMARKS / f"{name}.toml", out=tmp_path / name) for name in ("gpu_table2", "gpu_table2_trial")
    )
    shipped = [f"paper/cifar10-resnet18-10-90{method}" for method in ("-high-res-only", "", "-zowarmup-head")]
    for run, small, name in zip(full.runs, trial.runs, shipped, strict=True):
        assert run.cell.method == small.cell.method == recipes.load(name).method
        assert [phase.rounds for phase in run.job.recipe.phase] == [phase.rounds for phase in recipes.load(name).phase]
        assert {phase.rounds for phase in small.job.recipe.phase} == {2}
        assert run.job.recipe.data.path == small.job.recipe.data.path == "data/cifar10"
        for phase, other in zip(run.job.recipe.phase, small.job.recipe.phase, strict=True):
            assert phase.kind == other.kind
            assert getattr(phase, "precision", None) == ("tf32" if phase.kind == "first-order" else None)
    assert [run.job.shares for run in full.runs] == [0, 200, 200]
    assert [run.job.shares for run in trial.runs] == [0, 2, 2]


def test_the_gpus_script_refuses_what_it_does_not_know() -> None:
    script = BENCHMARKS / "gpu_table2.sh"
    ended = subprocess.run(["sh", script, "trail"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "gpu_table2.sh: trail: expected nothing or trial\n"


@pytest.mark.parametrize("method", ["high-res-only", "zowarmup-head"])
def test_a_shipped_suite_runs_a_round_of_each_phase(method: str, cifar10: Path) -> None:
    """On 100 test images, as an evaluation on all of them takes longer than the rounds."""
    values = {"data.path": str(cifar10), "data.take": 500}
    cells = grid.of_suite(suites.load("small/main"), folder=Path(), overrides=values).cells
    (cell,) = [cell for cell in cells if cell.label == f"{method} 30/70"]
    short = {f"phase.{index}.rounds": 1 for index, phase in enumerate(cell.recipe.phase) if phase.kind != "head"}
    short |= {f"phase.{index}.directions": 2 for index, phase in enumerate(cell.recipe.phase) if "zeroth" in phase.kind}
    recipe = cell.filled(0, short)
    dataset = load(recipe.data, seed=0)
    few = zowarmup.Dataset(
        train=dataset.train,
        test=dataset.test.rows(np.arange(100)),
        classes=dataset.classes,
        class_names=dataset.class_names,
    )
    trained = zowarmup.run(recipe, data=few)
    assert trained.summary["federation"]["tiers"].count("high") == 15
    assert trained.summary["status"] == "finished"


MISTAKES = [
    ("name = ", "suite: not TOML"),
    ('name = "x"\nphase = []', "suite: is a recipe, expected a suite"),
    (TOP, "suite: Object missing required field `method`"),
    (TOP + "method = []", r"Expected `array` of length >= 1 - at `\$\.method`"),
    (TOP.replace("[0, 1]", "[]") + DIGITS, r"Expected `array` of length >= 1 - at `\$\.seeds`"),
    (TOP.replace("[0, 1]", "[0, 0]") + DIGITS, "seed 0 is given twice"),
    (TOP.replace("[0, 1]", "[-1]") + DIGITS, r"Expected `int` >= 0 - at `\$\.seeds\[0\]`"),
    (TOP + DIGITS + DIGITS, "method zo is given twice"),
    (TOP + DIGITS + '[[split]]\nname = "a"\n' * 2, "split a is given twice"),
    (TOP + DIGITS + "lr = 1", r"Object contains unknown field `lr` - at `\$\.method\[0\]`"),
    (TOP + "sedes = [1]\n" + DIGITS, "Object contains unknown field `sedes`"),
    (TOP + 'baseline = "today"\n' + DIGITS, "`baseline` is today, which is no method: zo"),
    (TOP + DIGITS + 'splits = ["a"]', "`splits` of zo is a, which is no split: there is no split"),
    (TOP + DIGITS + '[tune]\nsplit = "a"', "`tune.split` is a, which is no split"),
    (TOP + DIGITS + "[tune]\nseeds = [1, 1]", "seed 1 is given twice"),
    (TOP + DIGITS.replace('"zo"', '"zo\\n"'), r"Expected `str` matching regex .* at `\$\.method\[0\]\.name`"),
    (TOP + DIGITS + '[tune.values]\n"phase.1.lr" = []', r"Expected `array` of length >= 1 - at `\$\.tune\.values"),
    (TOP + DIGITS + '[[split]]\nname = "../up"', r"Expected `str` matching regex .* at `\$\.split\[0\]\.name`"),
    (TOP + DIGITS + "[overrides]\nrun.threads = 2", '`run` is a table: write its keys as "run.threads", in quotes'),
    (TOP + DIGITS + 'overrides = { "seed" = 2 }', "overrides of method zo: `seed` is set by the suite itself"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_suite_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        suites.parse(text)


VALID = '[overrides]\n"data.validation" = 0.1\n'
CLASHES = [
    (DIGITS + '[[split]]\nname = "a/b"\n[[split]]\nname = "a-b"\n', r"zo a/b and zo a-b: both would run in .* zo/a-b"),
    (DIGITS + DIGITS.replace('"zo"', '"ZO"'), "zo and ZO: both would run in the folder ZO"),
    (DIGITS.replace('"zo"', '"tune"'), "tune: a comparison uses the folder tune itself"),
    (DIGITS.replace('"zo"', '"Tune"'), "Tune: a comparison uses the folder Tune itself"),
    (DIGITS.replace('"zo"', '"compare.csv"'), r"a comparison uses the folder compare\.csv itself"),
    (DIGITS.replace('"zo"', '"runs.csv"'), r"a comparison uses the folder runs\.csv itself"),
    (DIGITS.replace('"zo"', '"a/seed-1"'), "a comparison uses the folder a/seed-1 itself"),
    (DIGITS.replace("digits", "digts"), "try, zo: digts: neither a file nor a shipped recipe"),
    (DIGITS.replace('"digits"', '"no.toml"'), r"try, zo: no\.toml: cannot be read"),
    (DIGITS.replace('"digits"', '"small/main"'), "try, zo: small/main: is a suite, expected a recipe"),
    (DIGITS + 'overrides = { "phase.1.lrr" = 1 }', "try, zo: digits: Object contains unknown field `lrr`"),
    (DIGITS + 'overrides = { "phase.7.lr" = 1 }', "`phase` has entries 0 to 1, not `7`"),
    (VALID + DIGITS + '[tune.values]\n"phase.1.lrr" = [1]', r"tune: phase\.1\.lrr is a key of no method: zo"),
    (VALID + DIGITS + 'tune = { "phase.2.lr" = [1] }', r"zo: tune: its recipe has no key phase\.2\.lr"),
    (VALID + DIGITS + 'tune = { "phase.1.lr" = [1, 1] }', r"zo: tune: phase\.1\.lr = 1 is given twice"),
    (VALID + DIGITS + 'tune = { "phase.1.lr" = ["x"] }', "zo: Expected `float`, got `str`"),
    (DIGITS + 'tune = { "phase.1.lr" = [1] }', "zo: tuning needs validation shares"),
    (VALID + DIGITS + 'tune = { "seed" = [1, 2] }', "zo: tune: seed cannot be chosen by accuracy on validation shares"),
    (VALID + DIGITS + '[tune.values]\n"data.validation" = [0.1]', r"zo: tune: data\.validation cannot be chosen"),
    (
        VALID + DIGITS + 'tune = {}\n[tune.values]\n"phase.1.lr" = [1]',
        r"tune: phase\.1\.lr is tried by nobody: every method that has it has a `tune` of its own",
    ),
    (
        VALID + SPLITS + DIGITS + 'splits = ["10/90"]\ntune = { "phase.1.lr" = [1] }\n[tune]\nsplit = "30/70"',
        "zo: tune.split is 30/70, where this method does not run",
    ),
    (SPLITS + TODAY + "once = true", "try, today: `once`, but phase 0 is not first-order with everybody"),
    (
        SPLITS.replace("data.high-resource", "data.take").replace("0.3", "50")
        + '[[method]]\nname = "o"\nrecipe = "digits-fedavg"\nonce = true',
        "`once`, but 10/90 and 30/70 differ in more than data.high-resource",
    ),
]


@pytest.mark.parametrize(("text", "message"), CLASHES)
def test_a_grid_that_cannot_be_run_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(TOP + text)


def test_a_suite_is_no_recipe_and_a_recipe_no_suite(tmp_path: Path) -> None:
    (tmp_path / "suite.toml").write_text(TOP + DIGITS)
    (tmp_path / "recipe.toml").write_text(recipes.shipped_text("digits"))
    for name in ("paper/table2", tmp_path / "suite.toml"):
        with pytest.raises(RecipeError, match="is a suite, expected a recipe\nhint: `zowarmup compare` runs a suite"):
            recipes.load(name)
        assert suites.is_suite(name)
    for name in ("digits", tmp_path / "recipe.toml"):
        with pytest.raises(SuiteError, match="is a recipe, expected a suite"):
            suites.load(name)
        assert not suites.is_suite(name)
    with pytest.raises(SuiteError, match=r"paper/tabel2: neither .* suite\nhint: did you mean paper/table2"):
        suites.load("paper/tabel2")
    with pytest.raises(SuiteError, match=r"nowhere\.toml: cannot be read"):
        suites.load("nowhere.toml")
    assert not suites.is_suite("nowhere.toml")
