"""What the name of a NIfTI file says of its case."""

from __future__ import annotations

import re
from pathlib import Path

_SUFFIXES = (".nii", ".nii.gz")
_CHANNEL = re.compile(r"_000\d$")  # nnU-Net names the images of case_x case_x_0000, ...


def is_nifti(file: Path) -> bool:
    """Whether a path is a NIfTI file by its name; hidden files are not."""
    return file.name.endswith(_SUFFIXES) and not file.name.startswith(".") and file.is_file()


def without_channel(name: str) -> str:
    """The name without the number of a channel at its end, as nnU-Net adds to images."""
    return _CHANNEL.sub("", name)


def case_number(name: str) -> int | None:
    """The last number in a name, that of a channel aside; None if there is none.

    `case_0003` has no channel: without the 3 nothing would tell it from other cases.
    """
    number = last_number(without_channel(name))
    return last_number(name) if number is None else number


def last_number(name: str) -> int | None:
    """The last number in a name; None if there is none."""
    digits = re.findall(r"\d+", name)
    return int(digits[-1]) if digits else None
