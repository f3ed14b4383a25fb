"""The picture of a case: where things are, what colour they have, and which slices it shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from volattn.report.outlines import COLOURS, draw_outlines
from volattn.report.scene import Scene, choose_slices
from volattn.structures.lesions import label_components

SHAPE = (9, 160, 200)
SPACING = (3.0, 1.2, 0.8)


def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    """A ball in mm around a voxel."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    offsets = ((z - centre[0]) * 3.0, (y - centre[1]) * 1.2, (x - centre[2]) * 0.8)
    return sum(offset**2 for offset in offsets) < radius**2


def case(*lesions: tuple[tuple[float, float, float], float]) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels: a body, an organ in all of its middle, and balls as lesions."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 30:130, 30:170] = 1
    for centre, radius in lesions:
        labels[ball(centre, radius)] = 2
    image = np.full(SHAPE, -1000, np.int16)
    image[:, 5:155, 5:195] = 20
    image[labels == 1] = 100
    image[labels == 2] = 60
    return image, labels


def scene(predicted: np.ndarray, reference: np.ndarray | None = None) -> Scene:
    image = np.zeros(SHAPE, np.int16)
    lesions, _ = label_components(predicted == 2)
    return Scene.compare(image, predicted, lesions, SPACING, (), reference)


def coloured(picture: np.ndarray, kind: str) -> np.ndarray:
    """(n, 2) rows and columns of the pixels of a colour, the legend below left out."""
    near = np.abs(picture[..., :3] - to_rgb(COLOURS[kind])).max(axis=-1) < 0.12
    near[int(0.9 * len(near)) :] = False
    return np.argwhere(near)


def drawn(path: Path, image: np.ndarray, labels: np.ndarray, **options: object) -> np.ndarray:
    lesions, _ = label_components(labels == 2)
    draw_outlines(path, image, labels, lesions, SPACING, **options)  # type: ignore[arg-type]
    return imread(path)


A, B, C = ((4, 60, 50), 10.0), ((4, 100, 150), 8.0), ((7, 60, 150), 6.0)


def test_radiological_display(tmp_path: Path) -> None:
    """A lesion to the patient's right and front is at the upper left of the whole slice."""
    picture = drawn(tmp_path / "a.png", *case(((4, 50, 50), 9.0)))
    height, width = picture.shape[:2]
    points = coloured(picture, "lesion")
    whole = points[points[:, 1] < width * 0.3]
    assert len(whole) > 20
    first_panel = coloured(picture, "organ")
    organ = first_panel[first_panel[:, 1] < width * 0.4]
    middle = (organ.min(axis=0) + organ.max(axis=0)) / 2
    assert (whole.max(axis=0) < middle).all()
    assert whole[:, 0].min() > 0.1 * height


def test_millimetres_are_square(tmp_path: Path) -> None:
    """Pixels of 1.2 x 0.8 mm: an organ of 120 x 112 mm is drawn with these sides. A title is no formula."""
    picture = drawn(tmp_path / "a.png", *case(), title=r"a$\frac{$b")
    points = coloured(picture, "organ")
    whole = points[points[:, 1] < picture.shape[1] * 0.36]
    height, width = np.ptp(whole, axis=0)
    assert height / width == pytest.approx(120 / 112, rel=0.03)


def test_colours_say_what_was_found(tmp_path: Path) -> None:
    image, predicted = case(A, C)
    _, reference = case(A, B)
    picture = drawn(tmp_path / "a.png", image, predicted, reference=reference)
    for kind in ("hit", "false", "missed", "organ"):
        assert len(coloured(picture, kind)) > 20, kind
    assert len(coloured(picture, "lesion")) == 0
    picture = drawn(tmp_path / "b.png", image, predicted, reference=predicted)
    assert len(coloured(picture, "missed")) == len(coloured(picture, "false")) == 0


def test_kinds_and_counts() -> None:
    found = scene(case(A, C)[1], case(A, B)[1])
    assert found.kinds == {1: "hit", 2: "false"}
    assert (found.found, found.missed) == ({1}, {2})
    assert found.counts() == {"hit": 1, "false": 1, "missed": 1}
    assert scene(case(A)[1]).counts() == {"lesion": 1}


def test_two_lesions_over_one_reference_are_both_hits() -> None:
    predicted = case(((4, 60, 44), 3.0), ((4, 60, 60), 3.0))[1]
    found = scene(predicted, case(A)[1])
    assert found.kinds == {1: "hit", 2: "hit"}
    assert found.counts() == {"hit": 2, "false": 0, "missed": 0}


def test_slices_of_the_largest_lesions_come_first_and_once() -> None:
    predicted = case(A, C, ((1, 110, 60), 3.0))[1]
    assert choose_slices([scene(predicted)], 4) == [4, 7, 1]
    assert choose_slices([scene(predicted)], 1) == [4]
    # B is in the slice of A already: it gets no row of its own. A missed one does.
    assert choose_slices([scene(case(A, B)[1])], 4) == [4]
    assert choose_slices([scene(case(A)[1], case(A, C)[1])], 4) == [4, 7]


def test_without_lesions_the_largest_organ_is_shown(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[2, 40:60, 40:60] = 1
    labels[6, 40:80, 40:80] = 1
    assert choose_slices([scene(labels)], 4) == [6]
    assert choose_slices([scene(np.zeros(SHAPE, np.uint8))], 4) == [4]
    for name, empty in (("organ", labels), ("nothing", np.zeros(SHAPE, np.uint8))):
        picture = drawn(tmp_path / f"{name}.png", np.zeros(SHAPE, np.int16), empty, organ="liver", title="x")
        assert len(coloured(picture, "lesion")) == 0
        assert (len(coloured(picture, "organ")) > 0) == (name == "organ")


@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 40, 7), (2, 1, 300)])
def test_odd_shapes_are_drawn(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    labels = np.full(shape, 2, np.uint8)
    lesions, _ = label_components(labels == 2)
    draw_outlines(tmp_path / "a.png", np.zeros(shape, np.float32), labels, lesions, (1, 1, 1), scores=[0.5])
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_many_lesions_make_few_rows(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[::2, 30:130:8, 30:170:8] = 2
    lesions, count = label_components(labels == 2)
    assert count > 500
    draw_outlines(tmp_path / "a.png", np.zeros(SHAPE, np.int16), labels, lesions, SPACING, scores=[0.5] * count)
    assert imread(tmp_path / "a.png").shape[0] < 2000


def test_bytes_repeat_and_nothing_is_left_behind(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        drawn(tmp_path / name, *case(A, B))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_figures_load_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, volattn.report.outlines; "
        "print([name for name in ('torch', 'matplotlib.pyplot') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
