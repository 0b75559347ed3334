from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from zowarmup.data import Dataset, digits, from_arrays, load, sources
from zowarmup.errors import DataError
from zowarmup.recipe import Data, Natural


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    dataset = digits()
    assert dataset.train.x.shape == (1200, 64)
    assert dataset.test.x.shape == (597, 64)
    assert (dataset.train.x.min(), dataset.train.x.max(), dataset.classes) == (0.0, 1.0, 10)
    x, y = load_digits(return_X_y=True)
    ours = np.concatenate([np.column_stack([s.x * 16, s.y]) for s in (dataset.train, dataset.test)])
    theirs = np.column_stack([x, y])
    assert (ours[np.lexsort(ours.T)] == theirs[np.lexsort(theirs.T)]).all()


def test_digits_without_the_table_come_through_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = digits().digest()
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    assert digits().digest() == expected


def test_digits_split_is_the_same_for_every_seed() -> None:
    settings = Data(source="digits", clients=2)
    assert load(settings, seed=0).digest() == load(settings, seed=1).digest() == digits().digest()


def test_the_digits_split_is_pinned() -> None:
    """Results in the documentation were measured on this split."""
    assert digits().digest() == "ac43415ef2752dfbde40b8d5c0235cf6b36d2b32daee3a58189fcd4479b0c699"


def test_take_draws_from_the_seed() -> None:
    settings = Data(source="digits", clients=2, take=100)
    a, b, c = (load(settings, seed=seed) for seed in (0, 0, 1))
    assert len(a.train) == 100
    assert len(a.test) == 597
    assert a.digest() == b.digest() != c.digest()


def test_take_too_many() -> None:
    with pytest.raises(DataError, match=r"data.take is 1201, but there are 1200 training samples"):
        load(Data(source="digits", clients=2, take=1201), seed=0)


def test_given_data() -> None:
    x, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    given = from_arrays((x, y), (x, y))
    settings = Data(source="given", clients=2)
    assert load(settings, seed=0, dataset=given).digest() == given.digest()
    with pytest.raises(DataError, match="no data was given"):
        load(settings, seed=0)
    with pytest.raises(DataError, match="given data: train: there are no samples"):
        load(settings, seed=0, dataset=Dataset(given.train.rows(np.array([], np.int64)), given.test, 2))


MODULE = """
import numpy as np, torch
from zowarmup.data import Dataset, Split, from_arrays
x, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 2, 0])
def arrays(): return (x, y), (x, y)
def tensors(): return [(torch.tensor(x), torch.tensor(y)), (torch.tensor(x), torch.tensor(y))]
def dataset(): return Dataset(Split(x, y, {"writer": np.array(["b", "a", "b", "c"])}), Split(x, y), 3, ("a", "b", "c"))
def nothing(): pass
def three(): return 1, 2, 3
def labels(): return (x, y), (x, y + 1)
def needs(argument): return arrays()
def lazy():
    import %s_sibling
    return arrays()
constant = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module in the working directory, of a name no other test uses."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE % name)
    (tmp_path / f"{name}_sibling.py").write_text("")
    (tmp_path / f"{name}_broken.py").write_text("raise RuntimeError('on import')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def _load(spec: str) -> Dataset:
    return load(Data(source=f"python:{spec}", clients=2), seed=0)


def test_python_sources(module: str) -> None:
    digests = {name: _load(f"{module}:{name}").digest() for name in ("arrays", "tensors", "lazy", "dataset")}
    assert digests["arrays"] == digests["tensors"] == digests["lazy"] != digests["dataset"]
    dataset = _load(f"{module}:dataset")
    assert dataset.train.x.dtype == np.float32
    assert dataset.class_names == ("a", "b", "c")
    taken = load(Data(source=f"python:{module}:dataset", partition=Natural(column="writer"), take=3), seed=0)
    assert len(taken.train.columns["writer"]) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{}:missing", "has no missing"),
        ("{}_nowhere:arrays", "No module named"),
        ("{}_broken:arrays", "cannot be imported: RuntimeError: on import"),
        ("{}:constant", "expected a function, got int"),
        ("{}:needs", "the function failed: TypeError: needs() missing 1 required positional argument"),
        ("{}:nothing", "expected a Dataset or ((x_train, y_train), (x_test, y_test)), got NoneType"),
        ("{}:three", "got a tuple of 3"),
        ("{}:labels", "test: label 3 of sample 2 is not one of the classes 0 to 2"),
    ],
)
def test_wrong_python_sources(module: str, name: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        _load(name.format(module))
    assert message in caught.value.message
