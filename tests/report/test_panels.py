"""Figure 4: the same slice and the same inset in every column."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from volattn.report.outlines import COLOURS, draw_panels
from volattn.report.scene import Scene, choose_slices
from volattn.structures.lesions import label_components

SHAPE = (12, 120, 160)
Box = tuple[slice, slice, slice]


def scene(*lesions: Box, reference: tuple[Box, ...] | None = None) -> Scene:
    image = np.full(SHAPE, -1000, np.int16)
    image[:, 5:115, 5:155] = 40
    predicted = labels(*lesions)
    numbers, _ = label_components(predicted == 2)
    truth = None if reference is None else labels(*reference)
    return Scene.compare(image, predicted, numbers, (4.0, 1.5, 1.5), (), truth)


def labels(*lesions: Box) -> np.ndarray:
    found = np.zeros(SHAPE, np.uint8)
    found[1:11, 30:90, 20:100] = 1
    for box in lesions:
        found[box] = 2
    return found


def box(z: int, size: int, x: int = 40) -> Box:
    return slice(z, z + 1), slice(40, 40 + size), slice(x, x + size)


def columns(picture: np.ndarray, count: int) -> list[np.ndarray]:
    """The columns of the panels, without title and legend."""
    body = picture[int(0.22 * len(picture)) : int(0.93 * len(picture))]
    width = picture.shape[1] / count
    return [body[:, round(place * width) : round((place + 1) * width)] for place in range(count)]


def coloured(picture: np.ndarray, kind: str) -> int:
    return int((np.abs(picture / 255 - to_rgb(COLOURS[kind])).max(axis=-1) < 0.15).sum())


def test_each_column_shows_its_own_label_map() -> None:
    a = box(5, 20)
    found, missed = scene(a, reference=(a,)), scene(reference=(a,))
    picture = draw_panels({"found": found, "missed": missed, "Reference": scene(a)}, slices=1)
    ct, first, second, third = columns(picture, 4)
    assert [coloured(ct, kind) for kind in ("organ", "hit", "missed", "lesion")] == [0, 0, 0, 0]
    assert coloured(first, "hit") > 50
    assert not coloured(first, "missed")
    assert coloured(second, "missed") > 20
    assert not coloured(second, "hit")
    assert coloured(third, "lesion") > 50


def test_a_slice_for_the_reference_and_one_for_what_is_false() -> None:
    """Larger false positives do not crowd out the lesion that one method found and the other missed."""
    a, wrong = box(5, 8), (box(1, 30), box(3, 28), box(8, 26), box(10, 24))
    scenes = [scene(a, reference=(a,)), scene(*wrong, reference=(a,))]
    assert choose_slices(scenes, 1) == [5]
    assert choose_slices(scenes, 3) == [5, 1, 3]


@pytest.mark.parametrize("organ", ["organ", None])
def test_nothing_to_show(organ: str | None) -> None:
    empty = Scene(
        np.zeros((1, 40, 30), np.int16),
        np.zeros((1, 40, 30), np.uint8),
        np.zeros((1, 40, 30), np.uint8),
        (5, 1, 1),
        (),
        {},
    )
    assert draw_panels({"empty": empty}, organ=organ).ndim == 3


def test_what_is_written_on_the_dark_sheet_can_be_read() -> None:
    picture = draw_panels({"found": scene(box(5, 20))}, slices=1) / 255
    head = picture[: int(0.2 * len(picture))].mean(axis=-1)
    assert np.median(head) < 0.1, "the sheet is dark"
    assert head.max() > 0.8, "and the title of its column bright"
