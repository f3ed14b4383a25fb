"""A data set as the rest of the project sees it: named cases and what their labels mean."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, model_validator

from volattn.config import Config
from volattn.datasets.issues import Issue, LeftOut
from volattn.datasets.key_slice import KeySlice
from volattn.io.names import both, check_name, cut, shown

BACKGROUND, ORGAN, LESION = 0, 1, 2
_BACKGROUND = {
    *("background", "bg", "backgr", "0", "none", "nothing", "empty", "void", "air", "other", "others", "rest"),
    *("unlabeled", "unlabelled", "clearlabel", "outside", "exterior", "normal"),
}
_LESION_WORDS = re.compile(
    r"tumou?r|lesion|cancer|carcinoma|metasta|nodul|neoplas|malignan|\bcysts?\b|\bmass(es)?\b|\bhcc\b"
    r"|abscess|polyp|adenoma|ha?ematoma|ha?emangioma|lymphoma|sarcoma"
)


CaseName = Annotated[str, AfterValidator(check_name)]
"""A case's name in a model that is validated."""


@dataclass(frozen=True)
class Reading:
    """How a user wants the annotation of a data set to be read.

    Attributes:
        keep_noisy: Lesions that the data set itself doubts count (DeepLesion's Possibly_noisy).
        organ_only: Labels of organs alone will do: lesions are painted while training (`synthetic`).
        auxiliary: Names of labels that are neither organ nor lesion, such as vessels: a detector may learn them as
            classes that it does not report.
    """

    keep_noisy: bool = False
    organ_only: bool = False
    auxiliary: tuple[str, ...] = ()


USUAL = Reading()


class LabelScheme(Config):
    """What the values of a data set's label maps mean; 0 is always background.

    Attributes:
        organ_name: None for data with lesions only.
        organ_values: Values that mean organ without lesion; none for data with lesions only.
        lesion_values: Values that mean lesion; where there is an organ, lesions count as part of it. None for data with
            organs only.
        auxiliary: Values of other classes by name; they count as part of the organ too.
    """

    organ_name: str | None = None
    organ_values: tuple[int, ...] = ()
    lesion_name: str = "lesion"
    lesion_values: tuple[int, ...] = ()
    auxiliary: dict[str, tuple[int, ...]] = {}

    @model_validator(mode="after")
    def _consistent(self) -> LabelScheme:
        values = self._values
        if len(set(values)) != len(values) or not all(0 < value < 256 for value in values):
            raise ValueError("label values must be different numbers from 1 to 255")
        if not self.organ_values and not self.lesion_values:
            raise ValueError("there must be a label value of a lesion or of an organ")
        if bool(self.organ_values) != bool(self.organ_name):
            raise ValueError("an organ needs a name and at least one label value, or neither")
        if self.organ_name == self.lesion_name:
            raise ValueError("organ and lesion need different names")
        return self

    @property
    def _values(self) -> tuple[int, ...]:
        return (*self.organ_values, *self.lesion_values, *itertools.chain(*self.auxiliary.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes a detector learns, the lesion last."""
        return (self.lesion_name,) if self.organ_name is None else (self.organ_name, self.lesion_name)

    @property
    def described(self) -> str:
        """The values in words, for messages."""
        named = {self.organ_name or "": self.organ_values, self.lesion_name: self.lesion_values, **self.auxiliary}
        return ", ".join(["0 background", *(f"{value} {name}" for name, values in named.items() for value in values)])

    def fault(self, values: Iterable[int]) -> str | None:
        """What is wrong with a label map that holds these values, and what to do; None if nothing is."""
        unknown = sorted(set(values) - {BACKGROUND, *self._values})
        if not unknown:
            return None
        shown = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        return f"label {shown} is not one that is used ({self.described}); correct the labels"

    def normalise(self, array: np.ndarray, *, auxiliary: bool = False) -> np.ndarray:
        """The data set's values -> uint8 of the same shape: 0 background, 1 organ, 2 lesion.

        Args:
            auxiliary: Whether auxiliary classes are 3, 4, ... in their order, in place of 1.

        Raises:
            ValueError: A value is not in the scheme.
        """
        fault = self.fault(label_values(array))
        if fault is not None:
            raise ValueError(fault)
        table = np.zeros(256, np.uint8)
        table[list(self.organ_values)] = ORGAN
        table[list(self.lesion_values)] = LESION
        for number, values in enumerate(self.auxiliary.values(), start=LESION + 1):
            table[list(values)] = number if auxiliary else ORGAN
        return table[array]


@dataclass(frozen=True)
class Case:
    """One CT and the annotation of its lesions.

    Attributes:
        name: Unique in its data set, e.g. `volume-44`; see `check_name`.
        image: The CT's file or folder. It may be missing: a check reports that, opening does not fail.
        annotation: A label map's file, or boxes on a key slice; None without any.
        patient: Whose CT it is, where a patient may have several.
        subset: Of the data set's own split: "train", "val" or "test".
    """

    name: str
    image: Path
    annotation: Path | KeySlice | None
    patient: str | None = None
    subset: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def labels(self) -> Path | None:
        """The label map, if that is the annotation."""
        return None if isinstance(self.annotation, KeySlice) else self.annotation

    @property
    def key_slice(self) -> KeySlice | None:
        """The boxes, if they are the annotation."""
        return self.annotation if isinstance(self.annotation, KeySlice) else None


@dataclass(frozen=True)
class Dataset:
    """Cases that share a label scheme.

    Attributes:
        cases: In natural order: case 2 before case 10.
        expected: How many cases the data set's own description promises, if it has one.
        found: Issues that were found in opening it.
        left_out: What lies in its folder and is none of its files.
        label_names: The data set's own names of its labels and their values, where it gives them.
    """

    name: str
    root: Path
    cases: tuple[Case, ...]
    scheme: LabelScheme
    expected: int | None = None
    found: tuple[Issue, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    label_names: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def described_labels(self) -> str:
        """How the labels are read: "organ: liver; lesion: HCC + metastasis, merged"."""
        if any(case.key_slice is not None for case in self.cases):
            return "lesion: boxes on key slices"
        parts = []
        for kind, name, values in (
            ("organ", self.scheme.organ_name, self.scheme.organ_values),
            ("lesion", self.scheme.lesion_name, self.scheme.lesion_values),
        ):
            names = [own for own, theirs in self.label_names.items() if theirs and set(theirs) <= set(values)]
            if name is not None and values:
                parts.append(f"{kind}: {' + '.join(names) or name}{', merged' if len(names) > 1 else ''}")
        if self.scheme.auxiliary:
            parts.append(f"auxiliary: {', '.join(self.scheme.auxiliary)}")
        return "; ".join(parts)

    def checked(self) -> Dataset:
        """As every layout gives it: cases in natural order, files that cannot be reached among the issues.

        Raises:
            ValueError: There are no cases, or two have one name.
        """
        cases = sorted(self.cases, key=lambda case: natural_key(case.name))
        found = (*self.found, *(one.issue for one in self.left_out if one.fault is not None))
        if not cases:
            fault = next((f"{one.file}: {one.message}" for one in found if one.severity == "error"), None)
            raise ValueError(fault or f"{self.root}: holds no cases; check that the images were copied too")
        for first, second in itertools.pairwise(cases):
            if first.name == second.name:
                images = both(first.image, second.image)
                raise ValueError(f"{self.root}: case {first.name} is there twice ({images}); keep one")
        return replace(self, cases=tuple(cases), found=found)

    def only(self, subsets: Sequence[str]) -> Dataset:
        """The cases of some subsets ("train", "val", "test"), see `in_subsets`; all cases if none is named."""
        if not subsets:
            return self
        subset_of = {case.name: case.subset for case in self.cases if case.subset is not None}
        chosen = set(in_subsets(subset_of, subsets, str(self.root)))
        return replace(self, cases=tuple(case for case in self.cases if case.name in chosen))


def in_subsets(subset_of: Mapping[str, str], wanted: Sequence[str], source: str) -> tuple[str, ...]:
    """The cases of some subsets of a data set's own split, in their order.

    Raises:
        ValueError: There is no split, or it has not these subsets.
    """
    if not subset_of:
        raise ValueError(f"{source}: has no split of its own; leave out --subset")
    there = sorted(set(subset_of.values()))
    unknown = [subset for subset in wanted if subset not in there]
    if unknown:
        raise ValueError(f"{source}: has no subset {', '.join(unknown)}; give --subset with any of {','.join(there)}")
    return tuple(name for name, subset in subset_of.items() if subset in wanted)


def scheme_from_names(names: Mapping[str, Sequence[int]], source: Path, reading: Reading = USUAL) -> LabelScheme:
    """Tells organs from lesions by their names, given with their values.

    A name with tumour, lesion, cancer, cyst, metastasis or the like is a lesion; every other name is an organ. Several
    organs become one class, and so do several lesions. A value under several (regions that contain each other) is a
    lesion, or else auxiliary. Background and an `ignore` label belong to neither.

    Raises:
        ValueError: No name is a lesion's and `reading` does not say that organs will do, a name that it gives is not
            there, 0 is not background, two names mean the same, or values are not whole numbers from 0 to 255.
    """
    kept: dict[str, tuple[int, ...]] = {}
    for name, values in names.items():
        word, label = _word(name), f"{source}: label {shown(name)} has value {shown(values)}"
        if not name.strip():
            raise ValueError(f"{source}: a label with the value {shown(values)} has no name; give it one")
        if is_ignored(name):
            continue
        if not all(0 <= value <= 255 for value in values):
            raise ValueError(f"{label}; use whole numbers from 0 to 255")
        if word in _BACKGROUND and tuple(values) != (BACKGROUND,):
            raise ValueError(f"{label}; background is always 0")
        if word not in _BACKGROUND and BACKGROUND in values:
            raise ValueError(f"{label}, which is always background; count classes from 1")
        for other, taken in kept.items():
            if set(taken) == set(values):
                raise ValueError(f"{label}, as has {shown(other)}; give each its own")
        kept[name] = tuple(values)
    kept = {name: values for name, values in kept.items() if _word(name) not in _BACKGROUND}
    for name in reading.auxiliary:
        if name not in kept:
            raise ValueError(f"{source}: has no label {shown(name)}; it has {cut(', '.join(kept), 300)}")
    others = {name: kept.pop(name) for name in dict.fromkeys(reading.auxiliary)}
    lesions = {name: values for name, values in kept.items() if is_lesion_name(name)}
    if not lesions and not (reading.organ_only and kept):
        raise ValueError(
            f"{source}: none of its labels ({cut(', '.join(names), 300) or 'none'}) is named like a lesion; if one is, "
            "put 'lesion' into its name; to train on organs alone, with painted lesions, say --organ-only"
        )
    lesion_values = sorted({value for values in lesions.values() for value in values})
    organs = {name: values for name, values in kept.items() if name not in lesions}
    used = set(lesion_values)
    auxiliary: dict[str, tuple[int, ...]] = {}
    for name, values in others.items():
        auxiliary[name] = tuple(sorted(set(values) - used))
        used |= set(values)
        if not auxiliary[name]:
            raise ValueError(f"{source}: all values of label {shown(name)} are a lesion's or another auxiliary label's")
    organ_values = sorted({value for values in organs.values() for value in values} - used)
    organ_name = next(iter(organs)) if len(organs) == 1 else "organ"
    return LabelScheme(
        organ_name=organ_name if organ_values else None,
        organ_values=tuple(organ_values),
        lesion_name=next(iter(lesions)) if len(lesions) == 1 else "lesion",
        lesion_values=tuple(lesion_values),
        auxiliary=auxiliary,
    )


def is_ignored(name: str) -> bool:
    """Whether a label marks voxels without annotation, as in nnU-Net."""
    return _word(name) in ("ignore", "ignored", "ignorelabel")


def _word(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


def is_lesion_name(name: str) -> bool:
    """Whether a label's name is a lesion's: tumour, tumor, cancer, cyst, metastasis, ..."""
    return _LESION_WORDS.search(re.sub(r"[\W_]+", " ", name.lower())) is not None


def label_values(array: np.ndarray) -> list[int]:
    """The different values of a label map of whole numbers, ascending."""
    found: set[int] = set()
    for plane in array:  # slice by slice: sorting a whole volume needs several times its memory
        if plane.dtype == np.uint8:  # counted, which is far quicker than sorting
            found.update(np.flatnonzero(np.bincount(plane.ravel())).tolist())
        else:
            found.update(np.unique(plane).tolist())
    return sorted(found)


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sorts `case-2` before `case-10`."""
    return tuple(
        (False, int(part), "") if part.isdecimal() else (True, 0, part) for part in re.split(r"(\d+)", name) if part
    )
