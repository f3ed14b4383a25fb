"""A study's table as files: `table.md`, `table.csv`, `table.json` and `table.png`, of the runs that are finished."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from volattn.io.files import atomic_path, write_json, write_text
from volattn.io.names import count_of
from volattn.report.pages import Cell, Column, span
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
PLOTTED = 4
"""Panels of the plot, at most."""


def write_study(out: Path, table: StudyTable) -> None:
    """Writes the four files into a folder, each atomically."""
    found = evaluate(table)
    write_json(out / "table.json", _content(table, found))
    write_text(out / "table.csv", _csv(table, found))
    write_text(out / "table.md", _page(table, found))
    with atomic_path(out / "table.png") as temporary:
        temporary.write_bytes(_picture(table, found))


def _page(table: StudyTable, found: Sequence[Found]) -> str:
    study, results = table.study, table.results
    parts = [f"# {study.title}" + (f" ({study.paper})" if study.paper else ""), study.question]
    missing = [
        f"- {runs.row.title}, seed {seed}: {'unfinished' if reason is None else f'failed: {reason}'}"
        for runs in table.rows
        for seed, reason in runs.unfinished.items()
    ]
    if missing:
        runs = count_of(len(results) + len(missing), "run")
        parts.append(f"**Unfinished: {len(results)} of {runs} done.** The missing ones are listed below.")
    patients = len({case["patient"] for result in results for case in result["cases"]})
    parts += [
        _scores(table, found),
        _METHOD.format(few_warning(patients, "patient")) + _TESTED[study.kind],
        "![The table as a plot](table.png)",
    ]
    if any(one.against for one in found):
        parts += ["## Against the baseline", _tests(found)]
    parts += ["## Cost", _costs(found), _BUDGET]
    if study.notes:
        parts += ["## About the paper's numbers", "\n".join(f"- {note}" for note in study.notes)]
    if missing:
        parts += ["## Missing runs", "\n".join(missing)]
    commands = [command for one in found for command in _commands(one)]
    lines = [f"{table.command} --seeds {','.join(map(str, table.seeds))} -o OUT"]
    lines += ["", "# each run by itself, in the study's folder:", *commands] if commands else []
    parts += ["## Commands", "\n".join(["```", *lines, "```"])]
    installed = sorted({", ".join(f"{name} {version}" for name, version in one["versions"].items()) for one in results})
    made = f"Commit {', '.join(_commits(table))}. Versions: {'; '.join(installed)}."
    return "\n\n".join([*parts, made if results else "Nothing is finished yet."]) + "\n"


def _markdown(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = [[column.text(cell) for column, cell in zip(columns, row, strict=True)] for row in rows]
    return "\n".join(map(line, [[column.title for column in columns], ["---"] * len(columns), *body]))


def _scores(table: StudyTable, found: Sequence[Found]) -> str:
    columns = [Column("Row"), Column("Seeds")]
    rows: list[list[Cell]] = [[one.row.title, one.runs.state] for one in found]
    quoted = any(one.row.paper for one in found)
    for metric in table.study.metrics:
        columns += [Column(METRICS[metric].column, ".1f"), Column("95 %")]
        columns += [Column("paper", ".1f")] if quoted else []
        for row, one in zip(rows, found, strict=True):
            value, ends = _shown(metric, one.values[metric].value, one.values[metric].interval)
            row += [value, span(ends, ".1f")]
            row += [one.row.paper.get(metric)] if quoted else []
    return _markdown(columns, rows)


def _tests(found: Sequence[Found]) -> str:
    titles = {one.row.key: one.row.title for one in found}
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        for metric, contrast in one.against.items():
            difference, ends = _shown(metric, contrast.difference, contrast.interval)
            verdict = "no"
            if one.significant(metric):
                improves = METRICS[metric].improves(contrast.difference or 0.0)
                verdict = "yes" if improves is None else f"yes, {'better' if improves else 'worse'}"
            names = (one.row.title, titles[one.baseline or ""], METRICS[metric].column)
            ps = (contrast.p, one.corrected[metric])
            rows.append((*names, difference, span(ends, "+.1f"), *ps, contrast.seeds, verdict))
    columns = [Column("Row"), Column("Against"), Column("Metric"), Column("Difference", "+.1f"), Column("95 %")]
    columns += [Column("p", ".2g"), Column("p (Holm)", ".2g"), Column("Seeds", "d"), Column("Significant")]
    return _markdown(columns, rows)


def _shown(metric: str, value: float | None, ends: Interval) -> tuple[float | None, list[float] | None]:
    """A value and its interval as the table shows them: shares in percent."""
    scale = METRICS[metric].scale
    return None if value is None else scale * value, None if ends is None else [scale * end for end in ends]


def _costs(found: Sequence[Found]) -> str:
    columns = [Column("Row"), Column("Target slices", ",.0f"), Column("GFLOPs a slice", ".1f")]
    columns += [Column("Parameters, M", ".2f"), Column("Training, min", ".1f"), Column("Test, min", ".1f")]
    columns += [Column("Peak memory, MiB", ".0f")]
    return _markdown(columns, [(one.row.title, *one.cost.values()) for one in found if not one.row.published])


def _commands(one: Found) -> list[str]:
    return [one.runs.results[seed]["command"] for seed in sorted(one.runs.results)]


def _commits(table: StudyTable) -> list[str]:
    return sorted({result["commit"] or "unknown" for result in table.results})


def _content(table: StudyTable, found: Sequence[Found]) -> dict[str, Any]:
    study = table.study
    versions = sorted({tuple(sorted(result["versions"].items())) for result in table.results})
    return {
        "study": table.name,
        "title": study.title,
        "paper": study.paper,
        "question": study.question,
        "command": table.command,
        "seeds": list(table.seeds),
        "bootstrap": described(BOOTSTRAP_SEED) | {"trainings": "Student's t"},
        "rows": [_row(one) for one in found],
        "notes": list(study.notes),
        "versions": [dict(pairs) for pairs in versions],
        "commits": _commits(table),
    }


def _row(one: Found) -> dict[str, Any]:
    return {
        "key": one.row.key,
        "title": one.row.title,
        "state": one.runs.state,
        "baseline": one.baseline,
        "paper_percent": one.row.paper,
        "scores": {
            metric: asdict(estimate) | {"by_seed": {str(seed): value for seed, value in estimate.by_seed.items()}}
            for metric, estimate in one.values.items()
        },
        "against_baseline": {
            metric: asdict(contrast) | {"p_holm": one.corrected[metric], "significant": one.significant(metric)}
            for metric, contrast in one.against.items()
        },
        "cost": one.cost,
        "failed": {str(seed): reason for seed, reason in one.runs.unfinished.items() if reason is not None},
        "unfinished": [seed for seed, reason in one.runs.unfinished.items() if reason is None],
        "commands": _commands(one),
    }


def _csv(table: StudyTable, found: Sequence[Found]) -> str:
    text = io.StringIO()
    parts = ("", " low", " high", " paper", " difference", " difference low", " difference high", " p", " p holm")
    heads = [f"{metric}{part}" for metric in table.study.metrics for part in parts]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "title", "state", *heads, *found[0].cost])
    for one in found:
        cells: list[Any] = [one.row.key, one.row.title, one.runs.state]
        for metric in table.study.metrics:
            estimate, contrast = one.values[metric], one.against.get(metric)
            paper = one.row.paper.get(metric)
            cells += [estimate.value, *(estimate.interval or (None, None))]
            cells.append(None if paper is None else round(paper / METRICS[metric].scale, 6))
            if contrast is None:
                cells += [None] * 5
            else:
                cells += [contrast.difference, *(contrast.interval or (None, None)), contrast.p, one.corrected[metric]]
        writer.writerow([*cells, *one.cost.values()])
    return text.getvalue()


def _picture(table: StudyTable, found: Sequence[Found]) -> bytes:
    panels: dict[str, Sequence[Mark]] = {}
    for key in table.study.metrics[:PLOTTED]:
        metric, marks = METRICS[key], []
        for one in found:
            value, ends = _shown(key, one.values[key].value, one.values[key].interval)
            by_seed = [metric.scale * each for each in one.values[key].by_seed.values() if each is not None]
            marks.append(Mark(value, ends, by_seed, one.row.paper.get(key)))
        panels[metric.column + (", %" if metric.unit == "share" else "")] = marks
    return draw_study([one.row.title for one in found], panels)
