"""Whether numbers can be the HU of a CT."""

from __future__ import annotations

import numpy as np

_AIR_BELOW = -500
_SOFT_TISSUE = (-100, 200)
_LEAST_AIR = 1e-4  # share of the voxels; metal artefacts alone reach -500 HU in a few
_LEAST_SOFT_TISSUE = 1e-2


def not_hounsfield(array: np.ndarray, finite: int, needs_air: bool = True) -> tuple[str, str] | None:
    """Why an array cannot hold the HU of a CT, and what to do; None if it can.

    Args:
        array: (z, y, x); NaN and infinity are passed over.
        finite: How many of its voxels are finite; at least one.
        needs_air: A narrow field of view need not show any.
    """
    air = sum(int((plane <= _AIR_BELOW).sum()) for plane in array)
    low, high = _SOFT_TISSUE
    soft = sum(int(((plane >= low) & (plane <= high)).sum()) for plane in array)
    missing = []
    if needs_air and air < _LEAST_AIR * finite:
        missing.append(f"air (at most {_AIR_BELOW} HU)")
    if soft < _LEAST_SOFT_TISSUE * finite:
        missing.append(f"soft tissue ({low} to {high} HU)")
    if not missing:
        return None
    values = array[np.isfinite(array)]
    least, most = float(values.min()), float(values.max())
    message = f"values from {least:g} to {most:g} cannot be a CT's HU, there is no {' and no '.join(missing)}"
    way_out = "convert it to HU"
    if least >= 0 and most > 1000:
        way_out += " (is the rescale intercept of -1024 missing?)"
    return message, way_out
