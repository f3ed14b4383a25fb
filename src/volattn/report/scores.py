"""Scores as tables.

LiTS scores as tables.

Scores of detections as a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from volattn.io.names import count_of
from volattn.report.pages import Cell, Column, Table, span
from volattn.scoring.cases import CaseScore, SizeScore
from volattn.scoring.lesions import SIZES, Size

SIZE_NAMES: dict[Size, str] = {"small": "small (< 15 mm)", "medium": "medium (15-30 mm)", "large": "large (> 30 mm)"}
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


_MASK = (
    ("Dice", "dice"),
    ("VOE", "voe"),
    ("RVD", "rvd"),
    ("ASSD, mm", "assd"),
    ("RMSD, mm", "rmsd"),
    ("MSD, mm", "msd"),
    ("Surface Dice, 2 mm", "surface_dice_2mm"),
    ("Dice per case", "dice_per_case"),
    ("Dice global", "dice_global"),
)
_OVERLAPS = (("0", "_greater_zero"), ("0.5", ""))


def lits_tables(content: Mapping[str, Any]) -> tuple[Table, ...]:
    """What the challenge scores, its detection, case by case and size by size.

    Args:
        content: What `evaluate lits` writes.
    """
    return (
        _challenge_table(content),
        _detection_table(content),
        case_table([_row(case) for case in content["cases"]], organ=None if content["liver"] is None else "liver"),
        size_table(
            {size: _size(content["by_size"][size]) for size in SIZES},
            _size(content["all_sizes"]),
            intervals=content["intervals"]["by_size"] | {"all": content["intervals"]["all_sizes"]},
        ),
    )


def _row(case: Mapping[str, Any]) -> CaseRow:
    lesions, volume = case["reference_lesions"], case["volume_ml"]["lesion"]
    return CaseRow(
        name=case["name"],
        organ_dice=case["liver_dice"],
        lesion_dice=case["lesion_dice"],
        lesions=len(lesions),
        found=sum(lesion["dice"] > 0 for lesion in lesions),
        false_positives=case["false_positives"],
        lesion_ml=volume["reference"],
        predicted_ml=volume["prediction"],
        trained_on=case["trained_on"],
    )


def _size(score: Mapping[str, Any]) -> SizeScore:
    return SizeScore(score["lesions"], score["found"], score["dice"])


def _challenge_table(content: Mapping[str, Any]) -> Table:
    columns = [Column("Score")]
    rows: list[tuple[Cell, ...]] = [(title,) for title, _ in _MASK]
    for title, key in (("Lesion", "lesion"), ("Liver", "liver")):
        if content[key] is None:
            continue
        columns += [Column(title, ".4f"), Column("95 %")]
        values, ends = content[key], content["intervals"][key]
        rows = [(*row, values[score], span(ends[score], ".4f")) for row, (_, score) in zip(rows, _MASK, strict=True)]
    cases, bootstrap = len(content["cases"]), content["bootstrap"]
    return Table(
        f"As the LiTS challenge scores {count_of(cases, 'case')} (lesions: those detected); 95 % "
        f"intervals by bootstrap over {bootstrap['over']}, seed {bootstrap['seed']}",
        tuple(columns),
        tuple(rows),
    )


def _detection_table(content: Mapping[str, Any]) -> Table:
    scores, ends = content["lesion_detection"], content["intervals"]["lesion_detection"]

    def row(threshold: str, suffix: str) -> tuple[Cell, ...]:
        counts = content["counts"][threshold]
        recall, precision, f1 = (f"{key}{suffix}" for key in ("recall", "precision", "f1"))
        return (
            f"> {threshold}",
            scores[recall],
            span(ends[recall], ".3f"),
            f"{counts['TP']} of {counts['references']}",
            scores[precision],
            span(ends[precision], ".3f"),
            f"{counts['predictions_taking_part']} of {counts['predictions']}",
            scores[f1],
            span(ends[f1], ".3f"),
        )

    return Table(
        "Lesion detection",
        (
            Column("Overlap"),
            Column("Recall", ".3f"),
            Column("95 %"),
            Column("Detected"),
            Column("Precision", ".3f"),
            Column("95 %"),
            Column("Right"),
            Column("F1", ".3f"),
            Column("95 %"),
        ),
        tuple(row(threshold, suffix) for threshold, suffix in _OVERLAPS),
    )


PRECISIONS = {"ap50": "AP50", "average_precision": "AP"}
"""How average precisions are shown."""


def detection_table(content: Mapping[str, Any], caption: str) -> Table:
    """Sensitivities at false positives per image, all lesions first and then group by group.

    Args:
        content: What `evaluate deeplesion` or `evaluate detection` writes.
        caption: Of the table.
    """
    unit = "image" if "images" in content else "scan"
    sensitivities = f"sensitivity_at_fp_per_{unit}"
    precisions = [key for key in PRECISIONS if key in content]

    def cells(values: Mapping[str, Any]) -> list[Any]:
        return [*values[sensitivities].values(), values["mean_sensitivity"], *(values[key] for key in precisions)]

    columns = (
        Column("Lesions"),
        Column("Count", "d"),
        *(Column(f"{level} FP", ".3f") for level in content[sensitivities]),
        Column("Mean", ".3f"),
        *(Column(PRECISIONS[key], ".3f") for key in precisions),
    )
    rows: list[tuple[Cell, ...]] = [("all", content["lesions"], *cells(content))]
    for key, groups in content.items():
        if key.startswith("by_"):
            kind = key.removeprefix("by_").replace("_", " ")
            rows += [(f"{kind} {name}", group["lesions"], *cells(group)) for name, group in groups.items()]
    ends = cells(content["intervals"])
    foot: list[tuple[Cell, ...]] = [
        (f"all, 95 % {word}", None, *(None if pair is None else pair[place] for pair in ends))
        for place, word in enumerate(("from", "to"))
    ]
    counted = ", ".join(count_of(content[f"{thing}s"], thing) for thing in ("lesion", unit, "patient"))
    return Table(f"{caption}: sensitivity at false positives per {unit} ({counted})", columns, tuple(rows), tuple(foot))
