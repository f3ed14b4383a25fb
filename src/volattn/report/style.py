"""The look of all pictures: a dark sheet for slices and surfaces, and the axes, colours and texts of plots."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from volattn.io.output import SIGNATURE

PAPER, INK, DIM = "#0b0c0f", "#e6e8ec", "#9aa0ab"
GAP, TITLE, HEAD, LEGEND, FOOTER = 0.08, 0.62, 0.5, 0.42, 0.18
"""Inches between panels; and the heights of the title, of the heads of columns, of the legend, and of a line below."""
DPI = 110


def take_literally(figure: Figure) -> None:
    """Names may hold dollar signs, between which matplotlib would set formulae."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)


class Sheet:
    """A dark sheet with title, panels and legend, placed in inches from the upper left corner."""

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
        """The title at the left, and a remark at the right."""
        y, x = 1 - 0.30 / self._height, GAP / self._width
        self.figure.text(x, y, title, color=INK, fontsize=13, weight="bold", va="center", ha="left")
        self.figure.text(1 - x, y, about, color=DIM, fontsize=9, va="center", ha="right")

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

    def footer(self, text: str) -> None:
        """A line at the lower edge."""
        self.figure.text(0.5, 0.06 / self._height, text, color=INK, fontsize=8, va="bottom", ha="center")

    def legend(self, handles: Sequence[Line2D], above: float = 0.0) -> None:
        """The colours, at the lower edge or so many inches above it."""
        if handles:
            self.figure.legend(
                handles=list(handles),
                loc="center",
                bbox_to_anchor=(0.5, (above + 0.5 * LEGEND) / self._height),
                ncol=len(handles),
                frameon=False,
                labelcolor=INK,
                fontsize=9.5,
                handlelength=2.2,
            )


# Okabe and Ito's, which the colour-blind can tell apart; no meaning depends on colour alone.
BLUE, ORANGE, GREY, _PALE = "#0072B2", "#D55E00", "#6b7682", "#e3e8ed"
PLOT_INK = "#1c2530"
PLOT_DPI = 120
WIDTH = 7.6  # inches
FONT, SMALL = 10.5, 9.5
_LONGEST_NAME = 34  # characters of a line


def new_figure(height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of the page's width and a height in inches, and its axes side by side."""
    figure = Figure(figsize=(WIDTH, height), dpi=PLOT_DPI, layout="constrained")
    row = figure.subplots(1, columns, squeeze=False)[0]
    for axes in row:
        axes.tick_params(labelsize=SMALL, colors=PLOT_INK, length=3)
        axes.xaxis.label.set_fontsize(FONT)
        axes.yaxis.label.set_fontsize(FONT)
        axes.grid(color=_PALE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(GREY)
    return figure, list(row)


def write_beside(axes: Axes, text: str, at: tuple[float, float]) -> None:
    """Text to the right of a point, whose x is a share of the axes' width."""
    where = ("axes fraction", "data")
    axes.annotate(text, at, (7, 0), where, "offset points", va="center", fontsize=SMALL, color=PLOT_INK)


def draw_dots(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], marker: str, label: str) -> None:
    """A cloud of dots; other markers are orange and larger."""
    colour, size = (BLUE, 5) if marker == "o" else (ORANGE, 7)
    axes.plot(x, y, marker, color=colour, markersize=size, alpha=0.65, mew=0, clip_on=False, zorder=3, label=label)


def log_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of a log axis for values of which some are 0."""
    positive = values[values > 0]
    return (float(positive.min()) / 1.5, float(positive.max()) * 1.5) if len(positive) else (0.1, 10.0)


def log_axis(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """A log axis with ticks that can be read, at least two, also where it is shorter than a decade."""
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain))


def share_axis(axes: Axes, which: Literal["x", "y"], label: str) -> None:
    """An axis from 0 to 1."""
    axes.set(**{f"{which}lim": (0, 1), f"{which}ticks": np.linspace(0, 1, 6), f"{which}label": label})


def rows_height(rows: int) -> float:
    """Inches for a picture with a row each, and its axis."""
    return 1.2 + 0.24 * max(rows, 2)


def name_rows(axes: Axes, names: Sequence[str], lines: int = 1) -> None:
    """Names rows from top to bottom, in so many lines at most; longer names lose their middle."""
    axes.set_yticks(range(len(names)), [_short(name, lines) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def aside(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far (n,) sorted dots are moved to a side so that near ones do not hide each other."""
    moved = np.zeros(len(values))
    steps = np.array([0, 1, -1, 2, -2, 3, -3, 4, -4])
    bins = np.floor(values / 0.025)
    for one in np.unique(bins):
        inside = np.flatnonzero(bins == one)
        moved[inside] = steps[np.arange(len(inside)) % len(steps)] * 0.05
    return moved


def _short(name: str, lines: int) -> str:
    half = (lines * _LONGEST_NAME - 3) // 2
    whole = len(name) <= lines * _LONGEST_NAME
    return textwrap.fill(name if whole else f"{name[:half]}...{name[-half:]}", _LONGEST_NAME)


def plain(value: float, _: int | None = None) -> str:
    """A tick's number, for `FuncFormatter`."""
    return f"{value:g}"


def add_legend_above(axes: Axes, columns: int = 3) -> None:
    """Above the axes, if there is something to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1.0), ncols=columns, fontsize=SMALL, frameon=False, borderaxespad=0.2
        )


def png_of(figure: Figure) -> bytes:
    """The figure as a PNG file's content."""
    FigureCanvasAgg(figure)
    take_literally(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": SIGNATURE})
    return buffer.getvalue()
