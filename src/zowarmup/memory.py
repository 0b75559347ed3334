"""Peak memory, measured."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


class Peak:
    """Peak memory since it was made or last reset: of the device on CUDA, resident memory of the process elsewhere.

    Linux can reset the peak of a process, so that each phase has its own; elsewhere the peak only ever grows.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif sys.platform == "linux":
            with contextlib.suppress(OSError):  # a kernel or sandbox without it: the peak stays that of the process
                _CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size

    def bytes(self) -> int:
        """The peak, in bytes."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        if sys.platform == "linux":
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return _process_peak()


def _process_peak() -> int:
    import psutil

    info = psutil.Process().memory_info()
    return int(getattr(info, "peak_wset", info.rss))  # Windows keeps the peak; elsewhere what is resident now
