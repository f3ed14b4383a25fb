"""Which prediction belongs to which reference, by case number or name, whatever the naming."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import natural_key
from volattn.datasets.lits import has_lits
from volattn.datasets.naming import case_number, is_nifti, last_number, without_channel
from volattn.datasets.open import open_dataset
from volattn.io.nifti import volume_name


@dataclass(frozen=True)
class Pair:
    """Two files of one case.

    Attributes:
        name: The reference's, without `.nii.gz`.
        reference: The reference.
        prediction: The prediction.
    """

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
    """

    pairs: tuple[Pair, ...]
    references: tuple[Path, ...] = ()
    predictions: tuple[Path, ...] = ()


def pair_files(reference: Path | str, prediction: Path | str) -> Pairing:
    """Pairs the label maps of two folders; two files are a pair by themselves.

    Files of one name belong together; of the others, those whose names end in the same number: `segmentation-3.nii.gz`,
    `case_003.nii.gz` and `volume-3.nii` are case 3, and so is nnU-Net's `case_003_0000.nii.gz`.

    Args:
        reference: Folder of label maps, a data set with labels, or one file.
        prediction: Folder of label maps, or one file.

    Raises:
        ValueError: A folder holds no label map, no name fits another, or one fits several.
    """
    reference, prediction = Path(reference), Path(prediction)
    wanted, found = _label_maps(reference), _label_maps(prediction)
    if reference.is_file() and prediction.is_file():
        return Pairing((Pair(volume_name(reference), reference, prediction),))
    pairs: list[Pair] = []
    for key in (volume_name, _case_name, _case_number, _full_number):
        new = _matching(wanted, found, key)
        pairs += new
        wanted = [path for path in wanted if path not in {pair.reference for pair in new}]
        found = [path for path in found if path not in {pair.prediction for pair in new}]
    _refuse_ambiguous(wanted, found)
    if not pairs:
        raise ValueError(
            f"{reference} and {prediction}: no file of one belongs to one of the other, such as {wanted[0].name} "
            f"and {found[0].name}; give them the same names, or names that end in the case's number"
        )
    return Pairing(tuple(sorted(pairs, key=lambda pair: natural_key(pair.name))), tuple(wanted), tuple(found))


def _label_maps(path: Path) -> list[Path]:
    """The label maps that a path stands for, in natural order.

    Of a folder those directly in it, without the CTs of LiTS's layout (`volume-N` beside `segmentation-N`) and without
    the numbered lesions (`NAME_lesions` beside `NAME`) that prediction writes; if there are none, those of the data set
    in it.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path}: does not exist; give a folder with label maps, or one of them")
    files = {} if (path / "dataset.json").is_file() else _directly_in(path)
    if not files and ((path / "dataset.json").is_file() or has_lits(path)):
        labels = [case.labels for case in open_dataset(path).cases if case.labels is not None]
        files = {volume_name(file): file for file in labels}
    if not files:
        raise ValueError(f"{path}: holds no label map (.nii or .nii.gz); give the folder that does")
    return [files[name] for name in sorted(files, key=natural_key)]


def _directly_in(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if not is_nifti(file):
            continue
        name = volume_name(file)
        if name in files:
            raise ValueError(f"{files[name]} and {file} are the same case; keep one of them")
        files[name] = file
    images = {name for name in files if _segmentation_of(name) in files}
    numbered = {
        name for name in files if name.endswith("_lesions") and name.removesuffix("_lesions") in files
    }
    return {name: file for name, file in files.items() if name not in images | numbered}


def _segmentation_of(name: str) -> str | None:
    """The label map's name where LiTS names its CT so."""
    return name.replace("volume", "segmentation") if name.startswith("volume-") else None


def _case_name(path: Path) -> str:
    return without_channel(volume_name(path))


def _case_number(path: Path) -> int | None:
    return case_number(volume_name(path))


def _full_number(path: Path) -> int | None:
    return last_number(volume_name(path))


def _matching(
    references: list[Path], predictions: list[Path], key: Callable[[Path], Hashable | None]
) -> list[Pair]:
    """The pairs that a key makes out without doubt."""
    wanted, found = _by(key, references), _by(key, predictions)
    return [
        Pair(volume_name(wanted[value][0]), wanted[value][0], found[value][0])
        for value in wanted
        if value is not None and len(wanted[value]) == len(found.get(value, ())) == 1
    ]


def _refuse_ambiguous(references: list[Path], predictions: list[Path]) -> None:
    """Refuses what was left over because several files have one number."""
    wanted, found = _by(_case_number, references), _by(_case_number, predictions)
    for number in wanted.keys() & found.keys() - {None}:
        several = wanted[number] if len(wanted[number]) > 1 else found[number]
        other = (found if several is wanted[number] else wanted)[number][0]
        raise ValueError(
            f"{several[0]} and {several[1]} both have the number of {other.name}; name one of them like it"
        )


def _by(key: Callable[[Path], Hashable | None], files: list[Path]) -> dict[Hashable | None, list[Path]]:
    found: dict[Hashable | None, list[Path]] = {}
    for file in files:
        found.setdefault(key(file), []).append(file)
    return found
