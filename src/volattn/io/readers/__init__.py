"""CT volumes and label maps from files of any format.

A new format is one file here, with a `Reader` and a `VolumeHeader`, and its line in `READERS`.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from volattn.io.names import printable
from volattn.io.readers.base import Reader, VolumeHeader
from volattn.io.readers.nifti import NiftiReader
from volattn.structures.volume import Volume

READERS: list[Reader] = [NiftiReader()]
"""The first also tries files whose names say nothing, and writes files whose names say nothing."""


def find_reader(path: Path | str) -> Reader:
    path = Path(path)
    return next((reader for reader in READERS if reader.can_read(path)), READERS[0])


def volume_ending(path: Path | str) -> str:
    """The part of a file's name that tells its format, such as `.nii.gz`; empty if there is none."""
    name = Path(path).name
    found = [ending for ending in known_endings() if name.lower().endswith(ending)]
    return name[len(name) - max(map(len, found), default=0) :]


def volume_name(path: Path | str) -> str:
    """The printable name of a file without its ending, `.nii.gz` for example, in capitals or not."""
    return printable(Path(path).name.removesuffix(volume_ending(path)))


def is_volume_name(path: Path) -> bool:
    """Whether a file is named as a volume, `.NII.GZ` included; hidden files are not."""
    ending = volume_ending(path)
    return bool(ending) and path.name != ending and not path.name.startswith(".")


def known_endings() -> list[str]:
    return [ending for reader in READERS for ending in reader.endings]


def endings_in_words() -> str:
    """The endings for a message: ".nii.gz or .nii"."""
    return " or ".join(known_endings())


def inspect_header(path: Path | str) -> VolumeHeader:
    """Reads a header; a wrong geometry is listed in its `faults`, so that a check can go on.

    Raises:
        ValueError: The file is missing, damaged, of another format, no 3D volume or absurdly large.
    """
    path = Path(path)
    reader = find_reader(path)
    if not reader.can_read(path):
        refuse_dicom(path)
        if path.name.lower().endswith((".npz", ".npy")):
            raise ValueError(
                f"{path}: is a NumPy file, which has no grid and need not hold HU; write the CT's HU as .nii.gz, or "
                "give the CT that it was cut from (for DeepLesion the folder with DL_info.csv and Images_png)"
            )
    return reader.inspect(path)


def read_header(path: Path | str) -> VolumeHeader:
    """Reads and judges a header; its `geometry` is never None.

    Raises:
        ValueError: As `inspect_header`, or the geometry is wrong.
    """
    header = inspect_header(path)
    if header.faults:
        raise ValueError(f"{header.path}: {'; '.join(header.faults)}")
    return header


def read_volume(path: Path | str) -> Volume:
    """Reads a CT in file axes, HU: int16 where the file's numbers are whole and fit, else float32.

    Raises:
        ValueError: As `read_header`, the file ends early or goes on beyond what its header promises, or a voxel is NaN
            or infinite.
    """
    header = read_header(path)
    array = header.read_image()
    check_finite(array, str(header.path))
    return _volume(header, array)


def read_labels(path: Path | str) -> Volume:
    """Reads a label map in file axes, in the smallest of uint8, int16 and int32 that holds its labels.

    Raises:
        ValueError: As `read_volume`, or a label is fractional or beyond 32 bits.
    """
    header = read_header(path)
    return _volume(header, header.read_labels())


def check_finite(array: np.ndarray, source: str) -> None:
    """Raises a ValueError that begins with `source` if voxels are NaN or infinite."""
    bad = sum(int(plane.size - np.isfinite(plane).sum()) for plane in array) if array.dtype.kind == "f" else 0
    if bad:
        raise ValueError(
            f"{source}: {bad} of its {array.size} voxels are NaN, infinite or beyond 32 bits; export it again, "
            "or fill them with -1024"
        )


def stated_spacing(volume: Volume) -> tuple[float, float, float]:
    """mm (z, y, x) between voxels as the file's header states it, and as other programs measure with it.

    It is the geometry's spacing but for rounding, unless the header contradicts itself.
    """
    header = volume.header
    stated = header.stated_spacing if isinstance(header, VolumeHeader) else None
    return volume.geometry.spacing if stated is None else stated


def write_labels(path: Path | str, array: np.ndarray, like: Volume) -> None:
    """Writes a label map on the grid of `like`, atomically, in the format that the file's name tells.

    The geometry of `like`'s header is kept bit for bit where it is of the same format. Free text, which may say who the
    patient is, is not carried over.

    Args:
        array: (z, y, x) whole numbers >= 0 in the file axes of `like`.
        like: The volume that the labels belong to; without a header one is made from its geometry.

    Raises:
        ValueError: The shape is not `like`'s, a label is negative or beyond 32 bits, or the format is only read.
    """
    if array.shape != like.array.shape:
        raise ValueError(f"{path}: labels of shape {array.shape} are not on the grid of {like.array.shape}")
    low, high = (int(array.min()), int(array.max()))
    fitting = [dtype for dtype in (np.uint8, np.uint16, np.int32) if high <= np.iinfo(dtype).max]
    if low < 0 or not fitting:
        raise ValueError(f"{path}: labels from {low} to {high} cannot be written")
    find_reader(path).write(Path(path), array.astype(fitting[0], copy=False), like)


def write_volume(path: Path | str, volume: Volume) -> None:
    """Writes a volume (int16, uint8 or float32, for example) as `write_labels` does; equal volumes give equal bytes."""
    find_reader(path).write(Path(path), volume.array, volume)


def _volume(header: VolumeHeader, array: np.ndarray) -> Volume:
    assert header.geometry is not None, "read_header refuses files without a grid"
    return Volume(array, header.geometry, volume_name(header.path), header, header.notes)


_DICOM = (".dcm", ".dicom", ".ima")
_OTHERS = (
    *(".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".img", ".img.gz", ".mgz", ".mgh"),
    *(".nii.bz2", ".nii.xz", ".nii.zst", ".nii.zip", ".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar"),
)
_LOOKED_AT = 50
"""Files of a folder: one series has hundreds, all of one kind."""


def is_other_format(path: Path) -> bool:
    """Whether a file is an image or an archive that is not read, by its name."""
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
    """Raises a ValueError if a file is DICOM, or a folder holds such files."""
    folder = path.is_dir()
    if holds_dicom(path) if folder else is_dicom(path):
        kind = "a folder of DICOM files" if folder else "a DICOM file"
        raise ValueError(
            f"{path}: is {kind}, which cannot be read yet; convert the series to NIfTI, for example with "
            f"`dcm2niix -z y -o OUT {path if folder else path.parent}`, and give the .nii.gz file"
        )
