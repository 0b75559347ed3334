"""A run that has ended: its model, its summary, its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from zowarmup import nets, recipes, report
from zowarmup.data import Samples, Split
from zowarmup.errors import ModelError
from zowarmup.model import Model, load_weights
from zowarmup.recipe import GIVEN, Recipe
from zowarmup.rundir import MODEL

_CHUNK = 256


@dataclass(frozen=True)
class Trained:
    """What :func:`zowarmup.run` returns and :func:`zowarmup.load` reads.

    Args:
        recipe: with every default filled in.
        summary: what summary.json holds.
        metrics: a mapping a round, what metrics.jsonl holds.
        module: the network with its final weights, in evaluation mode.
        out: the run directory, or None.
    """

    recipe: Recipe
    summary: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    module: nn.Module
    out: Path | None = None

    def predict(self, x: ArrayLike | Tensor) -> Tensor:
        """Outputs of the network (logits, for a classification), shape ``(n, ...)``, on the CPU.

        Args:
            x: samples as the data source gives them, shape ``(n, ...)``: scaling belongs to the recipe.
        """
        array = x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        device = next(self.module.parameters()).device
        split = Split(x=array, y=np.zeros(len(array), np.int64), columns={})
        samples = Samples(split, mean=self.recipe.data.mean, std=self.recipe.data.std, device=device)
        with torch.inference_mode():
            chunks = [
                self.module(samples.batch(np.arange(start, min(start + _CHUNK, len(array))))[0]).cpu()
                for start in range(0, len(array), _CHUNK)
            ]
        return torch.cat(chunks)


def load(path: str | Path, *, model: nn.Module | None = None) -> Trained:
    """Read a run directory.

    Args:
        path: the directory of a finished or interrupted run.
        model: the module, where it was passed to :func:`zowarmup.run`; its weights are replaced.

    Raises:
        OutputError: not a run directory, or a file of it is missing or damaged.
        ModelError: the weights do not fit the module, or the module is needed and was not given.
    """
    found = report.load_run(path)
    recipe = recipes.parse(found.recipe, name=str(found.recipe_path))
    if model is None:
        if recipe.model.net == GIVEN:
            raise ModelError(f"{found.path}: this run got its model from Python", hint="zowarmup.load(..., model=)")
        model = nets.build(
            recipe.model.net,
            input_shape=tuple(found.summary["input_shape"]),
            classes=found.summary["classes"],
            args=recipe.model.args,
        )
    load_weights(Model(model, batch_norm=recipe.model.batch_norm), found.path / MODEL)
    return Trained(
        recipe=recipe, summary=found.summary, metrics=tuple(found.metrics), module=model.eval(), out=found.path
    )
