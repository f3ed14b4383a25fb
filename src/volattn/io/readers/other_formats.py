"""Files of formats that are not read yet, so that messages can name them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

_DICOM = (".dcm", ".dicom", ".ima")
_OTHERS = (
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".img.gz", ".mgz", ".mgh"),
    *(".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"),
)
_LOOKED_AT = 50
"""Files of a folder: one series has hundreds, all of one kind."""


def is_other_format(path: Path) -> bool:
    """Whether a file is an image or an archive by its name."""
    return path.name.lower().endswith(_OTHERS)


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its name, or by its content where the name has no ending, as is usual."""
    if path.name.lower().endswith(_DICOM) or path.name.upper() == "DICOMDIR":
        return True
    if path.suffix.strip(".0123456789"):
        return False
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False


def holds_dicom(folder: Path) -> bool:
    """Whether a folder holds DICOM files, directly or two folders below, as patient, study and series are laid out."""
    level = [folder]
    for _ in range(3):
        inside = []
        for place in level:
            try:
                inside += list(islice((path for path in place.iterdir() if path.name[0] != "."), _LOOKED_AT))
            except OSError:
                continue
        if any(is_dicom(path) for path in inside):
            return True
        level = [path for path in inside if path.is_dir()][:_LOOKED_AT]
    return False


def refuse_dicom(path: Path) -> None:
    """Names DICOM for what it is.

    Raises:
        ValueError: A file is DICOM, or a folder holds such files.
    """
    folder = path.is_dir()
    if holds_dicom(path) if folder else is_dicom(path):
        kind = "a folder of DICOM files" if folder else "a DICOM file"
        raise ValueError(
            f"{path}: is {kind}, which cannot be read yet; convert the series to NIfTI, for example with "
            f"`dcm2niix -z y -o OUT {path if folder else path.parent}`, and give the .nii.gz file"
        )
