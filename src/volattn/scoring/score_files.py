"""`scores.json`: the scores of all cases, then a line for each case; its models check a file when it is read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, PlainSerializer, create_model, model_validator

from volattn.config import Config
from volattn.io.files import read_json, write_text
from volattn.io.names import shown
from volattn.provenance import commit, versions
from volattn.scoring.cases import SizeScore
from volattn.scoring.deeplesion import FROC, GROUPS
from volattn.scoring.detection import PRESETS
from volattn.scoring.lesions import SIZES, LesionScore
from volattn.scoring.lits import MaskScore
from volattn.scoring.metrics import Count, Length, Name, Number
from volattn.scoring.pool import FrocSettings, ScoredImage
from volattn.scoring.statistics import Agreement

_MASK = tuple(field.name for field in fields(MaskScore))
_CLASS = (*_MASK, "dice_per_case", "dice_global", "surface_dice_2mm_per_case")
_DETECTION = tuple(f"{score}{at}" for at in ("", "_greater_zero") for score in ("precision", "recall", "f1"))
_COUNTS = ("TP", "references", "predictions", "predictions_taking_part")
_VOLUMES = ("lesion_volume_ml", "lesion_long_axis_mm", "lesion_volume_per_case_ml", "liver_volume_per_case_ml")
_Flag = Annotated[bool, Field(strict=True)]
_Interval = Annotated[list[Number], Field(min_length=2, max_length=2)] | None
_Counted = Annotated[int, Field(strict=True, ge=-(10**12), le=10**12)]
"""The challenge's scorer may count fewer true positives than none."""
_Plain = _Flag | int | float | str | None
Value = TypeVar("Value")
KINDS = ("lits", "deeplesion", "detection")
KEYS = ("kind", "cases")
"""Keys of every file of scores, which other JSON of this program does not have."""


def _having(*names: str, others: bool = False) -> AfterValidator:
    """Refuses a mapping without these keys; keeps them alone, in this order, or the others too."""

    def check(values: dict[str, Any]) -> dict[str, Any]:
        missing = [name for name in names if name not in values]
        if missing:
            raise ValueError(f"has no {missing[0]}")
        return values if others else {name: values[name] for name in names}

    return AfterValidator(check)


class _Part(Config):
    """A part of a file; what else it holds is left alone. Dataclasses with typed values are parts too."""

    model_config = ConfigDict(extra="ignore")


class _Bootstrap(_Part):
    over: Name
    resamples: Count
    level: Number
    seed: int = Field(strict=True, ge=0, lt=2**64)


class _Scores(_Part):
    settings: dict[str, _Plain | list[_Plain]]
    failed: dict[str, str]
    bootstrap: _Bootstrap
    notes: list[str] = []
    versions: dict[str, str] = {}
    commit: str | None = None
    cases: list[Any] = Field(min_length=1)


class _Volumes(_Part):
    reference: Length
    prediction: Length


class _CaseVolumes(_Part):
    liver: _Volumes | None
    lesion: _Volumes


_Whole = Annotated[dict[str, Number | _Flag | dict[str, Number]], _having("dice", others=True)]


class _LitsCase(_Part):
    name: Name
    trained_on: _Flag
    liver_dice: Number | None
    lesion_dice: Number
    liver: _Whole | None
    lesion: _Whole
    tumor_burden: dict[str, Number] | None
    volume_ml: _CaseVolumes
    counts: dict[str, dict[str, _Counted]]
    scored_lesions: list[dict[str, Number]]
    detected_lesions: list[dict[str, Number]]
    reference_lesions: list[LesionScore]
    predicted_lesions: Count
    false_positives: Count


_SizeIntervals = Annotated[dict[str, _Interval], _having("recall", "dice")]


class _LitsSections(_Part, Generic[Value]):
    lesion_detection: Annotated[dict[str, Value], _having(*_DETECTION)]
    lesion: Annotated[dict[str, Value], _having(*_CLASS)]
    liver: Annotated[dict[str, Value], _having(*_CLASS)] | None
    tumor_burden: dict[str, Value] | None
    detected_lesion: dict[str, Value]
    false_positives_per_case: Value


class _LitsIntervals(_LitsSections[_Interval]):
    by_size: Annotated[dict[str, _SizeIntervals], _having(*SIZES)]
    all_sizes: _SizeIntervals


class _LitsScores(_Scores, _LitsSections[Number]):
    kind: Literal["lits"]
    organ: Name | None = None
    per_case: dict[str, list[Number]]
    counts: Annotated[dict[str, Annotated[dict[str, _Counted], _having(*_COUNTS)]], _having("0", "0.5")]
    by_size: Annotated[dict[str, SizeScore], _having(*SIZES)]
    all_sizes: SizeScore
    agreement: Annotated[dict[str, Agreement], _having(*_VOLUMES)]
    intervals: _LitsIntervals
    cases: list[_LitsCase] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        livers: list[object] = [self.intervals.liver, *(case.liver_dice for case in self.cases)]
        livers += [one for case in self.cases for one in (case.volume_ml.liver, case.liver)]
        if any((liver is None) != (self.liver is None) for liver in livers):
            raise ValueError("scores of a liver must be in all cases, their means and intervals, or in none")
        return self


class _Boxes(_Scores):
    patients: Count
    lesions: Count
    detections: Count
    cases: list[Annotated[ScoredImage, PlainSerializer(ScoredImage.as_json)]] = Field(min_length=1)


def _boxes(settings: FrocSettings) -> type[_Boxes]:
    """The model of an evaluation of boxes: every metric of the settings, of all lesions and of each group."""

    def metrics(value: Any) -> dict[str, Any]:
        nested: dict[str, list[str]] = {}
        for name in settings.names:
            key, _, below = name.partition(".")
            nested.setdefault(key, []).extend([below] if below else [])
        return {
            key: (Annotated[dict[str, value], _having(*below)] if below else value, ...)
            for key, below in nested.items()
        }

    intervals = create_model("_Intervals", __base__=_Part, **metrics(_Interval))
    measured = metrics(Number | None) | {"intervals": (intervals, ...)}
    group: Any = create_model("_Group", __base__=_Part, lesions=(Count, ...), **measured)
    fields: dict[str, Any] = {"kind": (str, ...), f"{settings.unit}s": (Count, ...), **measured}
    if settings.unit == "image":
        counts = {"noisy_lesions": (Count, ...), "detections_outside_the_subset": (Count, ...)}
        fields |= {"subset": (Name, ...), **counts, **{f"by_{kind}": (dict[str, group], ...) for kind in GROUPS}}
    else:
        fields |= {"by_size": (dict[str, group], ...), "by_class": (dict[str, group], {})}
    return create_model("_BoxScores", __base__=_Boxes, **fields)


def froc_settings(content: Mapping[str, Any]) -> FrocSettings | None:
    """How the pooled detections of a `scores.json` are measured; None for scores of masks.

    Raises:
        ValueError: The preset is unknown.
    """
    if content.get("kind") == "deeplesion":
        return FROC
    if content.get("kind") != "detection":
        return None
    settings = content.get("settings")
    name = settings.get("preset") if isinstance(settings, Mapping) else None
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"the preset {shown(name)} is unknown; evaluate again")
    return PRESETS[name].froc


_PAIR = re.compile(r"\[\n\s+([-+.\de]+),\n\s+([-+.\de]+)\n\s+\]")


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
    if not isinstance(content, dict) or content.get("kind") not in KINDS:
        raise ValueError(f"{path}: holds no scores of {', '.join(KINDS)}; give the scores.json of an evaluation")
    try:
        settings = froc_settings(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    model = _LitsScores if settings is None else _boxes(settings)
    try:
        scores = model.parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"{error}; evaluate again") from None
    for name, count in Counter(case.name for case in scores.cases).items():
        if count > 1:
            raise ValueError(f"{path}: has two cases {shown(name)}; evaluate again")
    return scores.model_dump(exclude_unset=True)
