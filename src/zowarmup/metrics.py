"""What a run reports beside accuracy: by class, by tier, by client. All accuracies are fractions of 1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zowarmup.data import Federation, Samples
from zowarmup.model import Model
from zowarmup.state import State
from zowarmup.task import Task


def evaluate(model: Model, state: State, test: Samples, task: Task, federation: Federation) -> dict[str, Any]:
    """Metrics of ``state`` on the test set; binds the model to it.

    BatchNorm normalises as in zeroth-order forwards: by the model's policy.

    Returns:
        ``loss`` (mean), ``accuracy`` (mean score), and for a classification those of :func:`by_class`; None where
        undefined.
    """
    losses, scores, targets = _forward(model, state, test, task, None)
    metrics: dict[str, Any] = {"accuracy": float(scores.mean()), "loss": float(losses.mean())}
    if federation.classes is None or federation.class_counts is None:
        return metrics
    counts = np.bincount(targets, minlength=federation.classes)
    correct = np.bincount(targets, weights=scores, minlength=federation.classes)
    accuracy = np.full(federation.classes, np.nan)
    np.divide(correct, counts, out=accuracy, where=counts > 0)
    return metrics | by_class(accuracy, federation)


def validate(model: Model, state: State, train: Samples, task: Task, federation: Federation) -> dict[str, Any]:
    """``validation_accuracy`` and ``validation_loss`` over what all clients hold back; nothing where they do not."""
    held_back = np.concatenate([client.validation for client in federation.clients])
    if not len(held_back):
        return {}
    losses, scores, _ = _forward(model, state, train, task, held_back)
    return {"validation_accuracy": float(scores.mean()), "validation_loss": float(losses.mean())}


def by_class(accuracy: NDArray[np.float64], federation: Federation) -> dict[str, Any]:
    """What the accuracy of each class says about tiers and clients.

    Args:
        accuracy: of each class on the test set, shape ``(classes,)``; NaN for a class that has no test sample.
        federation: who holds which classes.

    Returns:
        ``class_accuracy``; ``worst_class_accuracy``; ``low_held_accuracy``, the mean over classes of which
        high-resource clients hold less than half their proportional share; ``low_client_accuracy`` and
        ``high_client_accuracy``, the mean over a tier's clients of the accuracy on each client's own label mix; and
        ``client_accuracy_p10``, the 10th percentile of that over all clients. None where undefined.
    """
    counts = federation.class_counts
    assert counts is not None
    held = list(federation.low_held_classes())
    known = ~np.isnan(accuracy)
    mix = np.where(known, counts, 0).astype(np.float64)
    weight = mix.sum(axis=1)
    own = np.full(len(mix), np.nan)
    np.divide(mix @ np.where(known, accuracy, 0.0), weight, out=own, where=weight > 0)
    return {
        "class_accuracy": [_or_none(value) for value in accuracy],
        "worst_class_accuracy": _or_none(np.nanmin(accuracy)) if known.any() else None,
        "low_held_accuracy": _mean(accuracy[held]),
        "low_client_accuracy": _mean(own[list(federation.members("low"))]),
        "high_client_accuracy": _mean(own[list(federation.members("high"))]),
        "client_accuracy_p10": _or_none(np.nanpercentile(own, 10)) if not np.isnan(own).all() else None,
    }


def _forward(
    model: Model, state: State, samples: Samples, task: Task, indices: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[Any]]:
    model.bind(state.weights)
    model.load_buffers(state.buffers)
    losses, scores, targets = [], [], []
    with model.evaluation():
        for x, y in samples.chunks(indices):
            outputs, y = model.module(x).cpu().double(), y.cpu()
            losses.append(task.losses(outputs, y).numpy())
            scores.append(task.scores(outputs, y).double().numpy())
            targets.append(y.numpy())
    return np.concatenate(losses), np.concatenate(scores), np.concatenate(targets)


def _mean(values: NDArray[np.float64]) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
