"""The slices with the largest lesions, outlined and enlarged: of one case, or of several label maps side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from volattn.io.files import atomic_path
from volattn.io.names import count_of
from volattn.io.output import SIGNATURE
from volattn.report.scene import Area, Kind, Label, Scene, View, choose_slices
from volattn.report.style import DPI, FOOTER, GAP, HEAD, INK, LEGEND, PAPER, TITLE, Sheet, take_literally

SOFT_TISSUE = (-160.0, 240.0)
"""HU shown as black and white: the window in which livers are read (level 40, width 400)."""
_WINDOW = "window {:g} to {:g} HU".format(*SOFT_TISSUE)

COLOURS = {"organ": "#f4d35e", "lesion": "#ff4d4d", "hit": "#2ee59d", "false": "#ff9f1c", "missed": "#dd9dff"}
NAMES: dict[Kind, str] = {"lesion": "lesion", "hit": "found", "false": "false positive", "missed": "missed"}
_HEIGHT = 3.3  # inches
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
    footer: str = "",
    slices: int = 4,
) -> None:
    """Writes a PNG of the slices with the largest lesions, atomically.

    Each row is a slice: whole, enlarged around its largest lesion, and the same outlined. Radiological display: the
    patient's right is on the left, the front is up. Without lesions it shows the slice with the most organ.

    Args:
        image: (z, y, x) HU in canonical axes (to the head, to the back, to the patient's left).
        labels: (z, y, x) the prediction: 0 background, 1 organ, 2 lesion.
        lesions: (z, y, x) one number per predicted lesion, from 1.
        scores: Of the lesions, by their numbers; none by default.
        reference: (z, y, x) as `labels`. Lesions that overlap one of the reference are found, others false
            positives; those of the reference that none overlaps are missed.
        hit_iou: The least IoU of a found lesion; for 0 any overlap is enough.
    """
    scene = Scene.compare(image, labels, lesions, spacing, scores, reference, hit_iou)
    views = [scene.view(z) for z in choose_slices([scene], slices)]
    aspect = max(1 / _height_by_width(view) for view in views)
    widths = [_HEIGHT * min(max(aspect, 0.8), 1.7), _HEIGHT, _HEIGHT]
    below = FOOTER if footer else 0.0
    sheet = Sheet(sum(widths) + GAP * (len(widths) + 1), TITLE + LEGEND + below + len(views) * (_HEIGHT + GAP))
    for row, view in enumerate(views):
        left = GAP
        for column, width in enumerate(widths):
            axes = sheet.panel(left, TITLE + row * (_HEIGHT + GAP), width, _HEIGHT)
            left += width + GAP
            draw_panel(axes, view, whole=column == 0, organ=organ is not None, outlined=column != 1)
    sheet.title(title, f"{summary(scene)}   ·   {_WINDOW}")
    sheet.legend(list(legend_handles([scene], organ)), below)
    sheet.footer(footer)
    take_literally(sheet.figure)
    with atomic_path(path) as temporary:
        # Without its version number the same case gives the same bytes.
        sheet.figure.savefig(temporary, format="png", dpi=DPI, facecolor=PAPER, metadata={"Software": SIGNATURE})


def summary(scene: Scene) -> str:
    if scene.truth is None:
        count = len(scene.kinds)
        return count_of(count, "lesion") if count else "no lesion found"
    counts = scene.counts()
    total = len(scene.found) + counts["missed"]
    return f"{len(scene.found)} of {count_of(total, 'reference lesion')} found, {counts['false']} false"


def legend_handles(scenes: Sequence[Scene], organ: str | None) -> Iterator[Line2D]:
    """Every colour that can appear; for a single scene with the number of lesions in the whole volume."""
    alone, compared = len(scenes) == 1, any(scene.truth is not None for scene in scenes)
    if organ is not None:
        yield Line2D([], [], color=COLOURS["organ"], lw=1.2, label=f"{organ} (predicted)" if alone else organ)
    for kind in dict.fromkeys(kind for scene in scenes for kind in scene.counts()):
        label = f"{NAMES[kind]} ({scenes[0].counts()[kind]})" if alone else kind_label(kind, compared)
        yield Line2D([], [], color=COLOURS[kind], lw=2, ls="--" if kind == "missed" else "-", label=label)
    if compared:
        yield Line2D([], [], color=COLOURS["hit"], lw=1.2, ls="--", label="reference of the found")


def kind_label(kind: Kind, compared: bool) -> str:
    """The name of a kind in a legend: with predictions that were compared, plain lesions are the reference's."""
    return "lesion of the reference" if compared and kind == "lesion" else NAMES[kind]


def draw_panel(axes: Axes, view: View, *, whole: bool, organ: bool = True, outlined: bool = True) -> None:
    """Draws a slice in radiological display with a scale.

    Args:
        whole: Whether the whole slice is drawn, with the patient's sides, or its enlarged part with numbered lesions.
        organ: Whether the organ is outlined too.
        outlined: Whether there are outlines and numbers at all.
    """
    area = view.body if whole else view.zoom
    rows, columns = area
    height, width = view.spacing
    extent = (columns.start * width, columns.stop * width, rows.stop * height, rows.start * height)
    axes.imshow(
        np.asarray(view.image[area], np.float32),
        cmap="gray",
        clim=SOFT_TISSUE,
        extent=extent,
        interpolation="antialiased" if whole else "bicubic",
    )
    axes.set(xlim=extent[:2], ylim=extent[2:], aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)

    if outlined:
        if organ:
            _contour(axes, view, area, view.organ, COLOURS["organ"], 0.8, "-")
        for outline in view.outlines:
            line = (0.9 if outline.reference and outline.kind == "hit" else 1.4) * (0.8 if whole else 1.2)
            style = (0, (3, 1.5)) if outline.reference else "-"
            _contour(axes, view, area, outline.mask, COLOURS[outline.kind], line, style)
        for lesion in () if whole else view.named:
            _tag(axes, view, area, lesion)
    if whole:
        enlarged = (view.zoom[1].start * width, view.zoom[0].start * height)
        sides = view.size_mm(view.zoom)[::-1]
        axes.add_patch(Rectangle(enlarged, *sides, fill=False, edgecolor=INK, lw=0.8, ls=(0, (1, 2))))
        side_mark(axes, 0.015, 0.5, "R", "left", "center")
        side_mark(axes, 0.985, 0.5, "L", "right", "center")
        if view.depth > 1:
            place = f"slice {view.z} of {view.depth}, from the feet"
            side_mark(axes, 0.015, 0.985, place, "left", "top", size=8)
    scale_bar(axes, extent, 50 if whole else 20)


def _contour(
    axes: Axes, view: View, area: Area, mask: NDArray[np.bool_], colour: str, width: float, style: Any
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


def _tag(axes: Axes, view: View, area: Area, lesion: Label) -> None:
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


def side_mark(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    ha: Literal["left", "center", "right"],
    va: Literal["center", "top"],
    size: float = 10,
) -> None:
    """Text on a picture, at a place in parts of its width and height from the lower left."""
    axes.text(
        x, y, text, color=INK, fontsize=size, ha=ha, va=va, transform=axes.transAxes,
        path_effects=[_SHADOW],
    )  # fmt: skip


def scale_bar(axes: Axes, extent: tuple[float, float, float, float], length: float) -> None:
    """A bar of some mm at the lower right, if there is room; the axes' extent is left, right, bottom, top in mm."""
    left, right, bottom, top = extent
    if length > 0.6 * (right - left):
        return
    x, y = right - 0.04 * (right - left), bottom - 0.05 * (bottom - top)
    axes.plot([x - length, x], [y, y], color=INK, lw=2, solid_capstyle="butt")
    axes.annotate(
        f"{length / 10:g} cm", (x - length / 2, y), (0, 2.5), textcoords="offset points",
        color=INK, fontsize=7.5, ha="center", va="bottom", path_effects=[_SHADOW],
    )  # fmt: skip


_WIDTH = 3.9  # inches
_INSET = 0.44
"""Side of the inset by the shorter side of the panel."""


def draw_panels(
    scenes: Mapping[str, Scene], *, organ: str | None = "organ", title: str = "", slices: int = 3
) -> NDArray[np.uint8]:
    """Draws the slices with the largest lesions: first as they are, then a column for each label map.

    Every panel of a row shows the same slice, and its inset the same part of it.

    Args:
        scenes: Of one case, by the columns' titles.

    Returns:
        The picture (height, width, 3).
    """
    rows = [_alike([scene.view(z) for scene in scenes.values()]) for z in choose_slices(list(scenes.values()), slices)]
    heights = [_WIDTH * min(max(_height_by_width(view), 0.6), 1.2) for view, *_ in rows]
    columns = [("CT", ""), *((name, summary(scene)) for name, scene in scenes.items())]
    sheet = Sheet(len(columns) * (_WIDTH + GAP) + GAP, TITLE + HEAD + sum(heights) + GAP * len(heights) + LEGEND)
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
            inset.spines[:].set(visible=True, color=INK, linewidth=0.8)
            top += height + GAP
    sheet.title(title, _WINDOW)
    sheet.legend(list(legend_handles(list(scenes.values()), organ)))
    return sheet.pixels()


def _height_by_width(view: View) -> float:
    height, width = view.size_mm(view.body)
    return height / width


def _alike(views: Sequence[View]) -> list[View]:
    """The views of one slice with one part enlarged: that around the largest lesion that any of them names."""
    most = max(views, key=lambda view: max((np.count_nonzero(one.mask) for one in view.named), default=0))
    return [replace(view, zoom=most.zoom) for view in views]


def _at_right(views: Sequence[View]) -> bool:
    """Whether the inset hides less of organ and lesions at the upper right than at the lower left."""
    rows, columns = views[0].body
    shown: NDArray[np.bool_] = np.zeros(views[0].image[rows, columns].shape, bool)
    for view in views:
        shown |= view.organ[rows, columns]
        for one in view.named:
            shown |= one.mask[rows, columns]
    height, width = (round(_INSET * (side.stop - side.start)) for side in (rows, columns))
    return bool(shown[:height, -width:].sum() <= shown[-height:, :width].sum())
