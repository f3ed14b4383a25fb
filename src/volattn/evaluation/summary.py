"""Scores over cases, every mean with the number behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from volattn.evaluation.cases import CaseScore
from volattn.evaluation.lesionwise import SIZES, LesionScore, Size
from volattn.evaluation.overlap import Overlap


@dataclass(frozen=True)
class SizeScore:
    """The reference lesions of one size, pooled over the cases.

    Attributes:
        lesions: How many there are.
        found: How many the prediction overlaps.
        dice: Mean Dice per lesion, missed ones 0; None without lesions.
    """

    lesions: int
    found: int
    dice: float | None

    @classmethod
    def of(cls, lesions: Sequence[LesionScore]) -> SizeScore:
        """Pools lesions."""
        return cls(
            lesions=len(lesions),
            found=sum(lesion.found for lesion in lesions),
            dice=_mean(lesion.dice for lesion in lesions),
        )

    @property
    def recall(self) -> float | None:
        """Share found; None without lesions."""
        return self.found / self.lesions if self.lesions else None


@dataclass(frozen=True)
class ClassScore:
    """Overlap of one class over the cases.

    Attributes:
        dice_per_case: Mean over the cases, each counting the same.
        dice_global: Over the voxels of all cases together.
    """

    dice_per_case: float
    dice_global: float


@dataclass(frozen=True)
class Summary:
    """Scores over cases.

    Attributes:
        cases: How many.
        trained_on: How many of them the model was trained on.
        organ: None for data with lesions only.
        lesion: Of the lesion class.
        sizes: Lesion by lesion, by size.
        all_sizes: The same for all lesions together.
        false_positives_per_case: Mean number of predicted components that overlap no reference lesion.
    """

    cases: int
    trained_on: int
    organ: ClassScore | None
    lesion: ClassScore
    sizes: dict[Size, SizeScore]
    all_sizes: SizeScore
    false_positives_per_case: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        values["all_sizes"]["recall"] = self.all_sizes.recall
        for name, size in self.sizes.items():
            values["sizes"][name]["recall"] = size.recall
        return values


def summarise(cases: Sequence[CaseScore]) -> Summary:
    """Pools the scores of cases.

    Raises:
        ValueError: There is no case.
    """
    if not cases:
        raise ValueError(
            "there are no scored cases to summarise; check that references and predictions share names"
        )
    organs = [case.organ for case in cases if case.organ is not None]
    lesions = [lesion for case in cases for lesion in case.lesionwise.lesions]
    return Summary(
        cases=len(cases),
        trained_on=sum(case.trained_on for case in cases),
        organ=_class_score(organs) if organs else None,
        lesion=_class_score([case.lesion for case in cases]),
        sizes={size: SizeScore.of([lesion for lesion in lesions if lesion.size == size]) for size in SIZES},
        all_sizes=SizeScore.of(lesions),
        false_positives_per_case=sum(case.lesionwise.false_positives for case in cases) / len(cases),
    )


def _class_score(overlaps: Sequence[Overlap]) -> ClassScore:
    return ClassScore(
        dice_per_case=sum(overlap.dice for overlap in overlaps) / len(overlaps),
        dice_global=reduce(Overlap.__add__, overlaps).dice,
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None
