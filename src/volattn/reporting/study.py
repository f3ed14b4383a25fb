"""A study's table as files: `table.md`, `table.csv`, `table.json` and `table.png`, of the cells that are there."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volattn.evaluation.statistics import described
from volattn.figures.study_plot import Mark, draw_study
from volattn.io.atomic import atomic_path, write_json, write_text
from volattn.reporting.study_page import page
from volattn.reporting.study_statistics import BOOTSTRAP_SEED, COUNTS
from volattn.reporting.study_table import Found, StudyTable, evaluate, shown

PLOTTED = 4
"""Panels of the plot, at most."""


def write_study(out: Path, table: StudyTable) -> None:
    """Writes the four files, each atomically.

    Args:
        out: The folder.
        table: What is there.
    """
    found = evaluate(table)
    write_json(out / "table.json", _content(table, found))
    write_text(out / "table.csv", _csv(table, found))
    write_text(out / "table.md", page(table, found))
    with atomic_path(out / "table.png") as temporary:
        temporary.write_bytes(_picture(table, found))


def _content(table: StudyTable, found: Sequence[Found]) -> dict[str, Any]:
    results = [result for row in table.rows for result in row.results.values()]
    return {
        "study": table.name,
        "title": table.title,
        "paper": table.paper,
        "question": table.question,
        "command": table.command,
        "seeds": list(table.seeds),
        "bootstrap": described(BOOTSTRAP_SEED) | {"trainings": "Student's t"},
        "rows": [_row(table, one) for one in found],
        "notes": list(table.notes),
        "versions": [
            dict(pairs) for pairs in sorted({tuple(sorted(one["versions"].items())) for one in results})
        ],
        "commits": sorted({one["commit"] or "unknown" for one in results}),
    }


def _row(table: StudyTable, one: Found) -> dict[str, Any]:
    row = one.row
    return {
        "key": row.key,
        "title": row.title,
        "state": row.state,
        "baseline": row.baseline,
        "paper_percent": dict(row.paper),
        "scores": {
            metric: {
                "value": estimate.value,
                "interval": estimate.interval,
                "by_seed": {str(seed): value for seed, value in estimate.by_seed.items()},
            }
            for metric, estimate in one.values.items()
        },
        "against_baseline": {
            metric: {
                "difference": contrast.value,
                "interval": contrast.interval,
                "p": contrast.p,
                "p_holm": one.corrected[metric],
                "seeds": contrast.seeds,
                "stands": one.stands(metric),
            }
            for metric, contrast in one.against.items()
        },
        "cost": one.cost,
        "failed": {str(cell.seed): cell.reason for cell in row.unfinished if cell.reason is not None},
        "unfinished": [cell.seed for cell in row.unfinished if cell.reason is None],
        "commands": [row.results[seed]["command"] for seed in sorted(row.results)],
    }


def _csv(table: StudyTable, found: Sequence[Found]) -> str:
    text = io.StringIO()
    heads = ["row", "title", "state"]
    for metric in table.metrics:
        heads += [metric, f"{metric} low", f"{metric} high", f"{metric} paper"]
        heads += [f"{metric} difference", f"{metric} difference low", f"{metric} difference high"]
        heads += [f"{metric} p", f"{metric} p holm"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, *found[0].cost])
    for one in found:
        cells: list[Any] = [one.row.key, one.row.title, one.row.state]
        for metric in table.metrics:
            value, contrast = one.values[metric], one.against.get(metric)
            paper = one.row.paper.get(metric)
            cells += [value.value, *(value.interval or (None, None))]
            cells.append(None if paper is None else round(paper if metric in COUNTS else paper / 100, 6))
            if contrast is None:
                cells += [None] * 5
            else:
                cells += [contrast.value, *(contrast.interval or (None, None))]
                cells += [contrast.p, one.corrected[metric]]
        writer.writerow([*cells, *one.cost.values()])
    return text.getvalue()


def _picture(table: StudyTable, found: Sequence[Found]) -> bytes:
    panels: dict[str, Sequence[Mark]] = {}
    for metric in list(table.metrics)[:PLOTTED]:
        marks = []
        for one in found:
            estimate = one.values[metric]
            ends = estimate.interval
            marks.append(
                Mark(
                    shown(metric, estimate.value),
                    None
                    if ends is None
                    else [end for part in ends if (end := shown(metric, part)) is not None],
                    [
                        part
                        for value in estimate.by_seed.values()
                        if (part := shown(metric, value)) is not None
                    ],
                    one.row.paper.get(metric),
                )
            )
        panels[table.metrics[metric] + ("" if metric in COUNTS else ", %")] = marks
    return draw_study([one.row.title for one in found], panels)
