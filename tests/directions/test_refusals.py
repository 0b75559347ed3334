"""Every way the arguments of directions can be wrong, with the message it gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from zowarmup.directions import Directions, Segment, quantise, segments, select
from zowarmup.directions.contract import check_directions, check_update
from zowarmup.directions.cpu import NumbaDirections
from zowarmup.directions.philox import NumpyDirections
from zowarmup.directions.torch_ops import TorchDirections
from zowarmup.errors import NonFiniteError

BACKENDS: list[Directions] = [NumpyDirections(), TorchDirections("cpu"), NumbaDirections(), NumbaDirections(threads=2)]
LARGE = 200_000  # enough for threads to share


def label(backend: Directions) -> str:
    return f"{backend.name}-{getattr(backend, 'threads', 1)}"


every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=label)


def pool(count: int) -> dict[str, np.ndarray]:
    return {"seeds": np.arange(count, dtype=np.uint64), "streams": np.zeros(count, np.uint32)}


PERTURB_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "base below 0": ({"base": -1}, "base is -1 for 4 elements, expected 0 or more and an end of at most 2**63"),
    "end above 2**63": (
        {"base": 2**63 - 3},
        "base is 9223372036854775805 for 4 elements, expected 0 or more and an end of at most 2**63",
    ),
    "seed below 0": ({"seed": -1}, "seed is -1, expected 0 <= seed < 2**64"),
    "seed too large": ({"seed": 2**64}, "seed is 18446744073709551616, expected 0 <= seed < 2**64"),
    "stream too large": ({"stream": 2**32}, "stream is 4294967296, expected 0 <= stream < 2**32"),
    "c no fp32": (
        {"c": 0.1},
        "c is 0.1, expected a finite number that fp32 holds exactly: float(np.float32(eps * tau))",
    ),
    "c NaN": (
        {"c": float("nan")},
        "c is nan, expected a finite number that fp32 holds exactly: float(np.float32(eps * tau))",
    ),
    "c infinite": (
        {"c": float("-inf")},
        "c is -inf, expected a finite number that fp32 holds exactly: float(np.float32(eps * tau))",
    ),
    "w float64": ({"w": torch.zeros(4, dtype=torch.float64)}, "w is torch.float64, expected torch.float32"),
    "out bf16": ({"out": torch.zeros(4, dtype=torch.bfloat16)}, "out is torch.bfloat16, expected torch.float32"),
    "w strided": ({"w": torch.zeros(8)[::2]}, "w is not contiguous, expected C order without gaps"),
    "out strided": ({"out": torch.zeros(8)[::2]}, "out is not contiguous, expected C order without gaps"),
    "sizes differ": ({"out": torch.zeros(5)}, "out has 5 elements, expected as many as w: 4"),
    "devices differ": ({"out": torch.zeros(4, device="meta")}, "w is on cpu and out on meta, expected one device"),
}


@every_backend
@pytest.mark.parametrize("case", PERTURB_REFUSED)
def test_perturb_refuses(backend: Directions, case: str) -> None:
    changed, message = PERTURB_REFUSED[case]
    arguments = {"w": torch.zeros(4), "out": torch.zeros(4), "base": 0, "seed": 0, "stream": 0, "c": 1.0, **changed}
    with pytest.raises(ValueError) as caught:
        backend.perturb(**arguments)
    assert str(caught.value) == message


@every_backend
def test_large_pieces_refuse_too(backend: Directions) -> None:
    w = torch.zeros(LARGE)
    with pytest.raises(ValueError, match=r"c is 0\.1, expected"):
        backend.perturb(w, w, base=0, seed=0, stream=0, c=0.1)
    assert not w.any()


@every_backend
def test_overlapping_memory_is_refused(backend: Directions) -> None:
    memory = torch.zeros(5)
    with pytest.raises(ValueError, match="out overlaps w by a part, expected w itself or memory apart from it"):
        backend.perturb(memory[1:], memory[:-1], base=0, seed=0, stream=0, c=1.0)


@pytest.mark.parametrize("backend", [BACKENDS[0], BACKENDS[2]], ids=label)
def test_a_cpu_backend_refuses_other_devices(backend: Directions) -> None:
    w, key = torch.zeros(4, device="meta"), pool(1)
    message = f"w is on meta, expected cpu for the {backend.name} backend"
    with pytest.raises(ValueError, match=message):
        backend.perturb(w, w, base=0, seed=0, stream=0, c=1.0)
    with pytest.raises(ValueError, match=message):
        backend.update(w, w, segments=segments([4]), **key, coefficients=np.ones(1, np.int32), exponent=0)
    with pytest.raises(ValueError, match=message):
        backend.dots(w, segments=segments([4]), **key)


UPDATE_REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "exponent too large": ({"exponent": 101}, "exponent is 101, expected -66..100"),
    "exponent too small": ({"exponent": -67}, "exponent is -67, expected -66..100"),
    "seeds int64": ({"seeds": np.zeros(2, np.int64)}, "seeds are int64, expected uint64"),
    "streams int64": ({"streams": np.zeros(2, np.int64)}, "streams are int64, expected uint32"),
    "coefficients float": ({"coefficients": np.zeros(2)}, "coefficients are float64, expected int32"),
    "fewer streams": ({"streams": np.zeros(1, np.uint32)}, "streams have shape (1,), expected (2,)"),
    "more coefficients": ({"coefficients": np.zeros(3, np.int32)}, "coefficients have shape (3,), expected (2,)"),
    "seeds a matrix": ({"seeds": np.zeros((1, 2), np.uint64)}, "seeds have shape (1, 2), expected (2,)"),
    "segments overlap": (
        {"segments": [Segment(0, 3, 0), Segment(2, 2, 4096)]},
        "segment 1 is elements 2..4, expected 3..4 or a part of it: segments ascend, do not overlap and lie in the "
        "vector",
    ),
    "segment outside": (
        {"segments": [Segment(1, 4, 0)]},
        "segment 0 is elements 1..5, expected 0..4 or a part of it: segments ascend, do not overlap and lie in the "
        "vector",
    ),
    "base below 0": (
        {"segments": [Segment(0, 4, -1)]},
        "segment 0 has base -1, expected 0 or more and an end of at most 2**63",
    ),
}


@pytest.mark.parametrize("case", UPDATE_REFUSED)
def test_update_refuses(case: str) -> None:
    changed, message = UPDATE_REFUSED[case]
    seeds, streams, a = np.zeros(2, np.uint64), np.zeros(2, np.uint32), np.zeros(2, np.int32)
    arguments = {"segments": segments([4]), "seeds": seeds, "streams": streams, "coefficients": a, "exponent": 0}
    with pytest.raises(ValueError) as caught:
        check_update(torch.zeros(4), torch.zeros(4), **{**arguments, **changed})
    assert str(caught.value) == message


@every_backend
def test_every_backend_checks(backend: Directions) -> None:
    w, key = torch.zeros(4), pool(2)
    with pytest.raises(ValueError, match=r"exponent is 101, expected -66\.\.100"):
        backend.update(w, w, segments=segments([4]), **key, coefficients=np.zeros(2, np.int32), exponent=101)
    with pytest.raises(ValueError, match=r"segment 0 is elements 0\.\.5"):
        backend.dots(w, segments=segments([5]), **key)


def test_dots_refuse_other_dtypes() -> None:
    with pytest.raises(ValueError, match=r"the vector is torch\.float64, expected torch\.float32"):
        check_directions(torch.zeros(4, dtype=torch.float64), segments([4]), *pool(1).values())


def test_quantise_refuses() -> None:
    with pytest.raises(NonFiniteError, match="coefficient of direction 1 is nan, expected a finite number"):
        quantise(np.array([1.0, np.nan]))
    with pytest.raises(NonFiniteError, match="coefficient of direction 0 is -inf, expected a finite number"):
        quantise(np.array([-np.inf, np.inf]))
    for a in ([2.0**96], [2.0**95, -(2.0**95)], [1e308] * 3):
        with pytest.raises(
            NonFiniteError, match=r"coefficients of a round sum to .* in magnitude, expected less than 2\*\*96"
        ):
            quantise(np.array(a))


def test_sizes_and_threads_are_checked() -> None:
    with pytest.raises(ValueError, match="sizes must be >= 0, got -1"):
        segments([3, -1])
    with pytest.raises(ValueError, match="threads is 0, expected 1 or more"):
        select("cpu", threads=0)
