"""nnU-Net raw folders (version 2): labels name -> int, images in `imagesTr/case_0000.nii.gz`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from volattn.datasets.case import Case, Dataset, make_dataset, scheme_from_names
from volattn.datasets.description import expected_cases, paired_files, read_description


def open_nnunet(root: Path) -> Dataset:
    """Opens an nnU-Net raw folder; of several channels the one named CT is taken.

    Raises:
        ValueError: `dataset.json` cannot be used, there are several channels and none is named CT, the files
            are not NIfTI, or a case is there twice.
    """
    source = root / "dataset.json"
    description = read_description(source)
    try:
        names = {
            str(name): [int(value) for value in (values if isinstance(values, list) else [values])]
            for name, values in description["labels"].items()
        }
    except (ValueError, TypeError):
        raise ValueError(f'{source}: labels must read like {{"background": 0, "liver": 1}}') from None
    ending = str(description.get("file_ending", ".nii.gz"))
    if ending not in (".nii", ".nii.gz"):
        raise ValueError(f"{source}: its files end in {ending}; convert them to .nii.gz")
    channel = _ct_channel(description.get("channel_names") or {"0": "CT"}, source)
    listed = description.get("dataset")
    cases = (
        paired_files(root, ending, channel)
        if listed is None
        else [_case(root, source, name, entry, channel) for name, entry in listed.items()]
    )
    return make_dataset(
        str(description.get("name") or root.name),
        root,
        cases,
        scheme_from_names(names, source),
        expected_cases(description),
    )


def _ct_channel(channels: dict[str, str], source: Path) -> int:
    """The number of the CT channel."""
    if len(channels) == 1:
        return int(next(iter(channels)))
    for number, name in channels.items():
        if str(name).lower() == "ct":
            return int(number)
    raise ValueError(
        f"{source}: none of its channels ({', '.join(channels.values())}) is named CT; rename it"
    )


def _case(root: Path, source: Path, name: str, entry: Any, channel: int) -> Case:
    """A case of the optional list, `"case": {"images": ["a_0000.nii.gz"], "label": "a.nii.gz"}`."""
    try:
        return Case(name, root / entry["images"][channel], root / entry["label"])
    except (KeyError, IndexError, TypeError):
        raise ValueError(f"{source}: case {name!r} must have images and a label, found {entry!r}") from None
