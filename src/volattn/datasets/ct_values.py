"""Whether numbers can be the HU of a CT: the one test of `check`, `prepare` and `predict`.

A CT shows soft tissue, and what is below water: air, or fat where the field of view is too narrow for air. Numbers that
were shifted, windowed or scaled, another modality's and labels lack one of them, or crowd at their own ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from volattn.io.readers import check_finite

_LOWEST, _HIGHEST = -1101, 3072  # ends of the histogram
_PADDING = -1100  # below it, -2000 and -3024 for example, is what no scanner measures
_AIR = -500
_SOFT_TISSUE = (-100, 200)
_FAT = (-200, -10)
_BONE = 700
_LEAST_AIR = 1e-4  # share of the voxels; metal artefacts alone reach -500 HU in a few
_LEAST_SOFT_TISSUE = 1e-2
# Of what is above air. The liver alone has 0.2 % of such voxels, by noise.
_LEAST_FAT = 1e-3
_LEAST_TISSUE = 0.25  # soft tissue and fat, where there is no air
_MOST_BONE = 0.15  # unless there is twice as much fat: real CTs have 1 %, those with +1024 a third
_AT_AN_END = 1e-2  # share of the voxels: noise has few at its least or largest value, a window many

_BRIGHTEST = 255  # of a picture, such as the sub-volumes of DeepLesion that are passed on as .npz


def check_values(array: NDArray[np.number], called: str, force: bool = False) -> str | None:
    """Raises a ValueError for values (z, y, x) that cannot be the HU of a CT.

    Args:
        force: They are taken all the same, unless a voxel is NaN or infinite.

    Returns:
        What was overlooked by `force`, one sentence without the file; None if the values can be HU.
    """
    check_finite(array, called)
    wrong = _not_hounsfield(array)
    if wrong is None:
        return None
    message, way_out = wrong
    if force:
        return f"{message}; taken as it is (--force)"
    raise ValueError(f"{called}: {message}; {way_out}, or say --force if it is right")


def _not_hounsfield(array: NDArray[np.number]) -> tuple[str, str] | None:
    """Why finite numbers cannot be HU, and what to do; None if they can."""
    counts = np.zeros(_HIGHEST - _LOWEST + 1, np.int64)
    for plane in array:
        bins = np.rint(np.clip(plane, _LOWEST, _HIGHEST)).astype(np.int64) - _LOWEST
        counts += np.bincount(bins.ravel(), minlength=len(counts))

    def number(low: int, high: int) -> int:
        """Voxels from `low` to `high` HU, both included."""
        return int(counts[low - _LOWEST : high - _LOWEST + 1].sum())

    least, most = float(array.min()), float(array.max())
    measured = number(_PADDING, _HIGHEST)
    body, fat, bone = number(_AIR + 1, _HIGHEST), number(*_FAT), number(_BONE, _HIGHEST)
    low, high = _SOFT_TISSUE
    filled = np.flatnonzero(counts)
    at_an_end = [end for end in filled[[0, -1]] if counts[end] >= _AT_AN_END * array.size]
    to_hu = "convert it to HU"
    if most > 1000:
        to_hu += " (is the rescale intercept of -1024 missing?)"
    elif least == 0 and _BRIGHTEST / 2 < most <= _BRIGHTEST:
        to_hu = "these are grey values of 8 bits: give the CT itself, in HU, or undo the window that made them"
    elif least >= 0:
        to_hu = "give the CT itself, in HU, not labels or a picture"
    if least == most:
        return f"all its voxels are {least:g}, which cannot be a CT's HU", "give the CT itself"
    if number(low, high) < max(1, _LEAST_SOFT_TISSUE * measured):
        found = f"there is no soft tissue ({low} to {high} HU)", to_hu
    elif bone > max(fat / 2, _MOST_BONE * body):
        found = f"there is too much bone (above {_BONE} HU)", to_hu
    elif number(_PADDING, _AIR) >= _LEAST_AIR * measured:
        return None
    elif fat < _LEAST_FAT * body:
        found = f"there is no air (at most {_AIR} HU) and no fat", to_hu
    elif least > _AIR and any(end + _LOWEST < _BONE for end in at_an_end):  # Scanners cut at 1023 and 3071 HU.
        found = ("there is no air and many voxels have the same end value, as after a window", "give the CT itself")
    elif number(_FAT[0], high) < _LEAST_TISSUE * body:
        found = "there is no air and little soft tissue", to_hu
    else:
        return None
    reason, way_out = found
    return f"values from {least:g} to {most:g} cannot be a CT's HU, {reason}", way_out
