"""NIfTI in and out: RAS becomes LPS here, once; arrays are the file's with their axes reversed, (k, j, i).

All that a file's first few hundred bytes tell is judged before anything is inflated.
"""

from __future__ import annotations

import gzip
import itertools
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

from volattn.io.files import atomic_path, check_regular
from volattn.io.readers.base import Reader, VolumeHeader
from volattn.io.readers.nifti_voxels import read_image, read_labels
from volattn.structures.geometry import MAX_VOXELS, Geometry
from volattn.structures.volume import Volume

_MAX_EXTENSION = 16 * 2**20
_MAX_RATIO = 1032  # deflate cannot compress further than this
_SUPPORTED = frozenset({f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)} | {"float32", "float64"})
_UNIT_MM = {1: 1000.0, 3: 0.001}  # metres and micrometres; 2 is mm, 0 unknown and taken as mm
_GEOMETRY = (
    *("dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "dim_info"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Fields of a header that say where the voxels lie."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NiftiHeader(VolumeHeader):
    """What a NIfTI header holds.

    Attributes:
        native: nibabel's header, for writing back.
        dtype: Of the stored numbers, byte order included; they are multiplied by `slope`, and `intercept` is added.
        nbytes: Size of the stored numbers, inflated.
        offset: Where they begin, bytes.
        compressed: Whether the file is gzip, by its content, whatever its name.
    """

    native: Nifti1Header
    dtype: np.dtype
    nbytes: int
    offset: int
    compressed: bool
    slope: float
    intercept: float

    @property
    def stated_spacing(self) -> tuple[float, float, float]:
        x, y, z = (float(size) * _unit_mm(self.native) for size in self.native["pixdim"][1:4])
        return z, y, x

    def read_image(self) -> np.ndarray:
        return read_image(self)

    def read_labels(self) -> np.ndarray:
        return read_labels(self)


class NiftiReader(Reader):
    """NIfTI 1 and 2 in one file, gzipped or not."""

    name = "NIfTI"
    endings = (".nii.gz", ".nii")

    def inspect(self, path: Path) -> NiftiHeader:
        raw, compressed, file_size = _first_bytes(path)
        header = _parse(path, raw)
        shape = _shape(path, header)
        dtype = _dtype(path, header)
        nbytes = math.prod(shape) * dtype.itemsize
        if math.prod(shape) > MAX_VOXELS:
            raise ValueError(
                f"{path}: its header asks for {' x '.join(map(str, reversed(shape)))} voxels "
                f"({nbytes / 2**30:.1f} GiB), which is no CT volume; export it again or crop it"
            )
        offset = _offset(path, header)
        capacity = file_size * _MAX_RATIO if compressed else file_size
        if capacity < offset + nbytes:
            raise ValueError(
                f"{path}: is truncated, its header promises {nbytes} bytes of voxels and its {file_size} bytes "
                "cannot hold them; copy or download it again"
            )
        slope, intercept = _scaling(path, header)
        geometry, faults, notes = _geometry(header, shape)
        return NiftiHeader(
            path=path,
            shape=shape,
            geometry=geometry,
            dtype=dtype,
            nbytes=nbytes,
            native=header,
            offset=offset,
            compressed=compressed,
            slope=slope,
            intercept=intercept,
            faults=tuple(faults),
            notes=tuple(notes),
        )

    def write(self, path: Path, array: np.ndarray, like: Volume) -> None:
        """The geometry of `like`'s NIfTI header (dim, pixdim, qform, sform, both codes, units) is kept bit for bit."""
        header = like.header.native if isinstance(like.header, NiftiHeader) else _new_header(like.geometry)
        _write(path, array, header)


def _unit_mm(header: Nifti1Header) -> float:
    """Of lengths in pixdim and affines alike."""
    return _UNIT_MM.get(int(header["xyzt_units"]) % 8, 1.0)


def _first_bytes(path: Path) -> tuple[bytes, bool, int]:
    """The first 540 bytes, inflated; whether the file is gzip; its size on disk."""
    size = check_regular(path)
    try:
        with path.open("rb") as file:
            compressed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as file:
            raw = file.read(540)
    except EOFError:
        raise ValueError(f"{path}: is truncated within its header; copy or download it again") from None
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: is damaged ({error}); copy or download it again") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error}); check its permissions") from None
    if not raw:
        raise ValueError(f"{path}: is empty; copy or download it again")
    return raw, compressed, size


def _parse(path: Path, raw: bytes) -> Nifti1Header:
    sizes = {struct.unpack(order + "i", raw[:4])[0] for order in "<>"} if len(raw) >= 4 else set()
    kind = Nifti1Header if 348 in sizes else Nifti2Header if 540 in sizes else None
    if kind is None:
        raise ValueError(f"{path}: is not a NIfTI file; convert it to .nii or .nii.gz")
    if len(raw) < kind.sizeof_hdr:
        raise ValueError(f"{path}: is truncated within its header; copy or download it again")
    header = kind(raw[: kind.sizeof_hdr], check=False)
    magic = bytes(header["magic"])[:3]
    if magic in (b"ni1", b"ni2"):
        raise ValueError(f"{path}: is half of a .hdr/.img pair; convert it to one .nii or .nii.gz file")
    if magic not in (b"n+1", b"n+2"):
        raise ValueError(f"{path}: is not a NIfTI file (Analyze?); convert it to .nii or .nii.gz")
    return header


def _shape(path: Path, header: Nifti1Header) -> tuple[int, int, int]:
    count, *sizes = (int(size) for size in header["dim"])
    if not 1 <= count <= 7:
        raise ValueError(f"{path}: its header is damaged (it claims {count} axes); export it again")
    sizes = sizes[:count]
    shown = " x ".join(map(str, sizes))
    if min(sizes) < 1:
        raise ValueError(f"{path}: holds no voxels ({shown}); export it again")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3:
        way_out = "give the whole series as one volume" if len(sizes) < 3 else "split it and give one 3D volume a file"
        raise ValueError(f"{path}: is {len(sizes)}D ({shown}), not a 3D volume; {way_out}")
    i, j, k = sizes
    return k, j, i


def _dtype(path: Path, header: Nifti1Header) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError):
        dtype = None
    if dtype is None or dtype.name not in _SUPPORTED:
        kind = f"code {int(header['datatype'])}" if dtype is None else dtype.name
        raise ValueError(f"{path}: its voxels are of type {kind}; convert it to int16 or float32")
    return dtype


def _offset(path: Path, header: Nifti1Header) -> int:
    offset = float(header["vox_offset"])
    if not (math.isfinite(offset) and 0 <= offset <= header.sizeof_hdr + _MAX_EXTENSION):
        raise ValueError(f"{path}: its header is damaged (voxels at byte {offset:g}); export it again")
    return max(int(offset), header.sizeof_hdr + 4) if offset else header.sizeof_hdr + 4


def _scaling(path: Path, header: Nifti1Header) -> tuple[float, float]:
    """Slope and intercept; 1 and 0 where the header gives none: slope 0 or NaN, as the standard has it."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or math.isnan(slope):
        return 1.0, 0.0
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"{path}: its scaling is damaged (slope {slope}, intercept {intercept}); export it again")
    return slope, intercept


def _geometry(header: Nifti1Header, shape: tuple[int, int, int]) -> tuple[Geometry | None, list[str], list[str]]:
    """The grid, what is wrong with it, and what is in doubt.

    It is the sform if that is set, else the qform, else a guess: a header without either says nothing of orientation.
    Tools disagree there; the axes are taken to run to L, P and S from the origin, as SimpleITK does and as slices from
    DICOM usually lie.
    """
    faults: list[str] = []
    notes: list[str] = []
    spacing = [float(size) for size in header["pixdim"][1:4]]
    if not all(math.isfinite(size) and size > 0 for size in spacing):
        shown = " x ".join(f"{size:g}" for size in spacing)
        faults.append(f"its spacing is {shown} mm, zero, negative or NaN; correct pixdim or export it again")
    header = header.copy()
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1  # the standard's reading of a qfac that was never set
    unit = _unit_mm(header)
    sform, qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    try:
        if not (sform or qform):
            notes.append("says nothing of its orientation (sform and qform codes are 0); taken as L, P, S")
            i, j, k = spacing
            return _in_lps(np.diag([-i, -j, k, 1.0]), shape, unit), faults, notes
        ras = header.get_sform() if sform else header.get_qform()
        geometry = _in_lps(ras, shape, unit, rounded=not sform)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError) as error:
        if not faults:
            given = "" if unit == 1 else f" (its header gives lengths in units of {unit:g} mm)"
            faults.append(f"{error}{given}; correct its sform or qform, or export it again")
        return None, faults, notes
    if sform and qform and not faults:
        try:
            difference = geometry.difference(_in_lps(header.get_qform(), shape, unit, rounded=True))
        except (HeaderDataError, ValueError, np.linalg.LinAlgError):
            difference = "is none"
        if difference is not None:
            notes.append(
                f"its sform and qform contradict each other, the qform {difference}; the sform was taken, and programs "
                "that take the qform see it elsewhere"
            )
    return geometry, faults, notes


def _in_lps(ras: np.ndarray, shape: tuple[int, int, int], unit: float, *, rounded: bool = False) -> Geometry:
    """The grid of an affine (i, j, k, 1) -> RAS in the header's unit."""
    # Row by row, not as a matrix product, which would spread a NaN over the whole affine.
    lps = np.asarray(ras) * np.array([[-unit], [-unit], [unit], [1.0]])
    return Geometry(shape, lps[:, [2, 1, 0, 3]], rounded)


def _new_header(geometry: Geometry) -> Nifti1Header:
    """A header with `geometry`, in both forms where the axes are perpendicular."""
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
    for field in _GEOMETRY:
        header[field] = like[field]
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    header.set_data_dtype(array.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = b"n+1" if header.sizeof_hdr == 348 else b"n+2\0\r\n\x1a\n"
    header["descrip"] = b"volattn"
    blocks = itertools.chain([header.binaryblock + b"\0\0\0\0"], (plane.tobytes() for plane in array))
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        if path.suffix != ".gz":
            file.writelines(blocks)
            return
        # Neither a name nor a time in the stream: the same volume gives the same bytes.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=file, mtime=0) as stream:
            stream.writelines(blocks)
