"""The report of one run: whole, self-contained, deterministic, and true to the numbers of the run."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from zowarmup import report
from zowarmup.errors import DiskError, OutputError
from zowarmup.report import canvas, classes, curves, measures, single

WARM, ZEROTH = ("first-order", "high", 50), ("zeroth-order", "all", 150)
VARIANTS = {
    "plain": {},
    "no zeroth-order phase": {"phases": (WARM, ("first-order", "high", 50))},
    "zeroth-order only": {"phases": (ZEROTH,)},
    "one evaluated round": {"phases": (ZEROTH,), "stop": 0, "status": "failed"},
    "two evaluated rounds": {"every": 10_000, "phases": (("zeroth-order", "all", 20),)},
    "no classification": {"classes": None},
    "everybody high-resource": {"phases": (("first-order", "all", 20),), "high": 20},
    "nobody high-resource": {"phases": (("zeroth-order", "all", 20),), "high": 0},
    "one client": {"clients": 1, "high": 1, "phases": (("first-order", "all", 5),)},
    "interrupted in the warm-up": {"stop": 33, "status": "interrupted"},
    "no finite loss": {"nan_from": 0},
    "unknown kinds": {"phases": (WARM, ("head", "all", 2), ("first-order", "high", 20), ("new", "all", 9))},
    "classes with awkward names": {
        "names": ["$x$", "<b>", "&amp;", '"', "鳥", "a_long_class_name", "", "_^", "\\", "%"]
    },
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_every_kind_of_run_gives_a_whole_page(make, settings, check):
    run = make(**settings)
    out = report.write(run)
    assert out == run / "report.html"
    page = check(out.read_text(encoding="utf-8"))
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") >= 4


def test_many_clients_and_classes_stay_small_and_readable(make, check):
    run = report.load_run(make(clients=1000, high=100, classes=100, phases=(WARM, ("zeroth-order", "all", 20))))
    text = single.render(run)
    check(text)
    assert "A column is the mean of about 12 clients" in text
    assert classes.clients_per_column(run) == 12.5


def test_long_runs_are_thinned(make, check):
    text = single.render(report.load_run(make(every=1, phases=(WARM, ("zeroth-order", "all", 3000)))))
    check(text)


def test_same_run_same_bytes(make):
    run = make()
    assert report.write(run).read_bytes() == report.write(run, run / "again.html").read_bytes()


def test_the_users_matplotlib_settings_neither_matter_nor_change(make):
    run = report.load_run(make())
    plain = single.render(run)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "svg.fonttype": "path"}):
        assert single.render(run) == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_numbers_of_the_headline(make):
    run = report.load_run(make())
    final, pivot = run.summary["final"], run.metrics[50]
    end, start = (f"{100 * scores['accuracy']:.1f}\xa0%" for scores in (final, pivot))
    held, was = (f"{100 * scores['low_held_accuracy']:.1f}\xa0%" for scores in (final, pivot))
    assert single.headline(run) == (
        f"Accuracy {end} after 200\xa0rounds, from {start} at the pivot. "
        f"On the classes that high-resource clients hold little of: {held}, from {was}."
    )
    text = single.render(run)
    assert "<b>12\xa0B</b>" in text  # three float32 scalars a client and round
    assert "FedAvg sends 9.64\xa0kB, <strong>803\xa0×</strong> as much" in text


def test_bytes_are_means_over_the_clients_of_a_tier(make):
    ways = {way.label: way for way in measures.ways(report.load_run(make()))}
    assert ways["low, up"].sent == 150 * 12
    assert ways["low, down"].sent == 150 * 12 + 4 * 2410
    assert ways["low, up"].fedavg == 150 * 4 * 2410
    assert ways["high, up"].sent == 50 * 4 * 2410 + 150 * 12


def test_zero_uplink_is_said_in_words(make):
    run = report.load_run(make(phases=(WARM, ("first-order", "high", 50))))
    assert curves.accuracy_by_uplink(run) is None
    text = single.render(run)
    assert "<b>0\xa0B</b>" in text
    assert "Low-resource clients sent nothing in this run." in text


def test_notices(make):
    run = report.load_run(make(stop=120, status="interrupted", refused=2, nan_from=100))
    assert list(single.notices(run)) == [
        "Interrupted after round 120 of 200: the numbers are those of that point.",
        "2\xa0reports of clients were refused by the server and left out of the average: no reason noted.",
        "The test loss is not a finite number in 3 of 13 evaluations, first in round 100.",
    ]
    assert list(single.notices(report.load_run(make("fine")))) == []


def test_failed_run_says_so(make):
    run = report.load_run(make(stop=3, status="failed"))
    assert next(single.notices(run)) == "The run failed after round 3 of 200: read the numbers with care."


def test_everything_from_files_is_escaped(make, check):
    attack = '<script>alert("x")</script>'
    run = make(names=[attack] * 10, method=attack, versions={attack: attack})
    summary = json.loads((run / "summary.json").read_text())
    for key in ("recipe", "net", "device", "state_digest"):
        summary[key] = attack
    for phase in summary["phases"]:
        phase["kind"] = attack
    (run / "summary.json").write_text(json.dumps(summary))
    recipe = (run / "run.toml").read_text()
    (run / "run.toml").write_text(recipe.replace('schedule = "cosine"', f"schedule = '{attack}'") + f"# {attack}\n")
    text = report.write(run).read_text()
    check(text)
    assert "<script" not in text


def test_the_recipe_is_in_the_page(make):
    text = report.write(make()).read_text()
    assert "pool = &quot;shared&quot;" in text


def test_missing_output_folder(make, tmp_path):
    with pytest.raises(DiskError, match=r"gone/x\.html: cannot be written: No such file or directory"):
        report.write(make(), tmp_path / "gone" / "x.html")


def test_output_that_is_a_folder(make, tmp_path):
    with pytest.raises(OutputError, match="expected a file to write the report to, got a folder"):
        report.write(make(), tmp_path)


def test_a_failed_write_leaves_the_old_report_and_nothing_else(make, tmp_path, monkeypatch):
    run, out = make(), tmp_path / "out.html"
    out.write_text("old")
    before = set(tmp_path.iterdir())

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(DiskError, match=r"out\.html: cannot be written: No space left on device"):
        report.write(run, out)
    assert out.read_text() == "old"
    assert set(tmp_path.iterdir()) == before


def test_import_is_light_and_pyplot_is_never_loaded(make):
    code = (
        "import sys; from zowarmup import report; assert 'matplotlib' not in sys.modules, 'heavy import';"
        f"report.write({str(make())!r}); assert 'matplotlib.pyplot' not in sys.modules, 'pyplot'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_columns_average_neighbours_and_lose_nobody():
    shares = np.random.default_rng(0).dirichlet([0.3] * 5, size=97)
    found = classes.columns(shares, 10)
    assert found.shape == (10, 5)
    weights = [len(part) for part in np.array_split(np.arange(97), 10)]
    # The mean over columns, weighted, is the mean over clients; float64 sums in another order.
    np.testing.assert_allclose(np.average(found, axis=0, weights=weights), shares.mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_labels_never_overlap_nor_leave_the_axis(count):
    wanted = np.random.default_rng(count).uniform(0, 1, count).tolist()
    placed = sorted(canvas.spread(wanted, 0.1, 0.0, 1.0))
    assert placed[0] >= -1e-9 and placed[-1] <= 1 + 1e-9
    gap = min(0.1, 1 / max(1, count - 1))
    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(placed))  # placed to 1e-9


def test_colours_of_text_have_enough_contrast():
    def luminance(colour):
        channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for colour in (*canvas.SERIES, *canvas.KIND.values(), *canvas.TIER.values(), canvas.OTHER):
        assert 1.05 / (luminance(canvas.dark(colour)) + 0.05) >= 4.5, colour  # WCAG 2.1, 1.4.3
