"""Random directions from seeds: zsign/1, one bit a parameter, the same bits on every backend.

A direction is never stored. :meth:`Directions.perturb` adds it to weights, :meth:`Directions.update` adds a whole
round's, :meth:`Directions.replay` those of many rounds, and :meth:`Directions.dots` projects a gradient onto them;
``philox`` says in NumPy what they do, ``cpu`` does it fast, ``torch_ops`` anywhere. ``docs/spec/directions.md`` is the
contract.

>>> import torch
>>> w = torch.zeros(4)
>>> select("cpu").perturb(w, w, base=0, seed=0x0123456789ABCDEF, stream=0, c=0.5)
>>> w
tensor([0.5000, 0.5000, 0.5000, 0.5000])
"""

from __future__ import annotations

import threading

import torch

from zowarmup.directions.contract import GROUP, Directions, Segment, Step, keeps_denormals, quantise, segments
from zowarmup.errors import DenormalsError

__all__ = ["GROUP", "Directions", "Segment", "Step", "check_denormals", "quantise", "segments", "select"]


def select(device: str | torch.device, *, threads: int = 1) -> Directions:
    """The backend for weights on ``device``: Numba on a CPU, plain torch operations elsewhere.

    Args:
        device: where the weights are.
        threads: threads on a CPU; the same bits for any number.
    Raises:
        ValueError: ``threads < 1``.
    """
    if torch.device(device).type == "cpu":
        from zowarmup.directions.cpu import NumbaDirections  # Numba takes a while to import

        return NumbaDirections(threads=threads)
    from zowarmup.directions.torch_ops import TorchDirections

    return TorchDirections(device)


def check_denormals(directions: Directions | None = None) -> None:
    """Refuse to go on where denormal numbers are flushed to zero: weights would part from those of other replicas.

    NumPy, torch and ``directions`` are tried in this thread, ``directions`` also in each thread of its own.

    Args:
        directions: the backend of the run; the default is the CPU's, with one thread.
    Raises:
        DenormalsError: ``backend`` and ``thread`` say where.
    """
    from zowarmup.directions.philox import NumpyDirections
    from zowarmup.directions.torch_ops import TorchDirections

    for backend in (NumpyDirections(), TorchDirections("cpu"), directions or select("cpu")):
        for thread, kept in backend.every_thread(lambda backend=backend: (_thread(), keeps_denormals(backend))):  # type: ignore[misc]
            if not kept:
                raise DenormalsError(
                    f"{backend.name} on {backend.device} flushes denormal numbers to zero in thread {thread!r}",
                    hint="do not call torch.set_flush_denormal(True), and load no library built with -ffast-math",
                    backend=backend.name,
                    thread=thread,
                )


def _thread() -> str:
    return threading.current_thread().name
