"""Federated training that includes the devices which can only run inference.

    >>> import zowarmup
    >>> short = {"phase.0.rounds": 2, "phase.1.rounds": 3}
    >>> trained = zowarmup.run("digits", seed=0, overrides=short)
    >>> trained.summary["rounds"], trained.summary["pivot"]
    (5, 2)
    >>> trained.predict(zowarmup.data.digits().test.x[:4]).shape
    torch.Size([4, 10])

Names are imported when they are first used, so that ``import zowarmup`` takes no time.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

__all__ = [
    "Classification",
    "Dataset",
    "Progress",
    "Recipe",
    "Split",
    "Task",
    "Trained",
    "ZOWarmUpError",
    "compare",
    "diff",
    "from_arrays",
    "load",
    "load_recipe",
    "parse_recipe",
    "resume",
    "run",
    "verify",
]

_WHERE = {
    "Classification": ("task", "Classification"),
    "Dataset": ("data", "Dataset"),
    "Progress": ("recorder", "Progress"),
    "Recipe": ("recipe", "Recipe"),
    "Split": ("data", "Split"),
    "Task": ("task", "Task"),
    "Trained": ("trained", "Trained"),
    "ZOWarmUpError": ("errors", "ZOWarmUpError"),
    "compare": ("comparison", "compare"),
    "diff": ("difference", "diff"),
    "from_arrays": ("data", "from_arrays"),
    "load": ("trained", "load"),
    "load_recipe": ("recipes", "load"),
    "parse_recipe": ("recipes", "parse"),
    "resume": ("loop", "resume"),
    "run": ("loop", "run"),
    "verify": ("proof", "verify"),
}

if TYPE_CHECKING:
    from zowarmup.comparison import compare
    from zowarmup.data import Dataset, Split, from_arrays
    from zowarmup.difference import diff
    from zowarmup.errors import ZOWarmUpError
    from zowarmup.loop import resume, run
    from zowarmup.proof import verify
    from zowarmup.recipe import Recipe
    from zowarmup.recipes import load as load_recipe
    from zowarmup.recipes import parse as parse_recipe
    from zowarmup.recorder import Progress
    from zowarmup.task import Classification, Task
    from zowarmup.trained import Trained, load


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__", "data", "errors", "recipes"])


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        if importlib.util.find_spec(f"zowarmup.{name}") is not None:
            return importlib.import_module(f"zowarmup.{name}")
        raise AttributeError(f"module 'zowarmup' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(importlib.import_module(f"zowarmup.{module}"), attribute)
    globals()[name] = value
    return value
