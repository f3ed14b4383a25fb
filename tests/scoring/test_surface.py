"""Distances between surfaces: brute force, scipy's erosion, SimpleITK's Hausdorff distance."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from volattn.scoring.overlap import Overlap, SurfaceDistances, Surfaces, surface
from volattn.structures.lesions import label_components

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.4, 2.0, 1.3)]


def _mask(seed: int, shape: tuple[int, int, int] = (9, 14, 12)) -> np.ndarray:
    """Solid where smooth noise is high: cavities, thin parts and several components."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=shape), generator.uniform(0.5, 1.5))
    return noise > np.quantile(noise, generator.uniform(0.3, 0.9))


def _distances(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]) -> SurfaceDistances:
    found = Surfaces(reference, prediction, spacing).distances()
    assert found is not None
    return found


def _by_force(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, np.ndarray]:
    element = ndimage.generate_binary_structure(3, 2)
    points = [np.argwhere(mask ^ ndimage.binary_erosion(mask, element)) * spacing for mask in (reference, prediction)]
    table = cdist(*points)
    return table.min(axis=1), table.min(axis=0)


@settings(deadline=None, max_examples=20)
@given(first=st.integers(0, 2**20), second=st.integers(0, 2**20), spacing=st.sampled_from(SPACINGS))
def test_brute_force(first: int, second: int, spacing: tuple[float, float, float]) -> None:
    masks = _mask(first), _mask(second)
    found, expected = _distances(*masks, spacing), _by_force(*masks, spacing)
    assert np.sort(found.from_reference) == pytest.approx(np.sort(expected[0]), abs=1e-9)
    assert np.sort(found.from_prediction) == pytest.approx(np.sort(expected[1]), abs=1e-9)
    both = np.concatenate(expected)
    assert found.mean == pytest.approx(both.mean())
    assert found.root_mean_square == pytest.approx(np.sqrt(np.mean(both**2)))
    assert found.maximum == pytest.approx(both.max())
    for tolerance in (0.0, 1.0, 2.0):
        assert found.share_within(tolerance) == pytest.approx(np.mean(both <= tolerance))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**20), depth=st.sampled_from([1, 2, 31, 32, 33, 70]))
def test_the_surface_of_tall_masks(seed: int, depth: int) -> None:
    masks = [_mask(seed + shift, (depth, 6, 5)) for shift in (0, 1)]
    for mask in masks:
        eroded = ndimage.binary_erosion(mask, ndimage.generate_binary_structure(3, 2))
        assert np.array_equal(surface(mask), mask ^ eroded)
    found = _distances(masks[0], masks[1], (2.0, 1.0, 1.0))
    expected = _by_force(masks[0], masks[1], (2.0, 1.0, 1.0))
    assert np.sort(found.from_reference) == pytest.approx(np.sort(expected[0]))


@settings(deadline=None, max_examples=15)
@given(
    lows=st.lists(st.integers(0, 8), min_size=6, max_size=6),
    sizes=st.lists(st.integers(1, 7), min_size=6, max_size=6),
    spacing=st.sampled_from(SPACINGS),
)
def test_simpleitk_on_solid_boxes(lows: list[int], sizes: list[int], spacing: tuple[float, float, float]) -> None:
    masks = np.zeros((2, 16, 16, 16), np.uint8)
    for mask, low, size in zip(masks, (lows[:3], lows[3:]), (sizes[:3], sizes[3:]), strict=True):
        mask[tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))] = 1
    images = [SimpleITK.GetImageFromArray(mask) for mask in masks]
    for image in images:
        image.SetSpacing(spacing[::-1])
    hausdorff = SimpleITK.HausdorffDistanceImageFilter()
    hausdorff.Execute(*images)
    overlaps = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlaps.Execute(*images)
    reference, prediction = masks.astype(bool)
    assert _distances(reference, prediction, spacing).maximum == pytest.approx(hausdorff.GetHausdorffDistance())
    overlap = Overlap.of(reference, prediction)
    assert overlap.dice == pytest.approx(overlaps.GetDiceCoefficient())
    assert overlap.jaccard == pytest.approx(overlaps.GetJaccardCoefficient())


@settings(deadline=None, max_examples=10)
@given(first=st.integers(0, 2**20), second=st.integers(0, 2**20), choice=st.integers(0, 2**20))
def test_some_components_are_as_a_mask_of_their_own(first: int, second: int, choice: int) -> None:
    generator = np.random.default_rng(choice)
    maps, chosen = [], []
    for seed in (first, second):
        labels, count = label_components(_mask(seed))
        maps.append(labels)
        chosen.append((generator.permutation(count) + 1)[: generator.integers(1, count + 1)].tolist())
    found = Surfaces(maps[0], maps[1], SPACINGS[1]).distances(*chosen)
    masks = [np.isin(labels, numbers) for labels, numbers in zip(maps, chosen, strict=True)]
    expected = _distances(masks[0], masks[1], SPACINGS[1])
    assert found is not None
    assert np.sort(found.from_reference) == pytest.approx(np.sort(expected.from_reference))
    assert np.sort(found.from_prediction) == pytest.approx(np.sort(expected.from_prediction))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**20), axis=st.integers(0, 2), pad=st.integers(0, 4))
def test_flips_and_padding_change_nothing(seed: int, axis: int, pad: int) -> None:
    masks = _mask(seed), _mask(seed + 1)
    before = _distances(*masks, SPACINGS[1])
    after = _distances(*(np.pad(np.flip(mask, axis), pad) for mask in masks), SPACINGS[1])
    assert (after.mean, after.root_mean_square, after.maximum) == pytest.approx(
        (before.mean, before.root_mean_square, before.maximum)
    )


def test_nothing_has_no_distance() -> None:
    empty, full = np.zeros((3, 3, 3), bool), np.ones((3, 3, 3), bool)
    for masks in ((empty, full), (full, empty), (empty, empty)):
        assert Surfaces(*masks, (1, 1, 1)).distances() is None
    with pytest.raises(ValueError, match="shape"):
        Surfaces(full, full[1:], (1, 1, 1))
