"""The mean of a phase's last states: weights and floating buffers, summed in float64 in the phase state."""

from __future__ import annotations

from zowarmup.state import State

_PREFIX = "average."


def averaged(before: State, after: State, *, last: int, left: int) -> State:
    """``after`` with the sum of the states that are to be averaged; in the phase's last round, their mean.

    The sum is part of the phase state, so a run that is resumed, or runs rounds again, goes on with the same bits.
    Integer buffers are those of the last round.

    Args:
        before: the state before the round, with the sum so far.
        after: the state after it, without.
        last: how many states the mean is over.
        left: rounds of the phase that follow this one.
    """
    phase = {name: value for name, value in after.phase.items() if not name.startswith(_PREFIX)}
    if left >= last:
        return State(after.weights, after.buffers, phase)
    floating = {name: buffer for name, buffer in after.buffers.items() if buffer.is_floating_point()}
    sums = {
        f"{_PREFIX}{name}": value.cpu().double() + before.phase.get(f"{_PREFIX}{name}", 0.0)
        for name, value in {"": after.weights, **floating}.items()
    }
    if left > 0:
        return State(after.weights, after.buffers, phase | sums)
    means = {
        name: (sums[f"{_PREFIX}{name}"] / last).to(value)  # its type and device
        for name, value in {"": after.weights, **floating}.items()
    }
    return State(means.pop(""), {**after.buffers, **means}, phase)
