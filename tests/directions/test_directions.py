"""Known answers on every backend, then properties, then one backend against another: always ``==``."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zowarmup.directions as public
from zowarmup.directions import GROUP, Directions, Segment, check_denormals, cpu, quantise, segments, select
from zowarmup.directions.contract import keeps_denormals
from zowarmup.directions.cpu import NumbaDirections
from zowarmup.directions.philox import NumpyDirections, bits, philox, words
from zowarmup.directions.torch_ops import TorchDirections
from zowarmup.errors import DenormalsError

from .cases import same, weights

SPEC = Path(__file__).parents[2] / "docs" / "spec"
VECTORS: dict[str, Any] = json.loads((SPEC / "directions-vectors.json").read_text())
REFERENCE = NumpyDirections()
BACKENDS: list[Directions] = [
    REFERENCE,
    TorchDirections("cpu"),
    NumbaDirections(),
    NumbaDirections(threads=2),
    NumbaDirections(threads=4),
]
OTHERS = BACKENDS[1:]
RAGGED = [1, 2, 3, 5, 127, 128, 129, 130, 4095, 4096, 4097, 8191, 8192, 12_345]
LARGE = 50 * GROUP + 77  # more chunks than threads


def label(value: Any) -> str:
    return f"{value.name}-{getattr(value, 'threads', 1)}" if hasattr(value, "perturb") else str(value)


every_backend = pytest.mark.parametrize("backend", BACKENDS, ids=label)
other_backend = pytest.mark.parametrize("backend", OTHERS, ids=label)


def floats(hexes: list[str]) -> Tensor:
    return torch.from_numpy(np.array([int(text, 16) for text in hexes], np.uint32).view(np.float32).copy())


def hexes(w: Tensor) -> list[str]:
    return [f"{word:08x}" for word in w.numpy().view(np.uint32).tolist()]


def sha256(array: Any) -> str:
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def pool(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "seeds": draw.integers(0, 2**64, count, dtype=np.uint64),
        "streams": draw.integers(0, 2**32, count, dtype=np.uint32),
    }


def integers(count: int, seed: int = 0) -> np.ndarray:
    """Coefficients over all of int32, so that sums wrap around; one of them zero."""
    found = np.random.default_rng(seed).integers(-(2**31), 2**31, count).astype(np.int32)
    found[count // 2] = 0
    return found


def perturbed(backend: Directions, w: Tensor, *, base: int = 0, seed: int = 7, stream: int = 1, c: float) -> Tensor:
    out = torch.full_like(w, float("nan"))
    backend.perturb(w, out, base=base, seed=seed, stream=stream, c=c)
    return out


def updated(backend: Directions, w: Tensor, **arguments: Any) -> Tensor:
    out = torch.full_like(w, float("nan"))
    backend.update(w, out, **arguments)
    return out


def signs(backend: Directions, size: int, *, base: int, seed: int, stream: int) -> str:
    z = perturbed(backend, torch.zeros(size), base=base, seed=seed, stream=stream, c=1.0)
    return "".join("1" if value < 0 else "0" for value in z.tolist())


# --- known answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["philox"])
def test_philox_known_answers(vector: dict[str, list[str]]) -> None:
    counter, key, expected = ([int(word, 16) for word in vector[name]] for name in ("counter", "key", "words"))
    assert philox(np.array([counter], np.uint64), (key[0], key[1]))[0].tolist() == expected


@pytest.mark.parametrize("vector", VECTORS["words"])
def test_words_of_a_block(vector: dict[str, Any]) -> None:
    found = words(int(vector["seed"], 16), vector["stream"], vector["block"], 1)
    assert found[0].tolist() == [int(word, 16) for word in vector["words"]]


@every_backend
@pytest.mark.parametrize("vector", VECTORS["bits"], ids=lambda vector: vector["base"])
def test_bits_anywhere(backend: Directions, vector: dict[str, Any]) -> None:
    where = {"base": int(vector["base"]), "seed": int(vector["seed"], 16), "stream": vector["stream"]}
    assert signs(backend, len(vector["bits"]), **where) == vector["bits"]


@every_backend
def test_a_million_bits(backend: Directions) -> None:
    vector = VECTORS["bits_sha256"]
    where = {"base": vector["base"], "seed": int(vector["seed"], 16), "stream": vector["stream"]}
    z = perturbed(backend, torch.zeros(vector["size"]), **where, c=1.0)
    assert sha256(np.packbits(z.numpy() < 0, bitorder="little")) == vector["sha256"]


@every_backend
def test_golden_perturb(backend: Directions) -> None:
    vector = VECTORS["perturb"]
    w = torch.from_numpy(np.arange(10_000, dtype=np.float32) / np.float32(1e4))
    c = float(floats([vector["c"]])[0])
    where = {"base": vector["base"], "seed": int(vector["seed"], 16), "stream": vector["stream"]}
    assert sha256(perturbed(backend, w, **where, c=c)) == vector["sha256"]


@every_backend
def test_golden_update(backend: Directions) -> None:
    vector = VECTORS["update"]
    coefficients, exponent = quantise(np.array(vector["a"]))
    assert (coefficients.tolist(), exponent) == (vector["coefficients"], vector["exponent"])
    w = torch.from_numpy(np.arange(10_000, dtype=np.float32) / np.float32(1e4))
    seeds, streams = np.array([int(seed, 16) for seed in vector["seeds"]], np.uint64), np.zeros(3, np.uint32)
    where = segments([10_000])
    arguments = {"seeds": seeds, "streams": streams, "coefficients": coefficients, "exponent": exponent}
    assert sha256(updated(backend, w, segments=where, **arguments)) == vector["sha256"]


@every_backend
@pytest.mark.parametrize("vector", VECTORS["update_edges"], ids=lambda vector: vector["exponent"])
def test_update_of_zeros_denormals_and_sums_that_wrap(backend: Directions, vector: dict[str, Any]) -> None:
    out = updated(
        backend,
        floats(vector["weights"]),
        segments=segments([8]),
        seeds=np.array([int(seed, 16) for seed in vector["seeds"]], np.uint64),
        streams=np.array(vector["streams"], np.uint32),
        coefficients=np.array(vector["coefficients"], np.int32),
        exponent=vector["exponent"],
    )
    assert hexes(out) == vector["result"]


@pytest.mark.parametrize("vector", VECTORS["quantise"], ids=lambda vector: vector["exponent"])
def test_quantise(vector: dict[str, Any]) -> None:
    coefficients, exponent = quantise(np.array([float.fromhex(text) for text in vector["a"]]))
    assert coefficients.dtype == np.int32
    assert (coefficients.tolist(), exponent) == (vector["coefficients"], vector["exponent"])


# --- properties -------------------------------------------------------------------------------------------------

u64, u32 = st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)
index = st.one_of(st.integers(0, 20_000), st.integers(0, 2**62), st.integers(2**39 - 5000, 2**39 + 5000))
size = st.one_of(st.sampled_from(RAGGED), st.integers(0, 300))
c32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@other_backend
@settings(max_examples=60, deadline=None, derandomize=True)
@given(base=index, size=size, seed=u64, stream=u32, c=c32)
def test_perturb_equals_the_reference(
    backend: Directions, base: int, size: int, seed: int, stream: int, c: float
) -> None:
    w = weights(size)
    where: dict[str, Any] = {"base": base, "seed": seed, "stream": stream, "c": c}
    with np.errstate(over="ignore"):  # near the largest number, both are infinite
        expected = perturbed(REFERENCE, w, **where)
    assert same(perturbed(backend, w, **where), expected)
    backend.perturb(w, w, **where)
    assert same(w, expected)


@other_backend
@settings(max_examples=30, deadline=None, derandomize=True)
@given(data=st.data(), count=st.integers(0, 9), exponent=st.integers(-66, 100))
def test_update_and_dots_equal_the_reference(
    backend: Directions, data: st.DataObject, count: int, exponent: int
) -> None:
    pieces, offset = [], data.draw(st.integers(0, 3))
    for piece in data.draw(st.lists(size, min_size=0, max_size=5)):
        pieces.append(Segment(offset, piece, data.draw(index)))
        offset += piece + data.draw(st.integers(0, 2))  # elements between segments keep their bits
    w, directions = weights(offset + 2), pool(count)
    arguments: dict[str, Any] = {
        "segments": pieces,
        **directions,
        "coefficients": integers(count + 1)[:count],
        "exponent": exponent,
    }
    expected = updated(REFERENCE, w, **arguments)
    assert same(updated(backend, w, **arguments), expected)
    dots = backend.dots(w, segments=pieces, **directions)
    assert dots.tolist() == REFERENCE.dots(w, segments=pieces, **directions).tolist()
    backend.update(w, w, **arguments)
    assert same(w, expected)


@every_backend
@pytest.mark.parametrize("base", [0, 1, 4095, 2**39 - 100, 2**61 + 3])
def test_shards_are_slices_of_the_whole(backend: Directions, base: int) -> None:
    w = weights(9_000)
    whole = perturbed(backend, w, base=base, c=2.0**-10)
    cuts = [0, 1, 128, 130, 4000, 4095, 4096, 4200, 8999, 9000]
    for start, stop in pairwise(cuts):
        shard = perturbed(backend, w[start:stop].clone(), base=base + start, c=2.0**-10)
        assert same(shard, whole[start:stop])


@other_backend
def test_work_shared_by_threads(backend: Directions) -> None:
    w, directions, where = weights(LARGE), pool(5), [Segment(0, LARGE, 2**40 + 4001)]
    arguments: dict[str, Any] = {"segments": where, **directions, "coefficients": integers(5), "exponent": 40}
    assert same(updated(backend, w, **arguments), updated(REFERENCE, w, **arguments))
    at: dict[str, Any] = {"base": 2**40 + 4001, "c": 2.0**-9}
    assert same(perturbed(backend, w, **at), perturbed(REFERENCE, w, **at))
    expected = REFERENCE.dots(w, segments=where, **directions).tolist()
    assert backend.dots(w, segments=where, **directions).tolist() == expected


def test_dots_of_more_groups_than_a_wave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_WAVE_GROUPS", 8)
    v, where, directions = weights(50 * 30), segments([50] * 30), pool(2)
    expected = REFERENCE.dots(v, segments=where, **directions).tolist()
    for backend in OTHERS:
        assert backend.dots(v, segments=where, **directions).tolist() == expected


def test_dots_are_inner_products() -> None:
    v = torch.from_numpy(np.random.default_rng(1).standard_normal(10_000).astype(np.float32))
    z = np.where(bits(3, 4, 4096, 10_000), -1.0, 1.0)
    where: dict[str, Any] = {"seeds": np.array([3], np.uint64), "streams": np.array([4], np.uint32)}
    (dot,) = select("cpu").dots(v, segments=[Segment(0, 10_000, 4096)], **where)
    # Two orders of 10,000 float64 additions of numbers near 1 differ by less than 10,000 * 100 * 2^-52.
    assert dot == pytest.approx(float(v.double().numpy() @ z), abs=1e-9)


@every_backend
def test_one_direction_updates_as_it_perturbs(backend: Directions) -> None:
    w = weights(5_000)
    for a in (1, -16_777_217, 2**30, 1 - 2**31):  # -(-2**31) wraps; |A| <= 2**30 in any round
        key = {"seeds": np.array([7], np.uint64), "streams": np.array([1], np.uint32)}
        out = updated(backend, w, segments=segments([5_000]), **key, coefficients=np.array([a], np.int32), exponent=35)
        assert same(out, perturbed(backend, w, c=float(np.float32(a)) * 2.0**-35))


@every_backend
def test_an_update_and_its_negation_cancel(backend: Directions) -> None:
    # Weights and steps are multiples of 2^-20 below 2: both sums are exact.
    w = torch.from_numpy(np.random.default_rng(2).integers(-(2**19), 2**19, 9_000).astype(np.float32)) / 2**20
    there = {"segments": segments([3_000, 6_000]), **pool(6), "exponent": 20}
    steps = np.array([1, 2, 3, 5, 100, -9], np.int32)
    out = updated(backend, w, **there, coefficients=steps)
    assert not torch.equal(out, w)
    assert torch.equal(updated(backend, out, **there, coefficients=-steps), w)


@every_backend
def test_the_order_of_directions_does_not_matter(backend: Directions) -> None:
    w, directions, a, where = weights(5_000), pool(7), integers(7), segments([100, 4_900])
    expected = updated(backend, w, segments=where, **directions, coefficients=a, exponent=30)
    for order in (np.arange(7)[::-1], np.random.default_rng(0).permutation(7)):
        key = {name: array[order] for name, array in directions.items()}
        out = updated(backend, w, segments=where, **key, coefficients=a[order], exponent=30)
        assert same(out, expected)


@every_backend
def test_no_directions_change_nothing(backend: Directions) -> None:
    w, key = weights(5_000), pool(0)
    out = updated(backend, w, segments=segments([5_000]), **key, coefficients=np.zeros(0, np.int32), exponent=30)
    assert same(out, w)
    assert backend.dots(w, segments=segments([5_000]), **key).shape == (0,)


@every_backend
def test_a_step_of_zero_turns_negative_zeros(backend: Directions) -> None:
    out = perturbed(backend, torch.full((200,), -0.0), c=0.0)
    expected = perturbed(REFERENCE, torch.full((200,), -0.0), c=0.0)
    assert same(out, expected)
    assert {text[0] for text in hexes(out)} == {"0", "8"}  # -0.0 + 0.0 and -0.0 - 0.0


@every_backend
def test_any_shape_and_parameters_that_require_gradients(backend: Directions) -> None:
    w = torch.nn.Parameter(torch.ones(3, 5, 7))
    out = torch.empty(3, 5, 7)
    backend.perturb(w, out, base=0, seed=1, stream=0, c=0.5)
    assert sorted(set(out.flatten().tolist())) == [0.5, 1.5]
    assert torch.equal(w, torch.ones(3, 5, 7))


@every_backend
def test_neighbours_in_memory_are_left_alone(backend: Directions) -> None:
    for size in RAGGED:
        memory = torch.zeros(size + 2)
        backend.perturb(memory[1:-1], memory[1:-1], base=size, seed=1, stream=0, c=1.0)
        assert memory[[0, -1]].tolist() == [0, 0]
        assert memory[1:-1].abs().eq(1).all()


def test_bits_are_fair_and_streams_apart() -> None:
    z = np.stack([np.where(bits(seed, stream, 0, 2**16), -1, 1) for seed in (0, 1) for stream in (0, 1)])
    # Standard deviation of a mean of 65,536 independent signs is 1/256; five of them.
    assert np.abs(z.mean(axis=1)).max() < 5 / 256
    products = z @ z.T / 2**16 - np.eye(4)
    assert np.abs(products).max() < 5 / 256


def test_segments_pad_direction_space_only() -> None:
    found = segments([0, 1, 4096, 4097, 5])
    assert found == (
        Segment(0, 0, 0),
        Segment(0, 1, 0),
        Segment(1, 4096, 4096),
        Segment(4097, 4097, 8192),
        Segment(8194, 5, 16384),
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.floats(-(2.0**80), 2.0**80), min_size=1, max_size=40))
def test_quantised_coefficients_stay_close(a: list[float]) -> None:
    coefficients, exponent = quantise(np.array(a))
    assert np.abs(coefficients.astype(np.int64)).sum() <= 2**30 + len(a) / 2
    assert np.abs(np.ldexp(coefficients.astype(np.float64), -exponent) - a).max() <= 2.0 ** (-exponent - 1)


# --- threads, processes, denormals ------------------------------------------------------------------------------


def test_python_threads_share_one_backend() -> None:
    backend, w = select("cpu", threads=3), weights(LARGE)
    expected = [perturbed(REFERENCE, w, seed=seed, c=1.0) for seed in range(4)]
    found: list[Tensor | None] = [None] * 4

    def work(seed: int) -> None:
        for _ in range(5):
            found[seed] = perturbed(backend, w, seed=seed, c=1.0)
            backend.every_thread(lambda: None)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(one is not None and same(one, other) for one, other in zip(found, expected, strict=True))


def test_every_thread_is_visited_once() -> None:
    backend = select("cpu", threads=4)
    names = backend.every_thread(lambda: threading.current_thread().name)
    assert len(set(names)) == 4
    assert names[0] == threading.current_thread().name


def test_an_error_in_a_worker_reaches_the_caller() -> None:
    backend = NumbaDirections(threads=2)

    def fail(start: int, stop: int) -> None:
        raise OSError(f"{start}..{stop}")

    with pytest.raises(OSError, match=r"\d+\.\.\d+"):
        backend._pool.share(fail, 100)


def run(code: str, *flags: str, **environment: str) -> str:
    command = [sys.executable, *flags, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_works_on() -> None:
    code = f"""
import os, torch
from zowarmup.directions import select
backend, w = select("cpu", threads=2), torch.zeros({LARGE})
def z():
    out = torch.empty_like(w)
    backend.perturb(w, out, base=0, seed=1, stream=0, c=1.0)
    return out
before, child = z(), os.fork()
if child == 0:
    torch.set_num_threads(1)
    os._exit(0 if torch.equal(z(), before) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run(code, "-W", "ignore") == "0"


def test_numba_is_imported_when_first_needed() -> None:
    code = "import sys, zowarmup.directions; print('numba' in sys.modules)"
    assert run(code) == "False"


def test_without_a_place_for_the_cache(tmp_path: Path) -> None:
    package = Path(public.__file__).parents[1]
    shutil.copytree(package, tmp_path / "zowarmup", ignore=shutil.ignore_patterns("__pycache__"))
    # A file where a folder should be stops root as well, which permissions do not.
    (tmp_path / "zowarmup" / "directions" / "__pycache__").touch()
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "below")
    code = """
import torch
from zowarmup.directions import kernels, select
w = torch.zeros(3)
select("cpu").perturb(w, w, base=0, seed=1, stream=0, c=1.0)
print(kernels.__file__, type(kernels.perturb._cache).__name__, w.abs().tolist())
"""
    found = run(code, PYTHONPATH=str(tmp_path), HOME=nowhere, XDG_CACHE_HOME=nowhere, NUMBA_CACHE_DIR="")
    assert found == f"{tmp_path / 'zowarmup' / 'directions' / 'kernels.py'} NullCache [1.0, 1.0, 1.0]"


@pytest.fixture
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    yield
    torch.set_flush_denormal(False)


def test_denormals_are_kept_here() -> None:
    check_denormals()
    for backend in BACKENDS:
        check_denormals(backend)


@pytest.mark.usefixtures("flushing")
def test_flushing_is_refused() -> None:
    expected = (
        "numpy on cpu flushes denormal numbers to zero in thread 'MainThread'\n"
        "hint: do not call torch.set_flush_denormal(True), and load no library built with -ffast-math"
    )
    with pytest.raises(DenormalsError) as caught:
        check_denormals()
    assert str(caught.value) == expected


@every_backend
@pytest.mark.usefixtures("flushing")
def test_every_backend_notices(backend: Directions) -> None:
    assert not keeps_denormals(backend)


def test_flushing_in_a_worker_is_refused() -> None:
    backend = select("cpu", threads=3)
    caller = threading.current_thread()
    try:
        flushes = backend.every_thread(
            lambda: threading.current_thread() is not caller and torch.set_flush_denormal(True)
        )
        if not any(flushes):
            pytest.skip("this processor cannot flush denormals")
        with pytest.raises(DenormalsError, match=r"numba on cpu flushes denormal numbers .* 'zowarmup-directions_"):
            check_denormals(backend)
    finally:
        backend.every_thread(lambda: torch.set_flush_denormal(False))


def test_selection_and_public_names() -> None:
    assert (select("cpu").name, select("cuda:0").name, str(select("cuda:0").device)) == ("numba", "torch", "cuda:0")
    assert public.__all__ == [
        "GROUP",
        "Directions",
        "Segment",
        "Step",
        "check_denormals",
        "quantise",
        "segments",
        "select",
    ]
    assert all(hasattr(public, name) for name in public.__all__)
