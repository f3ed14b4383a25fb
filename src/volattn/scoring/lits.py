"""One case scored as by the LiTS challenge's public scorer, and beyond it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from volattn.datasets.case import ORGAN, LabelScheme
from volattn.io.readers import read_labels, stated_spacing
from volattn.scoring.cases import CaseScore, score_pair
from volattn.scoring.lesions import THRESHOLDS, Counts, Detection, detect, detect_as_scorer, scorer_ids
from volattn.scoring.overlap import LabelPair, Overlap, SurfaceDistances, Surfaces
from volattn.scoring.pairing import trained_on as noted_as_trained_on

SCORED_ABOVE = 0.5
"""Lesions detected at more than this overlap are scored one by one."""
FAR = 9001.0
"""The value that the challenge's scorer writes where there is nothing to measure."""
TOLERANCE_MM = 2.0
"""Of the normalised surface Dice."""


@dataclass(frozen=True)
class MaskScore:
    """Scores of one pair of masks.

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
        """Scores masks by their overlap and surfaces; `distances` is None, and the score `NOTHING`, if one is empty."""
        if distances is None:
            return NOTHING
        return cls(
            dice=overlap.dice,
            jaccard=overlap.jaccard,
            voe=1 - overlap.jaccard,
            rvd=(overlap.reference - overlap.prediction) / overlap.prediction,
            rvd_conventional=(overlap.prediction - overlap.reference) / overlap.reference,
            assd=distances.mean,
            rmsd=distances.root_mean_square,
            msd=distances.maximum,
            surface_dice_2mm=distances.share_within(TOLERANCE_MM),
        )


NOTHING = MaskScore(0.0, 0.0, 1.0, FAR, FAR, FAR, FAR, FAR, 0.0)
"""Where one of the masks is empty, as the challenge's scorer has it."""


def organ_label(organ: int | Literal["none"] | None, lesion: int) -> int | None:
    """The label of the organ, None for masks of lesions only; by default 1, or None where that is the lesions'."""
    if organ is None:
        return None if lesion == 1 else 1
    return None if organ == "none" or organ == 0 else organ


def lits_scheme(organ: int | None = 1, lesion: int = 2) -> LabelScheme:
    """What label values mean: that of the liver without its lesions (None for masks of lesions only), and of lesions.

    Raises:
        ValueError: The values are the same, or not from 1 to 255.
    """
    values = [value for value in (organ, lesion) if value is not None]
    if len(set(values)) < len(values) or not all(0 < value < 256 for value in values):
        shown = " and ".join(map(str, values))
        raise ValueError(f"labels are different whole numbers from 1 to 255, found {shown}; correct them")
    if organ is None:
        return LabelScheme(lesion_values=(lesion,))
    return LabelScheme(organ_name="liver", organ_values=(organ,), lesion_values=(lesion,))


@dataclass(frozen=True)
class Liver:
    """The liver of a case, or another organ, as the challenge's scorer takes it.

    Attributes:
        labelled: Whether a voxel of the prediction equals the liver's label. The scorer takes a prediction without
            one as a prediction without a liver, lesions or not.
        overlap: Voxels of the liver with its lesions.
        score: Of those masks.
        reference_burden: Lesion voxels of the reference by its liver-or-lesion voxels; 0 if it has none.
        predicted_burden: The same of the prediction; 9001 without a liver.
    """

    labelled: bool
    overlap: Overlap
    score: MaskScore
    reference_burden: float
    predicted_burden: float

    @property
    def burden_difference(self) -> float:
        """Of the tumour burden, reference - prediction."""
        return self.reference_burden - self.predicted_burden

    @classmethod
    def of(cls, pair: LabelPair, score: CaseScore, spacing: tuple[float, float, float]) -> Liver:
        overlap, lesion = score.organ, score.lesion
        assert overlap is not None
        labelled = bool((pair.prediction == ORGAN).any())
        return cls(
            labelled=labelled,
            overlap=overlap if labelled else Overlap(overlap.reference, 0, 0),
            score=MaskScore.of(overlap, Surfaces(*pair.organ, spacing).distances()) if labelled else NOTHING,
            reference_burden=lesion.reference / overlap.reference if overlap.reference else 0.0,
            predicted_burden=lesion.prediction / overlap.prediction if labelled else FAR,
        )


@dataclass(frozen=True)
class LitsCase:
    """The scores of one case.

    Attributes:
        liver: None for masks of lesions only.
        lesion_surface_dice_2mm: Of all lesions together.
        detection: Lesions counted at each overlap, as the mode has it.
        scored: Each lesion that the challenge's scorer detects (> 0.5).
        detected: Each lesion that is detected by the union of what was merged (> 0.5).
    """

    score: CaseScore
    liver: Liver | None
    lesion_surface_dice_2mm: float
    detection: dict[float, Counts]
    scored: tuple[MaskScore, ...]
    detected: tuple[MaskScore, ...]
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Every number that the pooled scores are made of."""
        plain, lesion, liver = self.score.as_json(), self.score.lesion, self.liver
        volumes = {
            name: plain[part] and {"reference": plain[part]["reference_ml"], "prediction": plain[part]["prediction_ml"]}
            for name, part in (("liver", "organ"), ("lesion", "lesion"))
        }
        return {
            "name": plain["name"],
            "trained_on": plain["trained_on"],
            "liver_dice": None if liver is None else liver.score.dice,
            "lesion_dice": lesion.dice,
            "liver": None
            if liver is None
            else {"labelled": liver.labelled, "voxels": asdict(liver.overlap), **asdict(liver.score)},
            "lesion": {
                "voxels": asdict(lesion),
                "dice": lesion.dice,
                "jaccard": lesion.jaccard,
                "surface_dice_2mm": self.lesion_surface_dice_2mm,
            },
            "tumor_burden": None
            if liver is None
            else {
                "reference": liver.reference_burden,
                "prediction": liver.predicted_burden,
                "difference": liver.burden_difference,
            },
            "volume_ml": volumes,
            "counts": {f"{threshold:g}": counts.as_json() for threshold, counts in self.detection.items()},
            "scored_lesions": [asdict(score) for score in self.scored],
            "detected_lesions": [asdict(score) for score in self.detected],
            **{key: plain[key] for key in ("reference_lesions", "predicted_lesions", "false_positives")},
        }


def score_lits_files(
    name: str, reference: Path, prediction: Path, scheme: LabelScheme, *, strict: bool = False, trust_grid: bool = False
) -> LitsCase:
    """Reads and scores one case.

    Args:
        scheme: What the values of both mean (`lits_scheme`).
        strict: See `score_lits`; distances are then measured with the header's pixdim, as the scorer does.
        trust_grid: Compares voxels as they lie, whatever the prediction's grid says.

    Raises:
        ValueError: A file cannot be read, the grids differ, a label is unknown, or see `score_lits`.
    """
    wanted, found = read_labels(reference), read_labels(prediction)
    way_out = ", or say with --organ and --lesion which ones to take"
    called = str(reference), str(prediction)
    pair = LabelPair.of(wanted, found, (scheme, scheme), called, way_out=way_out, trust_grid=trust_grid)
    spacing = stated_spacing(wanted) if strict else wanted.geometry.spacing
    z, y, x = (spacing[axis] for axis in pair.turn.axes)
    liver, seen = scheme.organ_name is not None, noted_as_trained_on(prediction)
    try:
        return score_lits(name, pair, (z, y, x), liver=liver, strict=strict, trained_on=seen)
    except ValueError as error:
        raise ValueError(f"{reference}: {error}") from None


def score_lits(
    name: str,
    pair: LabelPair,
    spacing: tuple[float, float, float],
    *,
    liver: bool = True,
    strict: bool = False,
    trained_on: bool = False,
) -> LitsCase:
    """Scores one case.

    Args:
        spacing: To measure distances with, mm (z, y, x) in the pair's axes.
        liver: Whether the data have one, or another organ.
        strict: Counts lesions as the challenge's scorer does, its faults included.

    Raises:
        ValueError: `strict`, and the reference has no lesion: the scorer crashes.
    """
    score = score_pair(name, pair, organ=liver, trained_on=trained_on)
    table = pair.lesions
    wanted_ids, found_ids = (
        scorer_ids(pair.turn.undo(labels).transpose(2, 1, 0), count)
        for labels, count in ((table.reference, table.references), (table.prediction, table.predictions))
    )
    by_union = {threshold: detect(table, threshold) for threshold in THRESHOLDS}
    by_scorer: dict[float, Detection] = {}
    if strict or table.references:
        by_scorer = {threshold: detect_as_scorer(table, wanted_ids, found_ids, threshold) for threshold in THRESHOLDS}
    surfaces = Surfaces(table.reference, table.prediction, spacing)
    whole = surfaces.distances()
    if whole is None:  # 1 if both masks are empty, 0 if one of them is
        surface_dice = float(score.lesion.reference == score.lesion.prediction == 0)
    else:
        surface_dice = whole.share_within(TOLERANCE_MM)
    scored, detected = (found[SCORED_ABOVE].lesions if found else () for found in (by_scorer, by_union))
    scores = {
        lesion: MaskScore.of(table.overlap(*lesion), surfaces.distances(*lesion)) for lesion in {*scored, *detected}
    }
    return LitsCase(
        score=score,
        liver=Liver.of(pair, score, spacing) if liver else None,
        lesion_surface_dice_2mm=surface_dice,
        detection={threshold: found.counts for threshold, found in (by_scorer if strict else by_union).items()},
        scored=tuple(scores[lesion] for lesion in scored),
        detected=tuple(scores[lesion] for lesion in detected),
        note=pair.note,
    )
