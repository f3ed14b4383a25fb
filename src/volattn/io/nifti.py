"""NIfTI in and out: RAS becomes LPS here, once; arrays are the file's with their axes reversed, (k, j, i)."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from nibabel.nifti1 import Nifti1Header

from volattn.io.atomic import atomic_path
from volattn.io.names import volume_name
from volattn.io.nifti_header import NiftiInfo, inspect_header, read_header
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

__all__ = [
    "NiftiInfo",
    "count_not_finite",
    "header_spacing",
    "inspect_header",
    "read_header",
    "read_labels",
    "read_volume",
    "read_voxels",
    "refuse_bomb",
    "to_labels",
    "volume_name",
    "write_labels",
    "write_volume",
]

_SLACK = 2**16  # some writers pad the end of a file
_BLOCK = 2**24
# Noise does not compress: real CTs reach 2:1 to 20:1. Only a bomb is large and nearly empty.
_BOMB_RATIO = 150
_BOMB_BYTES = 2**28
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
    refuse_bomb(info)
    array = read_voxels(info)
    bad = count_not_finite(array)
    if bad:
        raise ValueError(
            f"{info.path}: {bad} of its {array.size} voxels are NaN or infinite; export it again, "
            "or fill them with -1024"
        )
    if array.dtype != np.int16:
        array = array.astype(np.float32, copy=False)
    return Volume(array, _grid(info), volume_name(path), info.header)


def header_spacing(volume: Volume) -> tuple[float, float, float]:
    """The distance between voxels along the array's axes (z, y, x) that the header's pixdim gives.

    It is the geometry's spacing but for rounding, unless the header contradicts itself; other programs measure with it.

    Args:
        volume: As read; without a header the geometry's spacing is given.
    """
    if volume.header is None:
        return volume.geometry.spacing
    x, y, z = (float(size) for size in cast(Nifti1Header, volume.header)["pixdim"][1:4])
    return z, y, x


def read_labels(path: Path | str) -> Volume:
    """Reads a label map; whole-numbered floats count as labels.

    Returns:
        Labels in file axes, in the smallest of uint8, int16 and int32 that holds them.

    Raises:
        ValueError: As `read_volume`, or a label is fractional or beyond 32 bits.
    """
    info = read_header(path)
    return Volume(to_labels(read_voxels(info), info.path), _grid(info), volume_name(path), info.header)


def read_voxels(info: NiftiInfo) -> np.ndarray:
    """Reads the numbers of a file whose header was read, scaled; NaN is left for the caller to judge.

    Never inflates more than the header promises and a little slack.

    Returns:
        (z, y, x) in file axes, native byte order. Whole numbers (also after scaling) are int16 where they
        fit, else their own type; all else is float32.

    Raises:
        ValueError: The file is truncated, damaged, or holds more than its header promises.
    """
    array = _read_stored(info)
    if array.dtype.kind == "f":
        scaled = info.slope != 1 or info.intercept != 0
        return _scale(array, info) if scaled else array.astype(np.float32, copy=False)
    if not (info.slope.is_integer() and info.intercept.is_integer()):
        return _scale(array, info)
    ends = [int(end) * int(info.slope) + int(info.intercept) for end in (array.min(), array.max())]
    if min(ends) < -(2**15) or max(ends) >= 2**15:
        return array if (info.slope, info.intercept) == (1, 0) else _scale(array, info)
    if (info.slope, info.intercept) == (1, 0):
        return array.astype(np.int16, copy=False)
    result = np.empty(array.shape, np.int16)
    for z, plane in enumerate(array):
        result[z] = plane.astype(np.int64) * int(info.slope) + int(info.intercept)
    return result


def to_labels(array: np.ndarray, path: Path) -> np.ndarray:
    """Numbers as labels, in the smallest of uint8, int16 and int32 that holds them.

    Args:
        array: (z, y, x) as `read_voxels` gives it.
        path: The file it came from; errors name it.

    Raises:
        ValueError: A number is NaN, infinite, not whole or beyond 32 bits.
    """
    if array.dtype.kind == "f":
        for z, plane in enumerate(array):
            with np.errstate(invalid="ignore"):  # NaN and infinity compare as wrong, as they should
                wrong = ~(np.abs(plane - np.rint(plane)) <= _FROM_WHOLE)
            if wrong.any():
                y, x = np.unravel_index(int(wrong.argmax()), plane.shape)
                raise ValueError(
                    f"{path}: label {plane[y, x]:g} at voxel (z {z}, y {y}, x {x}) is not a whole number; "
                    "export the labels with nearest-neighbour interpolation"
                )
    low, high = float(array.min()), float(array.max())
    for dtype in (np.uint8, np.int16, np.int32):
        if np.iinfo(dtype).min <= round(low) and round(high) <= np.iinfo(dtype).max:
            if array.dtype == dtype:
                return array
            labels = np.empty(array.shape, dtype)
            for z, plane in enumerate(array):
                labels[z] = np.rint(plane)
            return labels
    raise ValueError(f"{path}: labels from {low:g} to {high:g} do not fit 32 bits; is it a label map?")


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


def _grid(info: NiftiInfo) -> Geometry:
    assert info.geometry is not None, "read_header refuses files without a grid"
    return info.geometry


def refuse_bomb(info: NiftiInfo) -> None:
    """Refuses an image that would inflate to far more than a CT of its size on disk, before it does.

    For images only: empty label maps do compress like that.

    Raises:
        ValueError: It would.
    """
    size = info.path.stat().st_size
    if info.compressed and info.nbytes > _BOMB_BYTES and info.nbytes > _BOMB_RATIO * size:
        raise ValueError(
            f"{info.path}: its {size} bytes inflate to {info.nbytes / 2**30:.1f} GiB, which no CT's do; "
            "export it again"
        )


def _read_stored(info: NiftiInfo) -> np.ndarray:
    """The stored numbers (z, y, x), native byte order, before scaling."""
    try:
        stored = np.empty(info.nbytes, np.uint8)
        with gzip.open(info.path) if info.compressed else info.path.open("rb") as stream:
            file = cast(BinaryIO, stream)
            skipped = len(file.read(info.offset))
            filled = _fill(file, stored) if skipped == info.offset else 0
            # Reading on to the end also has gzip compare its checksum.
            excess = len(file.read(_SLACK + 1)) if filled == info.nbytes else 0
    except MemoryError:
        raise ValueError(
            f"{info.path}: needs {info.nbytes / 2**30:.1f} GiB of memory, more than there is; crop it"
        ) from None
    except EOFError:
        raise ValueError(f"{info.path}: is truncated; copy or download it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{info.path}: is damaged ({error}); copy or download it again") from None
    except OSError as error:
        raise ValueError(
            f"{info.path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    if filled < info.nbytes:
        raise ValueError(
            f"{info.path}: is truncated, {filled} of {info.nbytes} bytes of voxels; copy or download it again"
        )
    if info.compressed and excess > _SLACK:
        raise ValueError(
            f"{info.path}: inflates to more than the {info.nbytes} bytes that its header promises; "
            "export it again"
        )
    array = stored.view(info.dtype).reshape(info.shape)
    return array if info.dtype.isnative else array.astype(info.dtype.newbyteorder("="))


def _fill(file: BinaryIO, buffer: np.ndarray) -> int:
    """Reads until the buffer is full or the file ends; the number of bytes read."""
    filled = 0
    while filled < len(buffer):
        block = file.read(min(_BLOCK, len(buffer) - filled))
        if not block:
            break
        buffer[filled : filled + len(block)] = np.frombuffer(block, np.uint8)
        filled += len(block)
    return filled


def _scale(array: np.ndarray, info: NiftiInfo) -> np.ndarray:
    """slope * x + intercept, computed in float64 slice by slice, kept in float32."""
    result = np.empty(array.shape, np.float32)
    for z, plane in enumerate(array):
        result[z] = plane.astype(np.float64) * info.slope + info.intercept
    return result


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
