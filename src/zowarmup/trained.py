"""A run that has ended: its model, its summary, its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from zowarmup import nets
from zowarmup.data import Samples, Split
from zowarmup.errors import DataError, ModelError
from zowarmup.history import History
from zowarmup.ledger import Ledger, no_round_yet
from zowarmup.model import Model, initialise, load_weights
from zowarmup.perturbed import evaluating
from zowarmup.recipe import GIVEN, Recipe
from zowarmup.replay import Replay
from zowarmup.rundir import MODEL
from zowarmup.snapshots import Snapshots


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

    recipe: Recipe = field(repr=False)
    summary: Mapping[str, Any] = field(repr=False)
    metrics: Sequence[Mapping[str, Any]] = field(repr=False)
    module: nn.Module
    out: Path | None = None

    def predict(self, x: ArrayLike | Tensor) -> Tensor:
        """Outputs of the network (logits, for a classification), shape ``(n, ...)``, on the CPU.

        Args:
            x: samples as the data source gives them, shape ``(n, ...)``: scaling belongs to the recipe.

        Raises:
            DataError: there are none.
        """
        array = x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
        if len(array) == 0:
            raise DataError("no samples to predict")
        device = next(self.module.parameters()).device
        split = Split(x=array, y=np.zeros(len(array), np.int64), columns={})
        samples = Samples(split, mean=self.recipe.data.mean, std=self.recipe.data.std, device=device)
        with evaluating(self.module, self.recipe.model.batch_norm, device):
            return torch.cat([self.module(x).cpu() for x, _ in samples.chunks()])


def load(path: str | Path, *, model: nn.Module | None = None) -> Trained:
    """Read a run directory.

    Args:
        path: the directory of a run, finished or not; its weights are those of the last round in the ledger.
        model: the module, where it was passed to :func:`zowarmup.run`; its weights are replaced.

    Raises:
        OutputError: not a run directory, or one without a round.
        LedgerError: the ledger, or a snapshot of it, is damaged.
        ModelError: the weights do not fit the module, or the module is needed and was not given.
    """
    path = Path(path)
    with Ledger.open(path) as ledger:
        if ledger.last < 0:
            raise no_round_yet(ledger)
        history = History(ledger)
        recipe, facts = history.recipe, ledger.head.facts
        if model is None:
            if recipe.model.net == GIVEN:
                raise ModelError(f"{path}: this run got its model from Python", hint="zowarmup.load(..., model=)")
            net, args = recipe.model.net, recipe.model.args
            shape, classes = tuple(facts["input_shape"]), facts["classes"]
            model = initialise(lambda: nets.build(net, input_shape=shape, classes=classes, args=args), recipe.seed)
        bound = Model(model, batch_norm=recipe.model.batch_norm)
        if bound.table != ledger.head.table:
            raise ModelError(f"{path}: the module is another one: {bound.table.unlike(ledger.head.table)}")
        if (path / MODEL).is_file():
            load_weights(bound, path / MODEL)  # constants too, which are no part of a state
        state = Replay(ledger, Snapshots(path, ledger.head.table)).state(ledger.last)
        bound.bind(state.weights)
        bound.load_buffers(state.buffers)
        return Trained(
            recipe=recipe,
            summary=history.summary(),
            metrics=tuple(history.lines()),
            module=model.eval(),
            out=path,
        )
