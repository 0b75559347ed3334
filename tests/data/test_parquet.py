from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from zowarmup.data import Dataset, images, load
from zowarmup.data.parquet import ParquetRows, find_files
from zowarmup.errors import DataError
from zowarmup.recipe import Data, Natural

Folder = Callable[..., Path]
ROWS = {"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "label": [0, 2, 1]}


def _load(path: Path, **settings: Any) -> Dataset:
    return load(Data(source="parquet", path=str(path), clients=2, **settings), seed=0)


def _error(path: Path, **settings: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        _load(path, **settings)
    return caught.value


# --- CIFAR-10 itself


def test_cifar10_against_pillow(cifar10: Path) -> None:
    import pyarrow.parquet as pq

    dataset = _load(cifar10, take=300)
    assert dataset.train.x.shape == (300, 3, 32, 32)
    assert dataset.test.x.shape == (10_000, 3, 32, 32)
    assert dataset.classes == 10
    assert dataset.class_names is not None
    assert dataset.class_names[3] == "cat"
    assert np.bincount(dataset.test.y).tolist() == [1000] * 10
    table = pq.read_table(cifar10 / "test.parquet").slice(0, 200)
    for row, image in enumerate(table.column("img").to_pylist()):
        expected = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"))
        assert (dataset.test.x[row] == expected.transpose(2, 0, 1)).all()
    assert dataset.test.y[:200].tolist() == table.column("label").to_pylist()


def test_cifar10_rows_and_labels(cifar10: Path) -> None:
    from zowarmup.data.columns import read_labels

    train, _ = find_files(str(cifar10))
    assert np.bincount(read_labels(ParquetRows(train), "label")).tolist() == [5000] * 10


# --- which files


def test_shards_in_the_order_of_their_names(folder: Folder) -> None:
    shards = {f"train-{i:05d}-of-00003.parquet": {"x": [[float(i)], [i + 0.5]], "label": [i, i]} for i in (2, 0, 1)}
    dataset = _load(folder(shards | {"test-00000-of-00001.parquet": {"x": [[9.0]], "label": [0]}}))
    assert dataset.train.x.ravel().tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert dataset.train.y.tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train.parquet", "test.parquet"),
        ("train.parquet", "validation-00000-of-00001.parquet"),
        ("mine_train.parquet", "mine_val.parquet"),
        ("contest-train.parquet", "contest-test.parquet"),
        ("trainset.parquet", "testset.parquet"),
        ("train/0.parquet", "test/0.parquet"),
    ],
)
def test_names(folder: Folder, train: str, test: str) -> None:
    assert len(_load(folder({train: ROWS, test: ROWS})).train) == 3


def test_validation_is_no_test_set_where_there_is_one(folder: Folder) -> None:
    other = {"x": [[0.0, 0.0]], "label": [0]}
    path = folder({"train.parquet": ROWS, "validation.parquet": other, "test.parquet": ROWS})
    assert len(_load(path).test) == 3


def test_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = _error(Path("data/cifar10"))
    assert error.message == "data/cifar10: there is no such folder"
    assert error.hint == "`zowarmup fetch cifar10` downloads it"
    assert _error(Path("elsewhere")).hint is None


def test_a_file_is_no_folder(folder: Folder) -> None:
    path = folder({"train.parquet": ROWS})
    assert "expected a folder with train and test files, got a file" in _error(path / "train.parquet").message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.parquet"], "no *.parquet file has `train` in its name; the folder holds a.parquet"),
        (["train.parquet"], "no *.parquet file has `test` in its name; the folder holds train.parquet"),
        (["train-test.parquet"], "ambiguous: the name has both `train` and `test`"),
        (["train-00000-of-00002.parquet", "test.parquet"], "train shard 00001 of 2 is missing"),
        (["train.parquet", "train-00000-of-00001.parquet", "test.parquet"], "ambiguous: train files of several sets"),
    ],
)
def test_wrong_files(folder: Folder, names: list[str], message: str) -> None:
    assert message in _error(folder(dict.fromkeys(names, ROWS))).message


def test_not_parquet(folder: Folder) -> None:
    path = folder({"train.parquet": ROWS})
    (path / "test.parquet").write_bytes(b"no table")
    assert "test.parquet: not a readable parquet file" in _error(path).message


def test_damaged_parquet(folder: Folder) -> None:
    columns = {"x": np.arange(40_000.0).reshape(-1, 1).tolist(), "label": [0] * 40_000}
    path = folder({"train.parquet": columns, "test.parquet": ROWS}, compression="gzip")
    data = bytearray((path / "train.parquet").read_bytes())
    data[200:20_000] = b"\xff" * 19_800
    (path / "train.parquet").write_bytes(data)
    assert "train.parquet: cannot be read from row 0 on" in _error(path).message


def test_shards_of_different_columns(folder: Folder) -> None:
    path = folder({"train-0.parquet": ROWS, "train-1.parquet": {"y": [1]}, "test.parquet": ROWS})
    assert "train-1.parquet: columns differ from those of train-0.parquet" in _error(path).message


# --- which columns


def test_columns_by_name(folder: Folder) -> None:
    both = ROWS | {"z": ROWS["x"], "other": [1, 1, 1]}
    path = folder({"train.parquet": both, "test.parquet": both})
    assert _load(path, image_column="z").train.y.tolist() == [0, 2, 1]
    assert _load(path, image_column="z", label_column="other").train.y.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("columns", "settings", "message", "hint"),
    [
        (ROWS | {"z": ROWS["x"]}, {}, "ambiguous: columns x, z are all of images or", 'data.image-column = "x"'),
        (
            {"x": ROWS["x"], "fine": [1, 1, 1], "coarse": [0, 0, 0]},
            {},
            "ambiguous: columns fine, coarse are all of integers",
            'say which: data.label-column = "fine"',
        ),
        (
            {"label": [0, 1, 2]},
            {},
            "there is no column of images or of lists of numbers; there are label (int64)",
            None,
        ),
        ({"x": ROWS["x"], "label": ["a", "b", "c"]}, {}, "there is no column of integers", None),
        (ROWS, {"image_column": "img"}, "there is no column `img`; there are x (list<", "set data.image-column"),
        (ROWS, {"label_column": "x"}, "column `x` is list<", None),
    ],
)
def test_wrong_columns(folder: Folder, columns: Any, settings: Any, message: str, hint: str | None) -> None:
    error = _error(folder({"train.parquet": columns, "test.parquet": columns}), **settings)
    assert message in error.message
    assert (hint or "") in (error.hint or "")


def test_natural_column(folder: Folder) -> None:
    writers = ROWS | {"writer": [7, 7, 8], "name": ["ada", "bob", "ada"]}
    path = folder({"train.parquet": writers, "test.parquet": ROWS})
    settings = Data(source="parquet", path=str(path), partition=Natural(column="name"), take=2)
    kept = load(settings, seed=0).train
    assert set(kept.columns) == {"name"}
    settings = Data(source="parquet", path=str(path), partition=Natural(column="writer"))
    assert load(settings, seed=0).train.columns["writer"].tolist() == [7, 7, 8]
    error = _error(path, partition=Natural(column="device"))
    assert "there is no column `device` to partition by; columns: x, label, writer, name" in error.message
    path = folder({"train.parquet": ROWS | {"z": ROWS["x"]}, "test.parquet": ROWS | {"z": ROWS["x"]}})
    error = _error(path, partition=Natural(column="z"))
    assert "row 0, column `z`: expected a number or a string, the column is list<" in error.message


# --- values


@pytest.mark.parametrize(
    ("kind", "dtype", "shape"),
    [
        (pa.list_(pa.float64()), "float32", (4,)),
        (pa.list_(pa.uint8(), 4), "uint8", (4,)),
        (pa.large_list(pa.int32()), "int64", (4,)),
        (pa.list_(pa.list_(pa.uint8(), 2)), "uint8", (2, 2)),
        (pa.list_(pa.list_(pa.list_(pa.float32(), 1)), 2), "float32", (2, 2, 1)),
        (pa.fixed_shape_tensor(pa.uint8(), (1, 2, 2)), "uint8", (1, 2, 2)),
    ],
)
def test_lists(folder: Folder, kind: Any, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(12).reshape(3, *shape)
    if isinstance(kind, pa.BaseExtensionType):
        storage = pa.array(values.reshape(3, -1).tolist(), kind.storage_type)
        column = pa.ExtensionArray.from_storage(kind, storage)
    else:
        column = pa.array(values.tolist(), kind)
    columns = {"x": column, "label": [0, 1, 2]}
    dataset = _load(folder({"train.parquet": columns, "test.parquet": columns}, row_group_size=2))
    assert dataset.train.x.dtype == dtype
    assert (dataset.train.x == values).all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0], [1.0, 2.0], [1.0]], "row 1, column `x`: list of 2, the first one has 1; all must share one shape"),
        ([[1.0], [2.0], None], "row 2, column `x`: there is a null"),
        ([[1.0], [2.0], [None]], "row 2, column `x`: there is a null"),
        ([[[1], [2]], [[3], [4]], [[5], None]], "row 2, column `x`: there is a null"),
        ([[[1], [2]], [[3], [4]], [[5], [6, 7]]], "row 2, column `x`: list of 2, the first one has 1"),
        ([[], [], []], "row 0, column `x`: list is empty"),
        ([[1.0], [float("nan")], [1.0]], "train x: not finite (in float32) in sample 1"),
    ],
)
def test_wrong_lists(folder: Folder, x: Any, message: str) -> None:
    kind = pa.list_(pa.int64()) if x == [[], [], []] else None
    columns = {"x": pa.array(x, kind), "label": [0, 1, 2]}
    assert message in _error(folder({"train.parquet": columns, "test.parquet": ROWS})).message


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, None, 1], "row 1, column `label`: there is a null"), ([0, -1, 1], "label -1 of sample 1 is not one")],
)
def test_wrong_labels(folder: Folder, labels: Any, message: str) -> None:
    assert message in _error(folder({"train.parquet": ROWS | {"label": labels}, "test.parquet": ROWS})).message


def test_shape_differs_between_row_groups(folder: Folder) -> None:
    columns = {"x": [[1.0], [1.0], [1.0, 2.0]], "label": [0, 1, 2]}
    error = _error(folder({"train.parquet": columns, "test.parquet": ROWS}, row_group_size=2))
    assert "row 2, column `x`: array has shape (2,), the first one (1,)" in error.message


def test_empty_tables(folder: Folder) -> None:
    empty = {"x": pa.array([], pa.list_(pa.float32())), "label": pa.array([], pa.int64())}
    assert (
        "train.parquet: there are no samples" in _error(folder({"train.parquet": empty, "test.parquet": ROWS})).message
    )


def test_classes_do_not_depend_on_what_is_taken(folder: Folder) -> None:
    path = folder({"train.parquet": ROWS, "test.parquet": ROWS})
    assert [_load(path, take=1).classes, _load(path).classes] == [3, 3]


# --- images

RGB = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)


def _images(blobs: list[Any], struct: bool = True) -> dict[str, Any]:
    return {
        "img": [{"bytes": blob, "path": None} for blob in blobs] if struct else blobs,
        "label": list(range(len(blobs))),
    }


@pytest.mark.parametrize("struct", [True, False])
def test_png_is_exact(folder: Folder, encode: Callable[..., bytes], struct: bool) -> None:
    columns = _images([encode(pixels) for pixels in RGB], struct)
    dataset = _load(folder({"train.parquet": columns, "test.parquet": columns}, row_group_size=2))
    assert dataset.train.x.dtype == np.uint8
    assert (dataset.train.x == RGB.transpose(0, 3, 1, 2)).all()


def test_grayscale_keeps_one_channel_only_where_all_are(folder: Folder, encode: Callable[..., bytes]) -> None:
    gray, mixed = _images([encode(p[..., 0]) for p in RGB]), _images([encode(RGB[0][..., 0]), encode(RGB[1])])
    dataset = _load(folder({"train.parquet": gray, "test.parquet": gray}))
    assert (dataset.train.x == RGB[:, None, :, :, 0]).all()
    dataset = _load(folder({"train.parquet": gray, "test.parquet": mixed}))
    assert dataset.train.x.shape == (3, 3, 5, 4)
    assert (dataset.train.x == RGB[:, None, :, :, 0]).all()
    assert (dataset.test.x[0] == RGB[0, :, :, 0]).all()
    assert (dataset.test.x[1] == RGB[1].transpose(2, 0, 1)).all()
    mixed["label"] = [0, 2]
    assert _load(folder({"train.parquet": mixed, "test.parquet": gray})).test.x.shape == (3, 3, 5, 4)


@pytest.mark.parametrize("mode", ["P", "1", "RGBA", "LA", "CMYK"])
def test_other_modes_become_rgb(folder: Folder, encode: Callable[..., bytes], mode: str) -> None:
    columns = _images([encode(p, mode=mode, kind="TIFF" if mode == "CMYK" else "PNG") for p in RGB])
    assert _load(folder({"train.parquet": columns, "test.parquet": columns})).train.x.shape == (3, 3, 5, 4)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30, "subsampling": 2}, {"mode": "L"}])
def test_the_short_way_for_jpegs_gives_pillows_pixels(encode: Callable[..., bytes], options: dict[str, Any]) -> None:
    for size in ((1, 1), (7, 9), (32, 32), (65, 130)):
        pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)
        blob = encode(pixels, kind="JPEG", **options)
        short = images._jpeg(blob)
        assert short is not None
        usual = Image.open(io.BytesIO(blob))
        assert short.mode == usual.mode
        assert short.tobytes() == usual.tobytes()


def test_cmyk_jpegs_take_the_usual_way(encode: Callable[..., bytes]) -> None:
    blob = encode(RGB[0], mode="CMYK", kind="JPEG")
    assert images._jpeg(blob) is None
    assert images._open(blob, 0, lambda at, text: DataError(text)).mode == "RGB"


def test_large_images_on_threads(folder: Folder, encode: Callable[..., bytes]) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 90, 80, 3), np.uint8)
    blobs = [encode(p) for p in pixels]
    assert min(map(len, blobs)) > images._THREADS_FROM_BYTES
    dataset = _load(folder({"train.parquet": _images(blobs), "test.parquet": _images(blobs)}))
    assert (dataset.train.x == pixels.transpose(0, 3, 1, 2)).all()
    path = folder(
        {"train.parquet": _images([*blobs[:4], b"\x89PNG" * 9000, *blobs[4:]]), "test.parquet": _images(blobs)}
    )
    assert "row 4, column `img`" in _error(path).message


def _broken(encode: Callable[..., bytes]) -> dict[str, tuple[Any, str]]:
    png, jpeg = encode(RGB[1]), encode(RGB[1], kind="JPEG")
    return {
        "noise": (b"not an image", "image does not decode: not an image Pillow can identify"),
        "empty": (b"", "image does not decode: not an image Pillow can identify"),
        "null": (None, "there is no image: its bytes are null"),
        "cut PNG": (png[:60], "image does not decode: "),
        "cut JPEG": (jpeg[: len(jpeg) // 2], "image does not decode: "),
        "JPEG header": (jpeg[:24], "image does not decode: "),
        "size": (encode(RGB[1][:4]), "image is 4 x 4, the first one 4 x 5; all must share one size"),
        "16 bits": (encode(RGB[1, :, :, 0].astype(np.uint16)), 'image has mode "I;16"; only 8 bits a channel are read'),
    }


@pytest.mark.parametrize("case", ["noise", "empty", "null", "cut PNG", "cut JPEG", "JPEG header", "size", "16 bits"])
def test_wrong_images(folder: Folder, encode: Callable[..., bytes], case: str) -> None:
    blob, message = _broken(encode)[case]
    good = encode(RGB[0])
    path = folder(
        {"train.parquet": _images([good, good, good, blob]), "test.parquet": _images([good])}, row_group_size=2
    )
    error: Any = _error(path)
    assert message in error.message
    assert (error.file, error.row, error.column) == (str(path / "train.parquet"), 3, "img")


def test_take_does_not_decode_the_rest(folder: Folder, encode: Callable[..., bytes]) -> None:
    from zowarmup.draws import Draw

    blobs = [b"broken"] * 20
    for row in Draw(0, "take").choose(20, 5):
        blobs[row] = encode(RGB[row % 3])
    good = _images([encode(RGB[0])])
    good["label"] = [19]
    dataset = _load(folder({"train.parquet": _images(blobs), "test.parquet": good}, row_group_size=3), take=5)
    assert [int(y) for y in dataset.train.y] == Draw(0, "take").choose(20, 5).tolist()
    for x, y in zip(dataset.train.x, dataset.train.y, strict=True):
        assert (x == RGB[y % 3].transpose(2, 0, 1)).all()


def test_missing_extra(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder({"train.parquet": ROWS, "test.parquet": ROWS})
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)

    class Blocked:
        def find_spec(self, name: str, *args: Any) -> None:
            if name == "pyarrow":
                raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    monkeypatch.setattr(sys, "meta_path", [Blocked(), *sys.meta_path])
    error = _error(path)
    assert error.message == "reading parquet needs `pyarrow`, which is not installed"
    assert error.hint == "pip install 'zowarmup[data]'"
