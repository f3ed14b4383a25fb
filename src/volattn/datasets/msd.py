"""Medical Segmentation Decathlon folders: a `dataset.json` with labels int -> name and a list of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from volattn.datasets.case import Case, Dataset, make_dataset, scheme_from_names
from volattn.datasets.description import expected_cases, paired_files, read_description
from volattn.io.nifti import volume_name


def open_msd(root: Path) -> Dataset:
    """Opens a Decathlon folder, or nnU-Net version 1's, whose list leaves out the `_0000` of its images.

    Raises:
        ValueError: `dataset.json` cannot be used, or a case is listed twice.
    """
    source = root / "dataset.json"
    description = read_description(source)
    try:
        names = {str(name): [int(value)] for value, name in description["labels"].items()}
    except (ValueError, TypeError):
        raise ValueError(f'{source}: labels must read like {{"0": "background", "1": "liver"}}') from None
    if len(names) != len(description["labels"]):
        raise ValueError(f"{source}: two labels have one name; give each its own")
    listed = description.get("training")
    cases = (
        paired_files(root, ".nii.gz") if listed is None else [_case(root, source, entry) for entry in listed]
    )
    return make_dataset(
        str(description.get("name") or root.name),
        root,
        cases,
        scheme_from_names(names, source),
        expected_cases(description),
    )


def _case(root: Path, source: Path, entry: Any) -> Case:
    """A case of the list, `{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}`."""
    if not (isinstance(entry, dict) and isinstance(entry.get("image"), str)):
        raise ValueError(f"{source}: a training case must have an image and a label, found {entry!r}")
    image = root / entry["image"]
    name = volume_name(image)
    channel = image.with_name(image.name.replace(name, f"{name}_0000", 1))
    if not image.exists() and channel.exists():
        image = channel
    label = entry.get("label")
    return Case(name, image, root / label if isinstance(label, str) else None)
