"""Differences between two evaluations as a table and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volattn.io.names import count_of
from volattn.report.pages import Cell, Column, Page, Table
from volattn.report.plots import draw_estimates
from volattn.report.report import Report, add_footer, bootstrap_in_words
from volattn.scoring.metrics import find_metric, title_of
from volattn.scoring.statistics import few_warning


def comparison_table(content: Mapping[str, Any]) -> Table:
    """One row per metric of a comparison, and whether its difference is significant."""
    left_out = f", {content['cases_left_out']} left out" if content["cases_left_out"] else ""
    few = few_warning(content["cases_compared"], "case").replace("they are", "intervals are")
    return Table(
        f"B against A on {count_of(content['cases_compared'], 'case')}{left_out}; a difference is significant if its "
        f"95 % interval excludes 0 and Wilcoxon's p, corrected by Holm, is below 0.05{few}",
        (
            Column("Metric"),
            Column("A", ".4g"),
            Column("B", ".4g"),
            Column("B - A", "+.3g"),
            Column("95 % from", "+.3g"),
            Column("to", "+.3g"),
            Column("p", ".2g"),
            Column("p (Holm)", ".2g"),
            Column("n", "d"),
            Column("Significant"),
        ),
        tuple(_row(row, content.get("organ")) for row in content["rows"]),
    )


def comparison_report(content: Mapping[str, Any]) -> Report:
    """The differences of metrics that are shares, with their intervals, and the table of all."""
    page = Page("Differences between two evaluations")
    page.lead(
        f"B is {content['b']}, A is {content['a']}; {count_of(content['cases_compared'], 'case')} that both scored, "
        f"{content['cases_left_out']} left out. {bootstrap_in_words(content, content['cases_compared'], 'case')}"
    )
    report = Report(page)
    # One number under two names is drawn once.
    shown = {(row["a"], row["b"], row["p"]): row for row in reversed(content["rows"]) if _is_drawn(row["metric"])}
    rows, organ = list(shown.values())[::-1], content.get("organ")
    if rows:
        report.figure(
            "differences",
            draw_estimates(
                [f"{title_of(row['metric'], organ)}{' *' if row['significant'] else ''}" for row in rows],
                [row["difference"] for row in rows],
                [row["interval"] for row in rows],
                axis="B - A (difference of shares; to the right B is better)",
                shares=False,
            ),
            "Differences B - A with their intervals around 0.",
            "Metrics from 0 to 1 where more is better. A star marks a significant difference: its interval excludes 0 "
            "and Wilcoxon's p, corrected by Holm for all rows of the table, is below 0.05.",
        )
    page.section("All metrics")
    page.table(comparison_table(content))
    add_footer(page, content)
    return report


def _is_drawn(key: str) -> bool:
    metric = find_metric(key)
    return metric is not None and metric.unit == "share" and metric.better == "higher"


def _row(row: Mapping[str, Any], organ: str | None) -> tuple[Cell, ...]:
    key, (low, high) = row["metric"], row["interval"] or (None, None)
    metric = find_metric(key)
    better = metric.improves(row["difference"]) if metric is not None and row["significant"] else None
    verdict = "yes" if row["significant"] else "no"
    verdict += "" if better is None else f", {'B' if better else 'A'} better"
    values = [row[one] for one in ("a", "b", "difference")]
    return (title_of(key, organ), *values, low, high, row["p"], row["p_holm"], row["n"], verdict)
