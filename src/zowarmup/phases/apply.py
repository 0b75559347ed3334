"""Zeroth-order entries into weights: all that a replica does, without a recipe, data or a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zowarmup.directions import Directions, Segment, Step
from zowarmup.protocol import Update
from zowarmup.state import State


def update(state: State, *entries: Update, segments: Sequence[Segment], directions: Directions) -> State:
    """The state after one round or several, in one pass over the weights; ``state`` is left as it is.

    Args:
        state: before the first of ``entries``.
        entries: of consecutive rounds. One without coefficients leaves the weights as they are.
        segments: where each parameter lies.
        directions: the backend; all give the same bits.
    """
    if not entries:
        return state
    steps = [_step(entry) for entry in entries if len(entry.coefficients)]
    weights = state.weights
    if steps:
        weights = torch.empty_like(state.weights)
        directions.replay(state.weights, weights, segments=segments, steps=steps)
    return State(weights, state.buffers, entries[-1].state)


def _step(entry: Update) -> Step:
    count = len(entry.coefficients)
    return Step(
        seeds=np.full(count, entry.seed, np.uint64),
        streams=np.arange(count, dtype=np.uint32),
        coefficients=entry.coefficients,
        exponent=entry.exponent,
    )
