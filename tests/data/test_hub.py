"""The hub and its download, against the real `datasets` library on local folders: no network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from zowarmup.data import Dataset, fetch, load
from zowarmup.errors import DataError, OutputError
from zowarmup.recipe import Data, Natural

datasets = pytest.importorskip("datasets")
NAMES = ["circle", "square", "star"]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no progress bars, and caches that go away."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), np.uint8)


@pytest.fixture
def published(pixels: np.ndarray, encode: Callable[..., bytes]) -> Any:
    """A data set as the hub has it."""
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=NAMES), "writer": datasets.Value("string")}
    )
    rows = {
        "img": [{"bytes": encode(p), "path": f"{i}.png"} for i, p in enumerate(pixels)],
        "label": [0, 1, 0, 1, 0, 0],
        "writer": list("aabbcc"),
    }
    split = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict({"train": split.select(range(4)), "test": split.select(range(4, 6))})


def _hub(name: Path) -> Dataset:
    return load(Data(source="hub", name=str(name), clients=2), seed=0)


def test_hub(published: Any, pixels: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    for key, split in published.items():
        split.to_parquet(str(folder / f"{key}.parquet"))
    dataset = _hub(folder)
    assert (dataset.train.x == pixels[:4].transpose(0, 3, 1, 2)).all()
    assert (dataset.test.x == pixels[4:].transpose(0, 3, 1, 2)).all()
    assert (dataset.train.y.tolist(), dataset.classes, dataset.class_names) == ([0, 1, 0, 1], 3, tuple(NAMES))
    # Class names count, not the labels seen: the same through parquet.
    assert load(Data(source="parquet", path=str(folder), clients=2), seed=0).digest() == dataset.digest()


def test_hub_takes_rows_through_a_selection(
    published: Any, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: published)
    settings = Data(source="hub", name="owner/shapes", take=2, partition=Natural(column="writer"))
    dataset = load(settings, seed=0)
    assert len(dataset.train) == 2
    assert set(dataset.train.columns) == {"writer"}


def test_hub_without_a_network_or_data(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        _hub(tmp_path / "nowhere")
    assert "nowhere: cannot be loaded: " in caught.value.message


@pytest.mark.parametrize(("keys", "got"), [(["train"], "train"), (["test"], "test"), ([], "dict")])
def test_hub_without_a_split(published: Any, monkeypatch: pytest.MonkeyPatch, keys: list[str], got: str) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda name: {key: published[key] for key in keys})
    with pytest.raises(DataError) as caught:
        _hub(Path("owner/shapes"))
    assert caught.value.message == f"owner/shapes: expected the splits train and test (or validation), got {got}"


def test_fetch_writes_what_parquet_reads(published: Any, tmp_path: Path) -> None:
    asked = []

    def load_dataset(name: str) -> Any:
        asked.append(name)
        return published

    out = tmp_path / "data" / "cifar10"
    fetch("cifar10", out, load_dataset=load_dataset)
    assert asked == ["uoft-cs/cifar10"]
    assert sorted(path.name for path in out.iterdir()) == ["test.parquet", "train.parquet"]
    schema = pq.read_schema(out / "train.parquet")
    assert str(schema.field("img").type) == "struct<bytes: binary, path: string>"
    dataset = load(Data(source="parquet", path=str(out), clients=2), seed=0)
    assert dataset.class_names == tuple(NAMES)
    fetch("owner/shapes", tmp_path / "shapes", load_dataset=load_dataset)
    assert asked[1] == "owner/shapes"


def test_fetch_refuses_to_overwrite(published: Any, tmp_path: Path) -> None:
    (tmp_path / "test.parquet").write_text("mine")
    with pytest.raises(OutputError, match=r"test.parquet: is there already\nhint: --force replaces it"):
        fetch("cifar10", tmp_path, load_dataset=lambda name: published)
    assert [path.name for path in tmp_path.iterdir()] == ["test.parquet"]
    fetch("cifar10", tmp_path, force=True, load_dataset=lambda name: published)
    assert pq.read_metadata(tmp_path / "test.parquet").num_rows == 2


def test_fetch_leaves_nothing_behind_when_it_fails(published: Any, tmp_path: Path) -> None:
    class Broken:
        def to_parquet(self, path: str) -> None:
            Path(path).write_text("half")
            raise OSError("No space left on device")

    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        fetch("cifar10", tmp_path / "out", load_dataset=lambda name: {"train": published["train"], "test": Broken()})
    assert list((tmp_path / "out").iterdir()) == []


def test_fetch_of_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown data set `cifar11`; known: cifar10, or owner/name on the hub"):
        fetch("cifar11", tmp_path)


def test_fetch_without_a_network(tmp_path: Path) -> None:
    def load_dataset(name: str) -> Any:
        raise ConnectionError("no route\nto host")

    with pytest.raises(DataError, match="uoft-cs/cifar10: cannot be loaded: ConnectionError: no route"):
        fetch("cifar10", tmp_path / "out", load_dataset=load_dataset)
    assert not (tmp_path / "out").exists()
