"""Libraries of the extra ``data``, imported where they are used."""

from __future__ import annotations

import importlib
from typing import Any

from zowarmup.errors import DataError


def need(module: str, purpose: str) -> Any:
    """An optional library.

    Raises:
        DataError: it is not installed; the hint says how to install it.

    >>> need("no_such_library", "reading parquet")
    Traceback (most recent call last):
    zowarmup.errors.DataError: reading parquet needs `no_such_library`, which is not installed
    hint: pip install 'zowarmup[data]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        message = f"{purpose} needs `{package}`, which is not installed"
        raise DataError(message, hint="pip install 'zowarmup[data]'") from None
