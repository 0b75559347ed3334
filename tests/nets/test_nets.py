from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from zowarmup import nets
from zowarmup.errors import ModelError

COLOUR = (3, 32, 32)


def build(name: str, input_shape: tuple[int, ...] = COLOUR, classes: int | None = 10, **args: Any) -> nn.Module:
    return nets.build(name, input_shape=input_shape, classes=classes, args=args)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "args", "parameters"),
    [
        ("resnet18", {"norm": "batch"}, 11_173_962),  # arXiv:2509.03503v1
        ("resnet18", {"norm": "group"}, 11_173_962),
        ("resnet8", {}, 78_042),
        ("resnet8", {"norm": "batch"}, 78_042),
        ("vit", {}, 18_944_522),  # arXiv:2509.03503v1
        ("cnn", {}, 24_346),
        ("cnn", {"norm": "batch", "groups": 5}, 24_346),
        ("mlp", {"norm": "batch"}, 3072 * 32 + 32 + 2 * 32 + 330),
        ("lenet", {}, 62_006),
    ],
)
def test_counts_are_the_published_ones(name: str, args: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert count(build(name, **args)) == parameters


@pytest.mark.parametrize(
    ("name", "input_shape", "args"),
    [
        ("mlp", (64,), {}),
        ("mlp", (1, 8, 8), {"hidden": [16, 8]}),
        ("mlp", (5,), {"hidden": []}),
        ("cnn", (1, 8, 8), {}),
        ("cnn", (1, 8, 8), {"norm": "batch"}),
        ("mlp", (1, 8, 8), {"hidden": [16, 8], "norm": "batch"}),
        ("cnn", (3, 9, 15), {"widths": [4, 8], "groups": 2}),
        ("lenet", (1, 28, 28), {}),
        ("lenet", (3, 32, 32), {}),
        ("resnet18", (3, 32, 32), {"width": 8}),
        ("resnet18", (1, 28, 28), {"width": 8, "norm": "group", "groups": 4}),
        ("resnet8", (1, 9, 15), {"width": 8}),
        ("vit", (3, 32, 32), {"width": 16, "depth": 2, "heads": 2}),
        ("vit", (1, 28, 20), {"width": 8, "depth": 1, "heads": 1}),
    ],
)
def test_outputs_are_logits(name: str, input_shape: tuple[int, ...], args: dict[str, Any]) -> None:
    module = nets.build(name, input_shape=input_shape, classes=7, args=args)
    logits = module(torch.zeros(2, *input_shape))
    assert logits.shape == (2, 7)
    assert logits.dtype == torch.float32


def test_positions_are_different_everywhere_and_not_saved() -> None:
    module = build("vit", width=16, depth=1, heads=2)
    positions = module.get_buffer("positions")
    assert len(torch.unique(positions, dim=0)) == 64
    assert "positions" not in module.state_dict()


@pytest.mark.parametrize(
    ("name", "input_shape", "classes", "args", "message"),
    [
        ("resnet", COLOUR, 10, {}, 'model.net = "resnet": no such net'),
        ("python:only", COLOUR, 10, {}, 'model.net = "python:only": no such net'),
        ("mlp", COLOUR, None, {}, 'model.net = "mlp" needs a number of classes'),
        ("mlp", COLOUR, 10, {"classes": 3}, "model.args: classes comes from the data"),
        ("mlp", COLOUR, 10, {"width": 3}, "mlp: model.args: got an unexpected keyword argument 'width'"),
        ("mlp", COLOUR, 10, {"hidden": 32}, "mlp: model.args.hidden is 32: Expected `array`, got `int`"),
        ("mlp", COLOUR, 10, {"hidden": [0]}, "mlp: model.args.hidden is 0, expected >= 1"),
        ("cnn", (64,), 10, {}, r"cnn: samples have shape \(64,\), expected images"),
        ("cnn", COLOUR, 10, {"widths": []}, r"cnn: model.args.widths is \[\], expected at least one width"),
        ("cnn", COLOUR, 10, {"widths": [6]}, "cnn: model.args.groups is 4, expected a divisor of the width, 6"),
        ("cnn", COLOUR, 10, {"groups": True}, "cnn: model.args.groups is True: Expected `int`, got `bool`"),
        ("lenet", (1, 8, 8), 10, {}, "lenet: images are 8 x 8, expected 28 x 28 or 32 x 32"),
        ("resnet18", COLOUR, 10, {"norm": "layer"}, "resnet18: model.args.norm is 'layer': Invalid enum value"),
        ("resnet18", COLOUR, 10, {"norm": "group", "groups": 5}, "groups is 5, expected a divisor of the width, 64"),
        ("vit", (3, 30, 32), 10, {}, "vit: model.args.patch is 4, expected a divisor of the image's height, 30"),
        ("vit", (3, 32, 30), 10, {}, "vit: model.args.patch is 4, expected a divisor of the image's width, 30"),
        ("vit", COLOUR, 10, {"heads": 7}, "vit: model.args.heads is 7, expected a divisor of the width, 512"),
        ("vit", COLOUR, 10, {"width": 6, "heads": 1}, "vit: model.args.width is 6, expected a multiple of 4"),
    ],
)
def test_refusals(
    name: str, input_shape: tuple[int, ...], classes: int | None, args: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        nets.build(name, input_shape=input_shape, classes=classes, args=args)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("own_nets")
    monkeypatch.setitem(sys.modules, "own_nets", module)
    return module


def test_own_callable_gets_what_its_signature_names(own: ModuleType) -> None:
    own.linear = nn.Linear  # type: ignore[attr-defined]
    assert isinstance(build("python:own_nets:linear", in_features=3, out_features=2), nn.Linear)

    def fitted(input_shape: tuple[int, ...], *, classes: int | None, bias: bool = True) -> nn.Module:
        return nn.Linear(input_shape[0], classes or 1, bias=bias)

    own.fitted = fitted  # type: ignore[attr-defined]
    module = nets.build("python:own_nets:fitted", input_shape=(4,), classes=None, args={"bias": False})
    assert [tuple(parameter.shape) for parameter in module.parameters()] == [(1, 4)]


def test_own_callable_refusals(own: ModuleType) -> None:
    def fails() -> nn.Module:
        raise ZeroDivisionError("no width")

    own.number, own.fails, own.nothing = 3, fails, lambda: None  # type: ignore[attr-defined]
    cases = {
        "python:no_such_module:net": "python:no_such_module:net: No module named 'no_such_module'",
        "python:own_nets:net": "python:own_nets:net: module own_nets has no net",
        "python:own_nets:number": "python:own_nets:number: is a int, expected a callable",
        "python:own_nets:fails": "python:own_nets:fails: failed with ZeroDivisionError: no width",
        "python:own_nets:nothing": "python:own_nets:nothing: returned a NoneType, expected a torch.nn.Module",
    }
    for name, message in cases.items():
        with pytest.raises(ModelError, match=message):
            build(name)
    with pytest.raises(ModelError, match=r"fails: model.args: got an unexpected keyword argument 'depth'"):
        build("python:own_nets:fails", depth=2)
