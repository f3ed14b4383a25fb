"""NIfTI in and out: RAS becomes LPS here, once; arrays are the file's with their axes reversed, (k, j, i)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header

from volattn.io.files import atomic_path
from volattn.io.names import volume_name
from volattn.io.readers.nifti_header import NiftiInfo, inspect_header, read_header, units_mm
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

__all__ = [
    "NiftiInfo",
    "count_not_finite",
    "header_spacing",
    "image_voxels",
    "inspect_header",
    "label_voxels",
    "read_header",
    "read_labels",
    "read_volume",
    "volume_name",
    "write_labels",
    "write_volume",
]

_SLACK = 2**16  # some writers pad the end of a file
_BLOCK = 2**22
# Noise does not compress: real CTs reach 2:1 to 20:1. Only a bomb is large and nearly empty.
_BOMB_RATIO = 150
_BOMB_BYTES = 2**28
_LABEL_TYPES = (np.uint8, np.int16, np.int32)
_FROM_WHOLE = 1e-4  # labels that went through a scaled file are not whole to the last bit


def read_volume(path: Path | str) -> Volume:
    """Reads a CT.

    Returns:
        The volume in file axes, HU: int16 where the file's numbers are whole and fit, else float32.

    Raises:
        ValueError: The header is refused (`read_header`), the file ends early or goes on beyond what its
            header promises, or a voxel is NaN or infinite.
    """
    info = read_header(path)
    array = image_voxels(info)
    bad = count_not_finite(array)
    if bad:
        raise ValueError(
            f"{info.path}: {bad} of its {array.size} voxels are NaN, infinite or beyond 32 bits; export it again, "
            "or fill them with -1024"
        )
    return _volume(info, array)


def header_spacing(volume: Volume) -> tuple[float, float, float]:
    """The distance between voxels along the array's axes (z, y, x) that the header's pixdim gives, mm.

    It is the geometry's spacing but for rounding, unless the header contradicts itself; other programs measure with it.

    Args:
        volume: As read; without a header the geometry's spacing is given.
    """
    if volume.header is None:
        return volume.geometry.spacing
    header = cast(Nifti1Header, volume.header)
    x, y, z = (float(size) * units_mm(header) for size in header["pixdim"][1:4])
    return z, y, x


def read_labels(path: Path | str) -> Volume:
    """Reads a label map; whole-numbered floats count as labels.

    Returns:
        Labels in file axes, in the smallest of uint8, int16 and int32 that holds them.

    Raises:
        ValueError: As `read_volume`, or a label is fractional or beyond 32 bits.
    """
    info = read_header(path)
    return _volume(info, label_voxels(info))


def image_voxels(info: NiftiInfo) -> np.ndarray:
    """Reads an image whose header was read, scaled; NaN is left for the caller to judge.

    Never inflates more than the header promises and a little slack.

    Returns:
        (z, y, x) in file axes: int16 where the numbers are whole (also after scaling) and fit, else float32, in which
        what is beyond its range is infinite.

    Raises:
        ValueError: The file is truncated, damaged, holds more than its header promises, or would inflate to far more
            than a CT of its size on disk.
    """
    _refuse_bomb(info)
    is_whole = info.dtype.kind in "iu" and info.slope.is_integer() and info.intercept.is_integer()
    array = _zeros(info, np.int16 if is_whole else np.float32)
    for start, block in _scaled_blocks(info):
        if array.dtype == np.int16 and (block.min() < -(2**15) or block.max() >= 2**15):
            array = array.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            array.reshape(-1)[start : start + len(block)] = block
    return array


def label_voxels(info: NiftiInfo) -> np.ndarray:
    """Reads a label map whose header was read, scaled.

    It takes no more memory than the labels in their small type, and where they are 0 for long, as in a bomb, not even
    that.

    Returns:
        (z, y, x) in file axes, in the smallest of uint8, int16 and int32 that holds them.

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


def count_not_finite(array: np.ndarray) -> int:
    """How many voxels are NaN or infinite."""
    if array.dtype.kind != "f":
        return 0
    return sum(int(plane.size - np.isfinite(plane).sum()) for plane in array)


def write_labels(path: Path | str, array: np.ndarray, like: Volume) -> None:
    """Writes a label map on the grid of `like`, atomically.

    The geometry of `like`'s header (dim, pixdim, qform, sform, both codes, units) is kept bit for bit.
    Header extensions and free text, which may say who the patient is, are not carried over.

    Args:
        path: A `.nii` or `.nii.gz` file.
        array: (z, y, x) whole numbers >= 0 in the file axes of `like`.
        like: The volume that the labels belong to; without a header one is made from its geometry.

    Raises:
        ValueError: The shape is not `like`'s, or a label is negative or beyond 32 bits.
    """
    if array.shape != like.array.shape:
        raise ValueError(f"{path}: labels of shape {array.shape} are not on the grid of {like.array.shape}")
    low, high = (int(array.min()), int(array.max()))
    fitting = [dtype for dtype in (np.uint8, np.uint16, np.int32) if high <= np.iinfo(dtype).max]
    if low < 0 or not fitting:
        raise ValueError(f"{path}: labels from {low} to {high} cannot be written")
    header = _new_header(like.geometry) if like.header is None else like.header
    _write(Path(path), array.astype(fitting[0], copy=False), cast(Nifti1Header, header))


def write_volume(path: Path | str, volume: Volume) -> None:
    """Writes a volume in its own type, atomically; the same volume gives the same bytes.

    Args:
        path: A `.nii` or `.nii.gz` file.
        volume: int16, uint8 or float32 numbers, for example; its header's geometry is kept bit for bit.
    """
    header = _new_header(volume.geometry) if volume.header is None else volume.header
    _write(Path(path), volume.array, cast(Nifti1Header, header))


def _volume(info: NiftiInfo, array: np.ndarray) -> Volume:
    assert info.geometry is not None, "read_header refuses files without a grid"
    return Volume(array, info.geometry, volume_name(info.path), info.header, info.notes)


def _refuse_bomb(info: NiftiInfo) -> None:
    """Refuses an image that would inflate to far more than a CT of its size on disk, before it does.

    For images only: empty label maps do compress like that.

    Raises:
        ValueError: It would.
    """
    size = info.path.stat().st_size
    if info.compressed and info.nbytes > _BOMB_BYTES and info.nbytes > _BOMB_RATIO * size:
        raise ValueError(
            f"{info.path}: its {size} bytes inflate to {info.nbytes / 2**30:.1f} GiB, which no CT's do; export it again"
        )


def _zeros(info: NiftiInfo, dtype: type) -> np.ndarray:
    try:
        return np.zeros(info.shape, dtype)
    except MemoryError:
        size = math.prod(info.shape) * np.dtype(dtype).itemsize
        raise ValueError(f"{info.path}: needs {size / 2**30:.1f} GiB of memory, more than there is; crop it") from None


def _scaled_blocks(info: NiftiInfo) -> Iterator[tuple[int, np.ndarray]]:
    """The numbers of a file in its own order, some at a time, each block with the place of its first; valid until the
    next one. Scaled ones are float64: slope * x + intercept.
    """
    scaled = (info.slope, info.intercept) != (1, 0)
    for start, block in _stored_blocks(info):
        with np.errstate(over="ignore", invalid="ignore"):
            yield start, block.astype(np.float64) * info.slope + info.intercept if scaled else block


def _stored_blocks(info: NiftiInfo) -> Iterator[tuple[int, np.ndarray]]:
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


def _new_header(geometry: Geometry) -> Nifti1Header:
    """A header that says `geometry`, in both forms where the axes are perpendicular."""
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine[:, [2, 1, 0, 3]]
    header = Nifti1Header()
    header.set_data_shape(geometry.shape[::-1])
    header.set_zooms(geometry.spacing[::-1])
    header.set_xyzt_units("mm")
    directions = ras[:3, :3] / np.linalg.norm(ras[:3, :3], axis=0)
    if np.allclose(directions.T @ directions, np.eye(3), atol=1e-5):
        header.set_qform(ras, code=1)
    header.set_sform(ras, code=1)
    return header


def _write(path: Path, array: np.ndarray, like: Nifti1Header) -> None:
    """Writes (z, y, x) numbers under `like`'s geometry; everything else in the header is new."""
    header = type(like)(endianness="<")
    for field in ("dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "dim_info"):
        header[field] = like[field]
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[field] = like[field]
    for field in ("srow_x", "srow_y", "srow_z"):
        header[field] = like[field]
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    header.set_data_dtype(array.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+1" if header.sizeof_hdr == 348 else b"n+2\0\r\n\x1a\n"
    header["descrip"] = b"volattn"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix != ".gz":
            file.writelines(_blocks(header, array))
            return
        # Neither a name nor a time in the stream: the same volume gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=file, mtime=0) as stream:
            stream.writelines(_blocks(header, array))


def _blocks(header: Nifti1Header, array: np.ndarray) -> Iterator[bytes]:
    yield header.binaryblock + b"\0\0\0\0"
    for plane in array:
        yield plane.tobytes()
