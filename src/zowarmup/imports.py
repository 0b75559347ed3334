"""Objects named in a recipe as ``python:module:name``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from zowarmup.errors import UsageError


def load_object(spec: str, error: type[UsageError]) -> Any:
    """The object that ``python:module:name`` names; modules in the current folder are found too.

    Raises:
        error: the module cannot be imported, or has nothing of that name.
    """
    _, module, name = spec.split(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except ImportError as cause:
        raise error(
            f"{spec}: {cause}", hint="modules are looked for in the current folder and on PYTHONPATH"
        ) from cause
    except AttributeError:
        raise error(f"{spec}: module {module} has no {name}") from None
    return found
