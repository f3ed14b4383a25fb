"""Slices with outlines and an enlarged inset, one label map beside the other (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from volattn.figures.outlines import SOFT_TISSUE, draw_panel, legend_handles, summary
from volattn.figures.scene import Scene, View, choose_slices
from volattn.figures.sheet import GAP, HEAD, INK, LEGEND, TITLE, Sheet

_WIDTH = 3.9  # inches
_INSET = 0.46
"""Side of the inset by the shorter side of the panel."""


def draw_panels(
    scenes: Mapping[str, Scene],
    *,
    organ: str | None = "organ",
    title: str = "",
    slices: int = 3,
) -> NDArray[np.uint8]:
    """Draws the slices with the largest lesions: first as they are, then a column for each label map.

    Every panel of a row shows the same slice, and its inset the same part of it.

    Args:
        scenes: Of one case, by the columns' titles.
        organ: The organ's name; None if there is none.
        title: The case.
        slices: Rows at most.

    Returns:
        The picture (height, width, 3).
    """
    rows = [
        _alike([scene.view(z) for scene in scenes.values()])
        for z in choose_slices(list(scenes.values()), slices)
    ]
    aspects = [views[0].height_mm(views[0].body) / views[0].width_mm(views[0].body) for views in rows]
    height = _WIDTH * min(max(*aspects, 0.6), 1.2)
    sheet = Sheet(
        (len(scenes) + 1) * (_WIDTH + GAP) + GAP, TITLE + HEAD + len(rows) * (height + GAP) + LEGEND
    )
    for column, (name, about) in enumerate([("CT", ""), *((name, summary(scenes[name])) for name in scenes)]):
        left = GAP + column * (_WIDTH + GAP)
        sheet.head(left + _WIDTH / 2, TITLE, name, about)
        for row, views in enumerate(rows):
            top = TITLE + HEAD + row * (height + GAP)
            view, outlined = views[max(0, column - 1)], column > 0
            draw_panel(
                sheet.panel(left, top, _WIDTH, height),
                view,
                whole=True,
                organ=organ is not None,
                outlined=outlined,
            )
            side = _INSET * min(_WIDTH, height)
            at_right = _at_right(views)
            inset = sheet.panel(
                left + (_WIDTH - side if at_right else 0),
                top + (0 if at_right else height - side),
                side,
                side,
            )
            draw_panel(inset, view, whole=False, organ=organ is not None, outlined=outlined)
            _edge(inset)
    low, high = SOFT_TISSUE
    sheet.title(title, f"window {low:g} to {high:g} HU")
    sheet.legend(list(legend_handles(list(scenes.values()), organ)))
    return sheet.pixels()


def _alike(views: Sequence[View]) -> list[View]:
    """The views of one slice with one part enlarged: that around the largest lesion that any of them names."""
    most = max(views, key=lambda view: max((np.count_nonzero(one.mask) for one in view.named), default=0))
    return [replace(view, zoom=most.zoom) for view in views]


def _at_right(views: Sequence[View]) -> bool:
    """Whether the inset is at the upper right or at the lower left, wherever it hides less organ and fewer lesions."""
    rows, columns = views[0].body
    shown: NDArray[np.bool_] = np.zeros(views[0].image[rows, columns].shape, bool)
    for view in views:
        shown |= view.organ[rows, columns]
        for one in view.named:
            shown |= one.mask[rows, columns]
    height, width = (round(_INSET * (side.stop - side.start)) for side in (rows, columns))
    return bool(shown[:height, -width:].sum() <= shown[-height:, :width].sum())


def _edge(axes: Axes) -> None:
    for side in axes.spines.values():
        side.set(visible=True, color=INK, linewidth=0.8)
