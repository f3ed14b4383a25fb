"""Which prediction belongs to which reference, whatever the naming, and the scores of all pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict

from volattn.config import Config
from volattn.datasets.case_files import CaseFolder, find_case_files
from volattn.datasets.issues import LeftOut
from volattn.faults import explain
from volattn.io.files import read_json
from volattn.io.names import case_number, last_number, without_channel
from volattn.io.readers import volume_name
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
        left_out: Other files in the folders.
    """

    content: dict[str, Any]
    failed: dict[str, str]
    total: int
    notes: Sequence[str] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Two files of one case, named as the reference."""

    name: str
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Pairing:
    """The files of two folders.

    Attributes:
        pairs: In natural order of their names.
        references: Those without a prediction.
        predictions: Those without a reference.
        folders: Of the references, and of the predictions.
    """

    pairs: tuple[Pair, ...]
    references: tuple[Path, ...]
    predictions: tuple[Path, ...]
    folders: tuple[CaseFolder, CaseFolder]

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Other files in the folders."""
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
            raise ValueError(f"{folder.root}: holds no label map (.nii or .nii.gz); give the folder that does")
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
        new = _matching(wanted, found, key)
        pairs |= new
        wanted = [name for name in wanted if name not in new]
        found = [name for name in found if name not in set(new.values())]
    by_number = _by(case_number, wanted), _by(case_number, found)
    for number in by_number[0].keys() & by_number[1].keys() - {None}:
        ours = [references[name] for name in by_number[0][number]]
        theirs = [predictions[name] for name in by_number[1][number]]
        several, other = (ours, theirs[0]) if len(ours) > 1 else (theirs, ours[0])
        raise ValueError(
            f"{several[0]} and {several[1]} both have the number of {other.name}; name one of them like it"
        )
    return pairs


def _without_ending(name: str) -> str:
    return _ENDING.sub("", without_channel(name))


def _matching(references: list[str], predictions: list[str], key: Callable[[str], Hashable | None]) -> dict[str, str]:
    """The pairs whose keys are equal, and not None, and occur once on each side."""
    wanted, found = _by(key, references), _by(key, predictions)
    return {
        wanted[value][0]: found[value][0]
        for value in wanted
        if value is not None and len(wanted[value]) == len(found.get(value, ())) == 1
    }


def _by(key: Callable[[str], Hashable | None], names: list[str]) -> dict[Hashable | None, list[str]]:
    found: dict[Hashable | None, list[str]] = {}
    for name in names:
        found.setdefault(key(name), []).append(name)
    return found


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


def score_pairs(
    pairs: Sequence[Pair], score: Callable[[Pair], Score], *, fail_fast: bool = False, progress: Progress | None = None
) -> tuple[list[Score], dict[str, str]]:
    """Scores cases one after the other; an exception fails its case alone, unless `fail_fast` is set.

    Args:
        fail_fast: Raises the first exception.
        progress: Called with ("score", cases done, cases) after each case.

    Returns:
        The scores in the order of the pairs, and the reason by case for those that failed.
    """
    scored: list[Score] = []
    failed: dict[str, str] = {}
    for done, pair in enumerate(pairs, start=1):
        try:
            scored.append(score(pair))
        except Exception as error:  # Whatever is wrong with one case must not cost the user the others.
            if fail_fast:
                raise
            failed[pair.name] = explain(error, pair.prediction)
        if progress is not None:
            progress("score", done, len(pairs))
    return scored, failed
