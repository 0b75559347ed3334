"""First-order rounds: local SGD on each client, folded by the server; FedAvg, FedAvgM and FedAdam.

McMahan et al. 2017 (arXiv:1602.05629) and Reddi et al. 2021 (arXiv:2003.00295, Alg. 2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zowarmup.draws import Draw
from zowarmup.estimators import gathering
from zowarmup.model import cuda_precision
from zowarmup.phases.averaging import averaged
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.protocol import Replacement, Report, Request, Weights, members
from zowarmup.recipe import FirstOrder
from zowarmup.state import State, moments_digest


@dataclass(frozen=True)
class FirstOrderPhase:
    """plan, work, close, apply of a first-order phase."""

    settings: FirstOrder
    scope: Scope
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are."""

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """Each client of the cohort trains from the state before the round."""
        cohort = self.scope.cohort(round, self.settings)
        return [Request(round=round, phase=self.scope.phase, client=client) for client in cohort]

    def work(self, request: Request, client: Client) -> Weights:
        """Train a copy of the weights on the client's data, and send it whole."""
        weights = client.state.weights.clone()
        model = client.model
        model.bind(weights)
        model.load_buffers(client.state.buffers)
        model.module.train()
        with _generator(client.draw("module", request.round), weights.device):
            self._train(weights, request.round, client)
        buffers = {name: buffer.cpu().numpy() for name, buffer in model.buffers().items()}
        return Weights(
            round=request.round,
            phase=self.scope.phase,
            client=client.index,
            weights=weights.cpu().numpy(),
            buffers=buffers,
        )

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Average weights and float buffers by n_j in float64, integer buffers by maximum; take the server's step."""
        cohort = self.scope.cohort(round, self.settings)
        refused: dict[int, str] = {}
        participants = []
        total = 0
        weights = torch.zeros(state.weights.shape, dtype=torch.float64)
        buffers = {name: _empty_sum(buffer) for name, buffer in state.buffers.items()}
        for report in screen(reports, Weights, cohort, round, lambda report: _fault(report, state), refused):
            n = self.scope.samples[report.client]
            weights.add_(torch.from_numpy(report.weights), alpha=n)
            for name, buffer in buffers.items():
                _fold(buffer, torch.from_numpy(report.buffers[name]), n)
            total += n
            participants.append(report.client)
        after = state
        if participants:
            mean = weights.div_(total)
            means = {name: _mean(buffer, total, state.buffers[name]) for name, buffer in buffers.items()}
            after = self._server_step(state, mean, means)
            if not bool(torch.isfinite(after.weights).all()):  # each client's are finite, but the step they make is not
                refused |= dict.fromkeys(participants, "the server's step is not finite")
                participants, after = [], state
        if self.settings.average_last is not None:
            left = self.scope.first_round + self.settings.rounds - 1 - round
            after = averaged(state, after, last=self.settings.average_last, left=left)
        snapshot = after.digest()
        entry = Replacement(
            round=round,
            phase=self.scope.phase,
            members=members(participants),
            refused=dict(sorted(refused.items())),
            snapshot=snapshot,
            moments=moments_digest(after.moments()),
        )
        return Closed(entry, {snapshot: after})

    def apply(self, entry: Replacement, blobs: Blobs, state: State) -> State:
        """The snapshot that the entry names."""
        return blobs[entry.snapshot]

    def passes(self, samples: int, client: int) -> Passes:
        """Every sample forward and backward, once an epoch."""
        return Passes(forward=self.settings.epochs * samples, backward=self.settings.epochs * samples)

    def _train(self, weights: Tensor, round: int, client: Client) -> None:
        """Local SGD, in place. The model's parameters are views of ``weights``, their gradients views of one vector,
        so that a step is a handful of operations however many parameters there are."""
        settings = self.settings
        lr = settings.lr_at(round - self.scope.first_round)
        gradient = torch.zeros_like(weights)
        velocity: Tensor | None = None
        still = [self.scope.table.place(name) for name in self.frozen]
        with gathering(client.model.parameters(), gradient), _precision(settings.precision, weights.device):
            for x, y in self._batches(round, client):
                gradient.zero_()
                with _autocast(settings.precision, weights.device):
                    outputs = client.model.module(x)
                client.task.losses(outputs.float(), y).mean().backward()  # type: ignore[no-untyped-call]
                for place in still:
                    gradient[place] = 0.0
                if settings.clip_norm is not None:
                    norm = torch.linalg.vector_norm(gradient)
                    gradient.mul_(torch.clamp(settings.clip_norm / (norm + 1e-6), max=1.0))
                if settings.weight_decay:
                    gradient.add_(weights, alpha=settings.weight_decay)
                    for place in still:
                        gradient[place] = 0.0
                direction = gradient
                if settings.momentum:
                    velocity = gradient.clone() if velocity is None else velocity.mul_(settings.momentum).add_(gradient)
                    direction = velocity
                weights.add_(direction, alpha=-lr)

    def _batches(self, round: int, client: Client) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(client.indices)
        size = count if self.settings.batch == "all" else self.settings.batch
        starts = list(range(0, count, size))
        if len(starts) > 1 and count % size == 1 and client.model.has_batch_norm:
            starts.pop()  # one sample has no variance: it joins the batch before it
        step = 0
        for epoch in range(self.settings.epochs):
            order = client.draw("batches", round, epoch).permutation(count)
            for start, stop in zip(starts, [*starts[1:], count], strict=True):
                augment = client.draw("augment", round, step) if self.settings.augment == "standard" else None
                yield client.samples.batch(client.indices[order[start:stop]], augment=augment)
                step += 1

    def _server_step(self, state: State, mean: Tensor, buffers: dict[str, Tensor]) -> State:
        """The state after the round, from the float64 mean of the clients' weights."""
        settings = self.settings
        phase: dict[str, float | Tensor] = {}
        if settings.server != "fedavg" or settings.server_lr not in (None, 1.0):
            before = state.weights.cpu().double()
            delta = mean.sub_(before)
            if settings.server == "fedavg":
                step = delta
            elif settings.server == "fedavgm":
                phase["momentum"] = step = settings.server_momentum * _moment(state, "momentum", delta) + delta
            else:
                start = settings.adaptivity**2
                m = settings.beta1 * _moment(state, "m", delta) + (1 - settings.beta1) * delta
                v = settings.beta2 * _moment(state, "v", delta, start) + (1 - settings.beta2) * delta.square()
                phase["m"], phase["v"] = m, v
                step = m / (v.sqrt() + settings.adaptivity)
            mean = before.add_(step, alpha=settings.server_lr or 1.0)
        return State(mean.float().to(state.weights.device), buffers, phase)


def _moment(state: State, name: str, like: Tensor, start: float = 0.0) -> Tensor:
    value = state.phase.get(name)
    return value if isinstance(value, Tensor) else torch.full_like(like, start)


def _fault(report: Weights, state: State) -> str | None:
    """Why a client's weights do not count, or None."""
    expected = tuple(state.weights.shape)
    if report.weights.shape != expected or report.weights.dtype != np.float32:
        return f"weights of shape {report.weights.shape} and {report.weights.dtype}, expected {expected} and float32"
    if not np.isfinite(report.weights).all():
        return "non-finite weights"
    if report.buffers.keys() != state.buffers.keys():
        return f"buffers {sorted(report.buffers)}, expected {sorted(state.buffers)}"
    for name, buffer in state.buffers.items():
        form, expected_form = _form(torch.from_numpy(report.buffers[name])), _form(buffer)
        if form != expected_form:
            return f"buffer {name} is {form}, expected {expected_form}"
        if not np.isfinite(report.buffers[name]).all():
            return f"non-finite buffer {name}"
    return None


def _form(buffer: Tensor) -> str:
    return f"{str(buffer.dtype).removeprefix('torch.')} of shape {tuple(buffer.shape)}"


def _empty_sum(buffer: Tensor) -> Tensor:
    """Where a buffer's reports are folded: a float64 sum, or an integer maximum."""
    if buffer.is_floating_point():
        return torch.zeros(buffer.shape, dtype=torch.float64)
    return torch.full(buffer.shape, _lowest(buffer.dtype), dtype=buffer.dtype)


def _lowest(dtype: torch.dtype) -> int:
    return 0 if dtype == torch.bool else torch.iinfo(dtype).min


def _fold(total: Tensor, buffer: Tensor, n: int) -> None:
    if total.dtype == torch.float64:
        total.add_(buffer, alpha=n)
    else:
        torch.maximum(total, buffer.to(total.dtype), out=total)


def _mean(total: Tensor, n: int, before: Tensor) -> Tensor:
    mean = total.div(n) if before.is_floating_point() else total
    return mean.to(before.dtype).to(before.device)


@contextlib.contextmanager
def _generator(draw: Draw, device: torch.device) -> Iterator[None]:
    """While open, what a module draws from torch's generators (dropout) follows from the key alone."""
    devices = [device] if device.type in ("cuda", "mps") else []
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(draw.key() & (2**63 - 1))
        yield


def _precision(precision: str, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """While open, CUDA's matrix products use TF32 where the recipe says so."""
    if precision == "tf32" and device.type == "cuda":
        return cuda_precision("tf32")
    return contextlib.nullcontext()


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
