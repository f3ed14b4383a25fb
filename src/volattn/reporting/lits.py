"""LiTS scores as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from volattn.evaluation.lesionwise import SIZES
from volattn.evaluation.summary import SizeScore
from volattn.io.names import count_of
from volattn.reporting.scores import CaseRow, case_table, size_table
from volattn.reporting.tables import Cell, Column, Table, span

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
        case_table(
            [_row(case) for case in content["cases"]], organ=None if content["liver"] is None else "liver"
        ),
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
        rows = [
            (*row, values[score], span(ends[score], ".4f"))
            for row, (_, score) in zip(rows, _MASK, strict=True)
        ]
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
