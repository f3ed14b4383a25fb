"""Figure 1: where things are in it, how large, in what colour, and what happens where nothing can be rendered."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv, to_rgb

from volattn.report.outlines import COLOURS
from volattn.report.scene import Scene
from volattn.report.surfaces import DIRECTIONS, Frame, Part, Viewer, check_rendering, draw_surfaces, render
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import label_components

SHAPE = (30, 60, 80)
GRID = Geometry.aligned(SHAPE, (3.0, 1.5, 1.5), origin=(-60.0, -200.0, 900.0))


@pytest.fixture(scope="module")
def _can_render() -> None:
    pytest.importorskip("pyvista")
    try:
        check_rendering()
    except ValueError as error:
        pytest.skip(str(error))


needs_rendering = pytest.mark.usefixtures("_can_render")


def labels(*boxes: tuple[slice, slice, slice], organ: bool = True) -> np.ndarray:
    """An organ in the middle with boxes as lesions."""
    found = np.zeros(SHAPE, np.uint8)
    if organ:
        found[4:26, 10:50, 10:70] = 1
    for box in boxes:
        found[box] = 2
    return found


def scene(predicted: np.ndarray, reference: np.ndarray | None = None) -> Scene:
    lesions, _ = label_components(predicted == 2)
    image = np.broadcast_to(np.int16(0), SHAPE)
    return Scene.compare(image, predicted, lesions, GRID.spacing, (), reference)


def hued(picture: np.ndarray, kind: str) -> np.ndarray:
    """(n, 2) rows and columns of the pixels with a colour's hue, well lit and saturated."""
    wanted = rgb_to_hsv(to_rgb(COLOURS[kind]))[0]
    hue, saturation, value = np.moveaxis(rgb_to_hsv(picture / 255), -1, 0)
    near = np.abs((hue - wanted + 0.5) % 1 - 0.5) < 0.05
    return np.argwhere(near & (value > 0.5) & (saturation > 0.2))


def rendered(kind: str, box: tuple[slice, slice, slice], view: Viewer) -> tuple[np.ndarray, Frame]:
    """One opaque box in a picture of the whole grid, and the picture's frame."""
    from volattn.report.surfaces import surface

    corners = np.array([[z, y, x] for z in (0, 29) for y in (0, 59) for x in (0, 79)])
    frame = Frame.around(GRID.to_world(corners), DIRECTIONS[view])
    mask = np.zeros(SHAPE, bool)
    mask[box] = True
    mesh = surface(mask, GRID)
    assert mesh is not None
    (picture,) = render([Part(mesh, kind)], [frame])
    return picture, frame


HEAD_FRONT_RIGHT = (slice(24, 29), slice(2, 10), slice(4, 14))
"""A box near the patient's head, front and right: high z, low y, low x."""


@needs_rendering
@pytest.mark.parametrize(
    ("view", "upper", "lefthand"), [("front", True, True), ("right", True, False), ("top", True, False)]
)
def test_the_patient_is_seen_as_by_someone_who_stands_there(view: Viewer, upper: bool, lefthand: bool) -> None:
    """From the front the patient's right is at the left; from the right the front is at the right; from above the front
    is at the upper edge, and right is right."""
    picture, _ = rendered("hit", HEAD_FRONT_RIGHT, view)
    rows, columns = hued(picture, "hit").T
    assert len(rows) > 50
    assert (rows.mean() < picture.shape[0] / 2) == upper
    assert (columns.mean() < picture.shape[1] / 2) == lefthand
    sides = DIRECTIONS[view].sides
    nearer = sides[0] if lefthand else sides[1]
    assert nearer in ("R", "A")


@needs_rendering
def test_millimetres_are_to_scale() -> None:
    """A box of 15 x 15 mm (10 x 5 voxels) in the frame's scale, whose pixels are square."""
    picture, frame = rendered("false", HEAD_FRONT_RIGHT, "front")
    rows, columns = hued(picture, "false").T
    mm = frame.width / picture.shape[1]
    assert frame.height / picture.shape[0] == pytest.approx(mm, rel=0.01)
    assert np.ptp(columns) * mm == pytest.approx(15, abs=2)
    assert np.ptp(rows) * mm == pytest.approx(15, abs=2)


@needs_rendering
def test_true_false_and_missed_are_seen_through_the_organ() -> None:
    a, b, c = ((slice(10, 18), slice(20, 35), slice(start, start + 12)) for start in (14, 34, 54))
    reference = labels(a, b)
    picture = draw_surfaces({"one": scene(labels(a, c), reference), "Reference": scene(reference)}, GRID)
    body = picture[: int(0.9 * len(picture))]
    first, second = body[:, : body.shape[1] // 2], body[:, body.shape[1] // 2 :]
    hit, missed, false = (hued(first, kind)[:, 1].mean() for kind in ("hit", "missed", "false"))
    assert hit < missed < false
    assert len(hued(second, "lesion")) > 2000
    for kind in ("hit", "missed", "false"):
        assert len(hued(first, kind)) > 2000
        assert len(hued(second, kind)) < 200
    between = body[len(body) // 2, : body.shape[1] // 2].astype(int)
    assert ((between[:, 0] > 40) & (between[:, 0] < 120) & (between[:, 0] > between[:, 2] + 20)).sum() > 50


@needs_rendering
@pytest.mark.parametrize("organ", ["organ", None])
def test_nothing_to_show(organ: str | None) -> None:
    empty = scene(labels(organ=False), labels(organ=False))
    picture = draw_surfaces({"a": empty}, GRID, views=("front", "top"), organ=organ)
    assert picture.ndim == 3


def test_without_pyvista_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvista", None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'volattn\[rendering\]'") as error:
        check_rendering()
    assert "\n" not in str(error.value)


@needs_rendering
def test_without_a_driver_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """VTK itself would end the process."""
    monkeypatch.setattr("volattn.report.surfaces._can_render", lambda: False)
    with pytest.raises(ValueError, match="libegl1"):
        check_rendering()
