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
_SMOOTHING = ((0, 0.03), (0, 0.1), (1, 0.1), (2, 0.1))
"""How often triangles are split, and the pass band of the filter: from the smoothest to the most faithful."""
_KEPT = 0.05
_POINTS = 1_000_000
"""No mesh is split beyond so many."""


def surface(mask: NDArray[np.bool_], geometry: Geometry) -> pyvista.PolyData | None:
    """The smoothed surface of a mask.

    It begins as the faces of the voxels, which hold the mask's volume exactly and close at the edge of the volume too,
    and loses its steps to a windowed sinc filter (Taubin, Zhang and Golub, ECCV 1996). That keeps the volume of
    whatever has many triangles, but a single voxel has twelve, and vanishes. So the smoothest surface is taken that
    keeps the volume within 5 %, if need be of triangles that were split into four, once or twice.

    The filter moves points along differences of neighbours, so that it may work on indices: the affine comes after it.

    Args:
        mask: (z, y, x) in canonical axes.
        geometry: Its grid; oblique and sheared ones are fine.

    Returns:
        Triangles with points (x, y, z) in LPS mm; None for an empty mask.
    """
    import pyvista

    box = foreground_box(mask)
    part = np.pad(mask[box], 1)
    voxels = np.count_nonzero(part)
    if not voxels:
        return None
    grid = pyvista.ImageData(dimensions=part.shape[::-1])
    grid.point_data["inside"] = part.ravel().astype(np.uint8)
    faces = grid.contour_labels(
        scalars="inside", smoothing=False, output_mesh_type="triangles", background_value=0
    )
    faces.clear_data()
    mesh = faces
    for splits, pass_band in _SMOOTHING:
        if faces.n_points * 4**splits > _POINTS and splits:
            break
        finer = faces.subdivide(splits, "linear") if splits else faces
        mesh = finer.smooth_taubin(n_iter=_ITERATIONS, pass_band=pass_band)
        if abs(mesh.volume - voxels) <= _KEPT * voxels:
            break
    start: NDArray[Any] = np.array([side.start - 1 for side in box])
    mesh.points = geometry.to_world(np.asarray(mesh.points)[:, ::-1] + start)
    return mesh
