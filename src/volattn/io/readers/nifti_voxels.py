"""Voxels of NIfTI files: never more is inflated or held than the header promises."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

if TYPE_CHECKING:
    from volattn.io.readers.nifti import NiftiHeader

_SLACK = 2**16  # some writers pad the end of a file
_BLOCK = 2**22
# Noise does not compress: real CTs reach 2:1 to 20:1. Only a bomb is large and nearly empty, or a label map.
_BOMB_RATIO = 150
_BOMB_BYTES = 2**28
_LABEL_TYPES = (np.uint8, np.int16, np.int32)
_FROM_WHOLE = 1e-4  # labels that went through a scaled file are not whole to the last bit


def read_image(info: NiftiHeader) -> np.ndarray:
    """See `VolumeHeader.read_image`; numbers are scaled, and beyond float32's range infinite.

    Raises:
        ValueError: The file is truncated, damaged, holds more than its header promises and a little slack, or would
            inflate to far more than a CT of its size on disk.
    """
    size = info.path.stat().st_size
    if info.compressed and info.nbytes > _BOMB_BYTES and info.nbytes > _BOMB_RATIO * size:
        raise ValueError(
            f"{info.path}: its {size} bytes inflate to {info.nbytes / 2**30:.1f} GiB, which no CT's do; export it again"
        )
    is_whole = info.dtype.kind in "iu" and info.slope.is_integer() and info.intercept.is_integer()
    array = _zeros(info, np.int16 if is_whole else np.float32)
    for start, block in _scaled_blocks(info):
        if array.dtype == np.int16 and (block.min() < -(2**15) or block.max() >= 2**15):
            array = array.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            array.reshape(-1)[start : start + len(block)] = block
    return array


def read_labels(info: NiftiHeader) -> np.ndarray:
    """See `VolumeHeader.read_labels`.

    It takes no more memory than the labels in their small type, and none where they are 0 for long, as in a bomb.

    Raises:
        ValueError: The file is truncated, damaged or holds more than its header promises; or a number is NaN, infinite,
            not whole or beyond 32 bits.
    """
    array = _zeros(info, np.uint8)
    low = high = 0
    for start, block in _scaled_blocks(info):
        labels = block
        if block.dtype.kind == "f":
            labels = np.rint(block)
            with np.errstate(invalid="ignore"):  # NaN and infinity compare as wrong, as they should
                wrong = ~(np.abs(block - labels) <= _FROM_WHOLE)
            if wrong.any():
                place = int(wrong.argmax())
                z, y, x = np.unravel_index(start + place, info.shape)
                raise ValueError(
                    f"{info.path}: label {block[place]:g} at voxel (z {z}, y {y}, x {x}) is not a whole number; "
                    "export the labels with nearest-neighbour interpolation"
                )
        if not labels.any():
            continue  # Memory that is never written to is never taken.
        low, high = min(low, int(labels.min())), max(high, int(labels.max()))
        fitting = [t for t in _LABEL_TYPES if np.iinfo(t).min <= low and high <= np.iinfo(t).max]
        if not fitting:
            raise ValueError(f"{info.path}: labels from {low} to {high} do not fit 32 bits; is it a label map?")
        array = array.astype(fitting[0], copy=False)
        array.reshape(-1)[start : start + len(block)] = labels
    return array


def _zeros(info: NiftiHeader, dtype: type) -> np.ndarray:
    try:
        return np.zeros(info.shape, dtype)
    except MemoryError:
        size = math.prod(info.shape) * np.dtype(dtype).itemsize
        raise ValueError(f"{info.path}: needs {size / 2**30:.1f} GiB of memory, more than there is; crop it") from None


def _scaled_blocks(info: NiftiHeader) -> Iterator[tuple[int, np.ndarray]]:
    """The numbers of a file in its own order, some at a time, each block with the place of its first; valid until the
    next one. Scaled ones are float64: slope * x + intercept.
    """
    scaled = (info.slope, info.intercept) != (1, 0)
    for start, block in _stored_blocks(info):
        with np.errstate(over="ignore", invalid="ignore"):
            yield start, block.astype(np.float64) * info.slope + info.intercept if scaled else block


def _stored_blocks(info: NiftiHeader) -> Iterator[tuple[int, np.ndarray]]:
    """The stored numbers, see `_scaled_blocks`."""
    buffer = np.empty(min(_BLOCK, info.nbytes), np.uint8)  # _BLOCK is a multiple of every item's size
    try:
        with gzip.open(info.path) if info.compressed else info.path.open("rb") as stream:
            file = cast(BinaryIO, stream)
            filled = 0
            if len(file.read(info.offset)) == info.offset:
                while filled < info.nbytes:
                    wanted = min(_BLOCK, info.nbytes - filled)
                    count = _fill(file, buffer[:wanted])
                    if count == wanted:
                        yield filled // info.dtype.itemsize, buffer[:wanted].view(info.dtype)
                    filled += count
                    if count < wanted:
                        break
            # Reading on to the end also has gzip compare its checksum.
            excess = len(file.read(_SLACK + 1)) if filled == info.nbytes else 0
    except EOFError:
        raise ValueError(f"{info.path}: is truncated; copy or download it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{info.path}: is damaged ({error}); copy or download it again") from None
    except OSError as error:
        raise ValueError(f"{info.path}: cannot be read ({error.strerror or error}); check its permissions") from None
    if filled < info.nbytes:
        raise ValueError(
            f"{info.path}: is truncated, {filled} of {info.nbytes} bytes of voxels; copy or download it again"
        )
    if info.compressed and excess > _SLACK:
        raise ValueError(
            f"{info.path}: inflates to more than the {info.nbytes} bytes that its header promises; export it again"
        )


def _fill(file: BinaryIO, buffer: np.ndarray) -> int:
    """Reads until the buffer is full or the file ends; the number of bytes read."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer.data[filled:])  # type: ignore[attr-defined]
        if not count:
            break
        filled += count
    return filled
