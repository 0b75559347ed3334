from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode

from zowarmup import nets
from zowarmup.directions import Directions, select
from zowarmup.errors import ModelError
from zowarmup.model import Model, initialise

SEED, STREAM, C = 2**63 + 5, 3, 2.0**-7


def perturbed_twin(model: Model, make: Callable[[], nn.Module]) -> nn.Module:
    """The readable way: another module of the same weights, whose parameters are w + c z."""
    module = initialise(make, seed=0).eval().requires_grad_(False)
    named = dict(module.named_parameters())
    for name, segment in zip(model.table.names, model.table.segments, strict=True):
        out = torch.empty_like(named[name])
        model.directions.perturb(named[name].clone(), out, base=segment.base, seed=SEED, stream=STREAM, c=C)
        named[name].data = out
    return module


# Networks whose parameters are read in all sorts of ways


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x).relu())  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, kdim: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, kdim=kdim, vdim=kdim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]  # type: ignore[no-any-return]


class First(nn.Module):
    """The first of a recurrent layer's outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]  # type: ignore[no-any-return]


class Reads(nn.Module):
    """A parameter used directly, in many ways, and parameters in a list and a dict."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.randn(6, 6))
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.list = nn.ParameterList([nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))])
        self.dict = nn.ParameterDict({"one": nn.Parameter(torch.randn(2, 6)), "two": nn.Parameter(torch.randn(4, 6))})

    def forward(self, x: Tensor) -> Tensor:
        ways = self._ways(x)
        return ways[self.how](self.weight) * self.scale  # type: ignore[no-any-return]

    def _ways(self, x: Tensor) -> dict[str, Callable[[Tensor], Any]]:
        return {
            "matmul": lambda w: x @ w,
            "reflected": lambda w: 2.0 - w,
            "transposed": lambda w: x @ w.T,
            "mT": lambda w: x @ w.mT,
            "data": lambda w: x @ w.data,
            "detached": lambda w: x @ w.detach(),
            "sliced": lambda w: x[:, :3] @ w[1:4],
            "chunked": lambda w: x[:, :3] @ w.chunk(2)[1],
            "iterated": lambda w: sum(row * x for row in w),
            "view": lambda w: x.view(-1) @ w.view(-1)[: x.numel()].clone(),
            "einsum": lambda w: torch.einsum("ni,ij->nj", x, w),
            "cat": lambda w: x @ torch.cat([w, w.flip(0)], dim=1),
            "keyword": lambda w: F.linear(input=x, weight=w, bias=self.list[0]),
            "stacked": lambda w: x @ torch.stack(tensors=(w, w))[1],
            "nested": lambda w: torch.block_diag(w, w)[:6] + torch.cartesian_prod(self.list[0], self.list[1])[0, 0],
            "out": lambda w: torch.matmul(x, w, out=torch.empty(len(x), 6)),
            "inplace": lambda w: x.clone().mul_(w[0]).addcmul_(x, w[1]),
            "number": lambda w: x * float(w[0, 0]) + w.sum().item(),
            "aten": lambda w: torch.ops.aten.mm.default(x, w),
            "shape": lambda w: x.new_full(w.shape, w.numel() + w.dim() + w.size(0) + len(w)) * w,
            "list": lambda w: x * self.list[0] + self.list[1],
            "dict": lambda w: x @ torch.cat([*self.dict.values()]) @ w,
            "kept": lambda w: (lambda first, second: x @ (first - second.T) @ w)(w.T, w.T),
            "function": lambda w: Square.apply(x, w),
            "functional": lambda w: torch.func.functional_call(nn.Linear(6, 6), {"weight": w, "bias": self.list[0]}, x),
            "numpy": lambda w: x @ torch.from_numpy(w.detach().numpy()),
            "repeated": lambda w: torch.nn.functional.bilinear(x, x, w[None].expand(2, 6, 6)),
        }


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        return (x @ w) ** 2


class Halved(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w / 2


def parametrised() -> nn.Module:
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    parametrizations.weight_norm(layers[0], "weight")
    parametrizations.spectral_norm(layers[1])
    parametrize.register_parametrization(layers[2], "weight", Halved())
    return layers


def hooked_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still in use
        return torch.nn.utils.weight_norm(nn.Linear(8, 8))


def encoder(batch_first: bool, norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first and not norm_first)


def shipped(name: str, input_shape: tuple[int, ...], **args: Any) -> tuple[Any, Tensor]:
    def make() -> nn.Module:
        return nets.build(name, input_shape=input_shape, classes=10, args=args)

    return make, torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(1))


_sequence = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(2))
_tokens = torch.arange(15).view(3, 5) % 11
NETS: dict[str, tuple[Any, Tensor]] = {
    "mlp": shipped("mlp", (1, 8, 8)),
    "cnn": shipped("cnn", (3, 32, 32)),
    "lenet": shipped("lenet", (1, 28, 28)),
    "resnet18-batch": shipped("resnet18", (3, 32, 32)),
    "resnet18-group": shipped("resnet18", (3, 32, 32), norm="group"),
    "vit": shipped("vit", (3, 32, 32), depth=2),
    "rnn": (lambda: First(nn.RNN(8, 4)), _sequence),
    "gru": (lambda: First(nn.GRU(8, 4, num_layers=2, batch_first=True)), _sequence),
    "lstm": (lambda: First(nn.LSTM(8, 4, num_layers=2, bidirectional=True, dropout=0.5)), _sequence),
    "lstm-projected": (lambda: First(nn.LSTM(8, 6, proj_size=4)), _sequence),
    "gru-cell": (lambda: nn.GRUCell(8, 4), _sequence[0]),
    "encoder": (lambda: encoder(False, False), _sequence),
    "encoder-batch-first": (lambda: encoder(True, False), _sequence),
    "encoder-norm-first": (lambda: encoder(True, True), _sequence),
    "attention": (lambda: Attention(), _sequence),
    "attention-separate": (lambda: Attention(kdim=8), _sequence),
    "tied": (lambda: Tied(), _tokens),
    "parametrised": (parametrised, _sequence),
    "weight-norm": (hooked_weight_norm, _sequence),
    "instance-norm": (lambda: nn.Sequential(nn.Linear(8, 8), nn.InstanceNorm1d(5, affine=True)), _sequence),
    "embedding-bag": (lambda: nn.EmbeddingBag(11, 4, mode="sum"), _tokens),
    "bilinear-upsampled": (lambda: nn.Sequential(nn.ConvTranspose1d(5, 4, 3), nn.PReLU()), _sequence),
} | {
    f"reads-{how}": (lambda how=how: Reads(how), torch.randn(4, 6, generator=torch.Generator().manual_seed(3)))
    for how in Reads("")._ways(torch.empty(0))
}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", NETS)
def test_equals_functional_call_on_perturbed_copies(name: str) -> None:
    make, x = NETS[name]
    model = Model(initialise(make, seed=0), batch_norm="frozen")
    before = model.weights()
    reference = perturbed_twin(model, make)
    with model.evaluation():
        base = model.module(x)
        with model.perturbed(seed=SEED, stream=STREAM, c=C):
            got = model.module(x)
        with model.perturbed(seed=SEED, stream=STREAM, c=0.0):
            assert torch.equal(base, model.module(x))  # a forward at w rounds like one at w + c z
        copies = dict(reference.named_parameters())
        assert torch.equal(got, torch.func.functional_call(model.module, copies, (x,)))
        assert torch.equal(got, reference(x))
        assert torch.equal(base, model.module(x))
    assert not torch.equal(got, base)
    assert torch.equal(model.weights().view(torch.int32), before.view(torch.int32))
    model.check(x)


def test_both_sides_and_other_directions_differ() -> None:
    model = Model(initialise(NETS["mlp"][0], seed=0))
    x = NETS["mlp"][1]
    outputs = []
    with model.evaluation():
        for direction in ({}, {"c": -C}, {"stream": 4}, {"seed": 6}):
            with model.perturbed(**({"seed": SEED, "stream": STREAM, "c": C} | direction)):
                outputs.append(model.module(x))
    assert len({tuple(output.flatten().tolist()) for output in outputs}) == 4


def test_a_read_needs_no_more_than_its_values() -> None:
    """Asking for a shape makes nothing; every read of values makes the parameter anew."""
    counting = Counting()
    model = Model(nn.Linear(3, 2), directions=counting)
    weight = model.module.weight
    with torch.no_grad(), model.perturbed(seed=0, stream=0, c=C):
        _ = weight.shape, weight.dtype, weight.device, weight.size(0), weight.dim(), weight.numel(), len(weight)
        _ = (
            weight.is_cuda,
            weight.requires_grad,
            weight.is_contiguous(),
            weight.stride(),
            torch.is_floating_point(weight),
        )
        assert hash(weight) == id(weight)
        assert {weight: 1}[weight] == 1
        assert counting.made == 0
        _ = weight.T, weight[0]
        assert counting.made == 2


def test_pointers_outlive_the_call() -> None:
    counting = Counting()
    model = Model(nn.Linear(3, 2), directions=counting)
    with torch.no_grad(), model.perturbed(seed=0, stream=0, c=C):
        model.module.weight.data_ptr()  # type: ignore[operator]
        assert counting.alive_bytes() == 6 * 4
    assert counting.alive_bytes() == 0


class Counting:
    """Directions that know how much of what they made is still alive."""

    def __init__(self) -> None:
        self.inner: Directions = select("cpu")
        self.made = self.peak_bytes = 0
        self.alive: list[weakref.ref[Tensor]] = []

    name = "counting"
    device = torch.device("cpu")

    def perturb(self, w: Tensor, out: Tensor, **direction: Any) -> None:
        self.inner.perturb(w, out, **direction)
        self.made += 1
        self.alive.append(weakref.ref(out))
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes())

    def alive_bytes(self) -> int:
        self.alive = [reference for reference in self.alive if reference() is not None]
        return sum(out.nbytes for reference in self.alive if (out := reference()) is not None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("resnet18-batch", ["15.weight"]),  # the head's weight and bias are smaller than one convolution
        ("vit", ["blocks.0.mlp.0.weight", "blocks.0.mlp.0.bias"]),
        ("lstm", "all"),
    ],
)
def test_peak_memory_is_the_parameters_of_one_operation(name: str, together: Any) -> None:
    make, x = NETS[name]
    counting = Counting()
    model = Model(initialise(make, seed=0), batch_norm="frozen", directions=counting)
    with model.evaluation(), model.perturbed(seed=0, stream=0, c=C):
        model.module(x)
        assert counting.alive_bytes() == 0
    sizes = dict(zip(model.table.names, model.table.sizes, strict=True))
    if name == "resnet18-batch":
        expected = max(sizes.values())
    else:
        expected = sum(sizes.values()) if together == "all" else sum(sizes[part] for part in together)
    assert counting.peak_bytes == 4 * expected


# Around a forward


def state_of(module: nn.Module) -> tuple[Any, ...]:
    parts = [(part.training, getattr(part, "track_running_stats", None)) for part in module.modules()]
    flags = [parameter.requires_grad for parameter in module.parameters()]
    buffers = [buffer.tolist() for buffer in module.buffers()]
    return parts, flags, buffers, torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()


def normalised() -> nn.Sequential:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3).requires_grad_(False))
    module(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)))  # running statistics that are not 0 and 1
    module[2].eval()
    return module


@pytest.mark.parametrize("batch_norm", ["frozen", "batch"])
@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_as_it_was_afterwards(batch_norm: Any, fails: bool) -> None:
    model = Model(initialise(normalised, seed=0), batch_norm=batch_norm)
    before, weights, x = state_of(model.module), model.weights(), torch.randn(4, 8)
    with model.evaluation(), model.perturbed(seed=0, stream=0, c=C):
        expected = model.module(x)
        assert not expected.requires_grad
    wrong = torch.randn(4, 7) if fails else x
    try:
        with model.evaluation(), model.perturbed(seed=0, stream=0, c=C):
            assert not torch.backends.mha.get_fastpath_enabled()
            model.module(wrong)
    except RuntimeError:
        assert fails
    assert state_of(model.module) == before
    assert torch.equal(model.weights(), weights)
    with model.evaluation():
        assert not torch.equal(model.module(x), expected)  # nothing is perturbed any more
        with model.perturbed(seed=0, stream=0, c=C):
            assert torch.equal(model.module(x), expected)


@pytest.mark.parametrize("stopped", [True, False])
def test_ctrl_c_is_heard_also_while_torch_has_the_mode_off(stopped: bool) -> None:
    """Torch takes a mode off while it calls a function: a signal that comes meanwhile leaves the stack short."""
    mode = Model(nn.Linear(3, 2)).perturbed(seed=0, stream=0, c=C)

    def cut_short() -> None:
        with mode:
            TorchFunctionMode.__exit__(mode, None, None, None)
            if stopped:
                raise KeyboardInterrupt

    expected, message = (KeyboardInterrupt, None) if stopped else (RuntimeError, "empty mode stack")
    with pytest.raises(expected, match=message):
        cut_short()


def test_frozen_uses_running_statistics_and_batch_the_batch_s_own() -> None:
    module = initialise(normalised, seed=0)
    x = torch.randn(6, 8)
    outputs = {}
    for policy in ("frozen", "batch"):
        model = Model(copy.deepcopy(module), batch_norm=policy)  # type: ignore[arg-type]
        with model.evaluation():
            outputs[policy] = model.module(x)
    reference = copy.deepcopy(module).eval().requires_grad_(False)
    assert torch.equal(outputs["frozen"], reference(x))
    reference[1].train()  # type: ignore[index]
    assert torch.equal(outputs["batch"], reference(x))
    assert not torch.equal(outputs["frozen"], outputs["batch"])


def test_batch_policy_needs_no_running_statistics() -> None:
    module = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8, track_running_stats=False))
    model = Model(module, batch_norm="batch")
    before = state_of(module)
    model.check(torch.randn(4, 8))
    assert state_of(module) == before


def test_evaluations_nest() -> None:
    model = Model(initialise(normalised, seed=0), batch_norm="batch")
    before = state_of(model.module)
    with model.evaluation():
        inside = state_of(model.module)
        with model.evaluation():
            pass
        assert state_of(model.module) == inside
    assert state_of(model.module) == before


def test_autocast_does_not_reach_evaluations() -> None:
    model = Model(initialise(NETS["mlp"][0], seed=0))
    x = NETS["mlp"][1]
    with model.evaluation():
        expected = model.module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.module(x).dtype == torch.bfloat16
        with model.evaluation():
            assert torch.equal(model.module(x), expected)


# Modules that cannot be perturbed


class Odd(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.other = nn.Parameter(torch.randn(4))
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        if self.how == "wrapped":
            return x @ nn.Parameter(self.weight) + self.other
        if self.how == "writing":
            self.weight.data.mul_(2)
            return x @ self.weight + self.other
        if self.how == "random":
            return F.dropout(x @ self.weight)
        if self.how == "counting":
            self.calls += 1  # type: ignore[operator]
            return x @ self.weight
        return x @ self.weight, self.other


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("wrapped", "a forward cannot be perturbed: weight is read in a way that torch functions do not see"),
        ("writing", "a forward cannot be perturbed: "),
        ("random", "two forwards on the same samples differ: the module draws random numbers in evaluation mode"),
        ("counting", "a forward in evaluation mode changes buffers: calls"),
        ("pair", "the module's forward returns a tuple, expected one tensor"),
    ],
)
def test_check_refuses(how: str, message: str) -> None:
    model = Model(initialise(lambda: Odd(how), seed=0))
    before = model.weights()
    state = model.parameters()[0].data_ptr()
    with pytest.raises(ModelError, match=message):
        model.check(torch.randn(3, 4))
    assert model.parameters()[0].data_ptr() == state
    assert torch.equal(model.weights(), before)


def test_check_passes_where_outputs_are_not_finite() -> None:
    model = Model(nn.Linear(2, 2))
    model.bind(torch.full((6,), torch.nan))
    model.check(torch.ones(3, 2))
