"""How well one mask matches another: overlap and surface, as the LiTS challenge counts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np

from volattn.evaluation.overlap import Overlap
from volattn.evaluation.surface import SurfaceDistances

FAR = 9001.0
"""What the challenge's scorer writes where there is nothing to measure."""
TOLERANCE_MM = 2.0
"""Of the normalised surface Dice."""


@dataclass(frozen=True)
class MaskScore:
    """Scores of one pair of masks, or means of several.

    Attributes:
        dice: 2 |R and P| / (|R| + |P|).
        jaccard: |R and P| / |R or P|.
        voe: 1 - Jaccard.
        rvd: (|R| - |P|) / |P|, as the challenge's scorer has it.
        rvd_conventional: (|P| - |R|) / |R|, as it is usually defined.
        assd: Average symmetric surface distance, mm.
        rmsd: Root mean square symmetric surface distance, mm.
        msd: Maximum symmetric surface distance, mm.
        surface_dice_2mm: Share of the surfaces' voxels that are at most 2 mm from the other surface.
    """

    dice: float
    jaccard: float
    voe: float
    rvd: float
    rvd_conventional: float
    assd: float
    rmsd: float
    msd: float
    surface_dice_2mm: float

    @classmethod
    def of(cls, overlap: Overlap, distances: SurfaceDistances | None) -> MaskScore:
        """What the overlap of two masks and the distances between their surfaces come to.

        Args:
            overlap: Of the masks.
            distances: Of their surfaces; None if one of the masks is empty, which scores `NOTHING`.
        """
        if distances is None:
            return NOTHING
        conventional = overlap.volume_difference
        assert conventional is not None
        return cls(
            dice=overlap.dice,
            jaccard=overlap.jaccard,
            voe=1 - overlap.jaccard,
            rvd=(overlap.reference - overlap.prediction) / overlap.prediction,
            rvd_conventional=conventional,
            assd=distances.mean,
            rmsd=distances.root_mean_square,
            msd=distances.maximum,
            surface_dice_2mm=distances.share_within(TOLERANCE_MM),
        )

    @classmethod
    def mean(cls, scores: Sequence[MaskScore]) -> MaskScore:
        """The mean of each value; `NOTHING` if there is no score."""
        if not scores:
            return NOTHING
        names = [field.name for field in fields(cls)]
        return cls(**{name: float(np.mean([getattr(score, name) for score in scores])) for name in names})

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


NOTHING = MaskScore(0.0, 0.0, 1.0, FAR, FAR, FAR, FAR, FAR, 0.0)
"""Where one of the masks is empty, as the challenge's scorer has it."""


def surface_dice(overlap: Overlap, distances: SurfaceDistances | None) -> float:
    """Normalised surface Dice at 2 mm: 1 if both masks are empty, 0 if one of them is.

    Args:
        overlap: Of the masks.
        distances: Of their surfaces; None if one of the masks is empty.
    """
    if distances is None:
        return float(overlap.reference == overlap.prediction == 0)
    return distances.share_within(TOLERANCE_MM)
