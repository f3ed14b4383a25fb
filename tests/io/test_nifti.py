"""Reading NIfTI: values, types, positions in mm, with SimpleITK and nibabel as oracles."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
from nifti_files import SHAPE, load, patch, save

from volattn.io.readers import read_labels, read_volume, volume_name


def test_names_and_compression_are_told_by_content(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", np.ones(SHAPE, np.int16), np.eye(4))
    disguised = tmp_path / "plain.nii.gz"
    disguised.write_bytes(path.read_bytes())
    squeezed = tmp_path / "squeezed.nii"
    squeezed.write_bytes(gzip.compress(path.read_bytes()))
    for odd in (disguised, squeezed):
        assert (read_volume(odd).array == 1).all()
    assert [volume_name(n) for n in ("x/volume-4.nii.gz", "volume-4.nii", "a.b")] == ["volume-4", "volume-4", "a.b"]


@pytest.mark.parametrize(
    ("dtype", "slope", "intercept", "expected"),
    [
        (np.int16, 1.0, 0.0, np.int16),
        (np.uint8, 1.0, 0.0, np.int16),
        (np.uint16, 1.0, -1024.0, np.int16),
        (np.int16, 2.0, -1024.0, np.int16),
        (np.int16, -1.0, 5.0, np.int16),
        (np.int16, 0.5, 0.0, np.float32),
        (np.int16, 40.0, 0.0, np.float32),
        (np.int32, 400.0, 0.0, np.float32),
        (np.float64, 1.0, 0.0, np.float32),
        (np.float32, 2.0, -1.5, np.float32),
        (np.int16, 0.0, 7.0, np.int16),
        (np.int16, math.nan, 7.0, np.int16),
    ],
)
def test_scaled_values(dtype: type, slope: float, intercept: float, expected: type, tmp_path: Path) -> None:
    stored = np.random.default_rng(2).integers(0, 200, SHAPE).astype(dtype)
    stored[0, 0, 0] = 1000 if np.dtype(dtype).itemsize > 1 else 200
    path = save(tmp_path / "a.nii", stored, np.eye(4))
    patch(path, 112, np.array([slope, intercept], "<f4"))  # nibabel would scale the numbers itself
    volume = read_volume(path)
    assert volume.array.dtype == expected
    np.testing.assert_allclose(volume.array, load(path).get_fdata().T, rtol=1e-6)


def test_large_whole_numbers_stay_exact_as_floats(tmp_path: Path) -> None:
    array = np.full(SHAPE, 40000, np.uint16)
    volume = read_volume(save(tmp_path / "a.nii", array, np.eye(4)))
    assert volume.array.dtype == np.float32
    assert (volume.array == 40000).all()


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.full(SHAPE, 2, np.uint8), np.uint8),
        (np.full(SHAPE, 2, np.int64), np.uint8),
        (np.full(SHAPE, 2.0, np.float32), np.uint8),
        (np.full(SHAPE, 2.0, np.float64), np.uint8),
        (np.full(SHAPE, 300, np.uint16), np.int16),
        (np.full(SHAPE, -1, np.int16), np.int16),
        (np.full(SHAPE, 70000, np.int32), np.int32),
    ],
)
def test_labels_take_the_smallest_type(array: np.ndarray, expected: type, tmp_path: Path) -> None:
    labels = read_labels(save(tmp_path / "a.nii.gz", array, np.eye(4)))
    assert labels.array.dtype == expected
    np.testing.assert_array_equal(labels.array, array.T)


def test_labels_scaled_by_a_fraction_are_whole(tmp_path: Path) -> None:
    labels = np.random.default_rng(3).integers(0, 3, SHAPE)
    path = save(tmp_path / "a.nii", (labels * 255).astype(np.int16), np.eye(4))
    patch(path, 112, np.array([1 / 255, 0], "<f4"))
    np.testing.assert_array_equal(read_labels(path).array, labels.T)


@pytest.mark.parametrize("value", [0.5, 1.01, math.nan, math.inf])
def test_fractional_labels_are_refused(value: float, tmp_path: Path) -> None:
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = value
    path = save(tmp_path / "a.nii.gz", array, np.eye(4))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: label .* \(z 3, y 2, x 1\) is not a whole number"):
        read_labels(path)


@pytest.mark.parametrize(("code", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_lengths_in_other_units_become_mm(code: int, factor: float, tmp_path: Path) -> None:
    affine = np.diag([0.7 / factor, 0.8 / factor, 2.5 / factor, 1])
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.int16), affine, xyzt_units=code)
    assert read_volume(path).geometry.spacing == pytest.approx((2.5, 0.8, 0.7))
