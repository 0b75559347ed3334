"""Which tier a device is of: backprop and inference at the recipe's batch, measured, against the memory there is.

Each is tried in a process of its own, so that what it takes is known and nothing of it stays. Run as a module, this is
that process: ``python -m zowarmup.engines.sizing high|low RECIPE [DATA]`` prints its peak in bytes.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from zowarmup.engines.node import Sized
from zowarmup.engines.workshop import Tier
from zowarmup.errors import ModelError, UsageError
from zowarmup.recipe import FirstOrder, Mixed, Recipe, SubNetwork, ZerothOrder

_SECONDS = 600.0
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def limit_of(text: str) -> int:
    """Bytes that a size names.

    Raises:
        UsageError: it is none.

    >>> limit_of("400MB"), limit_of("1.5GiB")
    (400000000, 1610612736)
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    unit = None if found is None else _UNITS.get(found[2].upper())
    if found is None or unit is None or float(found[1]) * unit < 1:
        raise UsageError(f"memory limit {text}: expected a size such as 400MB or 1.5GiB")
    return int(float(found[1]) * unit)


def available() -> int:
    """Bytes that this device has to give: of its memory, or of its cgroup."""
    import psutil

    found = psutil.virtual_memory().available
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            found = min(found, int(Path(name).read_text()))
    return int(found)


def sized(recipe: Recipe, limit: int | None, own: Path | None = None) -> Sized:
    """The tier of this device, measured.

    Args:
        recipe: what it would take part in.
        limit: bytes that the node may take; what the device has where left out.
        own: its own samples, where the recipe deals none out.

    Raises:
        UsageError: not even inference fits.
        ModelError: the model does not run.
    """
    room, whose = (available(), "this device has") if limit is None else (limit, "the limit is")
    low = _peak("low", recipe, own)
    if low > room:
        raise UsageError(
            f"inference at the recipe's batch takes {_mb(low)}, {whose} {_mb(room)}: this device can take no part",
            hint="a smaller run.micro-batch or model.net in the recipe, or a larger --memory-limit",
        )
    try:
        high = _peak("high", recipe, own)
    except ModelError as error:
        return Sized("low", f"backprop does not run: {error.message}; inference takes {_mb(low)}")
    told = f"backprop takes {_mb(high)}, inference {_mb(low)}, {whose} {_mb(room)}"
    return Sized("high" if high <= room else "low", told)


def _peak(tier: Tier, recipe: Recipe, own: Path | None) -> int:
    """Peak memory, in bytes, of a process that does what a tier is asked."""
    from zowarmup import recipes

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(recipes.to_toml(recipe))
        command = [sys.executable, "-m", "zowarmup.engines.sizing", tier, str(path), *([str(own)] if own else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            raise ModelError(f"one step of the {tier} tier takes more than {_SECONDS:g} seconds here") from None
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if not line.startswith("hint: ")]
        last = lines[-1] if lines else f"exit code {done.returncode}"
        raise ModelError(f"one step of the {tier} tier fails here: {last}")
    return int(done.stdout.split()[-1])


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _try(tier: Tier, recipe: Recipe, own: Path | None) -> int:
    """Do one step of a tier; the peak of this process in bytes."""
    import torch

    from zowarmup import data, experiment
    from zowarmup.directions import select
    from zowarmup.estimators import gradient, loss
    from zowarmup.memory import Peak
    from zowarmup.model import Model

    dataset = data.load(recipe.data, seed=recipe.seed) if own is None else data.alone(own, recipe.data)
    device = torch.device("cpu")
    peak = Peak(device)
    module = experiment.build_module(recipe, dataset)
    model = Model(module, device=device, batch_norm=recipe.model.batch_norm, directions=select(device, threads=1))
    task = experiment.build_task(recipe)
    samples = data.Samples(dataset.train, mean=recipe.data.mean, std=recipe.data.std)
    x, y = samples.batch(np.arange(_batch(tier, recipe, len(samples))) % len(samples))
    with experiment.arithmetic(recipe, device):
        if tier == "high":
            gradient(model, x, y, task, micro_batch="all")
        else:
            loss(model, x, y, task, micro_batch=recipe.run.micro_batch)
    return peak.bytes()


def _batch(tier: Tier, recipe: Recipe, samples: int) -> int:
    """The largest batch that a tier is asked for; all of a client's samples are taken to be an equal share."""
    kinds = (FirstOrder, SubNetwork) if tier == "high" else (ZerothOrder,)
    found = [phase.batch for phase in recipe.phase if isinstance(phase, kinds)]
    for phase in recipe.phase:
        if isinstance(phase, Mixed):
            found.append(phase.high.batch if tier == "high" else phase.low.batch)
    share = max(1, samples // (recipe.data.clients or 1))
    return max((share if batch == "all" else min(batch, share) for batch in found), default=min(share, 64))


if __name__ == "__main__":
    from zowarmup import recipes as _recipes

    _tier: Tier = "high" if sys.argv[1] == "high" else "low"
    _own = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    sys.stdout.write(f"{_try(_tier, _recipes.load(sys.argv[2]), _own)}\n")
