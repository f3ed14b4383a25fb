"""`scores.json`: the scores of all cases, then a line for each case; its models check a file when it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, PlainSerializer, model_validator

from volattn.io.files import read_json, write_text
from volattn.io.names import shown
from volattn.provenance import commit, versions
from volattn.scoring.cases import MaskScore
from volattn.scoring.deeplesion import FROC
from volattn.scoring.detection import PRESETS
from volattn.scoring.lesions import SIZES, LesionScore
from volattn.scoring.pool import FrocSettings, ScoredImage
from volattn.scoring.statistics import Agreement
from volattn.scoring.values import Count, Flag, Interval, Length, Name, Number, Part, having

_MASK = tuple(field.name for field in fields(MaskScore))
_CLASS = (*_MASK, "dice_per_case", "dice_global", "surface_dice_2mm_per_case")
_DETECTION = tuple(f"{score}{at}" for at in ("", "_greater_zero") for score in ("precision", "recall", "f1"))
_COUNTS = ("TP", "references", "predictions", "predictions_taking_part")
_VOLUMES = ("lesion_volume_ml", "lesion_long_axis_mm", "lesion_volume_per_case_ml", "liver_volume_per_case_ml")
_Plain = Flag | int | float | str | None
Value = TypeVar("Value")


class _Bootstrap(Part):
    over: Name
    resamples: Count
    level: Number
    seed: int = Field(strict=True, ge=0, lt=2**64)


class _Scores(Part):
    settings: dict[str, _Plain | list[_Plain]]
    failed: dict[str, str]
    bootstrap: _Bootstrap
    notes: list[str] = []
    versions: dict[str, str] = {}
    commit: str | None = None


class _Volumes(Part):
    reference: Length
    prediction: Length


class _CaseVolumes(Part):
    liver: _Volumes | None
    lesion: _Volumes


_Whole = Annotated[dict[str, Number | Flag | dict[str, Number]], having("dice", others=True)]


class _LitsCase(Part):
    name: Name
    trained_on: Flag
    liver_dice: Number | None
    lesion_dice: Number
    liver: _Whole | None
    lesion: _Whole
    tumor_burden: dict[str, Number] | None
    volume_ml: _CaseVolumes
    counts: dict[str, dict[str, Count]]
    scored_lesions: list[dict[str, Number]]
    detected_lesions: list[dict[str, Number]]
    reference_lesions: list[LesionScore]
    predicted_lesions: Count
    false_positives: Count


class _SizeScore(Part):
    lesions: Count
    found: Count
    dice: Number | None
    recall: Number | None


_SizeIntervals = Annotated[dict[str, Interval], having("recall", "dice")]


class _LitsSections(Part, Generic[Value]):
    lesion_detection: Annotated[dict[str, Value], having(*_DETECTION)]
    lesion: Annotated[dict[str, Value], having(*_CLASS)]
    liver: Annotated[dict[str, Value], having(*_CLASS)] | None
    tumor_burden: dict[str, Value] | None
    detected_lesion: dict[str, Value]
    false_positives_per_case: Value


class _LitsIntervals(_LitsSections[Interval]):
    by_size: Annotated[dict[str, _SizeIntervals], having(*SIZES)]
    all_sizes: _SizeIntervals


class LitsScores(_Scores, _LitsSections[Number]):
    """The content that `evaluate lits` writes."""

    kind: Literal["lits"]
    organ: Name | None = None
    per_case: dict[str, list[Number]]
    counts: Annotated[dict[str, Annotated[dict[str, Count], having(*_COUNTS)]], having("0", "0.5")]
    by_size: Annotated[dict[str, _SizeScore], having(*SIZES)]
    all_sizes: _SizeScore
    agreement: Annotated[dict[str, Agreement], having(*_VOLUMES)]
    intervals: _LitsIntervals
    cases: list[_LitsCase] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        livers: list[object] = [self.intervals.liver, *(case.liver_dice for case in self.cases)]
        livers += [one for case in self.cases for one in (case.volume_ml.liver, case.liver)]
        if any((liver is None) != (self.liver is None) for liver in livers):
            raise ValueError("scores of a liver must be in all cases, their means and intervals, or in none")
        return self


_IMAGE_LEVELS, _SCAN_LEVELS = (
    having(*(f"{level:g}" for level in settings.levels)) for settings in (FROC, PRESETS["nndet"].froc)
)


class _OnImages(Part, Generic[Value]):
    sensitivity_at_fp_per_image: Annotated[dict[str, Value], _IMAGE_LEVELS]
    mean_sensitivity: Value
    ap50: Value


class _OnScans(Part, Generic[Value]):
    sensitivity_at_fp_per_scan: Annotated[dict[str, Value], _SCAN_LEVELS]
    mean_sensitivity: Value
    average_precision: Value | None = None


class _ImageGroup(_OnImages[Number | None]):
    lesions: Count
    intervals: _OnImages[Interval]


class _ScanGroup(_OnScans[Number | None]):
    lesions: Count
    intervals: _OnScans[Interval]


_Image = Annotated[ScoredImage, PlainSerializer(ScoredImage.as_json)]


class _Boxes(_Scores):
    patients: Count
    detections: Count
    cases: list[_Image] = Field(min_length=1)


class DeepLesionScores(_Boxes, _ImageGroup):
    """The content that `evaluate deeplesion` writes."""

    kind: Literal["deeplesion"]
    subset: Name
    noisy_lesions: Count
    detections_outside_the_subset: Count
    images: Count
    by_type: dict[str, _ImageGroup]
    by_size: dict[str, _ImageGroup]
    by_slice_interval: dict[str, _ImageGroup]


class DetectionScores(_Boxes, _ScanGroup):
    """The content that `evaluate detection` writes."""

    kind: Literal["detection"]
    scans: Count
    by_size: dict[str, _ScanGroup]
    by_class: dict[str, _ScanGroup] = {}

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        settings = froc_settings({"kind": self.kind, "settings": self.settings})
        assert settings is not None
        parts: list[_OnScans[Any]] = [self, self.intervals, *self.by_size.values(), *self.by_class.values()]
        for part in parts:
            if ("average_precision" in part.model_fields_set) != (settings.precision_key is not None):
                raise ValueError("average_precision must be in all groups, or in none with the preset luna16")
        return self


KINDS: dict[str, type[LitsScores | DeepLesionScores | DetectionScores]] = {
    "lits": LitsScores,
    "deeplesion": DeepLesionScores,
    "detection": DetectionScores,
}


_PAIR = re.compile(r"\[\n\s+([-+.\de]+),\n\s+([-+.\de]+)\n\s+\]")


KEYS = ("kind", "cases")
"""Keys of every file of scores, which other JSON of this program does not have."""


def froc_settings(content: Mapping[str, Any]) -> FrocSettings | None:
    """The metrics of the pooled detections of a `scores.json`; None for scores of masks.

    Raises:
        ValueError: The preset is unknown.
    """
    if content.get("kind") == "deeplesion":
        return FROC
    if content.get("kind") != "detection":
        return None
    name = content.get("settings", {}).get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"the preset {shown(name)} is unknown; evaluate again")
    return PRESETS[name].froc


def write_scores(path: Path | str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes scores, atomically, with the versions and the commit that they depend on.

    Returns:
        The content of the file.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON does not have.
    """
    head = {key: value for key, value in content.items() if key != "cases"}
    head |= {"versions": versions(), "commit": commit()}
    whole = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    whole = _PAIR.sub(r"[\1, \2]", whole)  # an interval is one line
    lines = [json.dumps(case, ensure_ascii=False, allow_nan=False) for case in content["cases"]]
    cases = ",\n    ".join(lines)
    text = f'{whole},\n  "cases": [\n    {cases}\n  ]\n}}\n'
    write_text(path, text)
    return json.loads(text)


def read_scores(path: Path | str) -> dict[str, Any]:
    """Reads the scores of an evaluation: what the models of this module have, and no more.

    Raises:
        ValueError: The file cannot be read, a value is missing or is none that an evaluation writes, or two cases have
            one name.
    """
    content = read_json(path)
    kind = content.get("kind") if isinstance(content, dict) else None
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise ValueError(f"{path}: holds no scores of {', '.join(KINDS)}; give the scores.json of an evaluation")
    try:
        scores = model.parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; evaluate again") from None
    names = [case.name for case in scores.cases]
    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"{path}: has two cases {shown(twice)}; evaluate again")
    return scores.model_dump(exclude_unset=True)
