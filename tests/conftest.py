"""Shape annotations are checked while tests run, and CIFAR-10 is found where the environment says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("zowarmup", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cifar10() -> Path:
    """The folder with CIFAR-10 as parquet files."""
    root = os.environ.get("ZOWARMUP_DATA")
    if root is None:
        pytest.skip("ZOWARMUP_DATA is not set: it names the folder that holds cifar10/train.parquet")
    path = Path(root) / "cifar10"
    if not path.is_dir():
        pytest.fail(f"ZOWARMUP_DATA is set, but {path} is not there")
    return path
