"""What is wrong with a case whose lesions are boxed on one slice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from volattn.datasets.ct_values import check_values
from volattn.datasets.finding import Finding, Findings
from volattn.datasets.key_slice import KeySlice
from volattn.io.png import read_slice


def check_key_slice(case: str, key_slice: KeySlice, force: bool = False) -> list[Finding]:
    """Checks the rows of a case, and every slice that they speak of to its last byte.

    Args:
        case: Its name.
        key_slice: The case.
        force: Values that cannot be a CT's are a note, not an error.
    """
    findings = Findings(case)
    for fault in key_slice.faults():
        findings.error(key_slice.table, key_slice.at_row(fault))
    if key_slice.grid_fault() is not None:
        return findings.found
    missing = key_slice.missing()
    if missing is not None:
        findings.error(key_slice.folder, key_slice.at_row(missing))
    slices = _read(key_slice, findings)
    if slices:
        try:
            note = check_values(np.stack(slices), key_slice.called, force)
        except ValueError as error:
            findings.error(key_slice.folder, str(error))
        else:
            if note is not None:
                findings.note(key_slice.folder, key_slice.at_row(note))
    if not any(finding.severity == "error" for finding in findings.found):
        _over_the_edge(key_slice, findings)
    return findings.found


def _read(key_slice: KeySlice, findings: Findings) -> list[NDArray[np.int16]]:
    """The slices that are there and as they should be."""
    slices = []
    for path in key_slice.files:
        if not path.is_file():
            continue
        try:
            hu = read_slice(path)
        except ValueError as error:
            findings.error(path, key_slice.at_row(str(error).removeprefix(f"{path}: ")))
            continue
        fault = key_slice.size_fault(hu.shape)
        if fault is not None:
            findings.error(path, key_slice.at_row(fault))
            continue
        slices.append(hu)
    return slices


def _over_the_edge(key_slice: KeySlice, findings: Findings) -> None:
    for given, inside in zip(key_slice.boxes, key_slice.inside(), strict=True):
        if given != inside:
            x0, y0, x1, y1 = given
            findings.note(
                key_slice.table,
                key_slice.at_row(
                    f"box x {x0:g} to {x1:g}, y {y0:g} to {y1:g} goes over the edge of the image; what is inside is "
                    "taken"
                ),
            )
