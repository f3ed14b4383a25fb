"""NIfTI in and out: RAS becomes LPS here, once; arrays are the file's with their axes reversed, (k, j, i)."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header

from volattn.io.files import atomic_path
from volattn.io.readers.base import Reader
from volattn.io.readers.nifti_header import NiftiHeader, inspect_nifti
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

_GEOMETRY = (
    *("dim", "pixdim", "qform_code", "sform_code", "xyzt_units", "dim_info"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Fields of a header."""


class NiftiReader(Reader):
    """NIfTI 1 and 2 in one file, gzipped or not."""

    name = "NIfTI"
    endings = (".nii.gz", ".nii")

    def inspect(self, path: Path) -> NiftiHeader:
        return inspect_nifti(path)

    def write(self, path: Path, array: np.ndarray, like: Volume) -> None:
        """The geometry of `like`'s NIfTI header (dim, pixdim, qform, sform, both codes, units) is kept bit for bit."""
        header = like.header.native if isinstance(like.header, NiftiHeader) else _new_header(like.geometry)
        _write(path, array, header)


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
