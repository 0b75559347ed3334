"""Entries into weights: all that a replica does, without a recipe, data or a network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch

from zowarmup.directions import Directions, Step
from zowarmup.protocol import Patch, Update
from zowarmup.state import State
from zowarmup.table import Table


def apply(state: State, *entries: Update | Patch, table: Table, directions: Directions) -> State:
    """The state after one round or several; updates that follow each other are one pass over the weights.

    Args:
        state: before the first of ``entries``; left as it is.
        entries: of consecutive rounds. One without coefficients or values leaves the weights as they are.
        table: where each parameter lies.
        directions: the backend; all give the same bits.
    """
    for _, group in itertools.groupby(entries, lambda entry: entry.frozen if isinstance(entry, Update) else None):
        together = list(group)
        if updates := [entry for entry in together if isinstance(entry, Update)]:
            state = _update(state, updates, table, directions)
        for entry in together:
            state = _patch(state, entry, table) if isinstance(entry, Patch) else state
    return state


def _update(state: State, entries: Sequence[Update], table: Table, directions: Directions) -> State:
    steps = [_step(entry) for entry in entries if len(entry.coefficients)]
    weights = state.weights
    if steps:
        frozen = entries[0].stays
        weights = state.weights.clone() if frozen else torch.empty_like(state.weights)
        segments = [segment for index, segment in enumerate(table.segments) if index not in frozen]
        directions.replay(state.weights, weights, segments=segments, steps=steps)
    return State(weights, state.buffers, entries[-1].state)


def _patch(state: State, entry: Patch, table: Table) -> State:
    weights, buffers = state.weights.clone() if entry.values else state.weights, dict(state.buffers)
    for name, values in entry.values.items():
        weights[table.place(name)] = torch.from_numpy(np.array(values).reshape(-1)).to(weights.device)
    for name, values in entry.buffers.items():
        buffers[name] = torch.from_numpy(np.array(values)).to(weights.device)
    return State(weights, buffers)


def _step(entry: Update) -> Step:
    count = len(entry.coefficients)
    return Step(
        seeds=np.full(count, entry.seed, np.uint64),
        streams=np.arange(count, dtype=np.uint32),
        coefficients=entry.coefficients,
        exponent=entry.exponent,
    )
