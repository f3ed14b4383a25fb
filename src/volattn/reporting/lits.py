"""LiTS scores as tables."""

from __future__ import annotations

from volattn.evaluation.lits_summary import LitsScores
from volattn.reporting.scores import case_table, size_table
from volattn.reporting.tables import Cell, Column, Table

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


def lits_tables(scores: LitsScores) -> tuple[Table, ...]:
    """What the challenge scores, its detection, case by case and size by size."""
    summary = scores.summary
    return (
        _challenge_table(scores),
        _detection_table(scores),
        case_table([case.score for case in scores.cases], summary, organ=_organ(scores)),
        size_table(summary),
    )


def _organ(scores: LitsScores) -> str | None:
    return None if scores.liver is None else "liver"


def _challenge_table(scores: LitsScores) -> Table:
    columns = [Column("Score"), Column("Lesion", ".4f")]
    lesion = scores.lesion.as_json()
    liver = None if scores.liver is None else scores.liver.as_json()
    rows: list[tuple[Cell, ...]] = [(title, lesion[key]) for title, key in _MASK]
    if liver is not None:
        columns.append(Column("Liver", ".4f"))
        rows = [(*row, liver[key]) for row, (_, key) in zip(rows, _MASK, strict=True)]
    return Table(
        f"As the LiTS challenge scores {len(scores.cases)} cases (lesions: those detected)",
        tuple(columns),
        tuple(rows),
    )


def _detection_table(scores: LitsScores) -> Table:
    return Table(
        "Lesion detection",
        (
            Column("Overlap"),
            Column("Recall", ".3f"),
            Column("Detected"),
            Column("Precision", ".3f"),
            Column("Right"),
            Column("F1", ".3f"),
        ),
        tuple(
            (
                f"> {threshold:g}",
                counts.recall,
                f"{counts.detected} of {counts.references}",
                counts.precision,
                f"{counts.taking_part} of {counts.predictions}",
                counts.f1,
            )
            for threshold, counts in scores.counts.items()
        ),
    )
