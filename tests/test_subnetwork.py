"""The narrower net inside a net: which numbers it is, for every shipped net; the masked loss; what is refused."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from zowarmup import nets
from zowarmup.errors import ModelError
from zowarmup.model import Model
from zowarmup.subnetwork import Cut, Masked, held, narrow, static_statistics
from zowarmup.table import Table
from zowarmup.task import Classification

NETS = {
    "mlp": ("mlp", (1, 8, 8), {"hidden": [32, 9]}),
    "cnn": ("cnn", (3, 9, 9), {"widths": [4, 8], "groups": 2}),
    "lenet": ("lenet", (1, 28, 28), {}),
    "resnet18 with BatchNorm": ("resnet18", (1, 8, 8), {"width": 8}),
    "resnet18 with GroupNorm": ("resnet18", (1, 8, 8), {"width": 8, "norm": "group", "groups": 4}),
}
CLASSES = 7


def pair(case, rate=0.5, policy="frozen", scaler=False):
    """A model, and what clients of a narrower one train."""
    name, shape, args = NETS[case]
    torch.manual_seed(0)
    model = Model(nets.build(name, input_shape=shape, classes=CLASSES, args=args), batch_norm=policy)
    module = nets.narrow(name, rate, input_shape=shape, classes=CLASSES, args=args)
    x = torch.randn(5, *shape)
    return model, narrow(model, module, rate, scaler=scaler, x=x), x


@pytest.mark.parametrize("policy", ["frozen", "batch"])
@pytest.mark.parametrize("rate", [0.5, 0.25])
@pytest.mark.parametrize("case", NETS)
def test_a_part_is_the_net_with_zeros_in_all_other_places(case, rate, policy):
    """Whatever lies outside of the part is 0, norms' biases too: what is left of the net computes what the part does.

    So the leading blocks are right for flattened convolutions, shortcuts and groups of channels alike.
    """
    if (case, rate) == ("cnn", 0.25):
        rate = 0.5  # two groups of the net's have no quarter
    model, made, x = pair(case, rate, policy)
    weights, buffers = torch.randn(model.size), model.buffers()
    buffers = {key: value + 0.5 if value.is_floating_point() else value for key, value in buffers.items()}
    part = made.cut.take(weights)
    alone = torch.zeros(model.size)
    for _, block, values in made.cut.blocks(alone, part):
        block.copy_(values)
    model.bind(alone)
    model.load_buffers(buffers)
    made.model.bind(part)
    made.model.load_buffers(made.buffers(buffers))
    with model.evaluation(), made.model.evaluation():
        whole, own = model.module(x), made.model.module(x)
    # fp32 sums of other lengths are added in another order; a resnet18 does so 18 times, on weights of size 1.
    torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))


def shapes(case, rate=0.5):
    _, made, _ = pair(case, rate)
    return dict(zip(made.cut.part.names, made.cut.part.shapes, strict=True))


def test_inputs_and_classes_stay_whole_and_hidden_widths_are_halved_upwards():
    mlp = shapes("mlp")
    assert (mlp["1.weight"], mlp["3.weight"], mlp["5.weight"]) == ((16, 64), (5, 16), (7, 5))
    assert (mlp["1.bias"], mlp["3.bias"], mlp["5.bias"]) == ((16,), (5,), (7,))
    lenet = shapes("lenet")
    assert lenet["0.weight"] == (3, 1, 5, 5)
    assert lenet["7.weight"] == (60, 8 * 5 * 5)
    assert lenet["11.weight"] == (7, 42)
    resnet = shapes("resnet18 with BatchNorm")
    assert resnet["0.weight"] == (4, 1, 3, 3)
    assert resnet["5.shortcut.0.weight"] == (8, 4, 1, 1)
    assert resnet["13.weight"] == (7, 32)


@pytest.mark.parametrize("case", ["cnn", "resnet18 with GroupNorm"])
def test_groups_keep_their_channels(case):
    model, made, _ = pair(case)
    of = [
        [part.num_channels // part.num_groups for part in each.module.modules() if isinstance(part, nn.GroupNorm)]
        for each in (model, made.model)
    ]
    assert of[0] == of[1] != []


def test_a_rate_multiplies_the_one_that_a_recipe_has():
    made = nets.narrow("mlp", 0.5, input_shape=(4,), classes=2, args={"hidden": [32], "rate": 0.25})
    assert made[1].out_features == 4


def test_a_cut_takes_the_leading_block_of_every_parameter():
    cut = Cut(Table(("a", "b"), ((3, 2, 2), ())), Table(("a", "b"), ((2, 1, 2), ())))
    part = cut.take(torch.arange(13.0))
    assert part.tolist() == [0, 1, 4, 5, 12]
    names = [name for name, _, _ in cut.blocks(torch.arange(13.0), part)]
    assert names == ["a", "b"]


def test_narrowed_layers_are_scaled_and_whole_ones_are_not():
    _, plain, x = pair("mlp")
    _, scaled, _ = pair("mlp", scaler=True)
    w = torch.randn(plain.model.size)
    for each in (plain, scaled):
        each.model.bind(w)
    layers = plain.model.module
    hidden = torch.relu(layers[1](x.flatten(1)) / 0.5)
    hidden = torch.relu(layers[3](hidden) / 0.5)
    assert torch.equal(scaled.model.module(x), layers[5](hidden))


def test_the_masked_loss_is_cross_entropy_with_zeros_for_classes_that_are_not_held():
    logits = torch.randn(6, 4, requires_grad=True)
    targets = torch.tensor([1, 3, 3, 1, 1, 3])
    own = held(targets, 4)
    assert own.tolist() == [False, True, False, True]
    task = Masked(Classification(), own)
    zeroed = logits * own
    expected = nn.functional.cross_entropy(zeroed, targets, reduction="none")
    assert torch.equal(task.losses(logits, targets), expected)
    assert torch.equal(task.scores(logits, targets), zeroed.argmax(1) == targets)
    task.losses(logits, targets).sum().backward()
    assert not logits.grad[:, ~own].any() and logits.grad[:, own].all()


def test_static_statistics_normalise_with_the_batch_and_move_nothing():
    torch.manual_seed(0)
    layer = nn.BatchNorm1d(3)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    x = torch.randn(8, 3) + 5
    with static_statistics(layer):
        y = layer.train()(x).detach()
    assert float(y.mean()) == pytest.approx(0, abs=1e-6)  # a mean of 24 fp32 numbers of size 1
    for name, value in layer.named_buffers():
        assert torch.equal(value, before[name]), name
    with pytest.raises(ZeroDivisionError), static_statistics(layer):
        raise ZeroDivisionError
    assert layer.track_running_stats


class Own(nn.Module):
    """A net that can be made wrong."""

    def __init__(self, rate=1.0, wrong=""):
        super().__init__()
        narrowed = rate < 1
        width = 4 if narrowed else 8
        self.first = nn.Linear(3, width + (9 if wrong == "larger" and narrowed else 0))
        self.more = nn.Linear(2, 2) if wrong == "more" and narrowed else nn.Identity()
        self.second = nn.Linear(self.first.out_features, 2 if wrong == "outputs" and narrowed else 5)
        if wrong == "attention":
            self.attention = nn.MultiheadAttention(width, 1)
        if wrong == "buffers" and narrowed:
            self.register_buffer("seen", torch.zeros(1))
        if wrong == "buffer's shape":
            self.register_buffer("seen", torch.zeros(3 if narrowed else 2))
        if wrong == "constant":
            self.second.bias.requires_grad = False

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


WRONG = {
    "larger": "first.weight has shape (13, 3) in the narrower net, which is no part of (8, 3)",
    "more": "the narrower net has other parameters than the net: more.bias, more.weight",
    "outputs": "the narrower net's outputs have shape (2, 2), expected (2, 5)",
    "attention": "attention.in_proj_weight belongs to no linear layer or convolution",
    "buffers": "the narrower net has buffers ['seen'], expected []",
    "buffer's shape": "buffer seen has shape (3,) in the narrower net, which is no part of (2,)",
    "constant": "second.bias is not trained",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_net_that_is_no_part_of_the_other_is_refused(wrong):
    with pytest.raises(ModelError) as caught:
        narrow(Model(Own(1.0, wrong)), Own(0.5, wrong), 0.5, scaler=True, x=torch.zeros(2, 3))
    assert WRONG[wrong] in str(caught.value)


def test_a_layer_of_another_kind_can_be_narrowed_without_the_scaler():
    wrong = "attention"
    made = narrow(Model(Own(1.0, wrong)), Own(0.5, wrong), 0.5, scaler=False, x=torch.zeros(2, 3))
    assert made.model.size < Model(Own(1.0, wrong)).size


def test_parameters_in_another_order_are_refused():
    with pytest.raises(ModelError, match="other parameters than the net: their order"):
        Cut(Table(("a", "b"), ((1,), (1,))), Table(("b", "a"), ((1,), (1,))))


@pytest.mark.parametrize("name", ["vit", "python:own_narrow_nets:fixed"])
def test_a_net_without_a_rate_has_no_narrower_one(monkeypatch, name):
    own = ModuleType("own_narrow_nets")
    own.fixed = lambda classes: nn.Linear(3, classes)
    monkeypatch.setitem(sys.modules, "own_narrow_nets", own)
    with pytest.raises(ModelError, match="takes no `rate`, so there is no narrower one") as caught:
        nets.narrow(name, 0.5, input_shape=(3, 8, 8), classes=5, args={})
    assert caught.value.hint.startswith("mlp, cnn, lenet, resnet8, resnet18 do;")


@pytest.mark.parametrize("name", ["mlp", "cnn", "lenet", "resnet8", "resnet18"])
@pytest.mark.parametrize("rate", [0.0, 1.5])
def test_a_rate_out_of_range_is_refused(name, rate):
    with pytest.raises(ModelError, match=rf"{name}: model.args.rate is {rate}, expected > 0, <= 1"):
        nets.build(name, input_shape=(1, 28, 28), classes=3, args={"rate": rate})


def test_a_rate_that_leaves_groups_of_unequal_size_is_refused():
    with pytest.raises(ModelError, match=r"model\.args\.groups is 2, expected a divisor of the width, 5"):
        nets.narrow("cnn", 0.3, input_shape=(3, 8, 8), classes=3, args={})
