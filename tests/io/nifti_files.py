"""Small NIfTI files for tests, written and judged by nibabel and SimpleITK, never by the code under test."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import SimpleITK
from nibabel.loadsave import load as nibabel_load
from nibabel.loadsave import save as nibabel_save
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

SHAPE = (4, 5, 6)  # i, j, k
ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "SI")) for codes in itertools.product(*axes)
]
_GEOMETRY_FIELDS = (
    *("dim", "pixdim", "sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c"),
    *("quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "xyzt_units", "dim_info"),
)
_TILT = np.linalg.qr([[0.94, -0.28, 0.22], [0.29, 0.96, -0.04], [-0.20, 0.10, 0.98]])


def load(path: Path) -> Nifti1Image:
    """Reads with nibabel."""
    image = nibabel_load(path)
    assert isinstance(image, Nifti1Image)
    return image


def save(
    path: Path, array: np.ndarray, affine: np.ndarray, *, sform: int = 1, qform: int = 1, **fields: object
) -> Path:
    """Writes an array (i, j, k), a RAS affine in the forms whose codes are not 0, and other fields."""
    image = Nifti1Image(array, affine, dtype=array.dtype)
    image.set_sform(affine if sform else None, sform)
    image.set_qform(affine if qform else None, qform)
    for name, value in fields.items():
        image.header[name] = value
    nibabel_save(image, path)
    return path


def patch(path: Path, offset: int, values: np.ndarray) -> Path:
    """Overwrites header bytes of a `.nii` in place, where nibabel would not write such a thing."""
    raw = bytearray(path.read_bytes())
    raw[offset : offset + values.nbytes] = values.tobytes()
    path.write_bytes(raw)
    return path


def oriented(codes: str, tilted: bool = False) -> np.ndarray:
    """A RAS affine whose array axes run to `codes`, anisotropic, off the origin, tilted on request."""
    base = np.diag([0.7, 0.9, 2.5, 1.0])
    base[:3, 3] = (-31.0, 17.5, 240.25)
    affine = base @ inv_ornt_aff(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)), SHAPE)
    if tilted:
        rotation, upper = _TILT
        affine[:3, :3] = rotation @ np.diag(np.sign(np.diag(upper))) @ affine[:3, :3]
    return affine


def world_by_simpleitk(path: Path, points: np.ndarray) -> np.ndarray:
    """LPS positions (n, 3) in (x, y, z) of indices (n, 3) in (z, y, x)."""
    image = SimpleITK.ReadImage(str(path))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(point[::-1].tolist()) for point in points])


def voxels_by_simpleitk(path: Path) -> np.ndarray:
    """The voxels (z, y, x)."""
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def all_points(shape: tuple[int, ...]) -> np.ndarray:
    """Every index of an array, (n, 3)."""
    return np.argwhere(np.ones(shape, bool)).astype(float)


def assert_same_geometry(first: Path, second: Path) -> None:
    """The header fields that place the voxels are the same bit for bit, up to the files' byte orders."""
    one, two = load(first).header, load(second).header
    assert type(one) is type(two)
    for field in _GEOMETRY_FIELDS:
        ours, theirs = (np.asarray(header[field]) for header in (one, two))
        little = [value.astype(value.dtype.newbyteorder("<")).tobytes() for value in (ours, theirs)]
        assert little[0] == little[1], field
