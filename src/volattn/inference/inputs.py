"""Which files are predicted, and which reference belongs to which."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.case import Case, Dataset, LabelScheme, natural_key
from volattn.datasets.case_files import find_case_files
from volattn.datasets.description import CHANNEL, DESCRIPTION, Description, find_description
from volattn.datasets.issues import LeftOut, count_left_out
from volattn.datasets.listing import FOLDER, as_file, list_volumes
from volattn.datasets.lits import SCHEME, has_lits
from volattn.datasets.open import open_dataset
from volattn.io.names import both, case_number, count_of
from volattn.io.readers import endings_in_words, find_reader, read_header, read_labels, refuse_dicom, volume_name
from volattn.scoring.pairing import pair_cases
from volattn.structures.geometry import check_same_grid
from volattn.structures.volume import Volume

_LABELS = re.compile(r"segmentation-\d+|labels?[-_].*|.*_lesions", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+)_(000\d)", re.DOTALL)


@dataclass(frozen=True)
class Inputs:
    """The CTs to predict, as cases without labels; what else is in their folders; how files were understood."""

    cases: tuple[Case, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


def find_inputs(paths: Sequence[Path | str]) -> Inputs:
    """The CTs that some files and folders mean, each once, in natural order within a folder.

    A folder means the volumes directly in it, but for those that are named like label maps (LiTS's
    `segmentation-N`, and what prediction itself writes); if there are none, the images of the data set in it.
    Files that are channels of one case, as nnU-Net names them, are one CT.

    Raises:
        ValueError: There is no path, a folder holds no CT, or two CTs have one name. (A file that is missing
            fails when it is read, as one bad case among others.)
    """
    if not paths:
        raise ValueError(f"nothing to predict: give a CT ({endings_in_words()}), or a folder with some")
    found: dict[Path, Case] = {}
    loose: dict[Path, list[Path]] = defaultdict(list)
    left_out: list[LeftOut] = []
    order: list[Path] = []
    for path in map(Path, paths):
        path = as_file(path)
        if not path.is_dir() or find_reader(path).can_read(path):
            loose[path.parent].append(path)
            order.append(path)
            continue
        inside = _in_folder(path, left_out)
        if isinstance(inside, Dataset):
            cases = {case.image: case for case in inside.cases}
            found |= {case.image.resolve(): case for case in cases.values()}
            order += cases
        else:
            loose[path] += inside
            order += inside
    notes: list[str] = []
    named: dict[Path, str] = {}
    for folder, files in loose.items():
        named |= _named(folder, dict.fromkeys(files), left_out, notes)
    for path in order:
        if path in named:
            try:
                found.setdefault(path.resolve(), Case(named[path], path, None))
            except ValueError as error:
                left_out.append(LeftOut(path, "file", str(error)))
    return Inputs(_of_different_names(found.values()), tuple(dict.fromkeys(left_out)), tuple(notes))


def _of_different_names(cases: Iterable[Case]) -> tuple[Case, ...]:
    by_name: dict[str, Case] = {}
    for case in cases:
        other = by_name.setdefault(case.name, case)
        if other is not case:
            raise ValueError(
                f"{both(other.image, case.image)} would both be written as {case.name}.nii.gz; "
                "rename one, or predict them into two folders"
            )
    return tuple(by_name.values())


def _in_folder(folder: Path, left_out: list[LeftOut]) -> list[Path] | Dataset:
    """The CTs directly in a folder, or the data set in it."""
    listing = list_volumes(folder)
    labels = {file for file in listing.files if _LABELS.fullmatch(volume_name(file))}
    skipped = [
        *listing.left_out,
        *(LeftOut(file, "file named like a label map") for file in listing.files if file in labels),
    ]
    files = [file for file in listing.files if file not in labels]
    if not files and ((folder / DESCRIPTION).is_file() or has_lits(folder)):
        dataset = open_dataset(folder)
        left_out += [one for one in dataset.left_out if one.fault is None]
        left_out += [LeftOut(one.file, "file", one.message) for one in dataset.found if one.severity == "error"]
        return dataset
    if not files and not any(one.fault for one in skipped):
        others = count_left_out(skipped)
        below = [one.file for one in skipped if one.what == FOLDER]
        way_out = f"give the folders in it, such as {below[0]}" if below else "give a CT, or a folder with some"
        refuse_dicom(folder)
        raise ValueError(f"{folder}: holds no CT ({endings_in_words()}){f', {others}' if others else ''}; {way_out}")
    left_out += skipped
    return files


def _named(folder: Path, files: Iterable[Path], left_out: list[LeftOut], notes: list[str]) -> dict[Path, str]:
    """Names of the CTs; of several channels of a case only the CT is named, without the channel's number."""
    files = list(files)
    channels: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in files:
        match = _NUMBERED.fullmatch(volume_name(file))
        if match:
            channels[match[1]][int(match[2])] = file
    source = find_description(folder) if channels else None
    described = None if source is None else Description.read_from(source)
    if described is not None and described.channels:
        several = set(channels) if len(described.channels) > 1 else set()
        ct, why = described.ct_channel, f", as {source} says"
    else:
        several, ct = _several(channels), 0
        why = f"; if it is another, name the channels in a {DESCRIPTION} beside them"
    names = {file: volume_name(file) for file in files}
    for stem in sorted(several, key=natural_key):
        for number, file in channels[stem].items():
            if number == ct:
                names[file] = stem
                continue
            fault = None
            if ct not in channels[stem]:
                fault = f"is not the CT of its case; give {stem}_{ct:04d}, or leave this out"
            left_out.append(LeftOut(file, CHANNEL, fault))
            del names[file]
    if several:
        notes.append(
            f"{folder}: {count_of(len(several), 'case')} with several channels; the one that ends in "
            f"_{ct:04d} is taken as the CT{why}"
        )
    return names


def _several(channels: Mapping[str, Mapping[int, Path]]) -> set[str]:
    """The names whose files are channels of one case, judged by names and grids."""
    full = {
        stem
        for stem, files in channels.items()
        if len(files) > 1 and set(files) == set(range(len(files))) and _one_grid(files.values())
    }
    # `ct_0000` and `ct_0001` are two cases: without their numbers nothing would tell them apart.
    if len(full) < 2:
        full = {stem for stem in full if case_number(stem) is not None}
    return set(channels) if full else set()


def _one_grid(files: Iterable[Path]) -> bool:
    """Whether files lie on one grid, as channels of one case do; unreadable ones are passed over."""
    grids = []
    for file in files:
        try:
            grids.append(read_header(file).geometry)
        except ValueError:
            continue
    known = [grid for grid in grids if grid is not None]
    return all(known[0].difference(grid) is None for grid in known)


@dataclass(frozen=True)
class References:
    """Reference segmentations of a folder, by case name, and what their values mean."""

    folder: Path
    files: Mapping[str, Path]
    scheme: LabelScheme

    @classmethod
    def open(cls, folder: Path | str, classes: Sequence[str]) -> References:
        """Lists a folder: a data set's labels, or every NIfTI file in it; see `find_case_files`.

        If neither a `dataset.json` nor LiTS's names define the values, they are 1 organ and 2 lesion, or 1 lesion for
        a model with lesions as its only class.

        Raises:
            ValueError: It is not a folder, holds no segmentation, or its `dataset.json` cannot be used.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"{folder}: is not a folder; give the one with the reference segmentations")
        found = find_case_files(folder)
        files = {name: case.mask(semantic=True) for name, case in found.masks.items()}
        if not files:
            raise ValueError(f"{folder}: holds no reference segmentation ({endings_in_words()})")
        scheme = found.scheme or (SCHEME if len(classes) > 1 else LabelScheme(lesion_values=(1,)))
        return cls(folder, files, scheme)

    def find(self, case: Case) -> Path | None:
        """The reference of a CT, by name or number; see `pair_cases`.

        Raises:
            ValueError: Several have its number.
        """
        others = {key: file for key, file in self.files.items() if file.resolve() != case.image.resolve()}
        name = pair_cases({case.name: case.image}, others).get(case.name)
        return None if name is None else others[name]

    def dataset(self, cases: Sequence[Case]) -> Dataset:
        """The CTs, each with its reference if there is one."""
        found = []
        for case in cases:
            try:
                labels = self.find(case)
            except ValueError:  # Several fit: none is taken.
                labels = None
            found.append(Case(case.name, case.image, labels))
        return Dataset(self.folder.name, self.folder, tuple(found), self.scheme)

    def read(self, path: Path, volume: Volume, trust_grid: bool = False) -> tuple[NDArray[np.uint8], str | None]:
        """A reference in the CT's file axes: 0 background, 1 organ, 2 lesion; and a note if its grid was ignored.

        Args:
            path: The reference.
            volume: The CT.
            trust_grid: Ignores the reference's grid if its shape is the CT's.

        Raises:
            ValueError: It cannot be read, lies on another grid, or has a label that is not in the scheme.
        """
        labels = read_labels(path)
        note = check_same_grid(volume.geometry, labels.geometry, (volume.name, str(path)), trust_grid)
        try:
            return self.scheme.normalise(labels.array), note
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
