"""Surfaces of masks, in the patient's millimetres; needs PyVista."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volattn.structures.crop import foreground_box
from volattn.structures.geometry import Geometry

if TYPE_CHECKING:
    import pyvista

_ITERATIONS, _PASS_BAND = 20, 0.1
_POINTS = 500_000
"""At most as many are made by splitting triangles."""


def surface(mask: NDArray[np.bool_], geometry: Geometry, *, splits: int = 0) -> pyvista.PolyData | None:
    """The smoothed surface of a mask.

    It begins as the faces of the voxels, which hold the mask's volume exactly and close at the edge of the volume too,
    and loses its steps to a windowed sinc filter (Taubin, Zhang and Golub, ECCV 1996). The filter does not shrink what
    has many triangles, but a single voxel has twelve, and would vanish. With two splits of each triangle into four its
    volume stays within 2 %.

    The filter moves points along differences of neighbours, so that it may work on indices: the affine comes after it.

    Args:
        mask: (z, y, x) in canonical axes.
        geometry: Its grid; oblique and sheared ones are fine.
        splits: Of each triangle into four, before it is smoothed; fewer if that makes too many.

    Returns:
        Triangles with points (x, y, z) in LPS mm; None for an empty mask.
    """
    import pyvista

    box = foreground_box(mask)
    part = np.pad(mask[box], 1)
    if part.size == 0 or not part.any():
        return None
    grid = pyvista.ImageData(dimensions=part.shape[::-1])
    grid.point_data["inside"] = part.ravel().astype(np.uint8)
    mesh = grid.contour_labels(
        scalars="inside", smoothing=False, output_mesh_type="triangles", background_value=0
    )
    mesh.clear_data()
    while splits and mesh.n_points * 4**splits > _POINTS:
        splits -= 1
    if splits:
        mesh = mesh.subdivide(splits, "linear")
    mesh = mesh.smooth_taubin(n_iter=_ITERATIONS, pass_band=_PASS_BAND)
    start: NDArray[Any] = np.array([side.start - 1 for side in box])
    mesh.points = geometry.to_world(np.asarray(mesh.points)[:, ::-1] + start)
    return mesh
