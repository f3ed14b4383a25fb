"""CT slices as 16-bit PNG, HU = value - 32768, as DeepLesion keeps them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from volattn.io.files import atomic_path, read_bytes

OFFSET = 32768
"""The value of 0 HU."""

_MOST = 4096
_MOST_BYTES = 2 * _MOST**2 + 2**20
_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk of every PNG
_DEPTHS = {"1": "1 bit", "L": "8 bits", "P": "a palette", "LA": "8 bits", "RGB": "colours", "RGBA": "colours"}


def read_slice(path: Path | str) -> NDArray[np.int16]:
    """Reads a slice whole, every checksum of it: (h, w) HU.

    Raises:
        ValueError: The file is missing, truncated or damaged, no PNG, or not of one channel with 16 bits.
    """
    path = Path(path)
    content = read_bytes(path, _MOST_BYTES)
    if not content:
        raise ValueError(f"{path}: is empty; copy it again")
    try:
        # Pillow decodes a file whose checksums are wrong; only `verify` looks at them, and needs its own reader.
        Image.open(io.BytesIO(content), formats=["PNG"]).verify()
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            mode, size = image.mode, image.size
            # Judged before anything is decoded: a few bytes can claim any size.
            values = np.asarray(image) if mode == "I;16" and max(size) <= _MOST else None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path}: is not a PNG; copy it again") from None
    except Image.DecompressionBombError:
        size = (_MOST + 1, _MOST + 1)
    except Exception as error:  # Pillow raises whatever a damaged chunk leads to.
        raise ValueError(f"{path}: is truncated or damaged ({str(error)[:80]}); copy it again") from None
    if max(size) > _MOST:
        raise ValueError(f"{path}: is larger than a CT slice, {_MOST} x {_MOST} pixels; copy it again")
    if _END not in content:
        raise ValueError(f"{path}: is truncated or damaged (it has no end); copy it again")
    if values is None:
        raise ValueError(
            f"{path}: has {_DEPTHS.get(mode, mode)} where HU need one channel of 16 bits; take the original, "
            "not a windowed copy"
        )
    return (values.astype(np.int32) - OFFSET).astype(np.int16)


def write_slice(path: Path | str, hu: NDArray[np.int16]) -> None:
    """Writes (h, w) HU, atomically; the same slice gives the same bytes."""
    values = (hu.astype(np.int32) + OFFSET).astype(np.uint16)
    with atomic_path(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG")
