"""The grid of what is written is the grid of what was read, in every orientation; SimpleITK is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nibabel.loadsave import save as save_image
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Image
from nifti_files import (
    ORIENTATIONS,
    SHAPE,
    all_points,
    assert_same_geometry,
    load,
    oriented,
    save,
    voxels_by_simpleitk,
    world_by_simpleitk,
)

from volattn.io.readers import read_header, read_labels, read_volume, stated_spacing, write_labels


@pytest.mark.parametrize("tilted", [False, True], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_simpleitk_reads_the_same_voxels_at_the_same_places(codes: str, tilted: bool, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-1024, 1024, SHAPE).astype(np.int16)
    path = save(tmp_path / "a.nii", array, oriented(codes, tilted))
    volume = read_volume(path)
    points = all_points(volume.array.shape)
    np.testing.assert_allclose(volume.geometry.to_world(points), world_by_simpleitk(path, points), atol=2e-4)
    np.testing.assert_array_equal(volume.array, voxels_by_simpleitk(path))

    canonical = volume.canonical()
    np.testing.assert_allclose(
        np.diag(canonical.geometry.affine[[2, 1, 0], :3]) / canonical.geometry.spacing,
        np.ones(3),
        atol=0.08 if tilted else 1e-6,
    )

    labels = (canonical.array > 500).astype(np.uint8)
    written = tmp_path / "labels.nii.gz"
    write_labels(written, volume.geometry.turn().undo(labels), volume)
    np.testing.assert_array_equal(voxels_by_simpleitk(written), volume.array > 500)
    np.testing.assert_array_equal(world_by_simpleitk(written, points), world_by_simpleitk(path, points))
    assert_same_geometry(path, written)


@pytest.mark.parametrize(("sform", "qform"), [(1, 0), (0, 1), (2, 1), (4, 3), (0, 0)])
def test_codes_and_forms_survive_writing(sform: int, qform: int, tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros(SHAPE, np.int16), oriented("LPS", True), sform=sform, qform=qform)
    volume = read_volume(path)
    points = all_points(volume.array.shape)
    np.testing.assert_allclose(volume.geometry.to_world(points), world_by_simpleitk(path, points), atol=2e-4)
    write_labels(tmp_path / "b.nii.gz", np.ones(volume.array.shape, bool), volume)
    assert_same_geometry(path, tmp_path / "b.nii.gz")


def test_forms_that_differ_survive_writing(tmp_path: Path) -> None:
    """A tool that writes one matrix into both forms would lose one of them."""
    image = Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.set_sform(oriented("LPS", True), 2)
    image.set_qform(oriented("RAS"), 1)
    image.header["pixdim"][4:] = (0.5, 7.0, 1.0, 1.0)
    image.header.set_dim_info(freq=1, phase=0, slice=2)
    save_image(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    write_labels(tmp_path / "b.nii", np.zeros(volume.array.shape, np.uint8), volume)
    assert_same_geometry(tmp_path / "a.nii", tmp_path / "b.nii")
    np.testing.assert_allclose(
        volume.geometry.affine[:, [2, 1, 0, 3]], np.diag([-1, -1, 1, 1]) @ image.get_sform(), atol=1e-6
    )


@pytest.mark.parametrize(("code", "factor"), [(1, 1e-3), (2, 1.0), (3, 1e3), (0, 1.0)])
@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (1, 0)])
def test_units_are_those_that_simpleitk_reads_and_survive_writing(
    code: int, factor: float, sform: int, qform: int, tmp_path: Path
) -> None:
    affine = oriented("LPS", True)
    affine[:3] *= factor
    array = np.zeros(SHAPE, np.int16)
    path = save(tmp_path / "a.nii", array, affine, sform=sform, qform=qform, xyzt_units=code)
    volume = read_volume(path)
    points = all_points(volume.array.shape)
    np.testing.assert_allclose(volume.geometry.to_world(points), world_by_simpleitk(path, points), atol=2e-4)
    assert stated_spacing(volume) == pytest.approx((2.5, 0.9, 0.7))
    assert volume.geometry.spacing == pytest.approx((2.5, 0.9, 0.7))
    write_labels(tmp_path / "b.nii", np.ones(volume.array.shape, bool), volume)
    assert_same_geometry(path, tmp_path / "b.nii")
    np.testing.assert_array_equal(world_by_simpleitk(tmp_path / "b.nii", points), world_by_simpleitk(path, points))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (np.eye(4), None),
        (np.diag([-1.0, 1, 1, 1]), "the qform is mirrored along x"),
        (np.array([[1.0, 0, 0, 43], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "the qform is shifted by 43 mm"),
        (np.diag([1.0, 1, 2, 1]), "the qform has voxels of"),
    ],
)
def test_a_qform_that_contradicts_the_sform_is_noted(change: np.ndarray, said: str | None, tmp_path: Path) -> None:
    affine = oriented("LPS", True) if said is None else oriented("LPS")
    image = Nifti1Image(np.zeros(SHAPE, np.int16), None)
    image.set_sform(affine, 1)
    image.set_qform(change @ affine, 1)
    save_image(image, tmp_path / "a.nii")
    notes = read_header(tmp_path / "a.nii").notes
    assert read_volume(tmp_path / "a.nii").notes == notes
    if said is None:
        assert notes == ()
    else:
        (note,) = notes
        assert said in note
        assert "; the sform was taken" in note


@pytest.mark.parametrize("kind", ["big-endian", "nifti-2", "trailing axis"])
def test_unusual_containers(kind: str, tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(-1000, 1000, SHAPE).astype(np.int16)
    affine = oriented("PIR", True)
    if kind == "big-endian":
        header = Nifti1Header(endianness=">")
        header.set_data_dtype(">i2")
        image = Nifti1Image(array, affine, header)
    elif kind == "nifti-2":
        image = Nifti2Image(array, affine)
    else:
        image = Nifti1Image(array[..., None], affine)
    path = tmp_path / "a.nii.gz"
    save_image(image, path)
    volume = read_volume(path)
    assert volume.array.dtype == np.dtype(np.int16)
    assert volume.array.dtype.isnative
    np.testing.assert_array_equal(volume.array, array.T)
    write_labels(tmp_path / "b.nii.gz", (volume.array > 0).astype(np.uint8), volume)
    assert_same_geometry(path, tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(read_labels(tmp_path / "b.nii.gz").array, array.T > 0)
    written = load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(image.dataobj) > 0)


def test_real_case(shared_data: Path, tmp_path: Path) -> None:
    image, segmentation = (shared_data / "lits" / f"{kind}-44.nii.gz" for kind in ("volume", "segmentation"))
    volume, labels = read_volume(image), read_labels(segmentation)
    np.testing.assert_array_equal(volume.array, voxels_by_simpleitk(image))
    assert (volume.array.dtype, labels.array.dtype) == (np.int16, np.uint8)
    assert volume.geometry.disagreement(labels.geometry) < 1e-3
    write_labels(tmp_path / "out.nii.gz", labels.array, volume)
    assert_same_geometry(image, tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(voxels_by_simpleitk(tmp_path / "out.nii.gz"), labels.array)
