from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from zowarmup import nets
from zowarmup.directions import select
from zowarmup.errors import DataError, ModelError, UsageError
from zowarmup.estimators import gradient, loss, slopes, step
from zowarmup.held import peak_bytes
from zowarmup.model import Model, initialise
from zowarmup.task import Classification

EPS, TAU, SEED = 1e-4, 0.75, 2**64 - 3
SETTINGS: dict[str, Any] = {
    "seed": SEED,
    "streams": [0, 7, 2**32 - 1],
    "eps": EPS,
    "tau": TAU,
    "difference": "two-sided",
    "micro_batch": "all",
}


def cnn() -> nn.Module:
    return initialise(lambda: nets.build("cnn", input_shape=(1, 8, 8), classes=10, args={}), seed=0)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x = torch.tensor(data.images[:150] / 16, dtype=torch.float32)[:, None]
    return x, torch.tensor(data.target[:150])


def slope_as_in_the_paper(
    make: Callable[[], nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    seed: int,
    stream: int,
    eps: float,
    tau: float,
    one_sided: bool,
) -> float:
    """arXiv:2509.03503v1, Alg. 1: two networks, L(w + eps z) and L(w - eps z), z = tau * Rademacher(seed)."""

    def mean_loss(side: float) -> float:
        network = make().eval().requires_grad_(False)
        base = 0
        for parameter in network.parameters():
            signs = torch.zeros(parameter.shape)
            select("cpu").perturb(signs, signs, base=base, seed=seed, stream=stream, c=1.0)
            parameter.copy_(parameter + side * np.float32(eps * tau).item() * signs)  # the product is exact
            base += -(-parameter.numel() // 4096) * 4096
        logits = network(x).double()
        return float(F.cross_entropy(logits, y, reduction="none").sum()) / len(x)

    if one_sided:
        return (mean_loss(1) - mean_loss(0)) / eps
    return (mean_loss(1) - mean_loss(-1)) / (2 * eps)


@pytest.mark.parametrize("difference", ["two-sided", "one-sided"])
def test_equals_the_paper_s_loop(difference: Any, digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    found = slopes(Model(cnn()), x, y, Classification(), **(SETTINGS | {"difference": difference}))
    directions = {"seed": SEED, "eps": EPS, "tau": TAU, "one_sided": difference == "one-sided"}
    expected = [slope_as_in_the_paper(cnn, x, y, stream=stream, **directions) for stream in SETTINGS["streams"]]  # type: ignore[arg-type]
    assert found.dtype == np.float64
    assert found.tolist() == expected
    assert np.unique(found).size == 3


def test_loss_equals_the_plain_mean(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model = Model(cnn())
    with torch.no_grad():
        expected = (
            F.cross_entropy(cnn().eval().requires_grad_(False)(x).double(), y, reduction="none").sum().item() / 150
        )
    assert loss(model, x, y, Classification(), micro_batch="all") == expected


class Squares:
    """Half the squared distance: with a linear model, a quadratic in the weights."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
        assert outputs.dtype == torch.float64
        return 0.5 * ((outputs - targets) ** 2).sum(dim=1)

    def scores(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
        return -self.losses(outputs, targets)


def quadratic() -> tuple[Model, Tensor, Tensor]:
    """Small dyadic numbers, so that every sum and product below is exact, in whatever order."""
    generator = torch.Generator().manual_seed(0)
    model = Model(nn.Linear(5, 3))
    model.bind(torch.randint(-8, 8, (18,), generator=generator) / 4)
    x = torch.randint(-4, 4, (8, 5), generator=generator) / 2
    y = torch.randint(-8, 8, (8, 3), generator=generator) / 4
    return model, x, y


def test_a_central_difference_is_exact_on_a_quadratic() -> None:
    model, x, y = quadratic()
    settings = SETTINGS | {"eps": 0.5, "tau": 0.25, "streams": range(20)}
    found = slopes(model, x, y, Squares(), **settings)
    one_sided = slopes(model, x, y, Squares(), **(settings | {"difference": "one-sided"}))
    Squares().losses(model.module(x).double(), y).mean().backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])  # type: ignore[union-attr]
    for stream in range(20):
        z = torch.zeros(18)
        for segment in model.table.segments:
            part = z[segment.offset : segment.offset + segment.size]
            model.directions.perturb(part, part, base=segment.base, seed=SEED, stream=stream, c=0.25)
        assert found[stream] == float(gradient @ z)
        curvature = 0.5 * float(((x @ z[:15].view(3, 5).T + z[15:]) ** 2).sum(dim=1).mean())
        assert one_sided[stream] == float(gradient @ z) + 0.5 * curvature  # eps times half of z' H z


def test_micro_batches_change_slopes_by_rounding_only(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model = Model(cnn())
    whole = slopes(model, x, y, Classification(), **SETTINGS)
    # Another batch size may sum another way, so that a sample's logits differ by a few fp32 roundings, and so does its
    # loss, relative to L. Four roundings each for two losses over 2 eps would be 4; 16 leaves room for long sums.
    bound = 16 * 2**-24 * loss(model, x, y, Classification(), micro_batch="all") / EPS
    for size in (1, 7, 64, 150, 1000):
        parts = slopes(model, x, y, Classification(), **(SETTINGS | {"micro_batch": size}))
        assert np.abs(parts - whole).max() <= bound
    assert slopes(model, x, y, Classification(), **(SETTINGS | {"micro_batch": 150})).tolist() == whole.tolist()


def test_micro_batches_are_added_in_order() -> None:
    model, x, y = quadratic()
    seen = []

    class Watching(Squares):
        def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
            seen.append(targets[0].tolist())
            return super().losses(outputs, targets)  # type: ignore[no-any-return]

    got = loss(model, x, y, Watching(), micro_batch=3)
    assert seen == [y[0].tolist(), y[3].tolist(), y[6].tolist()]
    assert got == loss(model, x, y, Squares(), micro_batch="all")  # exact numbers


def test_one_sided_evaluates_the_base_once() -> None:
    model, x, y = quadratic()
    calls = []
    model.module.register_forward_hook(lambda *_: calls.append(1))
    slopes(model, x, y, Squares(), **(SETTINGS | {"difference": "one-sided", "streams": range(5)}))
    assert len(calls) == 6
    slopes(model, x, y, Squares(), **(SETTINGS | {"streams": range(5)}))
    assert len(calls) == 16


def test_no_directions_no_slopes() -> None:
    model, x, y = quadratic()
    assert slopes(model, x, y, Squares(), **(SETTINGS | {"streams": []})).shape == (0,)


def test_weights_buffers_and_modes_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3))
    model = Model(initialise(lambda: module, seed=0), batch_norm="batch")
    _, x, y = quadratic()
    module.train()
    before, buffers = model.weights(), model.buffers()
    first = slopes(model, x, y, Squares(), **SETTINGS)
    assert first.tolist() == slopes(model, x, y, Squares(), **SETTINGS).tolist()  # dropout is off
    assert torch.equal(model.weights(), before)
    assert all(torch.equal(value, buffers[name]) for name, value in model.buffers().items())
    assert all(part.training for part in module.modules())


def test_batch_normalisation_excludes_micro_batches() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    _, x, y = quadratic()
    for policy, refused in (("batch", True), ("frozen", False)):
        model = Model(module, batch_norm=policy)  # type: ignore[arg-type]
        slopes(model, x, y, Squares(), **(SETTINGS | {"micro_batch": 8}))
        if refused:
            message = 'model.batch-norm = "batch" normalises over the whole batch of 8, but micro-batch is 3'
            with pytest.raises(ModelError, match=message):
                slopes(model, x, y, Squares(), **(SETTINGS | {"micro_batch": 3}))
        else:
            slopes(model, x, y, Squares(), **(SETTINGS | {"micro_batch": 3}))


@pytest.mark.parametrize(
    ("weight", "expected"),
    [(torch.nan, np.isnan), (torch.inf, np.isnan), (1e30, lambda found: ~np.isnan(found))],
)
def test_what_is_not_finite_passes_through(weight: float, expected: Any) -> None:
    model, x, y = quadratic()
    model.bind(torch.full((18,), weight))
    found = slopes(model, x, y, Squares(), **SETTINGS)
    assert expected(found).all()


def test_streams_may_be_any_integers() -> None:
    model, x, y = quadratic()
    plain = slopes(model, x, y, Squares(), **(SETTINGS | {"streams": [0, 1, 2**32 - 1]}))
    for dtype in (np.uint32, np.int64, np.uint64):
        streams = np.array([0, 1, 2**32 - 1], dtype=dtype)
        assert slopes(model, x, y, Squares(), **(SETTINGS | {"streams": streams})).tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"streams": [2**32]}, UsageError, "stream 4294967296: expected"),
        ({"streams": np.array([0, -1])}, UsageError, "stream -1: expected"),
        ({"seed": 2**64}, UsageError, "seed 18446744073709551616"),
        ({"eps": 0.0}, UsageError, "eps is 0.0 and tau is 0.75, expected both > 0"),
        ({"eps": -1e-4, "tau": -1.0}, UsageError, "expected both > 0"),
        ({"tau": 1e-50}, UsageError, "their product an fp32 number > 0"),
        ({"eps": 1e30, "tau": 1e30}, UsageError, "their product an fp32 number > 0"),
        ({"eps": float("nan")}, UsageError, "eps is nan"),
        ({"micro_batch": 0}, UsageError, 'micro-batch is 0, expected "all" or at least 1'),
        ({"x": torch.zeros(7, 5)}, DataError, "7 samples and 8 targets"),
        ({"x": torch.zeros(0, 5), "y": torch.zeros(0, 3)}, DataError, "0 samples and 0 targets"),
    ],
)
def test_refusals(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    model, x, y = quadratic()
    arguments = {"x": x, "y": y, "task": Squares()} | SETTINGS | changes
    with pytest.raises(error, match=message):
        slopes(model, **arguments)


def test_losses_must_be_one_a_sample() -> None:
    model, x, y = quadratic()

    class Mean(Squares):
        def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:  # type: ignore[override]
            return super().losses(outputs, targets).mean()

    with pytest.raises(ModelError, match=r"the task's losses have shape \(\), expected \(8,\)"):
        slopes(model, x, y, Mean(), **SETTINGS)


def test_outputs_must_be_one_tensor() -> None:
    class Pair(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x), x

    _, x, y = quadratic()
    with pytest.raises(ModelError, match="the module's forward returns a tuple, expected one tensor"):
        slopes(Model(Pair(5, 3)), x, y, Squares(), **SETTINGS)


def test_step_is_rounded_once() -> None:
    assert step(1e-4, 0.75) == float(np.float32(7.5e-5))
    assert step(2.0**-149, 1.0) == 2.0**-149


EXACT: dict[str, Any] = SETTINGS | {"difference": "exact"}


def test_exact_slopes_are_central_differences_of_a_quadratic() -> None:
    model, x, y = quadratic()
    settings = SETTINGS | {"eps": 0.5, "tau": 0.25, "streams": range(20)}
    expected = slopes(model, x, y, Squares(), **settings)
    found = slopes(model, x, y, Squares(), **(settings | {"difference": "exact"}))
    assert found.dtype == np.float64
    assert found.tolist() == expected.tolist()  # exact numbers, in whatever order


def test_differences_converge_to_exact_slopes(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits

    def smooth() -> nn.Module:  # a ReLU's kinks hide orders
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))

    model = Model(initialise(smooth, seed=0))
    exact = slopes(model, x, y, Classification(), **EXACT)
    for difference, order in (("one-sided", 1), ("two-sided", 2)):
        errors = []
        for eps in (0.02, 0.005):
            settings = SETTINGS | {"difference": difference, "eps": eps}
            errors.append(np.linalg.norm(slopes(model, x, y, Classification(), **settings) - exact))
        # A quarter of eps: a quarter of the error, or a sixteenth; terms of higher order are left a factor of two.
        assert 4**order / 2 < errors[0] / errors[1] < 4**order * 2


def test_exact_slopes_are_the_gradient_s_inner_products(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model, plain = Model(cnn()), cnn().eval()
    F.cross_entropy(plain(x).double(), y, reduction="none").mean().backward()  # type: ignore[no-untyped-call]
    vector = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])  # type: ignore[union-attr]
    # The mean's gradient reaches each sample with another rounding than a sum's: a few of 2**-24 of the largest.
    torch.testing.assert_close(
        gradient(model, x, y, Classification(), micro_batch="all"), vector, rtol=1e-5, atol=1e-6 * float(vector.norm())
    )


def test_micro_batches_change_exact_slopes_by_rounding_only(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model = Model(cnn())
    whole = slopes(model, x, y, Classification(), **EXACT)
    norm = float(gradient(model, x, y, Classification(), micro_batch="all").norm())
    for size in (1, 7, 64, 1000):
        parts = slopes(model, x, y, Classification(), **(EXACT | {"micro_batch": size}))
        # 150 sums in fp32, each off by 2**-24 of what is summed, projected on a direction of length sqrt(d) tau.
        assert np.abs(parts - whole).max() < 150 * 2**-24 * norm * model.size**0.5
    assert slopes(model, x, y, Classification(), **EXACT).tolist() == whole.tolist()


def test_micro_batches_bound_the_memory_of_exact_slopes(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model = Model(cnn())

    def work(size: int) -> int:
        return peak_bytes(lambda: gradient(model, x, y, Classification(), micro_batch=size), torch.device("cpu"))

    assert work(10) < work(150) / 3  # the gradient, and activations of a fifteenth of the samples


def test_frozen_parameters_contribute_nothing_to_exact_slopes(digits: tuple[Tensor, Tensor]) -> None:
    x, y = digits
    model = Model(cnn())
    last = model.table.names[-2:]
    body = [name for name in model.table.names if name not in last]
    vector = gradient(model, x, y, Classification(), micro_batch="all", frozen=body)
    for name in model.table.names:
        assert bool(vector[model.table.place(name)].any()) == (name in last)
    parts = [slopes(model, x, y, Classification(), **EXACT, frozen=frozen) for frozen in (body, last)]
    # Inner products of two disjoint parts, summed in another order in float64 over fp32 gradients of equal bits.
    np.testing.assert_allclose(sum(parts), slopes(model, x, y, Classification(), **EXACT), rtol=1e-9)


def test_exact_slopes_leave_weights_buffers_and_modes_alone() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3))
    model = Model(initialise(lambda: module, seed=0), batch_norm="frozen")
    _, x, y = quadratic()
    module.train()
    before, buffers = model.weights(), model.buffers()
    first = slopes(model, x, y, Squares(), **EXACT)
    assert first.tolist() == slopes(model, x, y, Squares(), **EXACT).tolist()  # dropout is off
    assert torch.equal(model.weights(), before)
    assert all(torch.equal(value, buffers[name]) for name, value in model.buffers().items())
    assert all(part.training for part in module.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    close = slopes(model, x, y, Squares(), **(SETTINGS | {"eps": 1e-2}))
    np.testing.assert_allclose(first, close, rtol=1e-2)  # the same frozen statistics; eps squared, and fp32 over eps


def test_exact_slopes_under_batch_statistics_exclude_micro_batches() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model = Model(module, batch_norm="batch")
    _, x, y = quadratic()
    with pytest.raises(ModelError, match="normalises over the whole batch of 8, but micro-batch is 3"):
        slopes(model, x, y, Squares(), **(EXACT | {"micro_batch": 3}))


class Detached(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).detach()


class Broken(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.exp(super().forward(x))
        outputs.mul_(2)  # overwrites what the backward pass of exp needs
        return outputs


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Detached(5, 3), "does not depend on the parameters through operations that backprop can follow"),
        (Broken(5, 3), "backprop fails: one of the variables needed for gradient computation has been modified"),
    ],
)
def test_what_cannot_run_backprop_is_refused(module: nn.Module, message: str) -> None:
    _, x, y = quadratic()
    model = Model(module)
    with pytest.raises(ModelError, match=message) as caught:
        slopes(model, x, y, Squares(), **EXACT)
    assert "needs no backprop" in str(caught.value.hint)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    slopes(model, x, y, Squares(), **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"streams": [2**32]}, UsageError, "stream 4294967296: expected"),
        ({"streams": np.array([0, -1])}, UsageError, "stream -1: expected"),
        ({"seed": 2**64}, UsageError, "seed 18446744073709551616"),
        ({"tau": -1.0}, UsageError, "expected both > 0"),
        ({"micro_batch": 0}, UsageError, 'micro-batch is 0, expected "all" or at least 1'),
        ({"x": torch.zeros(7, 5)}, DataError, "7 samples and 8 targets"),
    ],
)
def test_exact_refusals(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    model, x, y = quadratic()
    with pytest.raises(error, match=message):
        slopes(model, **({"x": x, "y": y, "task": Squares()} | EXACT | changes))


def test_no_directions_no_exact_slopes_and_nan_passes_through() -> None:
    model, x, y = quadratic()
    assert slopes(model, x, y, Squares(), **(EXACT | {"streams": []})).shape == (0,)
    model.bind(torch.full((18,), torch.nan))
    assert np.isnan(slopes(model, x, y, Squares(), **EXACT)).all()
