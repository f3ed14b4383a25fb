"""A dark sheet for pictures: title, panels and legend, placed in inches from the upper left corner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from numpy.typing import NDArray

PAPER, INK, DIM = "#0b0c0f", "#e6e8ec", "#9aa0ab"
GAP, TITLE, HEAD, LEGEND = 0.08, 0.62, 0.5, 0.42
"""Inches between panels; and the heights of the title, of the heads of columns, and of the legend."""
DPI = 110


def take_literally(figure: Figure) -> None:
    """Names may hold dollar signs, between which matplotlib would set formulae."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


class Sheet:
    """An empty sheet.

    Args:
        width: Inches.
        height: Inches.
    """

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width, height), dpi=DPI, facecolor=PAPER)
        self._canvas = FigureCanvasAgg(self.figure)
        self._width, self._height = width, height

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        """Black axes; all in inches."""
        bottom = self._height - top - height
        place = (left / self._width, bottom / self._height, width / self._width, height / self._height)
        return self.figure.add_axes(place, facecolor="black")

    def title(self, title: str, about: str = "") -> None:
        """What the sheet shows at the left, and something about it at the right."""
        y = 1 - 0.30 / self._height
        left, right = GAP / self._width, 1 - GAP / self._width
        self.figure.text(left, y, title, color=INK, fontsize=13, weight="bold", va="center", ha="left")
        self.figure.text(right, y, about, color=DIM, fontsize=9, va="center", ha="right")

    def head(self, centre: float, top: float, title: str, about: str) -> None:
        """The title of a column with a line below it; centre and top in inches."""
        x = centre / self._width
        first, second = (1 - (top + below) / self._height for below in (0.13, 0.34))
        self.figure.text(x, first, title, color=INK, fontsize=11, weight="bold", va="center", ha="center")
        self.figure.text(x, second, about, color=DIM, fontsize=8.5, va="center", ha="center")

    def pixels(self) -> NDArray[np.uint8]:
        """The sheet as a picture (height, width, 3)."""
        take_literally(self.figure)
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def legend(self, handles: Sequence[Line2D]) -> None:
        """The colours, at the lower edge."""
        if handles:
            self.figure.legend(
                handles=list(handles),
                loc="center",
                bbox_to_anchor=(0.5, 0.5 * LEGEND / self._height),
                ncol=len(handles),
                frameon=False,
                labelcolor=INK,
                fontsize=9.5,
                handlelength=2.2,
            )
