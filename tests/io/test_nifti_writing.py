"""Writing NIfTI: types, bytes, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nibabel.loadsave import save as save_image
from nibabel.nifti1 import Nifti1Extension, Nifti1Image
from nifti_files import SHAPE, all_points, load, world_by_simpleitk

from volattn.io.readers import read_volume, write_labels, write_volume
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


@pytest.mark.parametrize(("highest", "dtype"), [(2, np.uint8), (256, np.uint16), (70000, np.int32)])
def test_written_labels_take_the_smallest_type(
    highest: int, dtype: type, tmp_path: Path, make_volume: Callable[..., Volume]
) -> None:
    volume = make_volume()
    array = np.zeros(volume.array.shape, np.int64)
    array[0, 1, 2] = highest
    write_labels(tmp_path / "a.nii.gz", array, volume)
    image = load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == dtype
    np.testing.assert_array_equal(np.asarray(image.dataobj), array.T)


def test_written_labels_carry_no_text_from_the_source(tmp_path: Path) -> None:
    image = Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.header["descrip"] = b"DOE JOHN"
    image.header["db_name"] = b"DOE"
    image.header["aux_file"] = b"doe.txt"
    image.header.extensions.append(Nifti1Extension("comment", b"patient: DOE JOHN"))
    save_image(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    write_labels(tmp_path / "b.nii", np.zeros(volume.array.shape, np.uint8), volume)
    assert b"DOE" in (tmp_path / "a.nii").read_bytes()
    assert b"doe" not in (tmp_path / "b.nii").read_bytes().lower()


def test_labels_off_the_grid_or_negative_are_not_written(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    volume = make_volume()
    with pytest.raises(ValueError, match="grid"):
        write_labels(tmp_path / "a.nii.gz", np.zeros((1, 2, 3), np.uint8), volume)
    with pytest.raises(ValueError, match="cannot be written"):
        write_labels(tmp_path / "a.nii.gz", np.full(volume.array.shape, -1), volume)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sheared", [False, True])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_without_a_header_are_written_where_they_lie(
    suffix: str, sheared: bool, tmp_path: Path, make_volume: Callable[..., Volume]
) -> None:
    affine = Geometry.aligned((3, 4, 5), (2.0, 0.8, 0.7), (10.0, -20.0, 30.0)).affine.copy()
    if sheared:
        affine[1, 0] = 0.4  # a tilted gantry: no quaternion can say this
    volume = make_volume((3, 4, 5), affine=affine)
    path = tmp_path / f"a{suffix}"
    write_volume(path, volume)
    back = read_volume(path)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry.disagreement(volume.geometry) < 1e-4
    if not sheared:
        points = all_points((3, 4, 5))
        np.testing.assert_allclose(volume.geometry.to_world(points), world_by_simpleitk(path, points), atol=1e-4)


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path, make_volume: Callable[..., Volume]) -> None:
    for name in ("a.nii.gz", "other.nii.gz"):
        write_volume(tmp_path / name, make_volume(seed=5))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()
    header = (tmp_path / "a.nii.gz").read_bytes()[:10]
    assert header[3] == 0, "no name in the stream"
    assert header[4:8] == bytes(4), "no time in the stream"
