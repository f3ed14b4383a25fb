"""Painting shapes over each other, in HU."""

from __future__ import annotations

import numpy as np

from volattn.datasets.phantom.shapes import Box, Field, Grid

AIR = -1000.0

Part = tuple[Box, Field]
"""A box and the distance outside a surface in it, mm."""


class Canvas:
    """A volume under paint.

    Args:
        grid: Its samples.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.hu: Field = np.full(grid.shape, AIR, np.float32)

    def paint(
        self, part: Part | None, hu: float, *, within: Field | None = None, edge: float = 0.0
    ) -> tuple[Box, Field] | None:
        """Covers what was there; edges are mixed in proportion, as partial volume does.

        Args:
            part: The shape; nothing is painted where it misses the grid.
            hu: Its value.
            within: (D, H, W) coverage that limits it.
            edge: Width of its border, mm; a pixel at least.

        Returns:
            Box and coverage of what was painted.
        """
        if part is None:
            return None
        box, outside = part
        coverage = box.coverage(outside, edge)
        if within is not None:
            coverage = coverage * within[box.place]
        view = self.hu[box.place]
        view += coverage * (np.float32(hu) - view)
        return box, coverage

    def blank(self) -> Field:
        """An empty coverage of the whole grid."""
        return np.zeros(self.grid.shape, np.float32)


def add(total: Field, painted: tuple[Box, Field] | None) -> None:
    """Joins a coverage to another: the union."""
    if painted is not None:
        box, coverage = painted
        np.maximum(total[box.place], coverage, out=total[box.place])


def take(total: Field, painted: tuple[Box, Field] | None) -> None:
    """Cuts a coverage out of another."""
    if painted is not None:
        box, coverage = painted
        total[box.place] *= 1 - coverage
