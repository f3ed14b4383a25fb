"""Lesions as frequent and as large as LiTS's, and distractors that only their course gives away."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from volattn.phantoms import Phantom, make_phantom
from volattn.phantoms.lesions import COUNT_MOST, LEAST_DISTRACTORS, LOG_MEAN, LOG_SD, draw_count, draw_diameter
from volattn.structures.lesions import axial_diameter

DRAWS = 4000


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    # Sizes of one case's lesions depend on each other: a few cases would say little of the kinds.
    return [make_phantom(11, index, 128) for index in range(20)]


def test_diameters_are_distributed_as_lits_s() -> None:
    rng = np.random.default_rng(0)
    logs = np.log([draw_diameter(rng, 110.0) for _ in range(DRAWS)])
    assert logs.mean() == pytest.approx(LOG_MEAN, abs=0.05)
    assert logs.std() == pytest.approx(LOG_SD, abs=0.05)
    assert (logs < np.log(15)).mean() == pytest.approx(0.53, abs=0.03)
    assert np.median(logs) == pytest.approx(np.log(14.5), abs=0.05)
    assert max(logs) <= np.log(110.0)


def test_a_diameter_fits_the_liver() -> None:
    rng = np.random.default_rng(1)
    assert max(draw_diameter(rng, 20.0) for _ in range(500)) < 20


def test_counts_are_those_of_lits() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([draw_count(rng) for _ in range(DRAWS)])
    assert np.median(counts) == pytest.approx(4, abs=1)
    assert ((counts >= 1) & (counts <= 14)).mean() == pytest.approx(0.83, abs=0.05)
    assert (counts == 0).mean() == pytest.approx(0.05, abs=0.02)
    assert 30 < counts.max() <= COUNT_MOST


@pytest.mark.slow
def test_every_case_has_its_distractors(phantoms: list[Phantom]) -> None:
    counts = [sum(structure.kind != "lesion" for structure in phantom.structures) for phantom in phantoms]
    assert np.mean(counts) >= LEAST_DISTRACTORS
    assert min(counts) >= LEAST_DISTRACTORS - 1, "one may be too small to show"
    assert {structure.kind for phantom in phantoms for structure in phantom.structures} == {
        "lesion",
        "vessel",
        "duct",
        "partial volume",
    }


@pytest.mark.slow
def test_lesions_are_as_wide_as_they_were_drawn(phantoms: list[Phantom]) -> None:
    ratios = []
    for phantom in phantoms:
        _, *pixel = phantom.spacing
        for number, structure in enumerate(phantom.structures, start=1):
            inside = phantom.numbers == number
            if structure.kind == "lesion" and structure.diameter > 4 * pixel[0]:
                widths = [axial_diameter(part, (pixel[0], pixel[1]))[0] for part in inside if part.any()]
                ratios.append(max(widths) / structure.diameter)
    assert len(ratios) > 10
    assert np.median(ratios) == pytest.approx(1.05, abs=0.15)


@pytest.mark.slow
def test_a_slice_does_not_tell_distractors_but_their_course_does(phantoms: list[Phantom]) -> None:
    looks: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for phantom in phantoms:
        plain = np.median(phantom.image[(phantom.labels == 1) & (phantom.numbers == 0)])
        for number, structure in enumerate(phantom.structures, start=1):
            inside = phantom.numbers == number
            areas = inside.sum(axis=(1, 2))
            if areas.max() < 4:  # hardly a pixel wide: nothing to measure
                continue
            large = np.flatnonzero(areas >= 0.5 * areas.max())
            middle = int(large[len(large) // 3])  # off the middle, as most slices are
            width, _ = axial_diameter(inside[middle], (phantom.spacing[1], phantom.spacing[2]))
            course = np.count_nonzero(areas) * phantom.spacing[0] / width
            contrast = abs(phantom.image[middle][inside[middle]].mean() - plain)
            looks[structure.kind == "lesion"].append((width, contrast, course))
    lesions, distractors = np.array(looks[True]), np.array(looks[False])
    assert len(lesions) > 20
    assert len(distractors) > 40

    def auc(a: np.ndarray, b: np.ndarray) -> float:
        return float(mannwhitneyu(a, b).statistic / (len(a) * len(b)))

    assert auc(lesions[:, 0], distractors[:, 0]) == pytest.approx(0.5, abs=0.15)
    assert auc(lesions[:, 1], distractors[:, 1]) == pytest.approx(0.5, abs=0.15)
    # A lesion is about as deep as it is wide; a course is deeper, partial volume shallower.
    odd = np.abs(np.log(lesions[:, 2])), np.abs(np.log(distractors[:, 2]))
    assert auc(odd[1], odd[0]) > 0.85
