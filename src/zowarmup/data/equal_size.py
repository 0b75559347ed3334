"""The paper's partition: clients of equal size whose label mixes are drawn from a Dirichlet."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

# Further scalings change hardly anything, with 10 clients or with 1,000.
_SCALINGS = 25
# A class wanted less than this by everybody together cannot be scaled up without overflow; remnants go as they come.
_UNWANTED = 1e-200


def near_equal(total: int, parts: int) -> Int[np.ndarray, " parts"]:
    """Sizes that differ by one at most, the larger ones first.

    >>> near_equal(7, 3).tolist()
    [3, 2, 2]
    """
    return np.asarray(total // parts + (np.arange(parts) < total % parts))


def equal_size_counts(
    alpha: float, stock: Int[np.ndarray, " classes"], clients: int, generator: np.random.Generator
) -> Int[np.ndarray, "clients classes"]:
    """How many samples of each class each client gets, in clients of equal size (Hsu et al. 2019, arXiv:1909.06335).

    Every client draws its label mix from ``Dirichlet(alpha * classes * prior)``, the prior being the class shares
    of the whole set: with balanced classes, every parameter is ``alpha``. (Hsu et al. leave the factor out, so that
    the same mixes have ``classes`` times the alpha there; here 0.1 means what it means in most federated code.)

    What clients want together is not what there is. Served one after the other, the first would get their mix and the
    last the remnants. Instead,

    1. mixes are scaled, class by class and client by client in turn, until together they want about what there is:
       the nearest such mixes in relative entropy, whatever the order of clients;
    2. samples go out without replacement, one to each client in turn, in a new random order every turn; when a class
       runs out, every mix is renormalised over the classes that are left.

    Args:
        alpha: concentration; > 0.
        stock: samples of each class.
        clients: number of clients, at most ``stock.sum()``.
        generator: where mixes, orders and labels are drawn from.
    """
    left = stock.astype(np.int64)
    sizes = near_equal(int(left.sum()), clients)
    mixes = _balanced(_mixes(alpha, left, clients, generator), left, sizes)
    counts = np.zeros_like(mixes, dtype=np.int64)
    cumulative = _cumulative(mixes, left)
    for turn in range(int(sizes[0])):
        waiting = generator.permutation(np.flatnonzero(sizes > turn))
        while waiting.size:
            labels = _labels_drawn(cumulative[waiting], generator)
            served = _first_come(labels, left)
            counts[waiting[served], labels[served]] += 1
            left -= np.bincount(labels[served], minlength=len(left))
            if (left[labels] == 0).any():
                cumulative = _cumulative(mixes, left)
            waiting = waiting[~served]
    return counts


def bounded(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dirichlet parameters in the range where gamma draws are ordinary numbers."""
    return np.asarray(np.clip(parameters, 1e-6, 1e12))


def _mixes(
    alpha: float, stock: Int[np.ndarray, " c"], clients: int, generator: np.random.Generator
) -> Float[np.ndarray, "m c"]:
    present = np.flatnonzero(stock)
    mixes = np.zeros((clients, len(stock)))
    parameters = stock[present] / stock.sum() * len(present) * min(alpha, 1e100)
    mixes[:, present] = generator.dirichlet(bounded(parameters), size=clients)
    return mixes


def _balanced(
    mixes: Float[np.ndarray, "m c"], stock: Int[np.ndarray, " c"], sizes: Int[np.ndarray, " m"]
) -> Float[np.ndarray, "m c"]:
    """Mixes whose demand is near the stock, by iterative proportional fitting; zeros stay zeros."""
    demand = mixes * sizes[:, None]
    for _ in range(_SCALINGS):
        for axis, target in ((0, stock[None, :]), (1, sizes[:, None])):
            total = demand.sum(axis=axis, keepdims=True)
            demand *= np.divide(target, total, out=np.zeros_like(total), where=total > _UNWANTED)
    return np.asarray(demand / sizes[:, None])


def _cumulative(mixes: Float[np.ndarray, "m c"], left: Int[np.ndarray, " c"]) -> Float[np.ndarray, "m c"]:
    """Running sums of the mixes over classes that are left, not normalised."""
    sums = np.where(left > 0, mixes, 0.0).cumsum(axis=1)
    # A client whose mix has nothing left takes classes as they are left.
    sums[sums[:, -1] == 0] = left.cumsum()
    return np.asarray(sums)


def _labels_drawn(cumulative: Float[np.ndarray, "k c"], generator: np.random.Generator) -> Int[np.ndarray, " k"]:
    total = cumulative[:, -1:]
    labels = (generator.random((len(cumulative), 1)) * total >= cumulative).sum(axis=1)
    # The product may round up to the total: then the last class that has weight.
    return np.asarray(np.minimum(labels, (cumulative == total).argmax(axis=1)))


def _first_come(labels: Int[np.ndarray, " k"], left: Int[np.ndarray, " c"]) -> NDArray[np.bool_]:
    """Which of the clients, in the order they stand, get a sample of the label they drew."""
    if (np.bincount(labels, minlength=len(left)) <= left).all():
        return np.ones(len(labels), np.bool_)
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    rank = np.empty_like(order)
    rank[order] = np.arange(len(labels)) - np.searchsorted(ranked, ranked)
    return np.asarray(rank < left[labels])
