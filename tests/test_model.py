from __future__ import annotations

import copy
import hashlib
import pickle
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zowarmup.errors import ModelError, UsageError
from zowarmup.model import Model, Table, initialise, load_weights, save_weights, state_tensors


def net() -> nn.Sequential:
    return initialise(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), seed=0)  # type: ignore[return-value]


class Tied(nn.Module):
    """An embedding that is the head too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).mean(dim=1))  # type: ignore[no-any-return]


# The table


def test_table_is_in_the_order_of_named_parameters_with_tied_ones_once() -> None:
    table = Model(Tied()).table
    assert (table.names, table.shapes, table.sizes, table.size) == (("embed.weight",), ((7, 4),), (28,), 28)
    table = Model(net(), batch_norm="frozen").table
    assert table.names == ("0.weight", "0.bias", "1.weight", "1.bias", "2.weight", "2.bias")
    assert [tuple(segment)[:2] for segment in table.segments] == [(0, 12), (12, 3), (15, 3), (18, 3), (21, 6), (27, 2)]
    assert [segment.base for segment in table.segments] == [4096 * index for index in range(6)]


def test_digest_is_that_of_the_canonical_bytes() -> None:
    canonical = b"zowarmup/table/1" + struct.pack("<I", 2)
    canonical += struct.pack("<I", 2) + "µ".encode() + struct.pack("<I2Q", 2, 2, 3)
    canonical += struct.pack("<I", 1) + b"s" + struct.pack("<I", 0)
    table = Table(("µ", "s"), ((2, 3), ()))
    assert table.digest() == hashlib.blake2b(canonical, digest_size=32).hexdigest()


def test_tables_with_other_names_order_or_shapes_differ() -> None:
    tables = [
        Table(("a", "b"), ((2,), (3,))),
        Table(("b", "a"), ((3,), (2,))),
        Table(("a", "b"), ((3,), (2,))),
        Table(("a", "c"), ((2,), (3,))),
        Table(("a", "b"), ((2, 1), (3,))),
    ]
    assert len({table.digest() for table in tables}) == len(set(tables)) == len(tables)
    assert tables[0] == Table(("a", "b"), ((2,), (3,)))


# Weights and buffers


def test_parameters_are_views_of_the_bound_vector() -> None:
    model = Model(net(), batch_norm="frozen")
    before = model.weights()
    vector = torch.arange(model.size, dtype=torch.float32)
    model.bind(vector)
    assert torch.equal(torch.cat([value.flatten() for value in model.module.parameters()]), vector)
    loss = model.module.train()(torch.ones(3, 4)).sum()
    loss.backward()
    torch.optim.SGD(model.module.parameters(), lr=1.0).step()
    assert not torch.equal(vector, torch.arange(model.size, dtype=torch.float32))  # training writes into it
    assert torch.equal(model.weights(), vector)
    copied = model.weights()
    copied.zero_()
    assert torch.equal(model.weights(), vector)
    model.bind(before)
    assert torch.equal(model.weights(), before)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.zeros(3), r"weights to bind are float32 \(3,\) on cpu, expected float32 \(29,\) on cpu"),
        (torch.zeros(29, dtype=torch.float64), r"are float64 \(29,\) on cpu, expected float32"),
        (torch.zeros(29, device="meta"), r"on meta, expected float32 \(29,\) on cpu"),
        (torch.zeros(58)[::2], r"on cpu, not contiguous, expected float32"),
    ],
)
def test_bind_refuses(weights: Tensor, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Model(net(), batch_norm="frozen").bind(weights)


def test_buffers_are_copies_of_the_persistent_ones() -> None:
    module = net()
    module.register_buffer("cache", torch.ones(2), persistent=False)
    model = Model(module, batch_norm="frozen")
    buffers = model.buffers()
    assert list(buffers) == ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    model.module.train()(torch.randn(5, 4))
    assert int(model.buffers()["1.num_batches_tracked"]) == 1
    model.load_buffers(buffers)
    module.train()(torch.randn(5, 4))
    assert int(buffers["1.num_batches_tracked"]) == 0
    assert torch.equal(buffers["1.running_mean"], torch.zeros(3))


def test_load_buffers_refuses_others() -> None:
    model = Model(net(), batch_norm="frozen")
    own = model.buffers()
    with pytest.raises(ModelError, match=r"missing 1.running_mean, 1.running_var, 1.num_batches_tracked; unexpected x"):
        model.load_buffers({"x": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"1.running_mean is float32 \(4,\), expected float32 \(3,\)"):
        model.load_buffers(own | {"1.running_mean": torch.zeros(4)})
    with pytest.raises(ModelError, match=r"1.running_var is float64 \(3,\), expected float32 \(3,\)"):
        model.load_buffers(own | {"1.running_var": torch.zeros(3, dtype=torch.float64)})


def test_a_copy_of_a_model_is_on_its_own() -> None:
    model = Model(net(), batch_norm="frozen")
    x, before = torch.ones(2, 4), model.weights()
    other = copy.deepcopy(model)
    other.parameters()[0].data.zero_()
    assert torch.equal(model.weights(), before)
    other.bind(before.clone())
    with model.evaluation(), model.perturbed(seed=1, stream=2, c=0.5):
        expected = model.module(x)
    with other.evaluation(), other.perturbed(seed=1, stream=2, c=0.5):
        assert torch.equal(other.module(x), expected)
    for shallow in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match=r"copy.deepcopy it"):
            shallow(model)


# Refusals


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(2, 2).requires_grad_(False)
        self.adapter = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.adapter(x)  # type: ignore[no-any-return]


def shared() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = nn.Parameter(module[0].weight.data)
    return module


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer torch deprecates scripting itself
        return nn.Sequential(torch.jit.script(nn.Linear(2, 2)))


def compiled_in_place() -> nn.Module:
    module = nn.Linear(2, 2)
    module.compile(backend="eager")
    return module


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "lazy modules are a new feature"
        return nn.LazyLinear(2)


@pytest.mark.parametrize(
    ("make", "batch_norm", "message"),
    [
        (net, None, r"the model has BatchNorm \(1\) and model.batch-norm is not set.*\n?hint: set model.batch-norm"),
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)),
            "frozen",
            'model.batch-norm = "frozen", but 1 has no running statistics',
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()),
            None,
            r"not fp32: 1.weight \(float16\), 1.bias",
        ),
        (lambda: nn.ReLU(), None, "no parameters with requires_grad=True"),
        (lambda: nn.Linear(2, 2).requires_grad_(False), None, "no parameters with requires_grad=True"),
        (scripted, None, "module 0 is scripted"),
        (lambda: torch.compile(nn.Linear(2, 2), backend="eager"), None, "the module is compiled"),
        (compiled_in_place, None, "the module is compiled"),
        (lazy, None, "uninitialised: weight, bias"),
        (lambda: nn.Linear(2, 2, device="meta"), None, r"without values \(device meta\): weight, bias"),
        (shared, None, "parameters 0.weight and 1.weight share memory without being one parameter"),
    ],
)
def test_models_that_are_refused(make: Any, batch_norm: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Model(make(), batch_norm=batch_norm)


def test_constants_are_in_no_table_and_not_perturbed() -> None:
    model = Model(Frozen())
    assert model.table.names == ("adapter.weight", "adapter.bias")
    assert model.buffers() == {}
    model.check(torch.ones(3, 2))
    model.bind(torch.zeros(6))
    x = torch.randn(3, 2)
    with model.evaluation():
        base = model.module.base(x)  # type: ignore[operator]
        with model.perturbed(seed=1, stream=0, c=0.5):
            assert torch.equal(model.module.base(x), base)  # type: ignore[operator]
            assert not torch.equal(model.module(x), base)
    assert not model.module.base.weight.requires_grad  # type: ignore[union-attr]
    assert model.module.adapter.weight.requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ({"seed": -1, "stream": 0, "c": 0.5}, "seed -1, stream 0: expected 0 <= seed < 2"),
        ({"seed": 2**64, "stream": 0, "c": 0.5}, "seed 18446744073709551616, stream 0"),
        ({"seed": 0, "stream": -1, "c": 0.5}, "stream -1"),
        ({"seed": 0, "stream": 2**32, "c": 0.5}, "stream 4294967296"),
        ({"seed": 0, "stream": 0, "c": 0.1}, "c is 0.1, expected a float32 exactly"),
        ({"seed": 0, "stream": 0, "c": float("nan")}, "c is nan, expected a float32 exactly"),
        ({"seed": 0, "stream": 0, "c": float("inf")}, "c is inf, expected a float32 exactly"),
        ({"seed": 0, "stream": 0, "c": 1e39}, r"c is 1e\+39, expected a float32 exactly"),
    ],
)
def test_directions_out_of_range(direction: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model(nn.Linear(2, 2)).perturbed(**direction)


def test_a_module_that_was_moved_or_wrapped_again_is_noticed() -> None:
    module = nn.Linear(2, 2)
    first = Model(module)
    Model(module)
    with pytest.raises(ModelError, match="the module's parameters are no longer views of the bound weights"):
        first.perturbed(seed=0, stream=0, c=0.5)
    first.bind(first.weights())
    first.perturbed(seed=0, stream=0, c=0.5)
    weights = first.weights()
    first.bind(weights)
    module.double()
    with pytest.raises(ModelError, match="no longer views"):
        first.perturbed(seed=0, stream=0, c=0.5)


# Initial weights and weight files


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    expected = torch.get_rng_state()
    first = initialise(lambda: nn.Linear(5, 5), seed=3)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.manual_seed(2)
    again, other = (initialise(lambda: nn.Linear(5, 5), seed=seed) for seed in (3, 4))
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


def test_the_generator_is_put_back_after_a_failure() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        initialise(lambda: nn.Linear(5 // 0, 5), seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_weight_files_have_the_names_of_state_dict(tmp_path: Path) -> None:
    model = Model(net(), batch_norm="frozen")
    save_weights(model, tmp_path / "model.safetensors")
    state = model.module.state_dict()
    assert load_file(tmp_path / "model.safetensors").keys() == state.keys()
    assert list(state_tensors(model)) == list(state)
    other = Model(initialise(lambda: copy.deepcopy(net()), seed=1), batch_norm="frozen")
    other.bind(torch.zeros(other.size))
    bound = other.parameters()[0].data
    other.load_buffers({name: torch.full_like(value, 3) for name, value in other.buffers().items()})
    load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(other.weights(), model.weights())
    assert all(torch.equal(value, model.buffers()[name]) for name, value in other.buffers().items())
    assert not bound.any()  # the vector it was bound to is left alone


def test_tied_and_constant_tensors_are_saved_once(tmp_path: Path) -> None:
    path = tmp_path / "tied.safetensors"
    model = Model(Tied())
    assert list(state_tensors(model)) == ["embed.weight"]
    both = {"embed.weight": torch.ones(7, 4), "head.weight": torch.ones(7, 4)}
    for names in (["embed.weight"], ["head.weight"], ["embed.weight", "head.weight"]):
        model.bind(torch.zeros(28))
        save_file({name: both[name].clone() for name in names}, path)
        load_weights(model, path)
        assert torch.equal(model.weights(), torch.ones(28))
        assert model.module.head.weight is model.module.embed.weight
    frozen = Model(Frozen())
    save_weights(frozen, path)
    other = Model(Frozen())
    load_weights(other, path)
    assert torch.equal(other.module.base.weight, frozen.module.base.weight)  # type: ignore[union-attr,arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"0.weight": None, "2.bias": None}, "does not fit the model: missing 0.weight, 2.bias$"),
        ({"3.weight": torch.ones(2)}, "does not fit the model: unexpected 3.weight$"),
        ({"0.bias": torch.ones(4)}, r"0.bias is float32 \(4,\), expected float32 \(3,\)$"),
        ({"0.bias": torch.ones(3, dtype=torch.bfloat16)}, r"0.bias is bfloat16 \(3,\), expected float32 \(3,\)$"),
        (
            {"x": torch.ones(2), "1.running_var": None, "2.weight": torch.ones(1)},
            r"missing 1.running_var; unexpected x; 2.weight is float32 \(1,\), expected float32 \(2, 3\)$",
        ),
    ],
)
def test_weight_files_that_do_not_fit(changes: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    model = Model(net(), batch_norm="frozen")
    tensors = {name: value for name, value in (state_tensors(model) | changes).items() if value is not None}
    save_file(tensors, tmp_path / "weights.safetensors")
    before = model.weights()
    with pytest.raises(ModelError, match=message):
        load_weights(model, tmp_path / "weights.safetensors")
    assert torch.equal(model.weights(), before)


def test_weight_files_that_cannot_be_read(tmp_path: Path) -> None:
    model = Model(nn.Linear(2, 2))
    (tmp_path / "text").write_text("not tensors")
    for name in ("text", "nowhere"):
        with pytest.raises(ModelError, match=f"{name}: cannot be read"):
            load_weights(model, tmp_path / name)


def test_weights_keep_their_bits_through_a_file(tmp_path: Path) -> None:
    model = Model(nn.Linear(2, 2))
    odd = torch.tensor([0x7FC00001, -0x80000000, 1, 0x7F800000, 3, 0x00800000], dtype=torch.int32)
    model.bind(odd.view(torch.float32))
    save_weights(model, tmp_path / "odd")
    load_weights(model, tmp_path / "odd")
    assert np.array_equal(model.weights().view(torch.int32).numpy(), odd.numpy())
