"""Which prediction belongs to which reference, what the values of their masks mean, and the scores of all cases."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from volattn.config import Config
from volattn.datasets.case import LabelScheme, label_values
from volattn.datasets.case_files import CaseFolder, find_case_files
from volattn.datasets.instances import Classes, numbers_instances
from volattn.datasets.issues import LeftOut
from volattn.datasets.lits import SCHEME
from volattn.faults import explain
from volattn.io.files import read_json
from volattn.io.names import case_number, last_number, without_channel
from volattn.io.readers import endings_in_words, read_labels, volume_name
from volattn.provenance import SeenCase
from volattn.workers import Progress

_ENDING = re.compile(r"_(seg|segmentation|pred|prediction|mask|labels?|trans)$", re.IGNORECASE)
"""Endings that programs add to the names of label maps (MONAI: `_seg`, `_trans`)."""

Score = TypeVar("Score")


@dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluation, and the cases that could not be scored.

    Attributes:
        content: Plain values for `scores.json`; empty if no case could be scored.
        failed: The reason by case, also for references without a prediction and for what could not be reached.
        total: Cases in all, failed ones included.
        notes: Sentences for the reader of the scores.
    """

    content: dict[str, Any]
    failed: dict[str, str]
    total: int
    notes: Sequence[str] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two files of one case; the name is the reference's."""

    name: str
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Pairing:
    """The files of a folder of references and of one of predictions: pairs in natural order, and those without one."""

    pairs: tuple[Pair, ...]
    references: tuple[Path, ...]
    predictions: tuple[Path, ...]
    folders: tuple[CaseFolder, CaseFolder]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        return tuple(dict.fromkeys(one for folder in self.folders for one in folder.left_out))


def pair_files(reference: Path | str, prediction: Path | str) -> Pairing:
    """Pairs the label maps of two folders (`pair_cases`); two files are a pair by themselves.

    Either is a folder of label maps, a data set with labels, or one file; see `find_case_files`.

    Raises:
        ValueError: A folder holds no label map, no name fits another, or one fits several.
    """
    folders = find_case_files(reference), find_case_files(prediction)
    wanted, found = ({name: files.mask(semantic=True) for name, files in folder.masks.items()} for folder in folders)
    for folder, files in zip(folders, (wanted, found), strict=True):
        if not files:
            raise ValueError(f"{folder.root}: holds no label map ({endings_in_words()}); give the folder that does")
    if not (folders[0].root.is_dir() or folders[1].root.is_dir()):
        ((name, path),) = wanted.items()
        return Pairing((Pair(name, path, folders[1].root),), (), (), folders)
    names = pair_cases(wanted, found)
    if not names:
        first, other = next(iter(wanted.values())), next(iter(found.values()))
        raise ValueError(
            f"{reference} and {prediction}: no file of one belongs to one of the other, such as {first.name} "
            f"and {other.name}; give them the same names, or names that end in the case's number"
        )
    paired = set(names.values())
    return Pairing(
        tuple(Pair(name, path, found[names[name]]) for name, path in wanted.items() if name in names),
        tuple(path for name, path in wanted.items() if name not in names),
        tuple(path for name, path in found.items() if name not in paired),
        folders,
    )


def pair_cases(references: Mapping[str, Path], predictions: Mapping[str, Path]) -> dict[str, str]:
    """Which prediction's name belongs to which reference's.

    Equal names belong together, also where a program has added `_seg` or the like; of the others, those that end in
    the same number and are alone with it on both sides: `segmentation-3`, `case_003` and `volume-3` are case 3, and so
    is nnU-Net's `case_003_0000`.

    Returns:
        Prediction by reference; those without a partner are not in it.

    Raises:
        ValueError: Several names fit one.
    """
    wanted, found = list(references), list(predictions)
    pairs: dict[str, str] = {}
    for key in (str, without_channel, _without_ending, case_number, last_number):
        for ours, theirs in _with_one_key(key, wanted, found):
            if len(ours) == len(theirs) == 1:
                pairs[ours[0]] = theirs[0]
        wanted = [name for name in wanted if name not in pairs]
        found = [name for name in found if name not in set(pairs.values())]
    for ours, theirs in _with_one_key(case_number, wanted, found):
        mine, others = [references[name] for name in ours], [predictions[name] for name in theirs]
        several, other = (mine, others[0]) if len(mine) > 1 else (others, mine[0])
        raise ValueError(
            f"{several[0]} and {several[1]} both have the number of {other.name}; name one of them like it"
        )
    return pairs


def _without_ending(name: str) -> str:
    return _ENDING.sub("", without_channel(name))


def _with_one_key(
    key: Callable[[str], Hashable | None], references: list[str], predictions: list[str]
) -> list[tuple[list[str], list[str]]]:
    """The references and predictions of each key, which is not None, that both have."""
    found: defaultdict[Hashable | None, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, names in enumerate((references, predictions)):
        for name in names:
            found[key(name)][side].append(name)
    return [names for value, names in found.items() if value is not None and all(names)]


def described_scheme(folders: Sequence[CaseFolder]) -> LabelScheme | None:
    """The meaning of the values by `dataset.json`, where there is one.

    Raises:
        ValueError: It cannot be used, or those of references and predictions differ.
    """
    found: LabelScheme | None = None
    for folder in folders:
        if folder.description is None:
            continue
        scheme = _scheme_of(folder, "--organ and --lesion")
        if scheme is not None and len(scheme.organ_values) > 1:
            raise ValueError(
                f"{folder.description}: has several organs ({scheme.described}); say with --organ and --lesion which "
                "labels to score"
            )
        if found is not None and scheme is not None and found.described != scheme.described:
            both = f"{found.described} in the references, {scheme.described} in the predictions"
            raise ValueError(f"{folder.description}: the labels differ, {both}; say --organ and --lesion, or relabel")
        found = found or scheme
    return found


def _scheme_of(folder: CaseFolder, options: str) -> LabelScheme | None:
    try:
        return folder.scheme
    except ValueError as error:
        raise ValueError(f"{error}; or say {options}") from None


_MOST_CLASSES = 3
"""Masks with more values are taken for numbers of lesions, unless something else decides."""


@dataclass
class _Values:
    """The values of a folder's masks, as far as they were read.

    Attributes:
        both: The first mask with several values.
        touching: The first mask in which voxels of two values are neighbours.
        nested: Whether every lesion value 2 has more faces to 1 than to 0: lesions in an organ.
    """

    found: set[int]
    both: Path | None = None
    touching: Path | None = None
    nested: bool = True


def find_classes(
    folder: CaseFolder, asked: int | None, option: str, reference: Classes | None = None
) -> Classes | None:
    """The classes of a folder's masks; None where they number lesions.

    The user's value counts first, then a `dataset.json`, then names as in LiTS, then the values themselves: 2
    surrounded by 1 is a lesion in its organ.

    Args:
        asked: The value of lesions that the user gave, if any.
        option: The option for it; errors name it.
        reference: The classes of the references that these predictions are scored against.

    Raises:
        ValueError: It is in doubt, or `dataset.json` cannot be used.
    """
    if asked is not None:
        return Classes((asked,), "")
    # The names or the JSON of the others show that they number lesions.
    masks = [
        files.masks[0]
        for files in folder.masks.values()
        if not (files.numbered or (reference is not None and files.boxes) or numbers_instances(files.masks[0]))
    ]
    if not masks:
        return None
    if folder.description is not None:
        scheme = _scheme_of(folder, option)
        return None if scheme is None else Classes.of(scheme, f"as {folder.description} says")
    values = _values_of(masks, enough=folder.named_as_lits)
    if folder.named_as_lits:
        return _by_lits_names(values, masks, option)
    return _by_values(values, masks, option, None if reference is None else reference.scheme)


def _by_lits_names(values: _Values | None, masks: list[Path], option: str) -> Classes | None:
    if values is None or max(values.found, default=0) > max(SCHEME.lesion_values):
        return None
    if values.found and not values.found & set(SCHEME.lesion_values):
        raise ValueError(
            f"{masks[0]}: is named as in LiTS, and neither it nor the others hold LiTS's lesions (value 2); say with "
            f"{option} which value is a lesion's"
        )
    if values.both and values.touching is None:
        raise _in_doubt(values.both, "LiTS's name, and the value 2 nowhere beside 1", option)
    return Classes.of(SCHEME, "as their names are those of LiTS")


def _by_values(values: _Values | None, masks: list[Path], option: str, reference: LabelScheme | None) -> Classes | None:
    if values is None:
        return None
    if values.touching is not None:
        if values.nested and values.found <= {1, 2}:
            return Classes.of(SCHEME, "as lesions lie in an organ there")
        raise _in_doubt(values.touching, "values that touch each other", option)
    if reference is not None and reference.organ_values and values.found:
        # Beside references with an organ a value may be the organ's.
        if values.found <= set(reference.lesion_values):
            return Classes.of(reference, "as the references have it")
        if values.found <= {*reference.organ_values, *reference.lesion_values}:
            raise _in_doubt(masks[0], "values that the references have for organ and lesion", option)
    return None


def _in_doubt(path: Path, what: str, option: str) -> ValueError:
    return ValueError(
        f"{path}: has {what}, so that it may hold classes or a number for each lesion; say {option} N where N is the "
        "class of lesions, or name masks of numbers NAME_lesions.nii.gz"
    )


def _values_of(masks: Iterable[Path], enough: bool) -> _Values | None:
    """Reads masks until one has more values than classes have (None), or with `enough` a lesion in its organ."""
    values = _Values(set())
    for path in masks:
        try:
            array = read_labels(path).array
        except (ValueError, OSError):
            continue  # Scoring the case reports why.
        found = {value for value in label_values(array) if value}
        if found and max(found) > _MOST_CLASSES:
            return None
        values.found |= found
        faces = _faces(array, found)
        if len(found) > 1:
            values.both = values.both or path
        if any(low > 0 for low, _ in faces):
            values.touching = values.touching or path
        if 2 in found and faces.get((1, 2), 0) <= faces.get((0, 2), 0):
            values.nested = False
        elif enough and 2 in found:
            break
    return values


def _faces(array: NDArray[np.integer], found: set[int]) -> dict[tuple[int, int], int]:
    """How many faces lie between voxels of two values, the lower one first."""
    counts: dict[tuple[int, int], int] = {}
    if len(found) < 2 and found != {2}:
        return counts
    for axis in range(array.ndim):
        lanes = np.moveaxis(array, axis, 0)
        for one, other in itertools.pairwise(lanes):  # plane by plane: a volume's worth of pairs takes much memory
            different = one != other
            pairs = np.sort(np.stack([one[different], other[different]]), axis=0)
            for (low, high), count in zip(*np.unique(pairs.T, axis=0, return_counts=True), strict=True):
                counts[int(low), int(high)] = counts.get((int(low), int(high)), 0) + int(count)
    return counts


class _Prediction(Config):
    """The part of `predict`'s JSON that is read here; other programs write JSON too."""

    model_config = ConfigDict(extra="ignore")
    seen_in_training: SeenCase | None = None


def trained_on(prediction: Path) -> bool:
    """Whether `volattn predict` noted, in the JSON beside a label map, that its model was trained on the case.

    Raises:
        ValueError: The JSON is there, but is not one of `predict`'s.
    """
    path = prediction.with_name(f"{volume_name(prediction)}.json")
    if not path.is_file():
        return False
    content = read_json(path)
    try:
        seen = _Prediction.parse(content, str(path)).seen_in_training
    except ValueError as error:
        raise ValueError(
            f"{error}; this is not what `volattn predict` writes beside {prediction.name}, move it elsewhere"
        ) from None
    return seen is not None and seen.subset == "training"


def score_cases(
    files: Mapping[str, Path],
    score: Callable[[str], Score],
    *,
    fail_fast: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Score], dict[str, str]]:
    """Scores cases one after the other; an exception fails its case alone, unless `fail_fast` is set.

    Args:
        files: Of each case, by name, the file that a reason names if it names none itself.
        progress: Called with ("score", cases done, cases) after each case.

    Returns:
        The scores in the order of the cases, and the reason by case for those that failed.
    """
    scored: list[Score] = []
    failed: dict[str, str] = {}
    for done, (name, file) in enumerate(files.items(), start=1):
        try:
            scored.append(score(name))
        except Exception as error:  # Whatever is wrong with one case must not cost the user the others.
            if fail_fast:
                raise
            failed[name] = explain(error, file)
        if progress is not None:
            progress("score", done, len(files))
    return scored, failed
