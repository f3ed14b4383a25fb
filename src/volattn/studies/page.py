"""A study's table as files: `table.md`, `table.csv`, `table.json` and `table.png`, of the runs that are finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from volattn.io.files import atomic_path, write_json, write_text
from volattn.io.names import count_of
from volattn.report.pages import Cell, Column, Table, span
from volattn.report.plots import Mark, draw_study
from volattn.scoring.metrics import METRICS
from volattn.scoring.statistics import described, few_warning
from volattn.studies.table import BOOTSTRAP_SEED, Found, Interval, StudyTable, evaluate

_METHOD = (
    "Values are means over the seeds. Intervals are 95 %, over patients (drawn with replacement 1000 times, the same "
    "for every seed and row) and over trainings (Student's t of the seeds; with one seed, patients alone){}. A "
    "difference is significant if its interval excludes 0 and Wilcoxon's p over patients, corrected by Holm for all "
    "tests of this table, is below 0.05. "
)
_TESTED = {
    "masks": "The test sees each case's mean over the seeds; measures of lesions are means within a case first.",
    "boxes": "The test sees each patient's share of lesions found where the detections of all seeds are pooled.",
}
_BUDGET = (
    "Every row sees the same number of target slices, as far as its steps allow. GFLOPs are those of one slice of a "
    "streamed volume; peak memory is that of the run's process, on a GPU that of its tensors."
)


def page(table: StudyTable, found: Sequence[Found]) -> str:
    """The page in Markdown."""
    parts = [f"# {table.title}" + (f" ({table.paper})" if table.paper else ""), table.question]
    left = sum(len(row.unfinished) for row in table.rows)
    results = [result for row in table.rows for result in row.results.values()]
    runs = left + len(results)
    if left:
        parts.append(
            f"**Unfinished: {runs - left} of {count_of(runs, 'run')} done.** The missing ones are listed below."
        )
    patients = len({case["patient"] for result in results for case in result["cases"]})
    parts += [
        _scores(table, found),
        _METHOD.format(few_warning(patients, "patient")) + _TESTED[table.kind],
        "![The table as a plot](table.png)",
    ]
    if any(one.against for one in found):
        parts += ["## Against the baseline", _tests(table, found)]
    parts += ["## Cost", _costs(found), _BUDGET]
    if table.notes:
        parts += ["## About the paper's numbers", "\n".join(f"- {note}" for note in table.notes)]
    if left:
        parts += ["## Missing runs", "\n".join(_missing(table))]
    parts += ["## Commands", _commands(table), _provenance(table)]
    return "\n\n".join(parts) + "\n"


def markdown(table: Table) -> str:
    """A table's rows in Markdown, without its caption."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = [[column.text(cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows]
    heads = [column.title for column in table.columns]
    return "\n".join(map(line, [heads, ["---"] * len(heads), *body]))


def _scores(table: StudyTable, found: Sequence[Found]) -> str:
    columns = [Column("Row"), Column("Seeds")]
    quoted = any(one.row.paper for one in found)
    for key in table.metrics:
        columns += [Column(METRICS[key].column, ".1f"), Column("95 %")] + ([Column("paper", ".1f")] if quoted else [])
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        cells: list[Cell] = [one.row.title, one.row.state]
        for metric in table.metrics:
            estimate = one.values[metric]
            cells += [_shown(metric, estimate.value), span(_shown_ends(metric, estimate.interval), ".1f")]
            cells += [one.row.paper.get(metric)] if quoted else []
        rows.append(tuple(cells))
    return markdown(Table(table.title, tuple(columns), tuple(rows)))


def _tests(table: StudyTable, found: Sequence[Found]) -> str:
    titles = {one.row.key: one.row.title for one in found}
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        for metric, contrast in one.against.items():
            rows.append(
                (
                    one.row.title,
                    titles[one.row.baseline or ""],
                    METRICS[metric].column,
                    _shown(metric, contrast.difference),
                    span(_shown_ends(metric, contrast.interval), "+.1f"),
                    contrast.p,
                    one.corrected[metric],
                    contrast.seeds,
                    _verdict(one, metric),
                )
            )
    columns = (
        Column("Row"),
        Column("Against"),
        Column("Metric"),
        Column("Difference", "+.1f"),
        Column("95 %"),
        Column("p", ".2g"),
        Column("p (Holm)", ".2g"),
        Column("Seeds", "d"),
        Column("Significant"),
    )
    return markdown(Table("Against the baseline", columns, tuple(rows)))


def _shown(metric: str, value: float | None) -> float | None:
    return None if value is None else METRICS[metric].scale * value


def _shown_ends(metric: str, ends: Interval) -> list[float] | None:
    return None if ends is None else [METRICS[metric].scale * end for end in ends]


def _verdict(one: Found, metric: str) -> str:
    if not one.significant(metric):
        return "no"
    improves = METRICS[metric].improves(one.against[metric].difference or 0.0)
    return "yes" if improves is None else f"yes, {'better' if improves else 'worse'}"


def _costs(found: Sequence[Found]) -> str:
    columns = (
        Column("Row"),
        Column("Target slices", ",.0f"),
        Column("GFLOPs a slice", ".1f"),
        Column("Parameters, M", ".2f"),
        Column("Training, min", ".1f"),
        Column("Test, min", ".1f"),
        Column("Peak memory, MiB", ".0f"),
    )
    rows = [(one.row.title, *one.cost.values()) for one in found if not one.row.published]
    return markdown(Table("Cost", columns, tuple(rows)))


def _missing(table: StudyTable) -> list[str]:
    lines = []
    for row in table.rows:
        for run in row.unfinished:
            reason = "unfinished" if run.reason is None else f"failed: {run.reason}"
            lines.append(f"- {row.title}, seed {run.seed}: {reason}")
    return lines


def _commands(table: StudyTable) -> str:
    seeds = ",".join(map(str, table.seeds))
    commands = [row.results[seed]["command"] for row in table.rows for seed in sorted(row.results)]
    lines = [f"{table.command} --seeds {seeds} -o OUT"]
    if commands:
        lines += ["", "# each run by itself, in the study's folder:", *commands]
    return "\n".join(["```", *lines, "```"])


def _provenance(table: StudyTable) -> str:
    results = [result for row in table.rows for result in row.results.values()]
    commits = sorted({result["commit"] or "unknown" for result in results})
    installed = sorted({", ".join(f"{name} {version}" for name, version in one["versions"].items()) for one in results})
    if not results:
        return "Nothing is finished yet."
    return f"Commit {', '.join(commits)}. Versions: {'; '.join(installed)}."


PLOTTED = 4
"""Panels of the plot, at most."""


def write_study(out: Path, table: StudyTable) -> None:
    """Writes the four files into a folder, each atomically."""
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
        "versions": [dict(pairs) for pairs in sorted({tuple(sorted(one["versions"].items())) for one in results})],
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
            metric: asdict(estimate) | {"by_seed": {str(seed): value for seed, value in estimate.by_seed.items()}}
            for metric, estimate in one.values.items()
        },
        "against_baseline": {
            metric: asdict(contrast) | {"p_holm": one.corrected[metric], "significant": one.significant(metric)}
            for metric, contrast in one.against.items()
        },
        "cost": one.cost,
        "failed": {str(run.seed): run.reason for run in row.unfinished if run.reason is not None},
        "unfinished": [run.seed for run in row.unfinished if run.reason is None],
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
            cells.append(None if paper is None else round(paper / METRICS[metric].scale, 6))
            if contrast is None:
                cells += [None] * 5
            else:
                cells += [contrast.difference, *(contrast.interval or (None, None))]
                cells += [contrast.p, one.corrected[metric]]
        writer.writerow([*cells, *one.cost.values()])
    return text.getvalue()


def _picture(table: StudyTable, found: Sequence[Found]) -> bytes:
    panels: dict[str, Sequence[Mark]] = {}
    for metric in list(table.metrics)[:PLOTTED]:
        marks = []
        for one in found:
            estimate, scale = one.values[metric], METRICS[metric].scale
            by_seed = [scale * value for value in estimate.by_seed.values() if value is not None]
            ends = _shown_ends(metric, estimate.interval)
            marks.append(Mark(_shown(metric, estimate.value), ends, by_seed, one.row.paper.get(metric)))
        found_metric = METRICS[metric]
        panels[found_metric.column + (", %" if found_metric.unit == "share" else "")] = marks
    return draw_study([one.row.title for one in found], panels)
