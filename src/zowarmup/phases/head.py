r"""The head: the last linear layer in closed form, from sums that clients of every tier make with forward passes alone.

With features f (the layer's input, 1 appended) and one-hot labels y, clients send the sums

.. math:: G = \sum f f^\top, \qquad C = \sum f y^\top

and the server solves (G + lambda I) W = C: ridge regression on everybody's data, exactly, without anybody's samples. A
second round chooses what the logits are multiplied by. Related, on features that were trained elsewhere: FedNCM, Fed3R
and FedCOF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zowarmup.errors import NonFiniteError, RunError
from zowarmup.head import HeadLayer, features
from zowarmup.phases.apply import apply
from zowarmup.phases.base import Blobs, Client, Closed, Passes, Scope, screen
from zowarmup.protocol import Losses, Patch, Report, Request, Sums, members
from zowarmup.recipe import Head
from zowarmup.state import State

Matrix = NDArray[np.float64]
_FP32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class HeadPhase:
    """plan, work, close, apply of a head phase."""

    settings: Head
    scope: Scope
    layer: HeadLayer

    def plan(self, round: int, state: State) -> Sequence[Request]:
        """Each client of the cohort that holds enough samples."""
        return self.scope.requests(round, self.settings)

    def work(self, request: Request, client: Client) -> Report:
        """Sums over the client's samples; or, in the second round, its mean loss at each temperature."""
        client.model.bind(client.state.weights)
        client.model.load_buffers(client.state.buffers)
        if self._solves(request.round):
            return self._sums(request.round, client)
        return self._losses(request.round, client)

    def close(self, round: int, reports: Iterable[Report], state: State) -> Closed:
        """Solve for the head, or keep the temperature with the least loss; exact values, as every replica applies them.

        Raises:
            RunError: no client's sums count.
            NonFiniteError: the system has no solution, or one beyond fp32.
        """
        refused: dict[int, str] = {}
        if self._solves(round):
            participants, values = self._solve(round, reports, refused)
        else:
            participants, values = self._choose(round, reports, state, refused)
        entry = Patch(
            round=round,
            phase=self.scope.phase,
            members=members(participants),
            refused=dict(sorted(refused.items())),
            values=values,
        )
        return Closed(entry, {})

    def apply(self, entry: Patch, blobs: Blobs, state: State) -> State:
        """See :func:`zowarmup.phases.apply.apply`."""
        return apply(state, entry, table=self.scope.table, directions=self.scope.directions)

    def passes(self, samples: int, client: int) -> Passes:
        """Every sample once; temperatures share the features."""
        return Passes(forward=samples if samples >= self.settings.min_samples else 0, backward=0)

    def _solves(self, round: int) -> bool:
        return round == self.scope.first_round

    def _sums(self, round: int, client: Client) -> Sums:
        p, classes = self.layer.inputs, self.layer.classes
        second = np.zeros((p, p) if self.settings.form == "full" else (p,))
        targets = np.zeros((p, classes))
        for f, y in features(client.model, self.layer, client.samples, client.indices, self.scope.micro_batch):
            if self.settings.form == "full":
                second += f.T @ f
            elif self.settings.form == "diagonal":
                second += np.square(f).sum(axis=0)
            targets += f.T @ np.eye(classes)[y]
        packed = second[np.triu_indices(p)] if self.settings.form == "full" else second
        with np.errstate(over="ignore"):  # a sum beyond fp32 becomes inf, which `close` refuses
            return Sums(
                round=round,
                phase=self.scope.phase,
                client=client.index,
                features=(packed if self.settings.form != "means" else np.zeros(0)).astype(np.float32),
                targets=targets.astype(np.float32),
            )

    def _losses(self, round: int, client: Client) -> Losses:
        layer = client.model.module.get_submodule(self.layer.name)
        assert isinstance(layer, torch.nn.Linear)
        weight = layer.weight.detach().double()
        bias = None if layer.bias is None else layer.bias.detach().double()
        total = np.zeros(len(self.settings.temperatures))
        for f, y in features(client.model, self.layer, client.samples, client.indices, self.scope.micro_batch):
            inputs = torch.from_numpy(f[:, : weight.shape[1]]).to(weight.device)
            logits = torch.nn.functional.linear(inputs, weight, bias)
            wanted = torch.from_numpy(y).to(weight.device)
            for index, temperature in enumerate(self.settings.temperatures):
                total[index] += float(client.task.losses(temperature * logits, wanted).sum())
        with np.errstate(over="ignore"):  # as above
            losses = (total / len(client.indices)).astype(np.float32)
        return Losses(round=round, phase=self.scope.phase, client=client.index, losses=losses)

    def _solve(
        self, round: int, reports: Iterable[Report], refused: dict[int, str]
    ) -> tuple[list[int], dict[str, NDArray[np.float32]]]:
        p, classes = self.layer.inputs, self.layer.classes
        size = {"full": p * (p + 1) // 2, "diagonal": p, "means": 0}[self.settings.form]
        shapes = {"features": (size,), "targets": (p, classes)}
        second, targets, participants = np.zeros(size), np.zeros((p, classes)), []
        cohort = self.scope.cohort(round, self.settings)
        for report in screen(reports, Sums, cohort, round, lambda report: _fault(report, shapes), refused):
            second += report.features
            targets += report.targets
            participants.append(report.client)
        if not participants:
            raise self._nobody(round, refused)
        solution = _SOLVERS[self.settings.form](second, targets, self.settings, self.layer)
        if self.settings.rounds == 1:
            solution = self.settings.temperatures[0] * solution
        with np.errstate(over="ignore"):  # refused right here
            values = self.layer.values(solution)
        if not all(np.isfinite(value).all() for value in values.values()):
            raise NonFiniteError(
                f"round {round}: the head that solves the clients' sums is not finite",
                hint="features that are all zero or huge, a huge temperature, or no solution: try ridge > 0",
                round=round,
            )
        return participants, values

    def _nobody(self, round: int, refused: Mapping[int, str]) -> RunError:
        """What to raise where no client's sums count: a head that is not solved would be used all the same."""
        asked = self.scope.requests(round, self.settings)
        least = self.settings.min_samples
        if refused:
            client = min(refused)
            why = f"{len(refused)} are refused, of client {client}: {refused[client]}"
        elif asked:
            why = f"none of {len(asked)} answered"
        else:
            why = f"none of the {len(self.scope.cohort(round, self.settings))} sampled holds min-samples = {least}"
        hint = None if asked else 'a smaller min-samples, or cohort = "all"'
        return RunError(f"round {round}: no client's sums count, so no head is solved: {why}", hint=hint, round=round)

    def _choose(
        self, round: int, reports: Iterable[Report], state: State, refused: dict[int, str]
    ) -> tuple[list[int], dict[str, NDArray[np.float32]]]:
        shape = {"losses": (len(self.settings.temperatures),)}
        total, participants = np.zeros(shape["losses"]), []
        cohort = self.scope.cohort(round, self.settings)
        for report in screen(reports, Losses, cohort, round, lambda report: _fault(report, shape), refused):
            total += self.scope.samples[report.client] * report.losses.astype(np.float64)
            participants.append(report.client)
        if not participants:
            return [], {}
        best = np.float32(self.settings.temperatures[int(total.argmin())])
        places = {name: self.scope.table.place(name) for name in self.layer.parameters}
        return participants, {name: best * state.weights[place].cpu().numpy() for name, place in places.items()}


def _fault(report: Sums | Losses, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why a client's numbers do not count, or None."""
    for name, shape in shapes.items():
        values = getattr(report, name)
        if values.shape != shape or values.dtype != np.float32:
            return f"{name} of shape {values.shape} and {values.dtype}, expected {shape} and float32"
        if not np.isfinite(values).all():
            return f"non-finite {name}"
    return None


def _ridge(second: Matrix, targets: Matrix, settings: Head, layer: HeadLayer) -> Matrix:
    """Ridge regression on one-hot labels, shape ``(p, classes)``."""
    p = layer.inputs
    gram = np.zeros((p, p))
    gram[np.triu_indices(p)] = second
    gram = gram + np.triu(gram, 1).T
    diagonal = np.diag(gram)
    system = (1.0 - settings.shrinkage) * gram
    system[np.diag_indices(p)] = diagonal + settings.ridge * diagonal.mean()
    used = slice(p if layer.bias is not None else p - 1)
    system, targets = system[used, used], targets[used]
    # Sums are rounded to fp32, which moves eigenvalues by up to this: one that is no larger is nothing but rounding.
    if np.linalg.eigvalsh(system)[0] <= _FP32 * np.linalg.norm(system):
        raise NonFiniteError(
            f"the head's system of {len(system)} equations is singular, to the accuracy of fp32 sums",
            hint=f"set ridge > {settings.ridge:g}: with fewer samples than features there is no other solution",
        )
    return np.asarray(np.linalg.solve(system, targets), np.float64)


def _gaussian(second: Matrix, targets: Matrix, settings: Head, layer: HeadLayer) -> Matrix:
    """A Gaussian for each class, with one diagonal variance: linear in f, shape ``(p, classes)``."""
    counts, means = _means(targets)
    within = np.maximum(second[:-1] - np.square(means) @ counts, 4 * _FP32 * second[:-1])  # less is only rounding
    variance = within / counts.sum() + settings.ridge * (within / counts.sum()).mean()
    with np.errstate(divide="ignore", invalid="ignore"):  # features that are all zero, without a ridge: refused
        weight = means / variance[:, None]
        prior = np.where(counts > 0, np.log(counts / counts.sum()), -1e4)
    return np.vstack([weight, prior - 0.5 * (means * weight).sum(axis=0)])


def _nearest(second: Matrix, targets: Matrix, settings: Head, layer: HeadLayer) -> Matrix:
    """The nearest class mean: f . m - |m|^2 / 2, shape ``(p, classes)``."""
    counts, means = _means(targets)
    return np.vstack([means, np.where(counts > 0, -0.5 * np.square(means).sum(axis=0), -1e4)])


def _means(targets: Matrix) -> tuple[Matrix, Matrix]:
    """Counts, shape ``(classes,)``, and means, shape ``(features, classes)``, from the sums of f y' with 1 appended."""
    counts = targets[-1]
    return counts, targets[:-1] / np.maximum(counts, 1.0)


_SOLVERS: dict[str, Callable[[Matrix, Matrix, Head, HeadLayer], Matrix]] = {
    "full": _ridge,
    "diagonal": _gaussian,
    "means": _nearest,
}
