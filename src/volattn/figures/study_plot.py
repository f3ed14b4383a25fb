"""A study's table as a picture: arrays in, a PNG file's content out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from volattn.figures.plots_style import (
    BLUE,
    FONT,
    GREY,
    ORANGE,
    SMALL,
    name_rows,
    new_figure,
    png_of,
    rows_height,
)


@dataclass(frozen=True)
class Mark:
    """One row in one panel.

    Attributes:
        value: Over all seeds; None where nothing is measured yet.
        interval: Of that.
        by_seed: The value of each seed.
        paper: The paper's number; None without.
    """

    value: float | None
    interval: Sequence[float] | None
    by_seed: Sequence[float]
    paper: float | None


def draw_study(names: Sequence[str], panels: dict[str, Sequence[Mark]]) -> bytes:
    """Rows from top to bottom, measures side by side, each on a scale of its own.

    Args:
        names: Of the rows.
        panels: For each measure a mark for each row.
    """
    figure, row = new_figure(1.7 * rows_height(len(names)) - 0.3, len(panels))
    for place, (axes, (title, marks)) in enumerate(zip(row, panels.items(), strict=True)):
        for height, mark in enumerate(marks):
            _draw(axes, height, mark)
        _scale(axes, marks)
        name_rows(axes, names if place == 0 else [""] * len(names), lines=2)
        axes.set_title(title, fontsize=FONT)
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="here: mean of seeds, 95 % interval"),
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4, label="each seed"),
        Line2D([], [], color=ORANGE, marker="D", linestyle="", markersize=5, mfc="none", label="paper"),
    ]
    shown = [True, True, any(mark.paper is not None for marks in panels.values() for mark in marks)]
    figure.legend(
        handles=[handle for handle, there in zip(handles, shown, strict=True) if there],
        loc="outside lower center",
        ncols=3,
        fontsize=SMALL,
        frameon=False,
    )
    return png_of(figure)


def _draw(axes: Axes, height: int, mark: Mark) -> None:
    if mark.interval is not None:
        axes.plot(mark.interval, (height, height), "|-", color=BLUE, linewidth=2, markersize=8, mew=2)
    if mark.by_seed:
        axes.plot(mark.by_seed, [height + 0.24] * len(mark.by_seed), "o", color=GREY, markersize=3.5)
    if mark.value is not None:
        axes.plot(mark.value, height, "o", color=BLUE, markersize=6.5, zorder=4)
    if mark.paper is not None:
        axes.plot(mark.paper, height - 0.24, "D", color=ORANGE, markersize=5, mfc="none", zorder=4)


def _scale(axes: Axes, marks: Sequence[Mark]) -> None:
    """Around what is there."""
    numbers = [number for mark in marks for number in (mark.value, mark.paper) if number is not None]
    numbers += [number for mark in marks for number in (*mark.by_seed, *(mark.interval or ()))]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    room = max(0.08 * (high - low), 0.5 if np.isclose(low, high) else 0)
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(4))
