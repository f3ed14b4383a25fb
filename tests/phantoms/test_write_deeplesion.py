"""Phantom cohorts in DeepLesion's layout: boxes around what was drawn, and the same bytes for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets.case import LESION
from volattn.datasets.check import check_dataset
from volattn.datasets.deeplesion import COLUMNS, read_dl_info
from volattn.datasets.open import open_dataset
from volattn.phantoms import make_phantom, write_phantoms
from volattn.phantoms.make import Phantom
from volattn.phantoms.write import AROUND_MM, MOST, mark_lesions
from volattn.structures.lesions import label_components

SIZE, SEED, CASES = 64, 5, 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_phantoms(folder, CASES, SEED, size=SIZE, kind="deeplesion")
    return folder


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [make_phantom(SEED, index, SIZE) for index in range(CASES)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_opens_without_a_fault(cohort: Path) -> None:
    dataset = open_dataset(cohort)
    assert len(dataset.cases) >= CASES
    assert check_dataset(dataset) == []
    assert (cohort / "DL_info.csv").read_text().splitlines()[0] == ",".join(COLUMNS)


def test_the_slices_are_the_phantoms(cohort: Path, phantoms: list[Phantom]) -> None:
    for case in open_dataset(cohort).cases:
        phantom = phantoms[int(case.patient or 0) - 1]
        assert case.key_slice is not None
        key_slice = case.key_slice
        depth, spacing = len(phantom.image), phantom.spacing[0]
        lowest = depth - key_slice.last
        np.testing.assert_array_equal(key_slice.read().array, phantom.image[lowest : lowest + key_slice.depth])
        assert key_slice.geometry.spacing == pytest.approx(phantom.spacing, abs=1e-6)
        for end, edge in ((key_slice.last - key_slice.number, depth), (key_slice.number - key_slice.first, 1)):
            whole = end * spacing > AROUND_MM - spacing
            assert end * spacing <= AROUND_MM
            assert whole or edge in (key_slice.last, key_slice.first)


def test_boxes_hold_every_lesion_of_their_slice_and_little_else(cohort: Path, phantoms: list[Phantom]) -> None:
    boxes = 0
    for case in open_dataset(cohort).cases:
        assert case.key_slice is not None
        phantom = phantoms[int(case.patient or 0) - 1]
        lesions = phantom.labels[len(phantom.labels) - case.key_slice.number] == LESION
        covered = np.zeros(lesions.shape, bool)
        for x0, y0, x1, y1 in case.key_slice.inside():
            covered[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))] = True
            part = lesions[int(np.floor(y0)) : int(np.ceil(y1)), int(np.floor(x0)) : int(np.ceil(x1))]
            assert part.any()
            assert part.sum() > 0.08 * (x1 - x0) * (y1 - y0)
            boxes += 1
        parts, count = label_components(lesions & ~covered)
        assert all(np.count_nonzero(parts == number) < 3 for number in range(1, count + 1))
    assert boxes == len(read_dl_info(cohort / "DL_info.csv").lesions)


def test_diameters_are_the_masks(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        marked = mark_lesions(phantom)
        assert len({lesion.z for lesion in marked}) <= MOST
        for lesion in marked:
            (long_a, long_b, short_a, short_b), (long, short) = lesion.ends, lesion.diameters
            assert long == pytest.approx(np.linalg.norm(long_a - long_b))
            along = (long_b - long_a) / long
            across = np.abs(np.cross(np.append(short_b - short_a, 0), np.append(along, 0))).max()
            assert short == pytest.approx(across)
            assert short <= long + 1e-9
            for x, y in lesion.ends.astype(int):
                assert phantom.labels[lesion.z, y, x] == LESION


def test_a_cohort_can_be_made_in_parts_and_mended(cohort: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, SEED, size=SIZE, first=2, kind="deeplesion")
    write_phantoms(tmp_path, 2, SEED, size=SIZE, kind="deeplesion")
    assert contents(tmp_path) == contents(cohort)
    kept, lost = tmp_path / "truth-0.json", next((tmp_path / "Images_png" / "000002_01_01").iterdir())
    before = kept.stat().st_mtime_ns
    lost.unlink()
    write_phantoms(tmp_path, CASES, SEED, size=SIZE, kind="deeplesion")
    assert kept.stat().st_mtime_ns == before
    assert contents(tmp_path) == contents(cohort)


def test_the_truth_lists_lesions_and_distractors(cohort: Path, phantoms: list[Phantom]) -> None:
    for index, phantom in enumerate(phantoms):
        truth = json.loads((cohort / f"truth-{index}.json").read_text())
        assert len(truth["lesions"]) + len(truth["distractors"]) == len(phantom.structures)
        assert truth["rows"]


def test_even_small_cohorts_have_all_three_subsets(cohort: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, 1, SEED, size=SIZE, first=4, kind="deeplesion")
    parts = {case.subset for folder in (cohort, tmp_path) for case in open_dataset(folder).cases}
    assert parts == {"train", "val", "test"}
