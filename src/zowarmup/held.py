"""Memory of a piece of work: the most that the tensors it makes hold at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(action: Callable[[], object], device: torch.device) -> int:
    """Call ``action``; the most bytes that tensors made by it hold at a time.

    Exact on CUDA, from the allocator; elsewhere see :class:`_Held`.

    >>> peak_bytes(lambda: torch.zeros(1000).add_(1).sum(), torch.device("cpu"))
    4004
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        action()
        return int(torch.cuda.max_memory_allocated(device)) - int(before)
    held = _Held()
    with held:
        action()
    return held.peak


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches every tensor that operations return; what an operation takes and gives back inside itself is not seen.

    torch's profiler would see that too, but writes to stderr when it starts and stops.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        result = func(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:  # a view, or written in place: nothing new
                    self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]
        for key in [key for key, (storage, _) in self._storages.items() if storage.expired()]:  # type: ignore[no-untyped-call]
            del self._storages[key]
        self.peak = max(self.peak, sum(size for _, size in self._storages.values()))
        return result
