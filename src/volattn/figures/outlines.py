"""The slices with the largest lesions, outlined, as a radiologist reads them (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from volattn.figures.scene import Named, Scene, View
from volattn.io.atomic import atomic_path

SOFT_TISSUE = (-160.0, 240.0)
"""HU shown as black and white: the window in which livers are read (level 40, width 400)."""

COLOURS = {
    "organ": "#f4d35e",
    "lesion": "#ff4d4d",
    "hit": "#2ee59d",
    "false": "#ff9f1c",
    "missed": "#dd9dff",
}
_NAMES = {"lesion": "lesion", "hit": "found", "false": "false positive", "missed": "missed"}
_PAPER, _INK, _DIM = "#0b0c0f", "#e6e8ec", "#9aa0ab"
_HEIGHT, _GAP, _HEAD, _FOOT = 3.3, 0.08, 0.62, 0.42  # inches
_DPI = 110
_SHADOW = patheffects.withStroke(linewidth=1.6, foreground="black", alpha=0.75)


def draw_outlines(
    path: Path | str,
    image: NDArray[Any],
    labels: NDArray[np.uint8],
    lesions: NDArray[np.unsignedinteger],
    spacing: tuple[float, float, float],
    *,
    scores: Sequence[float] = (),
    reference: NDArray[np.uint8] | None = None,
    hit_iou: float = 0.0,
    organ: str | None = "organ",
    title: str = "",
    slices: int = 4,
) -> None:
    """Writes a PNG of the slices with the largest lesions, atomically.

    Each row is a slice: whole, enlarged around its largest lesion, and the same outlined. Radiological
    display: the patient's right is on the left, the front is up. Without lesions it shows the slice with the
        most organ.

    Args:
        path: The PNG.
        image: (z, y, x) HU in canonical axes (to the head, to the back, to the patient's left).
        labels: (z, y, x) the prediction: 0 background, 1 organ, 2 lesion.
        lesions: (z, y, x) one number per predicted lesion, from 1.
        spacing: mm (z, y, x).
        scores: Of the lesions, by their numbers; none by default.
        reference: (z, y, x) as `labels`. Lesions that overlap one of the reference are found, others false
            positives; those of the reference that none overlaps are missed.
        hit_iou: The least IoU with one of the reference; for 0 any overlap is enough.
        organ: The organ's name; None if there is none.
        title: The case.
        slices: Rows at most.
    """
    scene = Scene.compare(image, labels, lesions, spacing, scores, reference, hit_iou)
    figure = _figure(scene, organ, title, slices)
    with atomic_path(path) as temporary:
        # Without its version number the same case gives the same bytes.
        figure.savefig(temporary, format="png", dpi=_DPI, facecolor=_PAPER, metadata={"Software": None})


def _figure(scene: Scene, organ: str | None, title: str, slices: int) -> Figure:
    views = [scene.view(z) for z in scene.choose(slices)]
    aspect = max(view.width_mm(view.body) / view.height_mm(view.body) for view in views)
    widths = [_HEIGHT * min(max(aspect, 0.8), 1.7), _HEIGHT, _HEIGHT]
    width = sum(widths) + _GAP * (len(widths) + 1)
    height = _HEAD + _FOOT + len(views) * (_HEIGHT + _GAP)
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    FigureCanvasAgg(figure)

    for row, view in enumerate(views):
        bottom = height - _HEAD - (row + 1) * _HEIGHT - row * _GAP
        left = _GAP
        for column, inches in enumerate(widths):
            place = (left / width, bottom / height, inches / width, _HEIGHT / height)
            axes = figure.add_axes(place, facecolor="black")
            left += inches + _GAP
            _panel(axes, view, column, organ is not None)

    figure.text(
        _GAP / width, 1 - 0.30 / height, title, color=_INK, fontsize=13, weight="bold", va="center", ha="left"
    )
    low, high = SOFT_TISSUE
    about = f"{_summary(scene)}   ·   window {low:g} to {high:g} HU"
    figure.text(1 - _GAP / width, 1 - 0.30 / height, about, color=_DIM, fontsize=9, va="center", ha="right")
    handles = list(_handles(scene, organ))
    if handles:
        figure.legend(
            handles=handles,
            loc="center",
            bbox_to_anchor=(0.5, 0.5 * _FOOT / height),
            ncol=len(handles),
            frameon=False,
            labelcolor=_INK,
            fontsize=9.5,
            handlelength=2.2,
        )
    return figure


def _summary(scene: Scene) -> str:
    if scene.truth is None:
        count = len(scene.kinds)
        return f"{count} {'lesion' if count == 1 else 'lesions'}" if count else "no lesion found"
    counts = scene.counts()
    total = len(scene.found) + counts["missed"]
    return f"{len(scene.found)} of {total} reference lesions found, {counts['false']} false"


def _handles(scene: Scene, organ: str | None) -> Iterator[Line2D]:
    """The legend: every colour that can appear, with the number of lesions in the whole volume."""
    if organ is not None:
        yield Line2D([], [], color=COLOURS["organ"], lw=1.2, label=f"{organ} (predicted)")
    for kind, count in scene.counts().items():
        style = "--" if kind == "missed" else "-"
        yield Line2D([], [], color=COLOURS[kind], lw=2, ls=style, label=f"{_NAMES[kind]} ({count})")
    if scene.truth is not None:
        yield Line2D([], [], color=COLOURS["hit"], lw=1.2, ls="--", label="reference of the found")


def _panel(axes: Axes, view: View, column: int, organ: bool) -> None:
    area = view.body if column == 0 else view.zoom
    rows, columns = area
    height, width = view.spacing
    extent = (columns.start * width, columns.stop * width, rows.stop * height, rows.start * height)
    low, high = SOFT_TISSUE
    axes.imshow(
        np.asarray(view.image[area], np.float32),
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=extent,
        interpolation="antialiased" if column == 0 else "bicubic",
    )
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)

    if column != 1:
        if organ:
            _contour(axes, view, area, view.organ, COLOURS["organ"], 0.8, "-")
        for outline in view.outlines:
            width = 0.9 if outline.reference and outline.kind == "hit" else 1.4
            style = (0, (3, 1.5)) if outline.reference else "-"
            scale = 0.8 if column == 0 else 1.2
            _contour(axes, view, area, outline.mask, COLOURS[outline.kind], width * scale, style)
    if column == 2:
        for lesion in view.named:
            _tag(axes, view, area, lesion)
    if column == 0:
        _frame(axes, view)
        _side(axes, 0.015, 0.5, "R", "left", "center")
        _side(axes, 0.985, 0.5, "L", "right", "center")
        _side(axes, 0.015, 0.985, f"slice {view.z} of {view.depth}, from the feet", "left", "top", size=8)
    _scale_bar(axes, extent, 50 if column == 0 else 20)


def _contour(
    axes: Axes,
    view: View,
    area: tuple[slice, slice],
    mask: NDArray[np.bool_],
    colour: str,
    width: float,
    style: Any,
) -> None:
    """The outline of a mask, through the edges of its pixels."""
    wider = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in area)
    part = mask[wider]
    if not part.any():
        return
    # A rim of background closes outlines at the edge of the slice; at the panel's edge they run on.
    padded = np.pad(part.astype(np.float32), 1)
    y, x = (
        (np.arange(size) + side.start - 0.5) * step
        for size, side, step in zip(padded.shape, wider, view.spacing, strict=True)
    )
    axes.contour(x, y, padded, levels=[0.5], colors=[colour], linewidths=width, linestyles=[style])


def _tag(axes: Axes, view: View, area: tuple[slice, slice], lesion: Named) -> None:
    """Number and score (or "missed") above a lesion; below it where the panel ends."""
    rows, columns = np.nonzero(lesion.mask[area])
    if not len(rows):
        return
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    above = (rows.min() + area[0].start) * view.spacing[0] - top > 0.07 * (bottom - top)
    row = rows.min() if above else rows.max()
    x = (columns[rows == row].mean() + 0.5 + area[1].start) * view.spacing[1]
    margin = 0.1 * (right - left)
    axes.text(
        min(max(x, left + margin), right - margin),
        (row + (-1 if above else 2) + area[0].start) * view.spacing[0],
        lesion.text,
        color=COLOURS[lesion.kind],
        fontsize=9,
        ha="center",
        va="bottom" if above else "top",
        clip_on=True,
        path_effects=[_SHADOW],
    )


def _frame(axes: Axes, view: View) -> None:
    """Where the enlarged part is."""
    rows, columns = view.zoom
    height, width = view.spacing
    axes.add_patch(
        Rectangle(
            (columns.start * width, rows.start * height),
            view.width_mm(view.zoom),
            view.height_mm(view.zoom),
            fill=False,
            edgecolor=_INK,
            lw=0.8,
            ls=(0, (1, 2)),
        )
    )


def _side(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    ha: Literal["left", "center", "right"],
    va: Literal["center", "top"],
    size: float = 10,
) -> None:
    axes.text(
        x, y, text, color=_INK, fontsize=size, ha=ha, va=va, transform=axes.transAxes,
        path_effects=[_SHADOW],
    )  # fmt: skip


def _scale_bar(axes: Axes, extent: tuple[float, float, float, float], length: float) -> None:
    left, right, bottom, top = extent
    if length > 0.6 * (right - left):
        return
    x, y = right - 0.04 * (right - left), bottom - 0.05 * (bottom - top)
    axes.plot([x - length, x], [y, y], color=_INK, lw=2, solid_capstyle="butt")
    axes.text(
        x - length / 2, y - 0.012 * (bottom - top), f"{length / 10:g} cm", color=_INK, fontsize=7.5,
        ha="center", va="bottom", path_effects=[_SHADOW],
    )  # fmt: skip
