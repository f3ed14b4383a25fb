"""Differences between two evaluations as a table."""

from __future__ import annotations

from volattn.evaluation.comparison import Comparison, Difference
from volattn.reporting.tables import Cell, Column, Table


def comparison_table(comparison: Comparison) -> Table:
    """One row per measure, and whether its difference stands."""
    left_out = f", {comparison.left_out} left out" if comparison.left_out else ""
    return Table(
        f"B against A on {comparison.cases} cases{left_out}; a difference stands if its 95 % interval excludes 0 "
        "and Wilcoxon's p, corrected by Holm, is below 0.05",
        (
            Column("Measure"),
            Column("A", ".4g"),
            Column("B", ".4g"),
            Column("B - A", "+.3g"),
            Column("95 % from", "+.3g"),
            Column("to", "+.3g"),
            Column("p", ".2g"),
            Column("p (Holm)", ".2g"),
            Column("n", "d"),
            Column("Stands"),
        ),
        tuple(map(_row, comparison.rows)),
    )


def _row(row: Difference) -> tuple[Cell, ...]:
    low, high = (None, None) if row.interval is None else row.interval
    stands = "yes" if row.stands else "no"
    return (row.metric, row.a, row.b, row.difference, low, high, row.p, row.p_holm, row.n, stands)
