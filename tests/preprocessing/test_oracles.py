"""Preparation against SimpleITK, exact fractions, and itself under other conditions."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.datasets.case import Case, Dataset, LabelScheme
from volattn.io.readers import write_labels, write_volume
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.prepared import PreparedSlices, prepare_labels, shrink
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_values=(2,))


def simpleitk_along_z(array: np.ndarray, spacing: float, step: float, depth: int) -> np.ndarray:
    image = SimpleITK.GetImageFromArray(array.astype(np.float64))
    image.SetSpacing((0.8, 0.8, spacing))
    _, height, width = array.shape
    grid = SimpleITK.Image(width, height, depth, SimpleITK.sitkFloat64)
    grid.SetSpacing((0.8, 0.8, step))
    return SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, grid, SimpleITK.Transform(), SimpleITK.sitkLinear))


@given(
    depth=st.integers(2, 12),
    spacing=st.sampled_from([0.7, 1.0, 2.5, 5.0]),
    step=st.sampled_from([1.0, 1.5, 3.7]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_volumes_and_labels_are_simpleitks(depth: int, spacing: float, step: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    array = generator.integers(-1000, 1500, (depth, 9, 11)).astype(np.int16)
    labels = generator.integers(0, 3, array.shape).astype(np.uint8)
    geometry = Geometry.aligned(array.shape, (spacing, 0.8, 0.8))
    plan = Plan(z_spacing=step, size=64)

    image = np.stack(list(PreparedSlices(Volume(array, geometry), plan)))
    theirs = simpleitk_along_z(np.clip(array, -200, 300), spacing, step, len(image))
    assert np.abs(image - theirs).max() <= 0.5 + 1e-3

    prepared = prepare_labels(Volume(labels, geometry), SCHEME, plan)
    for least in (1, 2):
        share = simpleitk_along_z(labels >= least, spacing, step, len(image))
        certain = np.abs(share - 0.5) > 1e-3
        np.testing.assert_array_equal((prepared >= least)[certain], (share >= 0.5)[certain])


@given(rows=st.integers(2, 14), columns=st.integers(2, 14), data=st.data())
@settings(max_examples=25)
def test_shrinking_averages_exact_areas(rows: int, columns: int, data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, rows)), data.draw(st.integers(1, columns))
    plane = np.random.default_rng(rows * columns).integers(-200, 300, (rows, columns))

    def overlap(pixel: int, target: int, source: int, count: int) -> Fraction:
        factor = Fraction(source, count)
        return max(Fraction(0), min((target + 1) * factor, Fraction(pixel + 1)) - max(target * factor, Fraction(pixel)))

    small = shrink(plane, shape)
    area = Fraction(rows * columns, shape[0] * shape[1])
    for j, i in np.ndindex(*shape):
        total = sum(
            int(plane[y, x]) * overlap(y, j, rows, shape[0]) * overlap(x, i, columns, shape[1])
            for y in range(rows)
            for x in range(columns)
        )
        assert small[j, i] == pytest.approx(float(total / area), abs=1e-3)


def test_a_share_of_exactly_one_half_is_inside() -> None:
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[0, :, ::2] = 1
    geometry = Geometry.aligned(labels.shape, (3.0, 0.8, 0.8))
    in_plane = prepare_labels(Volume(labels, geometry), SCHEME, Plan(size=32, z_spacing=None))
    assert in_plane[0].all()
    along_z = prepare_labels(Volume(labels, geometry), SCHEME, Plan(size=64, z_spacing=1.5))
    np.testing.assert_array_equal(along_z[1], labels[0])


SHRUNK = """
import hashlib
import numpy as np
from volattn.preprocessing.prepared import shrink
plane = np.random.default_rng(0).normal(0, 100, (512, 512)).astype(np.float32)
print(hashlib.sha256(b"".join(shrink(plane, (n, n)).tobytes() for n in (192, 333, 401))).hexdigest())
"""


@pytest.mark.slow
def test_shrinking_does_not_depend_on_the_threads() -> None:
    """A matrix product's last bits do; stores prepared with other threads, or by a pool, would differ."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", SHRUNK],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(digests) == 1


def test_memory_grows_by_six_bytes_a_voxel_at_most(tmp_path: Path) -> None:
    """2 of the CT, 1 of its labels, and while these are resampled 1 in known values and 1 prepared."""
    peaks, depths = [], (16, 64)
    for depth in depths:
        shape = (depth, 96, 96)
        array = np.random.default_rng(0).integers(-1000, 500, shape).astype(np.int16)
        labels = np.zeros(shape, np.uint8)
        labels[depth // 4 : depth // 2, 30:70, 30:70] = 1
        labels[depth // 3, 40:50, 40:50] = 2
        folder = tmp_path / str(depth)
        volume = Volume(array, Geometry.aligned(shape, (1.5, 0.8, 0.8)))
        write_volume(folder / "image.nii", volume)
        write_labels(folder / "labels.nii", labels, volume)
        case = Case("deep", folder / "image.nii", folder / "labels.nii")
        again = []
        for number in range(2):  # what else this process allocates meanwhile, it does not do twice
            tracemalloc.start()
            prepare_dataset(Dataset("deep", folder, (case,), SCHEME), Plan(size=96), folder / f"store{number}")
            again.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks.append(min(again))
    assert peaks[1] - peaks[0] <= 6 * (depths[1] - depths[0]) * 96 * 96
