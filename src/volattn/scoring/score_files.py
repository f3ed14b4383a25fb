"""What each kind of `scores.json` holds, so that a file is looked at once, when it is read.

`scores.json`: what is said of all cases, and then a line for each case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from volattn.config import Config
from volattn.io.files import read_json, write_text
from volattn.io.names import count_of, shown
from volattn.provenance import commit, versions
from volattn.scoring.cases import MaskScore
from volattn.scoring.deeplesion import MEASURES
from volattn.scoring.detection import PRESETS
from volattn.scoring.lesions import SIZES, Size
from volattn.scoring.pool import Measures

Name = Annotated[str, Field(min_length=1, max_length=400)]
Number = Annotated[float, Field(ge=-1e12, le=1e12)]
"""Far beyond any measure, and no sum of them overflows."""
Count = Annotated[int, Field(ge=0, le=10**12)]
Interval = Annotated[list[Number], Field(min_length=2, max_length=2)] | None
Plain = bool | int | float | str | None


def _having(*names: str) -> AfterValidator:
    """Keeps these keys of a mapping, in this order, and refuses one without them."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"has no {missing[0]}")
        return {name: values[name] for name in names}

    return AfterValidator(check)


_MASK = tuple(field.name for field in fields(MaskScore))
_CLASS = (*_MASK, "dice_per_case", "dice_global", "surface_dice_2mm_per_case")
_DETECTION = tuple(f"{score}{at}" for at in ("", "_greater_zero") for score in ("precision", "recall", "f1"))
_COUNTS = ("TP", "references", "predictions", "predictions_taking_part")
_VOLUMES = ("lesion_volume_ml", "lesion_long_axis_mm", "lesion_volume_per_case_ml", "liver_volume_per_case_ml")


class _Part(Config):
    """A part of a file; what it says beyond this is left alone."""

    model_config = ConfigDict(extra="ignore", strict=True)


class _Bootstrap(_Part):
    over: Name
    resamples: Count
    level: Number
    seed: int = Field(ge=0, lt=2**64)


class _Scores(_Part):
    settings: dict[str, Plain | list[Plain]]
    failed: dict[str, str]
    bootstrap: _Bootstrap
    notes: list[str] = []
    versions: dict[str, str] = {}
    commit: str | None = None


class _Volumes(_Part):
    reference: Annotated[Number, Field(ge=0)]
    prediction: Annotated[Number, Field(ge=0)]


class _CaseVolumes(_Part):
    liver: _Volumes | None
    lesion: _Volumes


class ReferenceLesion(_Part):
    """A lesion in `CaseScore.as_json`."""

    long_axis_mm: Annotated[Number, Field(ge=0)]
    volume_ml: Annotated[Number, Field(ge=0)]
    size: Size
    dice: Annotated[Number, Field(ge=0, le=1)]
    predicted_long_axis_mm: Annotated[Number, Field(ge=0)] | None
    predicted_volume_ml: Annotated[Number, Field(ge=0)] | None


class _LitsCase(_Part):
    name: Name
    trained_on: bool
    liver_dice: Number | None
    lesion_dice: Number
    liver: dict[str, Number | bool | dict[str, Number]] | None
    lesion: dict[str, Number | dict[str, Number]]
    tumor_burden: dict[str, Number] | None
    volume_ml: _CaseVolumes
    counts: dict[str, dict[str, Count]]
    scored_lesions: list[dict[str, Number]]
    detected_lesions: list[dict[str, Number]]
    reference_lesions: list[ReferenceLesion]
    predicted_lesions: Count
    false_positives: Count


class _SizeScore(_Part):
    lesions: Count
    found: Count
    dice: Number | None
    recall: Number | None


class _Agreement(_Part):
    n: Count
    bias: Number | None
    sd: Number | None
    lower: Number | None
    upper: Number | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.lower is None) != (self.upper is None) or (self.lower is not None and self.bias is None):
            raise ValueError("must have lower, upper and bias, or none of them")
        return self


_SizeIntervals = Annotated[dict[str, Interval], _having("recall", "dice")]


class _LitsIntervals(_Part):
    lesion_detection: Annotated[dict[str, Interval], _having(*_DETECTION)]
    lesion: Annotated[dict[str, Interval], _having(*_CLASS)]
    liver: Annotated[dict[str, Interval], _having(*_CLASS)] | None
    tumor_burden: dict[str, Interval] | None
    detected_lesion: dict[str, Interval]
    by_size: Annotated[dict[str, _SizeIntervals], _having(*SIZES)]
    all_sizes: _SizeIntervals
    false_positives_per_case: Interval


class LitsScores(_Scores):
    """What `evaluate lits` writes."""

    kind: Literal["lits"]
    lesion_detection: Annotated[dict[str, Number], _having(*_DETECTION)]
    lesion: Annotated[dict[str, Number], _having(*_CLASS)]
    liver: Annotated[dict[str, Number], _having(*_CLASS)] | None
    tumor_burden: dict[str, Number] | None
    per_case: dict[str, list[Number]]
    counts: Annotated[dict[str, Annotated[dict[str, Count], _having(*_COUNTS)]], _having("0", "0.5")]
    detected_lesion: dict[str, Number]
    by_size: Annotated[dict[str, _SizeScore], _having(*SIZES)]
    all_sizes: _SizeScore
    false_positives_per_case: Number
    agreement: Annotated[dict[str, _Agreement], _having(*_VOLUMES)]
    intervals: _LitsIntervals
    cases: list[_LitsCase] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        livers: list[object] = [self.intervals.liver, *(case.liver_dice for case in self.cases)]
        livers += [case.volume_ml.liver for case in self.cases]
        if any((liver is None) != (self.liver is None) for liver in livers):
            raise ValueError("scores of a liver must be in all cases, their means and intervals, or in none")
        return self


class _Detection(_Part):
    score: Number
    lesions: list[Count]
    matched: Count | None
    label: Count = 0


def _kind_of_detection(value: Any) -> str:
    return "detection" if isinstance(value, Mapping | _Detection) else "score"


class Image(_Part):
    """`ScoredImage.as_json`."""

    name: Name
    patient: Name
    lesions: list[dict[str, str]]
    detections: list[
        Annotated[
            Annotated[Number, Tag("score")] | Annotated[_Detection, Tag("detection")], Discriminator(_kind_of_detection)
        ]
    ]
    labels: list[Count] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        count = len(self.lesions)
        if self.labels and len(self.labels) != count:
            raise ValueError(f"has {count_of(len(self.labels), 'label')} for {count_of(count, 'lesion')}")
        before = float("inf")
        for place, found in enumerate(self.detections):
            score = found.score if isinstance(found, _Detection) else found
            if score > before:
                raise ValueError(f"detection {place} has a higher score than the one before it")
            before = score
            if isinstance(found, _Detection):
                named = [*found.lesions, *([] if found.matched is None else [found.matched])]
                if any(lesion >= count for lesion in named):
                    raise ValueError(f"detection {place} names lesion {max(named)} of {count}")
        return self


Value = TypeVar("Value")
_IMAGE_LEVELS, _SCAN_LEVELS = (
    _having(*(f"{level:g}" for level in measures.levels)) for measures in (MEASURES, PRESETS["nndet"].measures)
)


class _OnImages(_Part, Generic[Value]):
    sensitivity_at_fp_per_image: Annotated[dict[str, Value], _IMAGE_LEVELS]
    mean_sensitivity: Value
    ap50: Value


class _OnScans(_Part, Generic[Value]):
    sensitivity_at_fp_per_scan: Annotated[dict[str, Value], _SCAN_LEVELS]
    mean_sensitivity: Value
    average_precision: Value | None = None


class _ImageGroup(_OnImages[Number | None]):
    lesions: Count
    intervals: _OnImages[Interval]


class _ScanGroup(_OnScans[Number | None]):
    lesions: Count
    intervals: _OnScans[Interval]


class _Boxes(_Scores):
    patients: Count
    detections: Count
    cases: list[Image] = Field(min_length=1)


class DeepLesionScores(_Boxes, _ImageGroup):
    """What `evaluate deeplesion` writes."""

    kind: Literal["deeplesion"]
    split: Name
    noisy_lesions: Count
    detections_outside_the_split: Count
    images: Count
    by_type: dict[str, _ImageGroup]
    by_size: dict[str, _ImageGroup]
    by_slice_interval: dict[str, _ImageGroup]


class DetectionScores(_Boxes, _ScanGroup):
    """What `evaluate detection` writes."""

    kind: Literal["detection"]
    scans: Count
    by_size: dict[str, _ScanGroup]
    by_class: dict[str, _ScanGroup] = {}

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        measures = measures_of({"kind": self.kind, "settings": self.settings})
        assert measures is not None
        parts: list[_OnScans[Any]] = [self, self.intervals, *self.by_size.values(), *self.by_class.values()]
        for part in parts:
            if ("average_precision" in part.model_fields_set) != (measures.precision_key is not None):
                raise ValueError("average_precision must be in all groups, or in none with the preset luna16")
        return self


KINDS: dict[str, type[LitsScores | DeepLesionScores | DetectionScores]] = {
    "lits": LitsScores,
    "deeplesion": DeepLesionScores,
    "detection": DetectionScores,
}


_PAIR = re.compile(r"\[\n\s+([-+.\de]+),\n\s+([-+.\de]+)\n\s+\]")


KEYS = ("kind", "cases")
"""What a file of scores holds in any case: by these it is told from other JSON of this program."""


def measures_of(content: Mapping[str, Any]) -> Measures | None:
    """What is measured on pooled detections; None for scores of masks.

    Args:
        content: A `scores.json`.

    Raises:
        ValueError: The preset is unknown.
    """
    if content.get("kind") == "deeplesion":
        return MEASURES
    if content.get("kind") != "detection":
        return None
    name = content.get("settings", {}).get("preset")
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"the preset {shown(name)} is unknown; evaluate again")
    return PRESETS[name].measures


def write_scores(path: Path | str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Writes scores, atomically, with the versions and the commit that they depend on.

    Args:
        path: A `.json` file.
        content: Plain values; `cases` is a list of them.

    Returns:
        What `read_scores` gives of the file.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON cannot say.
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
    """Reads what an evaluation wrote.

    Returns:
        Its content, as `volattn.scoring.score_files` describes it and no more.

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
