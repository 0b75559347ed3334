from __future__ import annotations

import numpy as np
import pytest
import torch

from zowarmup.data import Samples, Split
from zowarmup.data.samples import crop_and_flip
from zowarmup.draws import Draw
from zowarmup.errors import DataError

PIXELS = (np.arange(6 * 3 * 8 * 7) % 256).astype(np.uint8).reshape(6, 3, 8, 7)
IMAGES = Split(PIXELS, np.arange(6))
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
ROWS = np.array([4, 0, 4])


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    x, y = Samples(IMAGES, mean=MEAN, std=STD, device="cpu").batch(ROWS)
    mean, std = (np.array(v, np.float32).reshape(3, 1, 1) for v in (MEAN, STD))
    assert x.dtype == torch.float32
    assert (x.numpy() == (PIXELS[ROWS].astype(np.float32) / np.float32(255) - mean) / std).all()
    assert y.tolist() == [4, 0, 4]


def test_without_normalisation() -> None:
    assert Samples(IMAGES).batch(ROWS)[0].max() <= 1.0
    features = Split(np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3))
    assert Samples(features).batch(np.array([2]))[0].tolist() == [[4.0, 5.0]]


def test_one_value_for_all_channels() -> None:
    one = Samples(IMAGES, mean=(0.5,), std=(0.5,)).batch(ROWS)[0]
    assert torch.equal(one, Samples(IMAGES, mean=(0.5,) * 3, std=(0.5,) * 3).batch(ROWS)[0])
    single = Split(np.array([0.0, 1.0], np.float32), np.arange(2))
    assert Samples(single, mean=(1.0,)).batch(np.array([0, 1]))[0].tolist() == [-1.0, 0.0]


def test_token_ids_are_left_alone() -> None:
    tokens = Split(np.array([[5, 6], [7, 8]]), np.arange(2))
    x, _ = Samples(tokens).batch(np.array([1]))
    assert x.dtype == torch.int64
    assert x.tolist() == [[7, 8]]
    with pytest.raises(DataError, match="integer samples are token ids"):
        Samples(tokens, mean=(0.5,))


@pytest.mark.parametrize("key", ["mean", "std"])
def test_wrong_number_of_channels(key: str) -> None:
    with pytest.raises(DataError, match=f"data.{key} has 2 values; expected 1, or 3, one a channel"):
        Samples(IMAGES, **{key: (0.5, 0.5)})  # type: ignore[arg-type]


def test_pixels_stay_bytes_and_share_memory() -> None:
    samples = Samples(IMAGES)
    assert samples._x.data_ptr() == PIXELS.ctypes.data
    assert (len(samples), samples.shape) == (6, (3, 8, 7))


def test_a_batch_is_the_callers_to_change() -> None:
    features = Split(np.zeros((3, 2), np.float32), np.arange(3))
    samples = Samples(features)
    samples.batch(np.array([0, 1]))[0].fill_(7.0)
    assert not features.x.any()


def test_unchecked_arrays_are_brought_to_their_types() -> None:
    x = np.ones((2, 2))
    x.flags.writeable = False
    assert Samples(Split(x, np.zeros(2, np.int32))).batch([0, 1])[0].dtype == torch.float32


def test_indices_as_tensors_and_lists() -> None:
    samples = Samples(IMAGES)
    expected = samples.batch(ROWS)[0]
    assert torch.equal(samples.batch(torch.from_numpy(ROWS))[0], expected)
    assert torch.equal(samples.batch(ROWS.tolist())[0], expected)
    assert len(samples.batch(np.array([], np.int64))[0]) == 0
    with pytest.raises(IndexError):
        samples.batch(np.array([6]))


def _slow_crop_and_flip(images: np.ndarray, draw: Draw) -> np.ndarray:
    """The same as sentences: pad, crop, flip, one image after the other."""
    out = []
    for image, code in zip(images, draw.integers(2 * 9 * 9, len(images)), strict=True):
        offset, flip = divmod(int(code), 2)
        top, left = divmod(offset, 9)
        padded = np.pad(image, ((0, 0), (4, 4), (4, 4)))
        crop = padded[:, top : top + image.shape[1], left : left + image.shape[2]]
        out.append(crop[:, :, ::-1] if flip else crop)
    return np.stack(out)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_augmentation_against_loops(dtype: type) -> None:
    images = np.tile(PIXELS, (40, 1, 1, 1)).astype(dtype)
    draw = Draw(3, "augment", round=2, client=1)
    fast = crop_and_flip(torch.from_numpy(images), draw)
    assert (fast.numpy() == _slow_crop_and_flip(images, draw)).all()


def test_augmentation_pads_before_normalising() -> None:
    white = Split(np.full((200, 3, 8, 8), 255, np.uint8), np.zeros(200, np.int64))
    x, _ = Samples(white, mean=MEAN, std=STD).batch(np.arange(200), augment=Draw(0, "augment"))
    for channel in range(3):
        black, full = -np.float32(MEAN[channel]) / np.float32(STD[channel]), x[:, channel].max().item()
        assert set(x[:, channel].unique().tolist()) == {float(black), full}


def test_augmentation_is_keyed_and_uniform() -> None:
    images = torch.arange(64, dtype=torch.float32).reshape(1, 1, 8, 8).repeat(8100, 1, 1, 1) + 1
    a, b, c = (crop_and_flip(images, Draw(0, "augment", index=index)) for index in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    center = a[:, 0, 4, 4].long()
    kinds = torch.stack([center, a[:, 0, 4, 3].long() - center], dim=1).unique(dim=0, return_counts=True)[1]
    # 162 kinds (81 offsets, flipped or not), some of which look alike in the padding; none is rare.
    assert len(kinds) > 120
    assert kinds.min() > 20  # 50 expected, standard deviation 7


def test_augmentation_needs_images() -> None:
    samples = Samples(Split(np.zeros((4, 64), np.float32), np.zeros(4, np.int64)))
    with pytest.raises(
        DataError, match=r'augment = "standard" needs images \(N, C, H, W\), got samples of shape \(64,\)'
    ):
        samples.batch(np.array([0]), augment=Draw(0, "augment"))
