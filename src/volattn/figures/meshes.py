"""Surfaces of masks, in the patient's millimetres; needs PyVista."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volattn.structures.crop import foreground_box
from volattn.structures.geometry import Geometry

if TYPE_CHECKING:
    import pyvista

_ITERATIONS = 30
_SMOOTHING = ((1, 0.03), (1, 0.1), (2, 0.1), (4, 0.1))
"""Into how many a voxel's edge is divided, and the pass band of the filter: from the smoothest to the most faithful."""
_KEPT = 0.05
_LARGEST = 30_000_000
"""Voxels of a grid that is finer than the mask's."""


def surface(mask: NDArray[np.bool_], geometry: Geometry) -> pyvista.PolyData | None:
    """The smoothed surface of a mask.

    It begins as the faces of the voxels, which hold the mask's volume exactly and close at the edge of the volume too,
    and loses its steps to a windowed sinc filter (Taubin, Zhang and Golub, ECCV 1996). That keeps the volume of
    whatever has many triangles, but a single voxel has twelve, and vanishes. So the smoothest surface is taken that
    keeps the volume within 5 %, if need be of voxels that were divided before, and the faces themselves if none does.

    The filter moves points along differences of neighbours, so that it may work on indices: the affine comes after it.

    Args:
        mask: (z, y, x) in canonical axes.
        geometry: Its grid; oblique and sheared ones are fine.

    Returns:
        Triangles with points (x, y, z) in LPS mm; None for an empty mask.
    """
    box = foreground_box(mask)
    part = mask[box]
    if not part.size:
        return None
    voxels = np.count_nonzero(part)
    for finer, pass_band in _SMOOTHING:
        if finer > 1 and part.size * finer**3 > _LARGEST:
            continue
        mesh = _faces(part, finer).smooth_taubin(n_iter=_ITERATIONS, pass_band=pass_band)
        if abs(mesh.volume / finer**3 - voxels) <= _KEPT * voxels:
            break
    else:
        finer, mesh = 1, _faces(part, 1)
    corner: NDArray[Any] = np.array([side.start - 0.5 for side in box])
    mesh.points = geometry.to_world(corner + (np.asarray(mesh.points)[:, ::-1] - 0.5) / finer)
    return mesh


def _faces(mask: NDArray[np.bool_], finer: int) -> pyvista.PolyData:
    """The outer faces of voxels whose edges are divided; voxels of the finer grid are numbered from 1."""
    import pyvista

    for axis in range(3) if finer > 1 else ():
        mask = mask.repeat(finer, axis)
    padded = np.pad(mask, 1)
    grid = pyvista.ImageData(dimensions=padded.shape[::-1])
    grid.point_data["inside"] = padded.ravel().view(np.uint8)
    faces = grid.contour_labels(
        scalars="inside", smoothing=False, output_mesh_type="triangles", background_value=0
    )
    faces.clear_data()
    return faces
