"""Which tier a device is of."""

from __future__ import annotations

from pathlib import Path

import pytest

from zowarmup.engines import sizing
from zowarmup.engines.sizing import limit_of, sized
from zowarmup.errors import ModelError, UsageError

from .fleet import own, short

MB = 10**6


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("400MB", 400 * MB),
        (" 400 mb ", 400 * MB),
        ("1.5GiB", 3 * 2**29),
        (".5 GB", 500 * MB),
        ("64KiB", 65536),
        ("7B", 7),
    ],
)
def test_a_size_in_words(text, size):
    assert limit_of(text) == size


@pytest.mark.parametrize(
    "text", ["", "MB", "0", "0.0GB", "-1MB", "1e3MB", "400M", "4 0MB", "1.GB", "0.1B", "nan", "400MBs"]
)
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match=r"expected a size such as 400MB or 1\.5GiB"):
        limit_of(text)


def test_a_device_has_some_memory():
    assert sizing.available() > 10 * MB


@pytest.fixture
def peaks(monkeypatch):
    """Inference takes 100 MB here and backprop 300."""
    monkeypatch.setattr(sizing, "_peak", lambda tier, recipe, own: {"low": 100 * MB, "high": 300 * MB}[tier])


@pytest.mark.parametrize(
    ("limit", "tier"), [(100 * MB, "low"), (300 * MB - 1, "low"), (300 * MB, "high"), (10**12, "high")]
)
def test_the_tier_is_that_of_what_fits(limit, tier, peaks):
    found = sized(short(), limit)
    assert found.tier == tier
    assert found.why == f"backprop takes 300 MB, inference 100 MB, the limit is {limit / MB:,.0f} MB"


def test_where_not_even_inference_fits_there_is_no_part_to_take(peaks):
    with pytest.raises(UsageError) as caught:
        sized(short(), 100 * MB - 1)
    assert caught.value.message == (
        "inference at the recipe's batch takes 100 MB, the limit is 100 MB: this device can take no part"
    )
    assert "--memory-limit" in caught.value.hint


def test_without_a_limit_it_is_what_the_device_has(peaks, monkeypatch):
    monkeypatch.setattr(sizing, "available", lambda: 200 * MB)
    found = sized(short(), None)
    assert (found.tier, found.why[-22:]) == ("low", "this device has 200 MB")


def test_a_device_that_runs_inference_and_no_backprop_is_a_low_one(monkeypatch):
    def peak(tier: str, recipe: object, own: object) -> int:
        if tier == "high":
            raise ModelError("one step of the high tier fails here: no kernel")
        return 50 * MB

    monkeypatch.setattr(sizing, "_peak", peak)
    found = sized(short(), 10**12)
    assert found.tier == "low"
    assert found.why == (
        "backprop does not run: one step of the high tier fails here: no kernel; inference takes 50 MB"
    )


BATCHES = {
    "digits": (short(), 16, 16),
    "mixed": (short("digits-hi-lo"), 16, 16),
    "all samples": (short("digits-exact-slopes"), 16, 75),
    "sub-network": (short("digits-heterofl"), 16, 64),
    "more than a client has": (short(phase__1__batch=500), 16, 75),
}


@pytest.mark.parametrize(("recipe", "high", "low"), BATCHES.values(), ids=BATCHES)
def test_the_largest_batch_of_a_tier_is_tried(recipe, high, low):
    assert (sizing._batch("high", recipe, 300), sizing._batch("low", recipe, 300)) == (high, low)


def test_measured_in_processes_of_their_own(tmp_path: Path):
    found = sized(short(), 10**12)
    assert found.tier == "high"
    high, low = (int(found.why.split(name)[1].split(" MB")[0]) for name in ("backprop takes ", "inference "))
    assert 50 < low < 2000 and 50 < high < 2000
    recipe = short(data__partition={"kind": "own"}, data__clients=2)
    with pytest.raises(UsageError, match="the limit is 1 MB: this device can take no part"):
        sized(recipe, MB, own(tmp_path, 1)[0])


def test_what_does_not_run_is_told_in_its_last_line():
    with pytest.raises(ModelError, match=r"^one step of the low tier fails here: .*nowhere"):
        sized(short(model__net="python:nowhere:net"), 10**12)
