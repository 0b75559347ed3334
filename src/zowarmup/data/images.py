"""Encoded images to pixels."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from zowarmup.data.extras import need
from zowarmup.errors import DataError

# For images this small, threads lose more time to the interpreter's lock than decoding takes.
_THREADS_FROM_BYTES = 16_000
# What Pillow's JPEG decoder itself treats alike: baseline, extended and progressive frames.
_JPEG_FRAMES = (0xC0, 0xC1, 0xC2)
# Larger ones go through Pillow's own check against decompression bombs.
_PLAIN_PIXELS = 2**24


class Pixels(NamedTuple):
    """Decoded images, ``(k, height, width, 3)``, and whether each of them was grayscale."""

    rgb: UInt8[np.ndarray, "k h w 3"]
    gray: bool


def decode(
    blobs: Sequence[bytes | None], *, size: tuple[int, int] | None, fail: Callable[[int, str], DataError]
) -> Pixels:
    """Decode PNG, JPEG or whatever else Pillow reads, with 8 bits a channel.

    Everything but grayscale is converted to RGB; grayscale is repeated over the three channels. EXIF rotation is
    not applied.

    Args:
        blobs: at least one encoded image.
        size: (width, height) all of them must have; the first one's where None.
        fail: makes the error for the image at a position, so that it can say file and row.

    Raises:
        DataError: made by ``fail``: missing, undecodable, 16-bit, or of another size.
    """
    size = size or _open(blobs[0], 0, fail).size
    rgb = np.empty((len(blobs), size[1], size[0], 3), np.uint8)

    def work(position: int) -> bool:
        image = _open(blobs[position], position, fail)
        if image.size != size:
            (w, h), (got_w, got_h) = size, image.size
            raise fail(position, f"image is {got_w} x {got_h}, the first one {w} x {h}; all must share one size")
        pixels = np.asarray(image)
        rgb[position] = pixels[..., None] if pixels.ndim == 2 else pixels
        return pixels.ndim == 2

    if sum(len(blob or b"") for blob in blobs) < _THREADS_FROM_BYTES * len(blobs):
        grays = [work(position) for position in range(len(blobs))]
    else:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            grays = list(pool.map(work, range(len(blobs))))
    return Pixels(rgb, all(grays))


def _open(blob: bytes | None, position: int, fail: Callable[[int, str], DataError]) -> Any:
    """The image in mode L or RGB."""
    if blob is None:
        raise fail(position, "there is no image: its bytes are null")
    image = _jpeg(blob)
    if image is not None:
        return image
    library = need("PIL.Image", "decoding images")
    try:
        image = library.open(io.BytesIO(blob))
        image.load()
    except Exception as error:  # broken bytes make decoders raise errors of a dozen types
        text = "not an image Pillow can identify" if isinstance(error, library.UnidentifiedImageError) else str(error)
        raise fail(position, f"image does not decode: {text}") from None
    if image.mode.startswith(("I", "F")):
        raise fail(position, f'image has mode "{image.mode}"; only 8 bits a channel are read')
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _jpeg(blob: bytes) -> Any | None:
    """A JPEG through Pillow's decoder, without parsing the file in Python; None where the usual way must be taken.

    Parsing costs two thirds of the time for an image of 32 x 32. Pixels are the same; a test holds both together.
    """
    frame = _jpeg_frame(blob)
    if frame is None:
        return None
    try:
        return need("PIL.Image", "decoding images").frombytes(*frame, blob, "jpeg", frame[0], "")
    except (OSError, ValueError):
        return None  # the usual way says what is wrong with it


def _jpeg_frame(blob: bytes) -> tuple[str, tuple[int, int]] | None:
    """(mode, (width, height)) of an 8-bit gray or three-channel JPEG."""
    if blob[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 10 <= len(blob) and blob[at] == 0xFF:
        marker, length = blob[at + 1], blob[at + 2] << 8 | blob[at + 3]
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", blob, at + 4)
            mode = {1: "L", 3: "RGB"}.get(channels, "")
            usual = not mode or bits != 8 or not 0 < width * height <= _PLAIN_PIXELS
            return None if usual else (mode, (width, height))
        at += 2 + length
    return None
