"""Surfaces of masks: how large they are, whether they close, and where they lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from volattn.report.surfaces import surface
from volattn.structures.geometry import Geometry
from volattn.structures.lesions import largest_component

pytest.importorskip("pyvista")

OBLIQUE = np.array(
    [[0.0, 0.12, 0.78, -40.0], [-0.6, 0.79, -0.12, 12.0], [2.9, 0.16, -0.02, 300.0], [0.0, 0.0, 0.0, 1.0]]
)


def mask_of(shape: tuple[int, int, int], seed: int, smooth: float) -> np.ndarray:
    """A component that looks like a lesion: noise, smoothed and cut, at the border of the volume or not."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    return largest_component(noise > np.quantile(noise, 0.8))


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 24), st.integers(1, 24)),
    seed=st.integers(0, 1000),
    smooth=st.floats(0.8, 3.0),
)
def test_volume_is_kept(shape: tuple[int, int, int], seed: int, smooth: float) -> None:
    mask = mask_of(shape, seed, smooth)
    geometry = Geometry(shape, OBLIQUE)
    mesh = surface(mask, geometry)
    if not mask.any():
        assert mesh is None
        return
    assert mesh is not None
    assert mesh.volume == pytest.approx(np.count_nonzero(mask) * geometry.voxel_volume, rel=0.06)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 1, 12), (1, 20, 20), (2, 2, 2), (9, 30, 30)])
def test_thin_lesions_survive_and_close_at_the_border(size: tuple[int, int, int]) -> None:
    """A filter alone leaves 0.2 % of one voxel, and 11 % of a row of twelve."""
    geometry = Geometry.aligned(size, (5.0, 0.7, 0.7))
    mesh = surface(np.ones(size, bool), geometry)
    assert mesh is not None
    assert mesh.volume == pytest.approx(np.prod(size) * 5 * 0.7 * 0.7, rel=0.05)
    assert mesh.n_open_edges == 0


def test_a_surface_lies_where_its_voxels_lie() -> None:
    mask = np.zeros((9, 30, 40), bool)
    mask[3:6, 4:16, 20:38] = True
    geometry = Geometry(mask.shape, OBLIQUE)
    mesh = surface(mask, geometry)
    assert mesh is not None
    corners = np.array([[z, y, x] for z in (2.5, 5.5) for y in (3.5, 15.5) for x in (19.5, 37.5)])
    centre = geometry.to_world(np.argwhere(mask)).mean(axis=0)
    np.testing.assert_allclose(mesh.center_of_mass(), centre, atol=0.5)
    low, high = np.array(mesh.bounds).reshape(3, 2).T
    world = geometry.to_world(corners)
    np.testing.assert_allclose(low, world.min(axis=0), atol=3.5)
    np.testing.assert_allclose(high, world.max(axis=0), atol=3.5)
