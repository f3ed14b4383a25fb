"""DeepLesion as NIH publishes it: the real rows, three real scans, and masks that others drew."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from volattn.datasets.case import Case, Dataset, Reading
from volattn.datasets.check import check_case
from volattn.datasets.deeplesion import read_dl_info, write_dl_info
from volattn.datasets.open import open_dataset
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import Store
from volattn.slabs.loader import SlabConfig, SlabDataset

PLAN = Plan(z_spacing=2.0, size=512)


@pytest.fixture(scope="module")
def root(shared_data: Path) -> Path:
    folder = shared_data / "deeplesion"
    if not folder.is_dir():
        pytest.skip("the slices of DeepLesion are not there")
    return folder


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(root)


@pytest.fixture(scope="module")
def kept(root: Path) -> Dataset:
    return open_dataset(root, Reading(keep_noisy=True))


@pytest.fixture(scope="module")
def with_images(dataset: Dataset) -> Dataset:
    there = tuple(case for case in dataset.cases if case.image.is_dir())
    return Dataset(dataset.name, dataset.root, there, dataset.scheme)


@pytest.fixture(scope="module")
def store(with_images: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return prepare_dataset(with_images, PLAN, tmp_path_factory.mktemp("real") / "store").store


def test_all_rows_parse_and_survive_a_round_trip(root: Path, tmp_path: Path) -> None:
    with (root / "DL_info.csv").open(newline="") as file:
        raw = list(csv.DictReader(file))
    info = read_dl_info(root / "DL_info.csv")
    assert info.faults == {}
    assert len(info.lesions) == len(raw) == 1349
    write_dl_info(tmp_path / "again.csv", [lesion.cells() for lesion in info.lesions])
    with (tmp_path / "again.csv").open(newline="") as file:
        again = list(csv.DictReader(file))
    for before, after in zip(raw, again, strict=True):
        for column, text in after.items():
            if column in ("Lesion_diameters_Pixel_", "Bounding_boxes", "Spacing_mm_px_"):
                numbers = [[float(part) for part in cell.split(",")] for cell in (before[column], text)]
                assert numbers[1] == pytest.approx(numbers[0], rel=1e-12)
            else:
                assert text.replace(" ", "") == before[column].replace(" ", "")
    back = read_dl_info(tmp_path / "again.csv").lesions
    for lesion, other in zip(info.lesions, back, strict=True):
        assert lesion.diameters_mm == pytest.approx(other.diameters_mm)
        assert (lesion.box, lesion.subset, lesion.lesion_type, lesion.slice_range, lesion.image_size) == (
            other.box,
            other.subset,
            other.lesion_type,
            other.slice_range,
            other.image_size,
        )


def test_every_row_is_in_a_case_or_counted_as_doubtful(dataset: Dataset, kept: Dataset) -> None:
    def boxes(dataset: Dataset) -> int:
        return sum(len(case.key_slice.boxes) for case in dataset.cases if case.key_slice is not None)

    (note,) = dataset.found
    counted, doubtful = (int(number) for number in re.findall(r"\d+(?= (?:rows|marked))", note.message))
    assert (boxes(dataset), boxes(kept), boxes(dataset) + doubtful) == (counted, 1349, 1349)
    assert [issue.severity for issue in kept.found] == ["note"]


def test_no_row_is_at_odds_with_itself(kept: Dataset) -> None:
    for case in kept.cases:
        assert case.key_slice is not None
        assert case.key_slice.faults() == []
        assert case.key_slice.inside() == case.key_slice.boxes, "no real box goes over the edge"


def test_slices_are_numbered_from_the_head_to_the_feet(root: Path) -> None:
    """`Normalized_lesion_location` grows to the feet."""
    with (root / "DL_info.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    scans: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        height = float(row["Normalized_lesion_location"].split(",")[2])
        scans.setdefault(row["File_name"].rpartition("_")[0], []).append((int(row["Key_slice_index"]), height))
    pairs = [(a, b) for keys in scans.values() for a in keys for b in keys if b[0] - a[0] >= 5]
    assert len(pairs) > 1000
    assert sum(b[1] > a[1] for a, b in pairs) > 0.99 * len(pairs)


def test_the_three_scans_are_sound(with_images: Dataset) -> None:
    assert sorted({case.image.name for case in with_images.cases}) == ["000001_01_01", "000001_02_01", "000001_03_01"]
    assert len(with_images.cases) == 4
    for case in with_images.cases:
        assert check_case(case, with_images.scheme) == []


def contrast(plane: np.ndarray, box: tuple[float, float, float, float]) -> tuple[float, float]:
    """How the middle of a box differs from a ring around it: medians apart in HU, and the share of pairs in order."""
    x0, y0, x1, y1 = box
    rows, columns = np.mgrid[: plane.shape[0], : plane.shape[1]] + 0.5
    radius = np.hypot((columns - (x0 + x1) / 2) / ((x1 - x0) / 2), (rows - (y0 + y1) / 2) / ((y1 - y0) / 2))
    inside, ring = plane[radius <= 0.6], plane[(radius >= 1.2) & (radius <= 2)]
    ranks = rankdata(np.concatenate([inside, ring]))[: inside.size]
    order = (ranks.sum() - inside.size * (inside.size + 1) / 2) / (inside.size * ring.size)
    return float(abs(np.median(inside) - np.median(ring))), float(max(order, 1 - order))


def test_a_bag_shows_the_lesion_inside_its_box(store: Store) -> None:
    """These lesions are soft tissue or fluid with fat around them: their HU are not those of the ring."""
    slabs = SlabDataset(store, store.names, SlabConfig(bag=3, targets=1))
    assert len(slabs) == len(store.names) == 4
    inside: list[float] = []
    beside: list[float] = []
    for index in range(len(slabs)):
        slab = slabs[index]
        assert slab.images.shape == (3, 3, 512, 512)
        assert slab.bags.shape == (1, 3)
        target = slab.images[slab.target_at[0], 1].numpy() * 500 - 200
        ((x0, y0, x1, y1),) = slab.targets[0]["boxes"].tolist()
        apart, order = contrast(target, (x0, y0, x1, y1))
        assert apart > 60, slab.origins
        assert order > 0.8, slab.origins
        inside.append(order)
        for right, down in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            dx, dy = right * (x1 - x0), down * (y1 - y0)
            beside.append(contrast(target, (x0 + dx, y0 + dy, x1 + dx, y1 + dy))[1])
    # A box moved by its own size shows less; all together, for one of them may border on a lung.
    assert np.mean(inside) > np.mean(beside) + 0.15


def test_the_target_is_the_key_slice_to_the_hu(with_images: Dataset, store: Store) -> None:
    slabs = SlabDataset(store, store.names, SlabConfig(bag=3, targets=1))
    cases: dict[str, Case] = {case.name: case for case in with_images.cases}
    for index in range(len(slabs)):
        slab = slabs[index]
        key_slice = cases[slab.origins[0][0]].key_slice
        assert key_slice is not None
        hu = np.clip(key_slice.read().array[key_slice.z], -200, 300).astype(np.float32)
        wanted = torch.from_numpy((hu + 200) / 500)
        torch.testing.assert_close(slab.images[slab.target_at[0], 1], wanted)


def sub_volumes(root: Path) -> dict[str, tuple[int, np.ndarray, np.ndarray]]:
    """Scan -> number of the first slice, windowed slices and mask (z, y, x), both in the order of the numbers."""
    found = {}
    for path in sorted((root / "sub_volumes").glob("*.npz")):
        scan, slices = path.stem.removeprefix("CT_Lesion_").rsplit("_", 1)
        with np.load(path) as arrays:
            images, mask = (arrays[key].transpose(0, 2, 1) for key in ("imgs", "gts"))
        found[scan] = (int(slices.partition("-")[0]), images, mask > 0)
    return found


def test_the_slices_are_those_that_others_read(root: Path, with_images: Dataset) -> None:
    first, images, _ = sub_volumes(root)["000001_02_01"]
    key_slice = next(case.key_slice for case in with_images.cases if case.name == "000001_02_01_017")
    assert key_slice is not None
    assert key_slice.first == first
    # They windowed the HU that DICOM_windows names, -175 to 275, to 8 bits.
    ours = np.clip((key_slice.read().array[::-1] + 175) / 450, 0, 1) * 255
    assert np.abs(ours - images).max() <= 1


def test_masks_in_3d_agree_with_the_boxes(root: Path, dataset: Dataset) -> None:
    """On its key slice each mask fills a box but for the margin, and nearly nowhere is it larger."""
    agreed = 0
    cases = {case.name: case.key_slice for case in dataset.cases}
    for scan, (first, _, mask) in sub_volumes(root).items():
        pixels = mask.sum(axis=(1, 2))
        last = first + len(mask) - 1
        here = [key for name, key in cases.items() if key and name.startswith(scan) and key.first == first]
        assert here
        fits = []
        for key in here:
            assert key.last == last
            rows, columns = np.nonzero(mask[key.number - first])
            (box,) = key.boxes
            inside = (columns >= box[0] - 0.5) & (columns + 1 <= box[2] + 0.5)
            inside &= (rows >= box[1] - 0.5) & (rows + 1 <= box[3] + 0.5)
            if inside.mean() < 0.5:
                continue  # The mask is of another lesion of this sub-volume.
            tight = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            margins = np.abs(np.subtract(tight, box))
            assert inside.all()
            assert margins.max() <= 9, "DeepLesion's boxes are 5 pixels wider than the marked diameters"
            assert pixels[key.number - first] >= 0.9 * pixels.max()
            fits.append(key.number)
        assert len(fits) == 1, scan
        agreed += 1
    assert agreed == 3
