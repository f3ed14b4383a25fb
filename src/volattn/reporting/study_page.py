"""A study's table as a page of Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from volattn.io.names import count_of
from volattn.reporting.study_table import Found, StudyTable, shown
from volattn.reporting.tables import Cell, Column, Table, span

_METHOD = (
    "Values are means over the seeds. Intervals are 95 %, over patients (drawn with replacement 1000 times, the same "
    "for every seed and row) and over trainings (Student's t of the seeds; with one seed, patients alone). A "
    "difference stands if its interval excludes 0 and Wilcoxon's p over patients, corrected by Holm for all tests of "
    "this table, is below 0.05. "
)
_TESTED = {
    "masks": "The test sees each case's mean over the seeds; measures of lesions are means within a case first.",
    "boxes": "The test sees each patient's share of lesions found where the detections of all seeds are pooled.",
}
_BUDGET = (
    "Every row sees the same number of target slices, as far as its steps allow. GFLOPs are those of one slice of a "
    "streamed volume; peak memory is that of the cell's process, on a GPU of its tensors there."
)


def page(table: StudyTable, found: Sequence[Found]) -> str:
    """The page.

    Args:
        table: What is there.
        found: Its numbers.
    """
    parts = [f"# {table.title}" + (f" ({table.paper})" if table.paper else ""), table.question]
    left = sum(len(row.unfinished) for row in table.rows)
    cells = left + sum(len(row.results) for row in table.rows)
    if left:
        parts.append(
            f"**Unfinished: {cells - left} of {count_of(cells, 'cell')} done.** What is missing is said below."
        )
    parts += [_scores(table, found), _METHOD + _TESTED[table.kind], "![The table as a plot](table.png)"]
    if any(one.against for one in found):
        parts += ["## Against the baseline", _tests(table, found)]
    parts += ["## What it took", _costs(found), _BUDGET]
    if table.notes:
        parts += ["## About the paper's numbers", "\n".join(f"- {note}" for note in table.notes)]
    if left:
        parts += ["## Not there yet", "\n".join(_missing(table))]
    parts += ["## Commands", _commands(table), _provenance(table)]
    return "\n\n".join(parts) + "\n"


def markdown(table: Table) -> str:
    """A table's rows in Markdown; the caption is left to the text around it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    body = [
        [column.text(cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows
    ]
    heads = [column.title for column in table.columns]
    return "\n".join(map(line, [heads, ["---"] * len(heads), *body]))


def _scores(table: StudyTable, found: Sequence[Found]) -> str:
    columns = [Column("Row"), Column("Seeds")]
    quoted = any(one.row.paper for one in found)
    for title in table.metrics.values():
        columns += [Column(title, ".1f"), Column("95 %")] + ([Column("paper", ".1f")] if quoted else [])
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        cells: list[Cell] = [one.row.title, one.row.state]
        for metric in table.metrics:
            estimate = one.values[metric]
            ends = (
                None
                if estimate.interval is None
                else [shown(metric, end) or 0.0 for end in estimate.interval]
            )
            cells += [shown(metric, estimate.value), span(ends, ".1f")]
            cells += [one.row.paper.get(metric)] if quoted else []
        rows.append(tuple(cells))
    return markdown(Table(table.title, tuple(columns), tuple(rows)))


def _tests(table: StudyTable, found: Sequence[Found]) -> str:
    titles = {one.row.key: one.row.title for one in found}
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        for metric, contrast in one.against.items():
            ends = (
                None
                if contrast.interval is None
                else [shown(metric, end) or 0.0 for end in contrast.interval]
            )
            rows.append(
                (
                    one.row.title,
                    titles[one.row.baseline or ""],
                    table.metrics[metric],
                    shown(metric, contrast.value),
                    span(ends, "+.1f"),
                    contrast.p,
                    one.corrected[metric],
                    contrast.seeds,
                    "yes" if one.stands(metric) else "no",
                )
            )
    columns = (
        Column("Row"),
        Column("Against"),
        Column("Measure"),
        Column("Difference", "+.1f"),
        Column("95 %"),
        Column("p", ".2g"),
        Column("p (Holm)", ".2g"),
        Column("Seeds", "d"),
        Column("Stands"),
    )
    return markdown(Table("Against the baseline", columns, tuple(rows)))


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
    return markdown(Table("What it took", columns, tuple(rows)))


def _missing(table: StudyTable) -> list[str]:
    lines = []
    for row in table.rows:
        for cell in row.unfinished:
            reason = "unfinished" if cell.reason is None else f"failed: {cell.reason}"
            lines.append(f"- {row.title}, seed {cell.seed}: {reason}")
    return lines


def _commands(table: StudyTable) -> str:
    seeds = ",".join(map(str, table.seeds))
    commands = [row.results[seed]["command"] for row in table.rows for seed in sorted(row.results)]
    lines = [f"{table.command} --seeds {seeds} -o OUT"]
    if commands:
        lines += ["", "# each cell by itself, in the study's folder:", *commands]
    return "\n".join(["```", *lines, "```"])


def _provenance(table: StudyTable) -> str:
    results = [result for row in table.rows for result in row.results.values()]
    commits = sorted({result["commit"] or "unknown" for result in results})
    installed = sorted(
        {", ".join(f"{name} {version}" for name, version in one["versions"].items()) for one in results}
    )
    if not results:
        return "Nothing is finished yet."
    return f"Commit {', '.join(commits)}. Versions: {'; '.join(installed)}."
