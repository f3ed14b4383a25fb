"""Slices with outlines and an enlarged inset, one label map beside the other (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from volattn.figures.outlines import SOFT_TISSUE, draw_panel, legend_handles, summary
from volattn.figures.scene import Scene, View, choose_slices
from volattn.figures.sheet import GAP, HEAD, INK, LEGEND, TITLE, Sheet

_WIDTH = 3.9  # inches
_INSET = 0.44
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
    heights = [
        _WIDTH * min(max(view.height_mm(view.body) / view.width_mm(view.body), 0.6), 1.2) for view, *_ in rows
    ]
    columns = [("CT", ""), *((name, summary(scene)) for name, scene in scenes.items())]
    sheet = Sheet(
        len(columns) * (_WIDTH + GAP) + GAP, TITLE + HEAD + sum(heights) + GAP * len(heights) + LEGEND
    )
    for column, (name, about) in enumerate(columns):
        left, top = GAP + column * (_WIDTH + GAP), TITLE + HEAD
        sheet.head(left + _WIDTH / 2, TITLE, name, about)
        for views, height in zip(rows, heights, strict=True):
            view, outlined = views[max(0, column - 1)], column > 0
            side = _INSET * min(_WIDTH, height)
            x, y = (left + _WIDTH - side, top) if _at_right(views) else (left, top + height - side)
            whole, inset = sheet.panel(left, top, _WIDTH, height), sheet.panel(x, y, side, side)
            draw_panel(whole, view, whole=True, organ=organ is not None, outlined=outlined)
            draw_panel(inset, view, whole=False, organ=organ is not None, outlined=outlined)
            for edge in inset.spines.values():
                edge.set(visible=True, color=INK, linewidth=0.8)
            top += height + GAP
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
