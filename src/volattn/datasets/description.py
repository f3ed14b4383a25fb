"""Decathlon (MSD) and nnU-Net folders: a `dataset.json`, `imagesTr` and `labelsTr`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

from pydantic import AliasChoices, ConfigDict, Field, field_validator

from volattn.config import Config
from volattn.datasets.case import (
    USUAL,
    Case,
    Dataset,
    LabelScheme,
    Reading,
    is_ignored,
    is_lesion_name,
    scheme_from_names,
)
from volattn.datasets.issues import Issue, LeftOut
from volattn.datasets.listing import as_file, list_volumes
from volattn.io.files import read_json
from volattn.io.names import both, cut, one_line, printable, shown
from volattn.io.readers import known_endings, volume_ending, volume_name

_LISTED = 300
"""Characters of a list in a message."""
_PATH, _PART = 1000, 240
"""Characters of a path in the file, and bytes of a name in it: a channel's number may be added to it."""

DESCRIPTION = "dataset.json"
IMAGES, LABELS = "imagesTr", "labelsTr"
UNLISTED = "file that belongs to no case"
CHANNEL = "file of a further channel"
_LABELS_FORM = '{"background": 0, "liver": 1, "tumour": 2} or {"0": "background", "1": "liver", "2": "tumour"}'
_CASES_FORM = '[{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]'
_NUMBERED = re.compile(r"(.+)_(\d{4})", re.DOTALL)


class Description(Config):
    """A `dataset.json` of the Decathlon, nnU-Net 1 and 2 or nnDetection, as people write it; other keys are ignored.

    Attributes:
        labels: Name -> values.
        channels: Number -> name; empty if it has none.
        expected: How many training cases it promises, if it does.
        cases: Images and label of each training case, with its name where it is given; empty if they are not listed.
    """

    model_config = ConfigDict(extra="ignore")

    source: Path
    labels: dict[str, tuple[int, ...]]
    channels: dict[int, str] = Field({}, validation_alias=AliasChoices("channel_names", "modality", "modalities"))
    file_ending: str = ".nii.gz"
    expected: int | None = Field(None, validation_alias="numTraining")
    cases: tuple[tuple[str | None, Any], ...] = Field((), validation_alias=AliasChoices("dataset", "training"))
    name: str | None = None

    @classmethod
    def read_from(cls, path: Path) -> Description:
        """Reads a `dataset.json`.

        Raises:
            ValueError: It cannot be read, is not JSON, or a value in it cannot be used.
        """
        values = read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"{path}: is {shown(values)} where an object with labels is expected; correct it")
        if not values.get("labels"):
            raise ValueError(f"{path}: has no labels; say there what the label values mean, {_LABELS_FORM}")
        known = {key: value for key, value in values.items() if value is not None}
        return cls.parse(known | {"source": path}, str(path))

    @field_validator("labels", mode="before")
    @classmethod
    def _read_labels(cls, labels: Any) -> dict[str, tuple[int, ...]]:
        if isinstance(labels, list):
            labels = {str(value): name for value, name in enumerate(labels)}
        if not isinstance(labels, dict):
            raise ValueError(f"is {shown(labels)}; write {_LABELS_FORM}")
        if all(_whole(value) is not None for value in labels):
            return _by_value(labels)
        return {one_line(name): _values(name, given) for name, given in labels.items()}

    @field_validator("channels", mode="before")
    @classmethod
    def _read_channels(cls, channels: Any) -> dict[int, str]:
        if isinstance(channels, str):
            channels = [channels]
        if isinstance(channels, list):
            channels = dict(enumerate(channels))
        if isinstance(channels, dict):
            pairs = list(channels.items())
            if not all(_whole(number) is not None for number, _ in pairs):  # {"CT": 0}, as labels are written
                pairs = [(number, name) for name, number in pairs]
            found = {_whole(number): name for number, name in pairs}
            if None not in found and len(found) == len(pairs) and all(_is_name(name) for name in found.values()):
                return {number: str(name) for number, name in found.items() if number is not None}
        raise ValueError(f'is {shown(channels)}; write {{"0": "CT"}}, a number and a name for each channel')

    @field_validator("file_ending", mode="before")
    @classmethod
    def _read_ending(cls, ending: Any) -> str:
        text = str(ending).strip().lower()
        if f".{text.lstrip('.')}" not in known_endings():
            raise ValueError(f"is {shown(ending)}; convert the files to NIfTI and write .nii.gz")
        return text

    @field_validator("expected", mode="before")
    @classmethod
    def _read_expected(cls, expected: Any) -> int:
        number = _whole(expected)
        if number is None:
            raise ValueError(f"is {shown(expected)}; write the number of training cases, or leave it out")
        return number

    @field_validator("cases", mode="before")
    @classmethod
    def _read_cases(cls, cases: Any) -> tuple[tuple[str | None, Any], ...]:
        if isinstance(cases, dict):
            return tuple(cases.items())
        if isinstance(cases, list):
            return tuple((None, entry) for entry in cases)
        raise ValueError(f"is {shown(cases)}; write a list of the cases, {_CASES_FORM}, or leave it out")

    @field_validator("name", mode="before")
    @classmethod
    def _read_name(cls, name: Any) -> str | None:
        return one_line(str(name))[:200] if _is_name(name) else None

    @property
    def of_instances(self) -> bool:
        """Whether its classes count from 0, as nnDetection's: its masks hold numbers of lesions, not classes."""
        return any(0 in values and is_lesion_name(name) for name, values in self.labels.items())

    def scheme(self, reading: Reading = USUAL) -> LabelScheme:
        """What the label values mean.

        Raises:
            ValueError: They do not tell lesions from the rest; see `scheme_from_names`.
        """
        if self.of_instances:
            raise ValueError(
                f"{self.source}: labels count classes from 0 ({shown(next(iter(self.labels)))}), as nnDetection does "
                "for masks with a number for each lesion, which are for scoring, not for training; make masks of "
                'classes, and write {"background": 0, "lesion": 1}'
            )
        return scheme_from_names(self.labels, self.source, reading)

    @property
    def ct_channel(self) -> int:
        """The number of the CT among the channels.

        Raises:
            ValueError: There are several, and not just one is named CT.
        """
        if len(self.channels) < 2:
            return next(iter(self.channels), 0)
        for pattern in (r"\s*ct\s*", r".*\bct\b.*"):
            found = [
                number
                for number, name in self.channels.items()
                if re.fullmatch(pattern, name.lower().replace("_", " "), re.DOTALL)
            ]
            if len(found) == 1:
                return found[0]
            if found:
                break
        names = cut(", ".join(f"{number} {shown(name)}" for number, name in self.channels.items()), _LISTED)
        how_many = "several" if found else "none"
        raise ValueError(f"{self.source}: {how_many} of its channels ({names}) is named CT; name one of them CT")


def _whole(value: Any) -> int | None:
    """A whole number from 0, also written as text or with .0; None for anything else."""
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 10**9:
        return None  # Compared, not converted: a whole number of JSON may be longer than any float.
    return int(value) if value == int(value) else None


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _by_value(labels: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{"0": "background", "1": "liver"} by name."""
    found: dict[str, tuple[int, ...]] = {}
    for key, name in labels.items():
        value = _whole(key)
        assert value is not None
        if not _is_name(name):
            raise ValueError(f"{shown(key)} is {shown(name)}; write {_LABELS_FORM}")
        name = one_line(str(name)).strip()
        if name in found:
            raise ValueError(f"two labels have one name, {shown(name)}; give each its own")
        if (value,) in found.values():
            raise ValueError(f"two labels have the value {value}; give each its own")
        found[name] = (value,)
    return found


def _values(name: str, given: Any) -> tuple[int, ...]:
    numbers = [_whole(value) for value in (given if isinstance(given, list) else [given])]
    if not numbers or None in numbers:
        raise ValueError(
            f"{shown(name)} is {shown(given)}; give it a whole number, or a region a list of them: {_LABELS_FORM}"
        )
    return tuple(number for number in numbers if number is not None)


def find_description(folder: Path) -> Path | None:
    """The `dataset.json` in a folder, or beside a folder that nnU-Net calls so: `labelsTs`, `imagesTr`, ..."""
    if (folder / DESCRIPTION).exists():
        return folder / DESCRIPTION
    above = folder.resolve().parent / DESCRIPTION
    return above if re.fullmatch(r"(images|labels)(Tr|Ts|Val)", folder.resolve().name) and above.exists() else None


def holds_cases(root: Path) -> bool:
    """Whether the folder of a `dataset.json` is a data set; elsewhere the file describes the label maps in its folder.

    Raises:
        ValueError: It cannot be read.
    """
    if (root / LABELS).is_dir() or (root / IMAGES).is_dir():
        return True
    return any(
        isinstance(entry, dict)
        and isinstance(entry.get("label"), str)
        and not _leads_out(entry["label"])
        and (root / entry["label"]).exists()
        for _, entry in Description.read_from(root / DESCRIPTION).cases
    )


def open_described(root: Path, reading: Reading = USUAL) -> Dataset:
    """Opens a Decathlon or nnU-Net folder; of several channels the one named CT is taken.

    A case that is badly named or listed is left out: it is among the issues.

    Raises:
        ValueError: `dataset.json` cannot be used, there are several channels and none is named CT, a case is there
            twice, or there is none.
    """
    source = root / DESCRIPTION
    description = Description.read_from(source)
    scheme, channel = description.scheme(reading), description.ct_channel
    found: list[Issue] = []
    cases: list[Case] = []
    left_out: list[LeftOut] = []
    images, labels = list_volumes(root / IMAGES), list_volumes(root / LABELS)
    for listing, folder in ((images, IMAGES), (labels, LABELS)):
        left_out += listing.left_out if (root / folder).exists() else ()
    if not description.cases:
        cases, further = _paired(root, images.files, labels.files, channel)
        left_out += further
    else:
        for name, entry in description.cases:
            try:
                cases.append(_listed(root, name, entry, channel))
            except ValueError as error:
                found.append(Issue("" if name is None else one_line(name)[:80], source, "error", str(error)))
        used = {path for case in cases for path in (case.image, case.labels)}
        rest = [path for path in (*images.files, *labels.files) if path not in used]
        left_out += [LeftOut(path, CHANNEL if _channel_of(path) else UNLISTED) for path in rest]
    for name, values in description.labels.items():
        if is_ignored(name):
            message = (
                f"its label {', '.join(map(str, values))} says 'ignore', which is not supported: a case with such "
                "voxels cannot be used; give them the label that they should have"
            )
            found.append(Issue("", source, "note", message))
    return Dataset(
        description.name or root.name,
        root,
        tuple(cases),
        scheme,
        description.expected,
        tuple(found),
        tuple(left_out),
        description.labels,
    ).checked()


def _channel_of(path: Path) -> int | None:
    match = _NUMBERED.fullmatch(volume_name(path))
    return int(match[2]) if match else None


def _paired(
    root: Path, images: Iterable[Path], labels: Iterable[Path], channel: int
) -> tuple[list[Case], list[LeftOut]]:
    """Pairs `imagesTr/CASE_000C` with `labelsTr/CASE`, or `imagesTr/CASE` where that is the image's name.

    An image without a label map and a label map without an image are cases too, for a check to report.
    """
    maps: dict[str, Path] = {}
    pictures: dict[str, Path] = {}
    further = []
    for path in labels:
        _add(maps, volume_name(path), path)
    for path in images:
        name = volume_name(path)
        match = _NUMBERED.fullmatch(name)
        if match and name not in maps:
            if int(match[2]) != channel:
                further.append(LeftOut(path, CHANNEL))
                continue
            name = match[1]
        _add(pictures, name, path)
    missing = {name: root / IMAGES / f"{name}_{channel:04d}.nii.gz" for name in maps}
    cases = [Case(name, pictures.get(name) or missing[name], maps.get(name)) for name in maps.keys() | pictures.keys()]
    return cases, further


def _add(found: dict[str, Path], name: str, path: Path) -> None:
    other = found.setdefault(name, path)
    if other != path:
        raise ValueError(f"{both(other, path)} are the same case; keep one of them")


def _listed(root: Path, name: str | None, entry: Any, channel: int) -> Case:
    """A case of a list: `{"image": "imagesTr/a.nii.gz", "label": ...}` or `{"images": ["a_0000.nii.gz"], ...}`."""
    image = entry.get("images", entry.get("image")) if isinstance(entry, dict) else None
    by_channel = isinstance(image, list)
    if isinstance(image, list):
        image = image[channel] if channel < len(image) else None
    label = entry.get("label") if isinstance(entry, dict) else None
    if not isinstance(image, str) or not isinstance(label, str | None):
        called = "a training case" if name is None else f"case {shown(name)}"
        raise ValueError(f"{called} must have an image and a label, found {shown(entry)}; write {_CASES_FORM}")
    path = _inside(root, image)
    if name is None:
        match = _NUMBERED.fullmatch(volume_name(path))
        name = match[1] if match and by_channel else volume_name(path)
    # nnU-Net's version 1 leaves the channel's number out of its list.
    ending = volume_ending(path)
    numbered = path.with_name(f"{path.name.removesuffix(ending)}_{channel:04d}{ending}")
    if not path.exists() and numbered.exists():
        path = numbered
    return Case(name, as_file(path), None if label is None else as_file(_inside(root, label)))


def _inside(root: Path, text: str) -> Path:
    """A path of the file, which must stay in its folder; links in there may lead where they like."""
    if _leads_out(text):
        raise ValueError(
            f"the path {shown(text)} leads out of the data set's folder; copy or link the file into it, and "
            "write its path from there"
        )
    if len(text) > _PATH or any(len(printable(part).encode()) > _PART for part in PureWindowsPath(text).parts):
        raise ValueError(f"the path {shown(text)} is longer than a system can open; give the file a shorter name")
    return root / text.replace("\\", "/")


def _leads_out(text: str) -> bool:
    path = PureWindowsPath(text)  # knows both separators
    return not path.name or bool(path.anchor) or ".." in path.parts or one_line(text) != text
