"""How sure the pooled scores of LiTS cases are: bootstrap over cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volattn.evaluation.lesion_detection import Counts
from volattn.evaluation.lesionwise import SIZES, LesionScore
from volattn.evaluation.lits import LitsCase
from volattn.evaluation.mask_scores import MaskScore
from volattn.evaluation.overlap import Overlap
from volattn.evaluation.statistics import percentile_interval, resamples

Interval = list[float] | None
"""Lower and upper end."""


def lits_intervals(cases: Sequence[LitsCase], seed: int) -> dict[str, Any]:
    """95 % intervals of the pooled scores, under the keys that the scores have in `scores.json`.

    Every pooled score is a sum over the cases by another one (the mean Dice of lesions: the sum of their Dice by their
    number), or made of such quotients, so that a sample of cases is a weighting of two columns. The signed maximum of
    the tumour burden has no interval: a sample never exceeds the largest value that was seen.

    Args:
        cases: At least one, each taken for a patient.
        seed: Of the bootstrap.

    Returns:
        Nested keys, each with an interval, or None where there is none; all are None with one case.
    """
    samples = _Samples(len(cases), seed)
    livers = [case.liver for case in cases if case.liver is not None]
    lesions = [case.score.lesionwise.lesions for case in cases]
    return {
        "lesion_detection": samples.detection([case.detection[0.5] for case in cases])
        | samples.detection([case.detection[0.0] for case in cases], "_greater_zero"),
        "lesion": samples.scores([case.scored for case in cases])
        | samples.whole(
            [case.score.lesion for case in cases],
            [case.score.lesion.dice for case in cases],
            [case.lesion_surface_dice_2mm for case in cases],
        ),
        "liver": samples.scores([[liver.score] for liver in livers])
        | samples.whole(
            [liver.overlap for liver in livers],
            [liver.score.dice for liver in livers],
            [liver.score.surface_dice_2mm for liver in livers],
        )
        if livers
        else None,
        "tumor_burden": {
            "rmse": samples.interval(
                np.sqrt(samples.quotient((liver.burden_difference**2, 1) for liver in livers))
            )
        }
        if livers
        else None,
        "detected_lesion": samples.scores([case.detected for case in cases]),
        "by_size": {
            size: samples.lesions([[one for one in of_case if one.size == size] for of_case in lesions])
            for size in SIZES
        },
        "all_sizes": samples.lesions(lesions),
        "false_positives_per_case": samples.mean([case.score.lesionwise.false_positives] for case in cases),
    }


class _Samples:
    """Bootstrap samples of cases; every list has an entry for each case, in one order."""

    def __init__(self, cases: int, seed: int) -> None:
        self._cases = cases
        self._weights = np.stack(list(resamples(cases, seed)))

    def quotient(self, parts: Iterable[tuple[float, float]]) -> NDArray[np.float64]:
        """(B,) of each sample, from what each case adds above and below; NaN where the sum below is 0."""
        above, below = (self._weights @ np.array(list(parts), dtype=np.float64)).T
        return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)

    def interval(self, values: NDArray[np.float64]) -> Interval:
        """Of (B,) values; samples that have none do not count."""
        low, high = percentile_interval(values).tolist()
        return None if self._cases < 2 or np.isnan(low) else [low, high]

    def mean(self, values: Iterable[Sequence[float]]) -> Interval:
        """Of the mean of what all cases have together."""
        return self.interval(self.quotient((sum(of_case), len(of_case)) for of_case in values))

    def means(self, things: Sequence[Sequence[Any]], **values: Callable[[Any], float]) -> dict[str, Interval]:
        """Of the means of several values of the things that each case has."""
        return {
            name: self.mean([value(thing) for thing in of_case] for of_case in things)
            for name, value in values.items()
        }

    def scores(self, scores: Sequence[Sequence[MaskScore]]) -> dict[str, Interval]:
        """Of the mean of each score."""
        return self.means(scores, **{field.name: attrgetter(field.name) for field in fields(MaskScore)})

    def lesions(self, lesions: Sequence[Sequence[LesionScore]]) -> dict[str, Interval]:
        """Of Dice per lesion and recall."""
        return self.means(lesions, dice=attrgetter("dice"), recall=attrgetter("found"))

    def whole(
        self, overlaps: Sequence[Overlap], dices: Sequence[float], surfaces: Sequence[float]
    ) -> dict[str, Interval]:
        """Of the scores of a class's whole masks."""
        shared = self.quotient((2 * one.both, one.reference + one.prediction) for one in overlaps)
        return {
            "dice_per_case": self.mean([dice] for dice in dices),
            "dice_global": self.interval(shared),
            "surface_dice_2mm_per_case": self.mean([value] for value in surfaces),
        }

    def detection(self, counts: Sequence[Counts], suffix: str = "") -> dict[str, Interval]:
        """Of precision, recall and F1, which is 0 where one of the two is or cannot be."""
        precision = self.quotient((one.taking_part, one.predictions) for one in counts)
        recall = self.quotient((one.detected, one.references) for one in counts)
        total = precision + recall
        f1 = np.divide(2 * precision * recall, total, out=np.zeros(len(total)), where=total > 0)
        return {
            f"precision{suffix}": self.interval(precision),
            f"recall{suffix}": self.interval(recall),
            f"f1{suffix}": self.interval(f1),
        }
