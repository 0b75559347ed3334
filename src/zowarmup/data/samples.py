"""Samples on a device: moved there once, normalised and augmented when read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from numpy.typing import NDArray
from torch import Tensor

from zowarmup.data.dataset import Split, stored
from zowarmup.draws import Draw
from zowarmup.errors import DataError

_PADDING = 4
_OFFSETS = 2 * _PADDING + 1


class Samples:
    """A training or test set, resident on a device.

    uint8 stays uint8 there, a quarter of the memory of float32. On the CPU the split's own memory is used.

    Args:
        split: the samples.
        mean: subtracted from each channel (dimension 1) after pixels are scaled to 0..1; one value, or one a channel.
        std: divides each channel after that; likewise.
        device: where they live.

    Raises:
        DataError: ``mean`` or ``std`` has another number of values than there are channels, or samples are token ids.

    >>> pixels = Split(np.array([[[[0, 255]]]], np.uint8), np.array([3]))
    >>> x, y = Samples(pixels, mean=(0.5,), std=(0.5,)).batch(np.array([0]))
    >>> x.tolist(), y.tolist()
    ([[[[-1.0, 1.0]]]], [3])
    """

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self._x = torch.from_numpy(stored(split.x, "x")).to(self.device)
        self._y = torch.from_numpy(stored(split.y, "y")).to(self.device)
        if self._x.dtype == torch.int64 and (mean is not None or std is not None):
            raise DataError("data.mean and data.std are for pixels and features; integer samples are token ids")
        self._mean = self._by_channel(mean, "mean")
        self._std = self._by_channel(std, "std")
        self._plain = self._x.dtype != torch.uint8 and self._mean is None and self._std is None
        self._moves = self.device.type != "cpu"

    def __len__(self) -> int:
        return len(self._x)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self._x.shape[1:])

    def batch(
        self, indices: NDArray[np.int64] | Tensor | Sequence[int], *, augment: Draw | None = None
    ) -> tuple[Shaped[Tensor, "b ..."], Shaped[Tensor, "b ..."]]:
        """The samples at ``indices``, in that order, on the device.

        Args:
            indices: shape ``(b,)``.
            augment: for images: the key of the random crops and flips; see :func:`crop_and_flip`.

        Returns:
            ``x``, float32 (int64 for token ids), and ``y``: new tensors, the caller's to change.

        Raises:
            DataError: ``augment`` for samples that are not images.
            IndexError: an index out of range (on CUDA, an error of the device).
        """
        rows = torch.from_numpy(indices) if isinstance(indices, np.ndarray) else torch.as_tensor(indices)
        if self._moves:
            rows = rows.to(self.device)
        x = self._x.index_select(0, rows)
        if augment is not None:
            x = crop_and_flip(x, augment)
        return (x if self._plain else self._normalised(x)), self._y.index_select(0, rows)

    def targets(self, indices: NDArray[np.int64]) -> Shaped[Tensor, "b ..."]:
        """The targets at ``indices``, in that order, on the device."""
        return self._y.index_select(0, torch.from_numpy(indices).to(self.device))

    def chunks(
        self, indices: NDArray[np.int64] | None = None, *, size: int = 256
    ) -> Iterator[tuple[Shaped[Tensor, "b ..."], Shaped[Tensor, "b ..."]]]:
        """The samples at ``indices`` (all where left out), in order, in chunks of like length, ``size`` at most."""
        indices = np.arange(len(self)) if indices is None else indices
        for part in np.array_split(indices, max(1, -(-len(indices) // size))):
            yield self.batch(part)

    def _normalised(self, x: Tensor) -> Tensor:
        if x.dtype == torch.uint8:
            x = x.float().div_(255.0)
        if self._mean is not None:
            x = x.sub_(self._mean)
        return x if self._std is None else x.div_(self._std)

    def _by_channel(self, values: Sequence[float] | None, key: str) -> Tensor | None:
        if values is None:
            return None
        channels = self._x.shape[1] if self._x.ndim > 1 else 1
        if len(values) not in (1, channels):
            raise DataError(f"data.{key} has {len(values)} values; expected 1, or {channels}, one a channel")
        tensor = torch.tensor(values, dtype=torch.float32, device=self.device)
        return tensor.reshape(1, -1, *(1,) * (self._x.ndim - 2)) if self._x.ndim > 1 else tensor


def crop_and_flip(x: Tensor, draw: Draw) -> Shaped[Tensor, "b c h w"]:
    """The usual augmentation of small images: pad by 4 pixels of zero, crop back at random, flip every other one.

    Pixels are raw here, so padding is black whatever the normalisation. Offsets and flips are integers drawn on the
    CPU, hence the same on every device; the image itself is gathered on its own device.

    Args:
        x: raw images, shape ``(b, c, h, w)``; not changed.
        draw: the key; one integer an image, ``(9 * row offset + column offset) * 2 + flip``.

    Raises:
        DataError: ``x`` has not four dimensions.
    """
    if x.ndim != 4:
        raise DataError(f'augment = "standard" needs images (N, C, H, W), got samples of shape {tuple(x.shape[1:])}')
    b, c, h, w = x.shape
    codes = torch.from_numpy(draw.integers(2 * _OFFSETS * _OFFSETS, b)).to(x.device)
    rows = codes.div(2 * _OFFSETS, rounding_mode="floor")[:, None] + torch.arange(h, device=x.device)
    columns = torch.arange(w, device=x.device).expand(b, w)
    columns = torch.where(codes[:, None] % 2 == 1, w - 1 - columns, columns)
    columns = columns + codes[:, None].div(2, rounding_mode="floor") % _OFFSETS
    width = w + 2 * _PADDING
    source = (rows[:, :, None] * width + columns[:, None, :]).reshape(b, 1, h * w)
    padded = F.pad(x, (_PADDING,) * 4).reshape(b, c, -1)
    return padded.gather(2, source.expand(b, c, h * w)).reshape(b, c, h, w)
