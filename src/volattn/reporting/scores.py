"""Scores as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volattn.evaluation.cases import CaseScore
from volattn.evaluation.lesionwise import SIZES, Size
from volattn.evaluation.summary import SizeScore
from volattn.reporting.tables import Cell, Column, Table, span

SIZE_NAMES: dict[Size, str] = {
    "small": "small (< 15 mm)",
    "medium": "medium (15-30 mm)",
    "large": "large (> 30 mm)",
}
"""How the sizes are shown."""


@dataclass(frozen=True)
class CaseRow:
    """What a table says of a case.

    Attributes:
        name: The case.
        organ_dice: None for data with lesions only.
        lesion_dice: Of all lesions together.
        lesions: Of the reference.
        found: Those that the prediction overlaps.
        false_positives: Predicted lesions that overlap none.
        lesion_ml: Volume of all lesions.
        predicted_ml: The same of the prediction.
        trained_on: Whether the model was trained on it.
    """

    name: str
    organ_dice: float | None
    lesion_dice: float
    lesions: int
    found: int
    false_positives: int
    lesion_ml: float
    predicted_ml: float
    trained_on: bool = False

    @classmethod
    def of(cls, case: CaseScore) -> CaseRow:
        """Of a score."""
        return cls(
            name=case.name,
            organ_dice=None if case.organ is None else case.organ.dice,
            lesion_dice=case.lesion.dice,
            lesions=len(case.lesionwise.lesions),
            found=sum(lesion.found for lesion in case.lesionwise.lesions),
            false_positives=case.lesionwise.false_positives,
            lesion_ml=case.lesion.reference * case.voxel_ml,
            predicted_ml=case.lesion.prediction * case.voxel_ml,
            trained_on=case.trained_on,
        )


def case_table(
    cases: Sequence[CaseRow],
    *,
    organ: str | None,
    ceilings: Sequence[float] | None = None,
    caption: str = "Case by case",
) -> Table:
    """One row per case, the means of several below.

    Args:
        cases: In the order of the rows; at least one.
        organ: The organ's name; None for data with lesions only.
        ceilings: In the same order, the lesion Dice that the reference masks themselves keep at the model's resolution.
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

    def row(name: str, case: CaseRow, ceiling: float | None, false_positives: float) -> tuple[Cell, ...]:
        return (
            name,
            *(() if organ is None else (case.organ_dice,)),
            case.lesion_dice,
            *(() if ceilings is None else (ceiling,)),
            f"{case.found} of {case.lesions}",
            false_positives,
            case.lesion_ml,
            case.predicted_ml,
        )

    rows = tuple(
        row(
            case.name + (" (trained on)" if case.trained_on else ""),
            case,
            None if ceilings is None else ceilings[place],
            case.false_positives,
        )
        for place, case in enumerate(cases)
    )
    if len(cases) < 2:
        return Table(caption, tuple(columns), rows)
    organs = [case.organ_dice for case in cases if case.organ_dice is not None]
    mean = CaseRow(
        name="",
        organ_dice=_mean(organs) if organs else None,
        lesion_dice=_mean([case.lesion_dice for case in cases]),
        lesions=sum(case.lesions for case in cases),
        found=sum(case.found for case in cases),
        false_positives=sum(case.false_positives for case in cases),
        lesion_ml=_mean([case.lesion_ml for case in cases]),
        predicted_ml=_mean([case.predicted_ml for case in cases]),
    )
    foot = row(
        f"Mean of {len(cases)}",
        mean,
        None if ceilings is None else _mean(ceilings),
        round(mean.false_positives / len(cases), 2),
    )
    return Table(caption, tuple(columns), rows, (foot,))


def size_table(
    sizes: Mapping[Size, SizeScore],
    all_sizes: SizeScore,
    *,
    intervals: Mapping[str, Mapping[str, Any]] | None = None,
    caption: str = "Lesion by lesion, by largest axial extent",
) -> Table:
    """Dice per lesion and recall by size, with the counts behind them.

    Args:
        sizes: Of each size.
        all_sizes: Of all lesions together.
        intervals: By size and "all", those of "recall" and "dice"; not shown by default.
        caption: Of the table.
    """

    def row(title: str, size: str, score: SizeScore) -> tuple[Cell, ...]:
        recall, dice = (
            ((),) * 2
            if intervals is None
            else ((span(intervals[size][key], form),) for key, form in (("recall", ".2f"), ("dice", ".3f")))
        )
        return (title, score.lesions, score.found, score.recall, *recall, score.dice, *dice)

    between = () if intervals is None else (Column("95 %"),)
    return Table(
        caption,
        (
            Column("Size"),
            Column("Lesions", "d"),
            Column("Found", "d"),
            Column("Recall", ".2f"),
            *between,
            Column("Dice", ".3f"),
            *between,
        ),
        tuple(row(SIZE_NAMES[size], size, sizes[size]) for size in SIZES),
        (row("all", "all", all_sizes),),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
