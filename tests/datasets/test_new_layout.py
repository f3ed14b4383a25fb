"""A new layout is one function and one entry in a list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from volattn.datasets import Case, Dataset, check_dataset, open_dataset
from volattn.datasets import open as layouts
from volattn.datasets.case import Reading
from volattn.datasets.lits import SCHEME
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset


def open_patients(root: Path, reading: Reading) -> Dataset:
    """`patients/NAME/ct.nii` and `patients/NAME/liver.nii`."""
    folders = (root / "patients").iterdir()
    cases = [Case(folder.name, folder / "ct.nii", folder / "liver.nii", subset="train") for folder in folders]
    return Dataset(root.name, root, tuple(cases), SCHEME).checked()


def test_it_is_found_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_lits_case: Callable[..., tuple[Path, Path]]
) -> None:
    layout = layouts.Layout("patients/NAME/ct.nii", lambda root: (root / "patients").is_dir(), open_patients)
    monkeypatch.setattr(layouts, "LAYOUTS", [*layouts.LAYOUTS, layout])
    with pytest.raises(ValueError, match="or patients/NAME"):
        open_dataset(tmp_path)
    image, labels = write_lits_case(1, tmp_path / "patients" / "anna", suffix=".nii")
    image.rename(image.with_name("ct.nii"))
    labels.rename(labels.with_name("liver.nii"))
    dataset = open_dataset(tmp_path)
    assert check_dataset(dataset) == []
    assert prepare_dataset(dataset.only(["train"]), Plan(), tmp_path / "store").store.names == ("anna",)
