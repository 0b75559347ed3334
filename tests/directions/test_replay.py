"""Replay of many steps: a known answer, then equal, bit for bit, to one update after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zowarmup.directions import GROUP, Directions, Segment, Step, segments
from zowarmup.directions.cpu import NumbaDirections
from zowarmup.directions.philox import NumpyDirections
from zowarmup.directions.torch_ops import TorchDirections

from .cases import same, step, weights

SPEC = Path(__file__).parents[2] / "docs" / "spec"
VECTOR: dict[str, Any] = json.loads((SPEC / "directions-vectors.json").read_text())["replay"]
REFERENCE = NumpyDirections()
BACKENDS: list[Directions] = [
    REFERENCE,
    TorchDirections("cpu"),
    NumbaDirections(),
    NumbaDirections(threads=2),
    NumbaDirections(threads=4),
]
LARGE = 50 * GROUP + 77  # more chunks than threads


def label(value: Any) -> str:
    return f"{value.name}-{getattr(value, 'threads', 1)}" if hasattr(value, "replay") else str(value)


every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=label)


def replayed(backend: Directions, w: Tensor, *, segments: Sequence[Segment], steps: Sequence[Step]) -> Tensor:
    out = torch.full_like(w, float("nan"))
    backend.replay(w, out, segments=segments, steps=steps)
    return out


def updated(w: Tensor, *, segments: Sequence[Segment], steps: Sequence[Step]) -> Tensor:
    """The reference's updates, one after the other."""
    w = w.clone()
    for one in steps:
        REFERENCE.update(w, w, segments=segments, **one._asdict())
    return w


def check(backend: Directions, w: Tensor, **arguments: Any) -> None:
    """Out of place and in place, ``backend`` replays what the reference's updates write."""
    before, expected = w.clone(), updated(w, **arguments)
    assert same(replayed(backend, w, **arguments), expected)
    assert same(w, before)
    backend.replay(w, w, **arguments)
    assert same(w, expected)


@every_backend
def test_golden_replay(backend: Directions) -> None:
    steps = [
        Step(
            seeds=np.array([int(seed, 16) for seed in one["seeds"]], np.uint64),
            streams=np.array(one["streams"], np.uint32),
            coefficients=np.array(one["coefficients"], np.int32),
            exponent=one["exponent"],
        )
        for one in VECTOR["steps"]
    ]
    w = torch.from_numpy(np.arange(10_000, dtype=np.float32) / np.float32(1e4))
    out = replayed(backend, w, segments=segments(VECTOR["sizes"]), steps=steps)
    assert hashlib.sha256(out.numpy().tobytes()).hexdigest() == VECTOR["sha256"]


index = st.one_of(st.integers(0, 20_000), st.integers(0, 2**62), st.integers(2**39 - 5000, 2**39 + 5000))
size = st.one_of(st.sampled_from([1, 2, 127, 128, 129, 4095, 4096, 4097, 8192, 9_345]), st.integers(0, 300))


@every_backend
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data(), counts=st.lists(st.integers(0, 7), max_size=5))
def test_replay_equals_one_update_after_the_other(backend: Directions, data: st.DataObject, counts: list[int]) -> None:
    pieces, offset = [], data.draw(st.integers(0, 3))
    for piece in data.draw(st.lists(size, max_size=4)):
        pieces.append(Segment(offset, piece, data.draw(index)))
        offset += piece + data.draw(st.integers(0, 2))  # elements between segments keep their bits
    steps = [step(count, data.draw(st.integers(-60, 100)), at) for at, count in enumerate(counts)]
    check(backend, weights(offset + 2), segments=pieces, steps=steps)


@every_backend
def test_work_shared_by_threads(backend: Directions) -> None:
    where = [Segment(5, LARGE, 2**40 + 4001), Segment(LARGE + 9, 300, 64)]
    steps = [step(count, 40 + count, count) for count in (5, 0, 1, 3)]
    check(backend, weights(LARGE + 400), segments=where, steps=steps)


@every_backend
def test_many_short_steps(backend: Directions) -> None:
    where = segments([10, 4_097, 700])
    check(backend, weights(4_807), segments=where, steps=[step(at % 4, 30 + at, at) for at in range(40)])


@every_backend
@pytest.mark.parametrize("steps", [[], [step(0)], [step(0), step(0, exponent=-66)]], ids=["none", "empty", "two empty"])
def test_nothing_to_replay_copies(backend: Directions, steps: list[Step]) -> None:
    w = weights(5_000)
    out = replayed(backend, w, segments=segments([4_000, 900]), steps=steps)
    assert same(out, w)
    assert out.data_ptr() != w.data_ptr()
    backend.replay(w, w, segments=segments([4_000, 900]), steps=steps)
    assert same(w, out)


@every_backend
def test_an_empty_step_keeps_negative_zeros_where_a_sum_of_zero_does_not(backend: Directions) -> None:
    w, zero = torch.full((200,), -0.0), step(2)._replace(coefficients=np.zeros(2, np.int32))
    assert same(replayed(backend, w, segments=segments([200]), steps=[step(0)]), w)
    assert same(replayed(backend, w, segments=segments([200]), steps=[step(0), zero]), torch.zeros(200))


@every_backend
def test_without_segments_or_weights(backend: Directions) -> None:
    w = weights(300)
    assert same(replayed(backend, w, segments=[], steps=[step(3)]), w)
    assert replayed(backend, torch.zeros(0), segments=segments([0]), steps=[step(3)]).shape == (0,)


@every_backend
def test_a_shard_replays_like_the_whole(backend: Directions) -> None:
    w, steps = weights(9_000), [step(3, 40, at) for at in range(3)]
    whole = replayed(backend, w, segments=[Segment(0, 9_000, 4096)], steps=steps)
    for start, stop in ((0, 130), (4_000, 4_200), (4_095, 9_000)):
        shard = w[start:stop].clone()
        out = replayed(backend, shard, segments=[Segment(0, stop - start, 4096 + start)], steps=steps)
        assert same(out, whole[start:stop])


@every_backend
def test_a_replay_in_parts_is_a_replay(backend: Directions) -> None:
    w, where, steps = weights(6_000), segments([6_000]), [step(4, 35 + at, at) for at in range(5)]
    there = replayed(backend, w, segments=where, steps=steps[:2])
    assert same(
        replayed(backend, there, segments=where, steps=steps[2:]),
        replayed(backend, w, segments=where, steps=steps),
    )


@every_backend
def test_parameters_read_only_arrays_and_views(backend: Directions) -> None:
    one = step(6)
    for array in one[:3]:
        array.flags.writeable = False
    every_second = Step(one.seeds[::2], one.streams[::2], one.coefficients[::2], one.exponent)
    w = torch.nn.Parameter(torch.ones(500))
    out = torch.nn.Parameter(torch.zeros(500))
    backend.replay(w, out, segments=segments([500]), steps=[one, every_second])
    assert same(out.detach(), updated(torch.ones(500), segments=segments([500]), steps=[one, every_second]))
    assert torch.equal(w, torch.ones(500))


# --- refusals ---------------------------------------------------------------------------------------------------

GOOD = step(2)
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "exponent too large": ({"exponent": 101}, "step 1: exponent is 101, expected -66..100"),
    "exponent too small": ({"exponent": -67}, "step 1: exponent is -67, expected -66..100"),
    "seeds int64": ({"seeds": np.zeros(2, np.int64)}, "step 1: seeds are int64, expected uint64"),
    "seeds a matrix": (
        {"seeds": np.zeros((1, 2), np.uint64)},
        "step 1: seeds have shape (1, 2), expected (2,)",
    ),
    "streams int64": ({"streams": np.zeros(2, np.int64)}, "step 1: streams are int64, expected uint32"),
    "fewer streams": ({"streams": np.zeros(1, np.uint32)}, "step 1: streams have shape (1,), expected (2,)"),
    "coefficients float": ({"coefficients": np.zeros(2)}, "step 1: coefficients are float64, expected int32"),
    "more coefficients": (
        {"coefficients": np.zeros(3, np.int32)},
        "step 1: coefficients have shape (3,), expected (2,)",
    ),
}


@every_backend
@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_step_is_named_and_nothing_written(backend: Directions, case: str) -> None:
    changed, message = REFUSED[case]
    w = torch.zeros(4)
    with pytest.raises(ValueError) as caught:
        backend.replay(w, w, segments=segments([4]), steps=[GOOD, GOOD._replace(**changed), GOOD])
    assert str(caught.value) == message
    assert not w.any()


@every_backend
@pytest.mark.parametrize("steps", [[], [GOOD]], ids=["none", "one"])
def test_weights_and_segments_are_checked_whatever_the_steps(backend: Directions, steps: list[Step]) -> None:
    w = torch.zeros(5)
    with pytest.raises(ValueError, match=r"segment 0 is elements 0\.\.6, expected 0\.\.5"):
        backend.replay(w, w, segments=segments([6]), steps=steps)
    with pytest.raises(ValueError, match="segment 0 has base -1, expected 0 or more"):
        backend.replay(w, w, segments=[Segment(0, 4, -1)], steps=steps)
    with pytest.raises(ValueError, match=r"w is torch\.float64, expected torch\.float32"):
        backend.replay(w.double(), w, segments=[], steps=steps)
    with pytest.raises(ValueError, match="out overlaps w by a part, expected w itself or memory apart from it"):
        backend.replay(w[1:], w[:-1], segments=[], steps=steps)


@pytest.mark.parametrize("backend", [BACKENDS[0], BACKENDS[2]], ids=label)
@pytest.mark.parametrize("steps", [[], [GOOD]], ids=["none", "one"])
def test_a_cpu_backend_refuses_other_devices(backend: Directions, steps: list[Step]) -> None:
    w = torch.zeros(4, device="meta")
    with pytest.raises(ValueError, match=f"w is on meta, expected cpu for the {backend.name} backend"):
        backend.replay(w, w, segments=segments([4]), steps=steps)
