"""Organ and lesions as surfaces in 3D, one label map beside the other (paper, figure 1); needs PyVista."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import ndimage

from volattn.datasets.case import ORGAN
from volattn.report.outlines import COLOURS, kind_label, scale_bar, side_mark, summary
from volattn.report.scene import Scene
from volattn.report.style import DPI, GAP, HEAD, LEGEND, TITLE, Sheet
from volattn.structures.geometry import Geometry
from volattn.structures.volume import foreground_box

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

    The faces of the voxels hold the mask's volume exactly; a windowed sinc filter smooths them (Taubin, Zhang and
    Golub, ECCV 1996). The filter keeps the volume of surfaces with many triangles, but a single voxel has twelve, and
    vanishes. So the smoothest surface that keeps the volume within 5 % is taken, if need be of divided voxels, and the
    faces themselves if none does. The filter is linear and works on indices; the affine comes after it.

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
    faces = grid.contour_labels(scalars="inside", smoothing=False, output_mesh_type="triangles", background_value=0)
    faces.clear_data()
    return faces


Viewer = Literal["front", "right", "top"]

_WIDTH = 3.9  # inches
_TALLEST = 1.3
_PIXELS = round(2 * DPI * _WIDTH)
"""Rendered twice as fine as shown, so that edges are smooth."""
_MARGIN, _LEAST_MM = 1.1, 20.0
_OPACITY = 0.3


@dataclass(frozen=True)
class Direction:
    """A view: LPS directions to the right and up in the picture, and the patient's sides at its left and right."""

    words: str
    right: tuple[int, int, int]
    up: tuple[int, int, int]
    sides: tuple[str, str]

    @property
    def towards(self) -> NDArray[np.int64]:
        """LPS direction from the patient to the viewer."""
        return np.cross(self.right, self.up)


DIRECTIONS: dict[Viewer, Direction] = {
    "front": Direction("from the front", (1, 0, 0), (0, 0, 1), ("R", "L")),
    "right": Direction("from the patient's right", (0, -1, 0), (0, 0, 1), ("P", "A")),
    "top": Direction("from above", (-1, 0, 0), (0, -1, 0), ("L", "R")),
}
"""The views of a patient, whose LPS axes run to the left, to the back and to the head."""


@dataclass(frozen=True, eq=False)
class Part:
    """A surface in LPS mm, its key of `COLOURS`, and its opacity (1 hides all behind it)."""

    mesh: pyvista.PolyData
    colour: str
    opacity: float = 1.0


@dataclass(frozen=True, eq=False)
class Frame:
    """The box of space that a picture with parallel rays shows: its centre in LPS mm, its extents in mm."""

    direction: Direction
    centre: NDArray[np.float64]
    width: float
    height: float
    depth: float

    @classmethod
    def around(cls, points: NDArray[np.float64], direction: Direction) -> Self:
        """The smallest frame around points (n, 3) in LPS mm, with a margin."""
        axes = np.array([direction.right, direction.up, direction.towards], float)
        along = points @ axes.T
        low, high = along.min(axis=0), along.max(axis=0)
        width, height, depth = np.maximum((high - low) * _MARGIN, _LEAST_MM).tolist()
        width = max(width, height / _TALLEST)
        return cls(direction, (low + high) / 2 @ axes, width, height, depth)


def check_rendering() -> None:
    """Checks that surfaces can be rendered here.

    Raises:
        ValueError: PyVista is not installed, or VTK has nothing to draw with.
    """
    way_out = "or draw only slices, with --kind panels"
    try:
        with _quiet():
            works = _can_render()
    except ImportError as error:
        raise ValueError(
            f"surfaces need PyVista, and {error.name} is not installed; pip install 'volattn[rendering]', {way_out}"
        ) from None
    if not works:
        raise ValueError(
            "VTK can draw surfaces neither on a screen nor without: it finds no EGL and no OSMesa; install one "
            f"(Debian and Ubuntu: apt install libegl1), {way_out}"
        )


def draw_surfaces(
    scenes: Mapping[str, Scene],
    geometry: Geometry,
    *,
    views: Sequence[Viewer] = ("front",),
    organ: str | None = "organ",
    title: str = "",
) -> NDArray[np.uint8]:
    """Draws translucent organs with their lesions: a column for each label map, a row for each view.

    The pictures of a row have one camera with parallel rays, so that they can be compared, and measured.

    Args:
        scenes: By the columns' titles.
        geometry: The grid of all of them, in canonical axes.

    Returns:
        The picture (height, width, 3).
    """
    columns = [_parts(scene, geometry, organ is not None) for scene in scenes.values()]
    # Without any surface the corners of the grid are shown.
    corners = geometry.to_world(np.array(list(itertools.product(*((0, size - 1) for size in geometry.shape)))))
    surfaces = [np.asarray(part.mesh.points, np.float64) for parts in columns for part in parts]
    points = np.concatenate(surfaces or [corners])
    frames = [Frame.around(points, DIRECTIONS[view]) for view in views]
    heights = [_WIDTH * frame.height / frame.width for frame in frames]
    sheet = Sheet(len(columns) * (_WIDTH + GAP) + GAP, TITLE + HEAD + sum(heights) + GAP * len(heights) + LEGEND)
    for column, (name, scene) in enumerate(scenes.items()):
        left, top = GAP + column * (_WIDTH + GAP), TITLE + HEAD
        sheet.head(left + _WIDTH / 2, TITLE, name, summary(scene))
        for frame, inches, picture in zip(frames, heights, render(columns[column], frames), strict=True):
            axes = sheet.panel(left, top, _WIDTH, inches)
            top += inches + GAP
            extent = (0.0, frame.width, frame.height, 0.0)
            axes.imshow(picture, extent=extent, interpolation="antialiased")
            axes.set(xlim=extent[:2], ylim=extent[2:])
            axes.set_axis_off()
            side_mark(axes, 0.015, 0.5, frame.direction.sides[0], "left", "center")
            side_mark(axes, 0.985, 0.5, frame.direction.sides[1], "right", "center")
            side_mark(axes, 0.015, 0.985, frame.direction.words, "left", "top", size=8)
            scale_bar(axes, extent, 50 if frame.width > 100 else 10)
    sheet.title(title)
    handles = [] if organ is None else [Line2D([], [], color=COLOURS["organ"], lw=7, alpha=0.5, label=organ)]
    compared = any(scene.truth is not None for scene in scenes.values())
    for kind in dict.fromkeys(kind for scene in scenes.values() for kind in scene.counts()):
        handles.append(Line2D([], [], color=COLOURS[kind], lw=7, label=kind_label(kind, compared)))
    sheet.legend(handles)
    return sheet.pixels()


def render(parts: Sequence[Part], frames: Sequence[Frame]) -> list[NDArray[np.uint8]]:
    """Renders surfaces off screen: a picture (height, width, 3) of each frame, black behind the surfaces."""
    with _quiet():
        return [_picture(parts, frame) for frame in frames]


def _picture(parts: Sequence[Part], frame: Frame) -> NDArray[np.uint8]:
    import pyvista

    size = (_PIXELS, max(1, round(_PIXELS * frame.height / frame.width)))
    plotter = pyvista.Plotter(off_screen=True, window_size=size, lighting="three lights")
    plotter.set_background("black")
    actors = [
        plotter.add_mesh(
            part.mesh,
            color=COLOURS[part.colour],
            opacity=part.opacity,
            # Front faces alone need no sorting: depth peeling draws nothing with Mesa's software renderer.
            culling="back" if part.opacity < 1 else False,
            smooth_shading=True,
            ambient=0.25,
            diffuse=0.75,
            specular=0.2,
        )
        for part in parts
    ]
    camera = plotter.camera
    camera.focal_point = frame.centre
    camera.position = frame.centre + frame.direction.towards * (frame.depth + 100)
    camera.up = frame.direction.up
    camera.parallel_projection = True
    camera.parallel_scale = frame.height / 2
    camera.clipping_range = (1.0, 2 * frame.depth + 200)
    whole = np.array(plotter.screenshot(return_img=True))
    # The translucent organ would make violet lesions pink and green ones olive: half of it is taken off them.
    for part, actor in zip(parts, actors, strict=True):
        actor.SetVisibility(part.opacity == 1)
    plotter.render()
    bare = np.array(plotter.screenshot(return_img=True))
    plotter.close()
    return np.where(bare.any(axis=-1, keepdims=True), whole // 2 + bare // 2, whole)


def _parts(scene: Scene, geometry: Geometry, organ: bool) -> list[Part]:
    mesh = surface(scene.labels >= ORGAN, geometry) if organ else None
    parts = [] if mesh is None else [Part(mesh, "organ", _OPACITY)]
    for kind, lesions, numbers in scene.groups():
        around = foreground_box(lesions)
        inside, grid = lesions[around], geometry.cropped(around)
        boxes = ndimage.find_objects(inside)
        first, *others = (
            surface(inside[boxes[number - 1]] == number, grid.cropped(boxes[number - 1])) for number in numbers
        )
        assert first is not None
        parts.append(Part(first.append_polydata(*others) if others else first, kind))
    return parts


def _can_render() -> bool:
    """Whether there is a window to draw in; with none the first rendering ends the process."""
    import pyvista  # noqa: F401
    import vtkmodules.vtkRenderingOpenGL2  # noqa: F401  the kinds of windows
    from vtkmodules.vtkRenderingCore import vtkRenderWindow

    window = vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.Initialize()
    works = bool(window.IsCurrent())
    window.Finalize()
    return works


@contextmanager
def _quiet() -> Iterator[None]:
    """VTK tries one kind of window after the other, and warns of each that is not there."""
    from vtkmodules.vtkCommonCore import vtkLogger

    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_OFF)
    try:
        yield
    finally:
        vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_INFO)
