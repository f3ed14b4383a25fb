"""A new format is one class and one entry in a list; every command then reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets import check_dataset, open_dataset
from volattn.inference.inputs import References, find_inputs
from volattn.io import readers
from volattn.io.files import atomic_path
from volattn.io.readers.base import Reader, VolumeHeader
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


class NpzHeader(VolumeHeader):
    def read_image(self) -> np.ndarray:
        return np.load(self.path)["array"]

    read_labels = read_image


class NpzReader(Reader):
    name, endings = "NumPy", (".npz",)

    def inspect(self, path: Path) -> NpzHeader:
        with np.load(path) as file:
            shape = file["array"].shape
            return NpzHeader(path=path, shape=shape, geometry=Geometry.aligned(shape, tuple(file["spacing"])))

    def write(self, path: Path, array: np.ndarray, like: Volume) -> None:
        with atomic_path(path) as temporary:
            np.savez(temporary, array=array, spacing=like.geometry.spacing)


def test_every_command_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_lits_case: Callable[..., tuple[Path, Path]]
) -> None:
    monkeypatch.setattr(readers, "READERS", [*readers.READERS, NpzReader()])
    image, labels = write_lits_case(3, suffix=".npz")
    dataset = open_dataset(tmp_path / "lits")
    assert [(case.name, case.image, case.labels) for case in dataset.cases] == [("volume-3", image, labels)]
    assert check_dataset(dataset) == []
    store = prepare_dataset(dataset, Plan(z_spacing=None), tmp_path / "store").store
    np.testing.assert_array_equal(store.case("volume-3").labels[:], np.load(labels)["array"])
    (case,) = find_inputs([tmp_path / "lits"]).cases
    assert References.open(tmp_path / "lits", ("liver", "lesion")).find(case) == labels


@pytest.mark.parametrize("name", ["IM0001", "slice.dcm"])
def test_dicom_is_named_until_it_is_read(tmp_path: Path, name: str) -> None:
    file = tmp_path / "study" / "series" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(128) + b"DICM")
    reads = (open_dataset, lambda path: find_inputs([path]), readers.read_volume)
    for folder in (tmp_path, file.parent):
        for read in reads:
            with pytest.raises(ValueError, match="is a folder of DICOM files, which cannot be read yet; convert"):
                read(folder)
    with pytest.raises(ValueError, match=f"{name}: is a DICOM file, which cannot be read yet; convert"):
        readers.read_labels(file)


def test_a_numpy_file_is_named_for_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "CT_Lesion_000001_02_01_008-023.npz"
    np.savez(file, imgs=np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"npz: is a NumPy file, which has no grid .*; write the CT's HU as \.nii\.gz"):
        readers.read_volume(file)
