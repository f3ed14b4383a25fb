"""What a folder holds: the one walk, for every layout and every verb."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from volattn.datasets.case import natural_key
from volattn.datasets.issues import LeftOut
from volattn.io.names import check_name
from volattn.io.readers import find_reader, holds_dicom, is_dicom, is_other_format, is_volume_name, volume_name

OTHER_FORMAT = "file in a format that is not read"
DICOM_FILE, DICOM_FOLDER = "file in DICOM format", "folder with DICOM files"
FOLDER = "folder with volumes of its own"


@dataclass(frozen=True)
class Listing:
    """Volumes of a folder.

    Attributes:
        files: In natural order, folder by folder.
        left_out: What else may be an image, or cannot be reached. Hidden files are ignored.
    """

    files: tuple[Path, ...]
    left_out: tuple[LeftOut, ...]


def list_volumes(folder: Path, *, below: bool = False) -> Listing:
    """Lists the files of a folder, with `below` of the folders in it too, that are named as volumes.

    Links are followed, and a folder is visited once, whatever links lead to it. A folder `volume-0.nii` that holds
    `volume-0.nii`, as some archives unpack, is that file. A folder that a reader takes as one volume is listed too.
    """
    files: list[Path] = []
    left_out: list[LeftOut] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        inside = []
        for path, mode in _entries(here, seen, left_out):
            if mode is None:
                left_out.append(_unreachable(path))
            elif stat.S_ISDIR(mode) and not _is_one_volume(path):
                inside.append(path)
            elif stat.S_ISDIR(mode) or is_volume_name(path):
                files += _checked(path, left_out)
            elif is_dicom(path):
                left_out.append(LeftOut(path, DICOM_FILE))
            elif is_other_format(path):
                left_out.append(LeftOut(path, OTHER_FORMAT))
        for path in inside:
            file, full = as_file(path), _holds_volumes(path)
            if is_volume_name(path) and not full:
                fault = "is a folder without the file of its name; unpack that again, or move the folder away"
                left_out.append(LeftOut(path, "folder", fault))
            elif file != path and not below:
                files += _checked(file, left_out)
            elif full and not below:
                left_out.append(LeftOut(path, FOLDER))
            elif not below and holds_dicom(path):
                left_out.append(LeftOut(path, DICOM_FOLDER))
        waiting += reversed(inside) if below else ()
    return Listing(tuple(files), tuple(left_out))


def as_file(path: Path) -> Path:
    """The file that a folder of the same name stands for, `volume-0.nii/volume-0.nii`; any other path as it is."""
    if not (is_volume_name(path) and stat.S_ISDIR(_mode(path) or 0)):
        return path
    try:
        inside = _children(path)
    except OSError:
        return path
    same = [inner for inner in inside if is_volume_name(inner) and volume_name(inner) == volume_name(path)]
    return next((inner for inner in same if not stat.S_ISDIR(_mode(inner) or 0)), path)


def folders_below(folder: Path) -> list[Path]:
    """The folders directly in one, in natural order; hidden ones are left out."""
    return [path for path in _children(folder) if stat.S_ISDIR(_mode(path) or 0)]


def _entries(folder: Path, seen: set[tuple[int, int]], left_out: list[LeftOut]) -> Iterable[tuple[Path, int | None]]:
    """What lies in a folder, with its kind (None where a link leads nowhere); nothing of one seen before."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        return [(path, _mode(path)) for path in _children(folder)]
    except OSError as error:
        fault = f"cannot be opened ({error.strerror}); check its permissions, or move it away"
        left_out.append(LeftOut(folder, "folder", fault))
        return []


def _children(folder: Path) -> list[Path]:
    return sorted(
        (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: natural_key(path.name)
    )


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None


def _unreachable(path: Path) -> LeftOut:
    if not path.is_symlink():
        return LeftOut(path, "file", "cannot be looked at; check its permissions")
    fault = f"is a link to {path.readlink()}, which cannot be reached; mount or mend that, or delete the link"
    return LeftOut(path, "file", fault)


def _checked(path: Path, left_out: list[LeftOut]) -> list[Path]:
    try:
        check_name(volume_name(path))
    except ValueError as error:
        left_out.append(LeftOut(path, "file", str(error)))
        return []
    return [path]


def _is_one_volume(folder: Path) -> bool:
    return not is_volume_name(folder) and find_reader(folder).can_read(folder)


def _holds_volumes(folder: Path) -> bool:
    try:
        return any(is_volume_name(path) for path in folder.iterdir())
    except OSError:
        return False
