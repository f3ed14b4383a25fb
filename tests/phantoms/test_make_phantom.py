"""What every phantom must be: a plausible CT, rightly labelled, the same for the same arguments."""

from __future__ import annotations

import numpy as np
import pytest

from volattn.phantoms import Phantom, make_phantom
from volattn.phantoms.painter import Structure
from volattn.structures.lesions import label_components

SIZE = 96
CASES = range(6)


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(3, index, SIZE) for index in CASES]


def _resolved(phantom: Phantom) -> list[tuple[int, Structure]]:
    """The structures that are at least two pixels wide and a slice deep, with their numbers."""
    z, pixel, _ = phantom.spacing
    return [
        (number, structure)
        for number, structure in enumerate(phantom.structures, start=1)
        if structure.diameter > 2 * pixel and structure.depth > z
    ]


def test_is_a_function_of_its_arguments(phantoms: list[Phantom]) -> None:
    again = make_phantom(3, 0, SIZE)
    np.testing.assert_array_equal(again.image, phantoms[0].image)
    np.testing.assert_array_equal(again.labels, phantoms[0].labels)
    assert again.structures == phantoms[0].structures


def test_cases_and_seeds_differ(phantoms: list[Phantom]) -> None:
    spacings = {phantom.spacing for phantom in [*phantoms, make_phantom(4, 0, SIZE)]}
    assert len(spacings) == len(phantoms) + 1


def test_grids_are_those_of_abdominal_ct(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        z, y, x = phantom.spacing
        assert phantom.image.shape[1:] == (SIZE, SIZE)
        assert phantom.image.shape == phantom.labels.shape == phantom.numbers.shape
        assert 180 <= z * len(phantom.image) <= 260
        assert 0.8 <= z <= 5
        assert y == x
        assert 0.6 <= x * SIZE / 512 <= 0.95


def test_has_the_values_of_ct(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        image, labels = phantom.image, phantom.labels
        assert image.dtype == np.int16
        assert labels.dtype == np.uint8
        assert image.min() >= -1024
        assert (image < -700).mean() > 0.2  # air around the body and in the lungs
        assert ((image > -130) & (image < -50)).mean() > 0.03  # fat
        assert (image > 200).mean() > 0.002  # bone
        assert 70 < np.median(image[labels == 1]) < 140


def test_lungs_are_above_the_liver_and_it_lies_on_the_right(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        z, y, x = (axis.mean() for axis in np.nonzero(phantom.labels))
        central = phantom.image[:, SIZE // 3 : 2 * SIZE // 3, SIZE // 4 : 3 * SIZE // 4]
        air = (central < -500).mean(axis=(1, 2))
        assert air[-len(air) // 8 :].mean() > 3 * air[: len(air) // 3].mean()
        assert x < SIZE / 2 - 3  # columns run from the patient's right to the left
        assert z > len(phantom.labels) * 0.3
        spine = np.nonzero(phantom.image[:, :, 2 * SIZE // 5 : 3 * SIZE // 5] > 250)[1].mean()
        assert spine > y  # rows run from front to back


def test_the_liver_is_one_organ_of_a_liver_s_size(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        parts, _ = label_components(phantom.labels > 0)
        sizes = np.bincount(parts.ravel())[1:]
        assert sizes.max() > 0.97 * sizes.sum()
        millilitres = sizes.sum() * np.prod(phantom.spacing) / 1000
        assert 700 < millilitres < 5000


def test_lesions_are_labelled_and_distractors_are_not(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert set(np.unique(phantom.labels)) <= {0, 1, 2}
        for number, structure in _resolved(phantom):
            labels = phantom.labels[phantom.numbers == number]
            share = (labels == 2).mean()
            if structure.kind == "lesion":
                assert share > 0.5, structure
            else:
                assert share < 0.2, structure  # a course may pass a lesion
        lesions = [number for number, structure in _resolved(phantom) if structure.kind == "lesion"]
        others = [number for number, structure in _resolved(phantom) if structure.kind != "lesion"]
        lesion = phantom.labels == 2
        assert lesion.any() == any(structure.kind == "lesion" for structure in phantom.structures)
        assert np.isin(phantom.numbers[lesion], lesions).sum() >= 5 * np.isin(phantom.numbers[lesion], others).sum()


def test_a_structure_is_at_its_stated_place(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        for number, structure in _resolved(phantom):
            where = np.argwhere(phantom.numbers == number)
            away = np.abs(where * np.array(phantom.spacing) - structure.centre).max(axis=1).min()
            assert away < max(phantom.spacing) + 1, structure


def test_structures_show_with_their_contrast(phantoms: list[Phantom]) -> None:
    shares = []
    for phantom in phantoms:
        plain = np.median(phantom.image[(phantom.labels == 1) & (phantom.numbers == 0)])
        for number, structure in _resolved(phantom):
            inside = phantom.image[phantom.numbers == number]
            if len(inside) >= 60:
                shares.append((inside.mean() - plain) / structure.contrast)
    assert len(shares) > 15
    # A bright rim or a dark core changes the mean of a few.
    assert np.median(shares) == pytest.approx(0.85, abs=0.15)
    assert np.mean(np.array(shares) > 0.4) > 0.85


@pytest.mark.parametrize(("seed", "index", "size"), [(-1, 0, 96), (0, -1, 96), (0, 0, 16)])
def test_arguments_out_of_range_are_named(seed: int, index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"{seed}, {index} and {size}"):
        make_phantom(seed, index, size)
