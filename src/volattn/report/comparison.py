"""Differences between two evaluations as a table and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volattn.io.names import count_of
from volattn.report.pages import Cell, Column, Page, Table
from volattn.report.plots import draw_estimates
from volattn.report.report import Report, add_footer, bootstrap_in_words

_SHARES = {"dice", "jaccard", "surface_dice_2mm", "mean_sensitivity", "ap50", "average_precision"}
_SENSITIVITIES = "sensitivity_at_fp_per_"


def comparison_table(content: Mapping[str, Any]) -> Table:
    """One row per measure, and whether its difference stands.

    Args:
        content: What `compare` writes.
    """
    left_out = f", {content['cases_left_out']} left out" if content["cases_left_out"] else ""
    return Table(
        f"B against A on {count_of(content['cases_compared'], 'case')}{left_out}; a difference stands if its 95 % "
        "interval excludes 0 and Wilcoxon's p, corrected by Holm, is below 0.05",
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
        tuple(map(_row, content["rows"])),
    )


def comparison_report(content: Mapping[str, Any]) -> Report:
    """The differences that are shares, with their intervals, and the table of all.

    Args:
        content: What `compare` writes.
    """
    page = Page("Which differences stand")
    page.lead(
        f"B is {content['b']}, A is {content['a']}; {count_of(content['cases_compared'], 'case')} that both scored, "
        f"{content['cases_left_out']} left out. {bootstrap_in_words(content)}"
    )
    report = Report(page)
    shown = [row for row in content["rows"] if _is_share(row["metric"])]
    if shown:
        report.figure(
            "differences",
            draw_estimates(
                [f"{_title(row['metric'])}{' *' if row['stands'] else ''}" for row in shown],
                [row["difference"] for row in shown],
                [row["interval"] for row in shown],
                axis="B - A (difference of shares; to the right B is higher)",
                shares=False,
            ),
            "Differences B - A with their intervals around 0.",
            "Measures from 0 to 1 where more is better. A star marks a difference that stands: its interval excludes 0 "
            "and Wilcoxon's p, corrected by Holm for all rows of the table, is below 0.05.",
        )
    page.section("All measures")
    page.table(comparison_table(content))
    add_footer(page, content)
    return report


def _is_share(metric: str) -> bool:
    return metric.startswith(_SENSITIVITIES) or metric.split(".")[-1] in _SHARES


def _title(metric: str) -> str:
    if metric.startswith(_SENSITIVITIES):
        unit, level = metric.removeprefix(_SENSITIVITIES).split(".", 1)
        return f"sensitivity at {level} FP per {unit}"
    return metric.replace("_2mm", ", 2 mm").replace("_", " ").replace(".", ": ")


def _row(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    low, high = row["interval"] or (None, None)
    stands = "yes" if row["stands"] else "no"
    return (row["metric"], row["a"], row["b"], row["difference"], low, high, row["p"], row["p_holm"], row["n"], stands)
