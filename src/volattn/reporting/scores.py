"""Scores as tables."""

from __future__ import annotations

from collections.abc import Sequence

from volattn.evaluation.cases import CaseScore
from volattn.evaluation.lesionwise import SIZES, Size
from volattn.evaluation.summary import Summary
from volattn.reporting.tables import Cell, Column, Table

SIZE_NAMES: dict[Size, str] = {
    "small": "small (< 15 mm)",
    "medium": "medium (15-30 mm)",
    "large": "large (> 30 mm)",
}
"""How the sizes are shown."""


def case_table(
    cases: Sequence[CaseScore],
    summary: Summary,
    *,
    organ: str | None,
    ceilings: Sequence[CaseScore] | None = None,
    caption: str = "Case by case",
) -> Table:
    """One row per case, the means of several below.

    Args:
        cases: In the order of the rows.
        summary: Of these cases.
        organ: The organ's name; None for data with lesions only.
        ceilings: In the same order, what the reference masks themselves keep at the model's resolution.
        caption: Of the table.
    """
    columns = [Column("Case")]
    if organ is not None:
        columns.append(Column(f"{organ.capitalize()} Dice", ".3f"))
    columns.append(Column("Lesion Dice", ".3f"))
    if ceilings is not None:
        columns.append(Column("Ceiling", ".3f"))
    columns += [
        Column("Lesions found"),
        Column("False positives", "g"),
        Column("Lesion ml", ".1f"),
        Column("Predicted ml", ".1f"),
    ]
    rows: list[tuple[Cell, ...]] = []
    for index, case in enumerate(cases):
        row: list[Cell] = [case.name + (" (trained on)" if case.trained_on else "")]
        if organ is not None:
            row.append(None if case.organ is None else case.organ.dice)
        row.append(case.lesion.dice)
        if ceilings is not None:
            row.append(ceilings[index].lesion.dice)
        lesions = case.lesionwise.lesions
        row += [
            f"{sum(lesion.found for lesion in lesions)} of {len(lesions)}",
            case.lesionwise.false_positives,
            case.lesion.reference * case.voxel_ml,
            case.lesion.prediction * case.voxel_ml,
        ]
        rows.append(tuple(row))

    mean: list[Cell] = [f"Mean of {summary.cases}"]
    if organ is not None:
        mean.append(None if summary.organ is None else summary.organ.dice_per_case)
    mean.append(summary.lesion.dice_per_case)
    if ceilings is not None:
        mean.append(sum(case.lesion.dice for case in ceilings) / len(ceilings))
    mean += [
        f"{summary.all_sizes.found} of {summary.all_sizes.lesions}",
        round(summary.false_positives_per_case, 2),
        sum(case.lesion.reference * case.voxel_ml for case in cases) / len(cases),
        sum(case.lesion.prediction * case.voxel_ml for case in cases) / len(cases),
    ]
    return Table(caption, tuple(columns), tuple(rows), (tuple(mean),) if len(cases) > 1 else ())


def size_table(summary: Summary, *, caption: str = "Lesion by lesion, by largest axial extent") -> Table:
    """Dice per lesion and recall by size, with the counts behind them."""
    pooled = [(SIZE_NAMES[size], summary.sizes[size]) for size in SIZES]
    return Table(
        caption,
        (
            Column("Size"),
            Column("Lesions", "d"),
            Column("Found", "d"),
            Column("Recall", ".2f"),
            Column("Dice", ".3f"),
        ),
        tuple((name, score.lesions, score.found, score.recall, score.dice) for name, score in pooled),
        (
            (
                "all",
                summary.all_sizes.lesions,
                summary.all_sizes.found,
                summary.all_sizes.recall,
                summary.all_sizes.dice,
            ),
        ),
    )
