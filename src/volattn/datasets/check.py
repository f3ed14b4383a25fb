"""Every fault of a data set, found in one pass over its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volattn.datasets.case import Case, Dataset, LabelScheme, label_values
from volattn.datasets.ct_values import check_values
from volattn.datasets.issues import Issue, Issues
from volattn.datasets.key_slice import KeySlice
from volattn.faults import explain
from volattn.io.names import count_of
from volattn.io.readers import VolumeHeader, inspect_header
from volattn.structures.geometry import check_same_grid
from volattn.workers import Progress

_USUAL_IN_PLANE_MM = (0.3, 2.0)
_USUAL_SLICE_MM = (0.3, 8.0)
_USUAL_SLICES = 5
_BODY_ABOVE = -200
_LIVER_LEFT_MM = 15


def check_dataset(
    dataset: Dataset, force: bool = False, progress: Progress | None = None, *, trust_grid: bool = False
) -> list[Issue]:
    """Reads every file of a data set to its end and lists all that is wrong, in the order of the cases.

    Args:
        force: Values that cannot be a CT's are a note, not an error.
        progress: Called with ("check", cases done, cases) after each case.
        trust_grid: Labels of the image's shape that lie elsewhere are a note, not an error.
    """
    issues = list(dataset.found)
    reported: set[tuple[Path, str]] = set()
    if dataset.expected is not None and dataset.expected > len(dataset.cases):
        message = (
            f"promises {count_of(dataset.expected, 'training case')} (numTraining), found {len(dataset.cases)}; "
            "copy the others or correct the number"
        )
        issues.append(Issue("", dataset.root / "dataset.json", "error", message))
    for done, case in enumerate(dataset.cases, 1):
        try:
            found = check_case(case, dataset.scheme, force, trust_grid)
            issues += [issue for issue in found if (issue.file, issue.message) not in reported]
            reported |= {(issue.file, issue.message) for issue in found}
        except Exception as error:  # Whatever is wrong with one case must not hide the faults of the others.
            issues.append(Issue(case.name, case.image, "error", explain(error)))
        if progress is not None:
            progress("check", done, len(dataset.cases))
    return issues


def check_case(case: Case, scheme: LabelScheme, force: bool = False, trust_grid: bool = False) -> list[Issue]:
    """Checks one case: its image, its annotation, and that they belong together."""
    if case.key_slice is not None:
        return _check_key_slice(case.name, case.key_slice, force)
    check = _CaseCheck(case.name, scheme, force, trust_grid)
    image = check.header(case.image)
    if image is not None:
        check.spacing(image)
    values = None if image is None else check.values(image)
    if case.labels is None:
        check.error(case.image, "has no label map; add it, or take the image out of the data set")
        return check.found
    labels = check.header(case.labels)
    organs = None if labels is None else check.labels(labels)
    if image is not None and labels is not None:
        check.grids(image, labels)
        if values is not None and organs is not None and image.shape == labels.shape:
            check.sides(image, values, organs)
    return check.found


@dataclass
class _CaseCheck(Issues):
    """Collects what is wrong with one case; each method goes on where another found a fault."""

    scheme: LabelScheme
    force: bool
    trust_grid: bool

    def header(self, file: Path) -> VolumeHeader | None:
        with self.errors_of(file):
            header = inspect_header(file)
            for fault in header.faults:
                self.error(file, fault)
            for note in header.notes:
                self.note(file, note)
            return header
        return None

    def spacing(self, header: VolumeHeader) -> None:
        if header.geometry is None:
            return
        canonical = header.geometry.turned(header.geometry.turn())
        z, y, x = canonical.spacing
        shown = f"{x:.4g} x {y:.4g} x {z:.4g} mm"
        odd = []
        if not all(_within(size, _USUAL_IN_PLANE_MM) for size in (y, x)) or not _within(z, _USUAL_SLICE_MM):
            odd.append(f"spacing {shown} is unusual for a CT")
        elif abs(y - x) > 0.01 * max(y, x):
            odd.append(f"in-plane spacing differs between x and y ({shown})")
        stated = header.stated_spacing
        clear = not (header.faults or header.notes)
        if clear and stated is not None and not np.allclose(stated, header.geometry.spacing, rtol=1e-3):
            given = " x ".join(f"{size:.4g}" for size in stated[::-1])
            odd.append(f"stated spacing is {given} mm where the affine has another")
        directions = canonical.affine[:3, :3] / canonical.spacing
        if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:
            odd.append("axes are not perpendicular (a tilted gantry?)")
        if canonical.shape[0] < _USUAL_SLICES:
            odd.append(f"has only {count_of(canonical.shape[0], 'axial slice')}")
        for oddity in odd:
            self.note(header.path, f"{oddity}; make sure that the header is right")

    def values(self, header: VolumeHeader) -> np.ndarray | None:
        """Whether an image's voxels are numbers, and a CT's; the voxels, if they can be read."""
        array = None
        with self.errors_of(header.path):
            array = header.read_image()
            self.note(header.path, check_values(array, str(header.path), self.force))
        return array

    def labels(self, header: VolumeHeader) -> np.ndarray | None:
        """Whether a label map holds labels, the scheme's, and a lesion; the labels, if they can be read."""
        with self.errors_of(header.path):
            array = header.read_labels()
            values = label_values(array)
            fault = self.scheme.fault(values)
            if fault is not None:
                self.error(header.path, fault)
            if not set(values) & set(self.scheme.lesion_values):
                self.note(header.path, f"no {self.scheme.lesion_name} in this case; fine if that is so")
            return array
        return None

    def grids(self, image: VolumeHeader, labels: VolumeHeader) -> None:
        if image.geometry is None or labels.geometry is None:
            return
        with self.errors_of(labels.path):
            called = (image.path.name, str(labels.path))
            self.note(labels.path, check_same_grid(image.geometry, labels.geometry, called, self.trust_grid))

    def sides(self, image: VolumeHeader, values: np.ndarray, labels: np.ndarray) -> None:
        """Notes a liver on the patient's left: some public cases have headers that swap left and right."""
        if image.geometry is None or "liver" not in (self.scheme.organ_name or "").lower():
            return
        turn = image.geometry.turn()
        step = image.geometry.turned(turn).spacing[2]
        liver = _middle(turn.apply(labels) > 0)
        body = _middle(turn.apply(values) > _BODY_ABOVE)
        if liver is not None and body is not None and (liver - body) * step > _LIVER_LEFT_MM:
            self.note(
                image.path,
                f"the liver lies {(liver - body) * step:.0f} mm to the patient's left of the body's middle; "
                "if that is not so, its header swaps left and right and should be corrected",
            )


def _middle(mask: np.ndarray) -> float | None:
    """Mean x of a (z, y, x) mask, voxels; None if it is empty."""
    profile = sum(plane.sum(axis=0, dtype=np.int64) for plane in mask)
    total = np.sum(profile)
    return float(np.dot(profile, np.arange(mask.shape[2])) / total) if total else None


def _within(size: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= size <= bounds[1]


def _check_key_slice(case: str, key_slice: KeySlice, force: bool) -> list[Issue]:
    """Checks the rows of a case, and each of its slices to the last byte."""
    issues = Issues(case)
    for fault in key_slice.faults():
        issues.error(key_slice.table, key_slice.at_row(fault))
    if key_slice.grid_fault() is not None:
        return issues.found
    missing = key_slice.missing()
    if missing is not None:  # A missing folder is one issue, however many rows name it.
        issues.error(key_slice.folder, key_slice.at_row(missing) if key_slice.folder.is_dir() else missing)
    slices = []
    for path in filter(Path.is_file, key_slice.files):
        try:
            slices.append(key_slice.read_slice(path))
        except ValueError as error:
            issues.error(path, key_slice.at_row(str(error).removeprefix(f"{path}: ")))
    if slices:
        with issues.errors_of(key_slice.folder):
            note = check_values(np.stack(slices), key_slice.called, force)
            issues.note(key_slice.folder, note and key_slice.at_row(note))
    if not any(issue.severity == "error" for issue in issues.found):
        for given, inside in zip(key_slice.boxes, key_slice.inside(), strict=True):
            if given != inside:
                x0, y0, x1, y1 = given
                message = f"box x {x0:g} to {x1:g}, y {y0:g} to {y1:g} goes over the edge of the image and is cut to it"
                issues.note(key_slice.table, key_slice.at_row(message))
    return issues.found
