"""Plots of scores as PNG files' contents; without pyplot, so that nothing is shared between threads or left open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from volattn.report.style import (
    BLUE,
    FONT,
    GREY,
    ORANGE,
    PLOT_INK,
    SMALL,
    add_legend_above,
    aside,
    draw_dots,
    log_axis,
    log_range,
    name_rows,
    new_figure,
    plain,
    png_of,
    rows_height,
    share_axis,
    write_beside,
)

Interval = Sequence[float] | None
"""Lower and upper end."""


def draw_froc(
    levels: NDArray[np.float64],
    sensitivity: NDArray[np.float64],
    band: NDArray[np.float64] | None,
    marks: dict[float, float],
    *,
    unit: str,
    note: str = "",
) -> bytes:
    """The FROC curve with its bootstrap band.

    Args:
        levels: (K,) false positives per image (or scan, the unit), ascending, above 0.
        sensitivity: (K,) from 0 to 1.
        band: (2, K) lower and upper end of its interval; None if there is none.
        note: The curve's name in the legend.
    """
    figure, (axes,) = new_figure(4.6)
    if band is not None:
        axes.fill_between(levels, *band, color=BLUE, alpha=0.2, linewidth=0, label="95 % interval")
    axes.plot(levels, sensitivity, color=BLUE, linewidth=2, label=note or "sensitivity")
    axes.plot(list(marks), list(marks.values()), "o", color=BLUE, markersize=5.5, clip_on=False, zorder=4)
    for level, value in marks.items():
        away, side = (-8, "top") if value > 0.93 else (8, "bottom")
        text, at = f"{value:.3f}", (level, value)
        axes.annotate(
            text, at, (0, away), "data", "offset points", ha="center", va=side, fontsize=SMALL, color=PLOT_INK
        )
    axes.set_xscale("log", base=2)
    axes.set_xlim(levels[0] * 0.8, levels[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(list(marks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(plain))
    share_axis(axes, "y", "Sensitivity (share of lesions found)")
    axes.set_xlabel(f"False positives per {unit} (log scale)")
    axes.legend(loc="lower right", fontsize=SMALL, frameon=True, framealpha=0.85, edgecolor="none")
    return png_of(figure)


def draw_estimates(
    names: Sequence[str],
    values: Sequence[float | None],
    intervals: Sequence[Interval],
    *,
    axis: str,
    shares: bool = True,
) -> bytes:
    """Numbers with their intervals, a row each, from top to bottom; None where there is nothing to measure.

    Args:
        shares: Whether the axis goes from 0 to 1; else it is drawn around 0.
    """
    figure, (axes,) = new_figure(rows_height(len(names)))
    for row, (value, ends) in enumerate(zip(values, intervals, strict=True)):
        if value is None:
            axes.text(0.01, row, "nothing to measure", va="center", fontsize=SMALL, color=GREY)
            continue
        if ends is not None:
            axes.plot(ends, (row, row), "|-", color=BLUE, linewidth=2, markersize=9, mew=2, clip_on=False)
        axes.plot(value, row, "o", color=BLUE, markersize=7, clip_on=False, zorder=4)
        write_beside(axes, f"{value:.3f}" if shares else f"{value:+.3f}", (1, row))
    if shares:
        share_axis(axes, "x", axis)
    else:
        axes.axvline(0, color=PLOT_INK, linewidth=1)
        axes.set_xlabel(axis)
    name_rows(axes, names)
    return png_of(figure)


def draw_spread(
    names: Sequence[str], values: Sequence[Sequence[float]], intervals: Sequence[Interval], *, axis: str
) -> bytes:
    """Every value of some groups as a dot, their means with intervals beside them.

    Values are from 0 to 1; a group may be empty.
    """
    figure, (axes,) = new_figure(4.3)
    for place, (of_group, ends) in enumerate(zip(values, intervals, strict=True)):
        if not len(of_group):
            axes.text(place, 0.5, "none", ha="center", va="center", fontsize=FONT, color=GREY)
            continue
        dots = np.sort(np.asarray(of_group, dtype=np.float64))
        axes.plot(place - 0.08 + aside(dots), dots, "o", color=GREY, alpha=0.55, markersize=4.5, mew=0, clip_on=False)
        mean = float(dots.mean())
        if ends is not None:
            axes.plot((place + 0.3,) * 2, ends, color=BLUE, linewidth=2.2, solid_capstyle="butt", zorder=3)
        axes.plot(place + 0.3, mean, "D", color=BLUE, markersize=7, clip_on=False, zorder=4)
        axes.annotate(
            f"{mean:.3f}", (place + 0.3, mean), (8, 0), textcoords="offset points", va="center", fontsize=SMALL
        )
    axes.plot([], [], "o", color=GREY, alpha=0.55, markersize=4.5, label="a lesion")
    axes.plot([], [], "D-", color=BLUE, markersize=7, linewidth=2.2, label="mean and its 95 % interval")
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.3)
    axes.grid(visible=False, axis="x")
    share_axis(axes, "y", axis)
    add_legend_above(axes)
    return png_of(figure)


def draw_agreement(
    reference: NDArray[np.float64],
    prediction: NDArray[np.float64],
    compared: NDArray[np.bool_],
    *,
    quantity: str,
    unit: str,
    bias: float | None,
    limits: tuple[float, float] | None,
) -> bytes:
    """Predicted against reference measures on log axes, and their differences as Bland and Altman draw them.

    Args:
        reference: (n,) at least 0; what is 0 is drawn on the edge.
        compared: (n,) those that the bias and the limits are of, and that are drawn with them.
    """
    figure, (left, right) = new_figure(4.0, 2)
    for axes in (left, right):
        axes.set_box_aspect(1)
    low, high = log_range(np.concatenate([reference, prediction]))
    left.plot((low, high), (low, high), color=PLOT_INK, linewidth=1, label="equal")
    for chosen, marker, label in (
        ((reference > 0) & (prediction > 0), "o", ""),
        ((reference > 0) & (prediction <= 0), "v", "nothing predicted"),
        ((reference <= 0) & (prediction > 0), "<", "none in the reference"),
    ):
        if chosen.any():
            x, y = (np.maximum(values[chosen], low) for values in (reference, prediction))
            draw_dots(left, x, y, marker, f"{label} ({chosen.sum()})" if label else "_")
    log_axis(left, "x", low, high)
    log_axis(left, "y", low, high)
    left.set_xlabel(f"Reference {quantity} ({unit})")
    left.set_ylabel(f"Predicted {quantity} ({unit})")
    add_legend_above(left, 1)

    means, differences = ((reference + prediction) / 2)[compared], (prediction - reference)[compared]
    low, high = log_range(means)
    right.axhline(0, color=PLOT_INK, linewidth=1)
    draw_dots(right, np.maximum(means, low), differences, "o", "_")
    lines = [] if bias is None else [(bias, f"bias\n{bias:+.3g}", "-")]
    if limits is not None:
        lines += [(end, f"{word}1.96 SD\n{end:+.3g}", "--") for end, word in zip(limits, "-+", strict=True)]
    for height, text, style in lines:
        right.axhline(height, color=ORANGE, linewidth=1.4, linestyle=style)
        write_beside(right, text, (1, height))
    log_axis(right, "x", low, high)
    right.margins(y=0.15)
    right.set_xlabel(f"Mean of both ({unit})")
    right.set_ylabel(f"Predicted - reference ({unit})")
    return png_of(figure)


def draw_bars(
    names: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    notes: Sequence[str],
    *,
    axis: str,
    mean: float | None = None,
) -> bytes:
    """Horizontal bars, the first at the top.

    Args:
        parts: The parts that bars are stacked of, by name; one needs no legend. At most two.
        notes: Texts to the right of the bars.
        mean: Of shares, marked by a line; None for counts.
    """
    figure, (axes,) = new_figure(rows_height(len(names)))
    rows, ends = np.arange(len(names)), np.zeros(len(names))
    for (part, values), colour, hatch in zip(parts.items(), (BLUE, ORANGE), ("", "///"), strict=False):
        bars = axes.barh(rows, values, left=ends, height=0.72, color=colour, hatch=hatch, edgecolor="white")
        bars.set_label(part if len(parts) > 1 else "_")
        ends = ends + np.asarray(values, dtype=np.float64)
    for row, note in enumerate(notes):
        write_beside(axes, note, (1, row))
    if mean is not None:
        share_axis(axes, "x", axis)
        axes.axvline(mean, color=PLOT_INK, linewidth=1.2, linestyle="--", label=f"mean {mean:.3f}")
    else:
        axes.set_xlim(0, max(1.0, float(ends.max(initial=0))))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(axis)
    name_rows(axes, names)
    add_legend_above(axes)
    return png_of(figure)


@dataclass(frozen=True)
class Mark:
    """One row in one panel: a value over all seeds with its interval, that of each seed, and the paper's."""

    value: float | None
    interval: Sequence[float] | None
    by_seed: Sequence[float]
    paper: float | None


def draw_study(names: Sequence[str], panels: dict[str, Sequence[Mark]]) -> bytes:
    """A study's rows from top to bottom; a panel for each metric, by title, with a mark for each row."""
    figure, row = new_figure(1.7 * rows_height(len(names)) - 0.3, len(panels))
    for place, (axes, (title, marks)) in enumerate(zip(row, panels.items(), strict=True)):
        for height, mark in enumerate(marks):
            if mark.interval is not None:
                axes.plot(mark.interval, (height, height), "|-", color=BLUE, linewidth=2, markersize=8, mew=2)
            if mark.by_seed:
                axes.plot(mark.by_seed, [height + 0.24] * len(mark.by_seed), "o", color=GREY, markersize=3.5)
            if mark.value is not None:
                axes.plot(mark.value, height, "o", color=BLUE, markersize=6.5, zorder=4)
            if mark.paper is not None:
                axes.plot(mark.paper, height - 0.24, "D", color=ORANGE, markersize=5, mfc="none", zorder=4)
        numbers = [
            number for mark in marks for number in (*mark.by_seed, *(mark.interval or ()), mark.value, mark.paper)
        ]
        there = [number for number in numbers if number is not None] or [0.0, 1.0]
        low, high = min(there), max(there)
        room = max(0.08 * (high - low), 0.5 if np.isclose(low, high) else 0)
        axes.set_xlim(low - room, high + room)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        name_rows(axes, names if place == 0 else [""] * len(names), lines=2)
        axes.set_title(title, fontsize=FONT)
    handles = [
        Line2D([], [], color=BLUE, marker="o", linewidth=2, label="here: mean of seeds, 95 % interval"),
        Line2D([], [], color=GREY, marker="o", linestyle="", markersize=4, label="each seed"),
    ]
    if any(mark.paper is not None for marks in panels.values() for mark in marks):
        handles.append(Line2D([], [], color=ORANGE, marker="D", linestyle="", markersize=5, mfc="none", label="paper"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=SMALL, frameon=False)
    return png_of(figure)
