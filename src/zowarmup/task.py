"""What a model is trained for: its loss, and the score that tests report."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor


@runtime_checkable
class Task(Protocol):
    """A loss and a score for each sample; ``"python:module:Task"`` in a recipe names a class like this."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Float[Tensor, " n"]:
        """Loss of each sample, in the dtype of ``outputs``; differentiable.

        Zeroth-order rounds and tests hand over ``outputs`` in float64; tests do so on the CPU.
        """

    def scores(self, outputs: Tensor, targets: Tensor) -> Shaped[Tensor, " n"]:
        """Score of each sample, higher is better; their mean is reported as ``accuracy``."""


class Classification:
    """Cross-entropy, and whether the largest logit is the label's.

    >>> import torch
    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    >>> Classification().scores(logits, labels).tolist()
    [True, False]
    """

    def losses(self, outputs: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Cross-entropy of each sample, natural logarithm."""
        return F.cross_entropy(outputs, targets, reduction="none")

    def scores(self, outputs: Float[Tensor, "n c"], targets: Int[Tensor, " n"]) -> Shaped[Tensor, " n"]:
        """True where the largest logit is the label's."""
        return outputs.argmax(dim=1) == targets
