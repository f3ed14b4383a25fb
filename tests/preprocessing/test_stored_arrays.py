"""Stored arrays: what was written comes back, and a fault names its file and the way out."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.datasets.open import open_dataset
from volattn.io.readers import write_labels, write_volume
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import JOB, Store, StoredArray, write_array, write_slices
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

SHAPE = (10, 24, 20)


def noise(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(-200, 300, shape).astype(np.int16)


@pytest.fixture
def stored(tmp_path: Path) -> StoredArray:
    write_array(tmp_path / "image.b2nd", noise())
    return StoredArray(tmp_path / "image.b2nd", SHAPE, np.int16)


def again(stored: StoredArray) -> np.ndarray:
    """Opens the file anew and reads all of it."""
    return StoredArray(stored.path, stored.shape, stored.dtype)[:]


@given(depth=st.integers(1, 13), start=st.integers(0, 12), stop=st.integers(0, 13))
@settings(max_examples=25)
def test_any_slices_come_back(tmp_path_factory: pytest.TempPathFactory, depth: int, start: int, stop: int) -> None:
    path, array = tmp_path_factory.mktemp("array") / "image.b2nd", noise((depth, 7, 5))
    write_array(path, array)
    stored = StoredArray(path, (depth, 7, 5), np.int16)
    assert len(stored) == depth
    np.testing.assert_array_equal(stored[start:stop], array[start:stop])
    np.testing.assert_array_equal(stored[depth - 1], array[-1])


def test_slices_as_they_come_give_the_bytes_of_the_whole(stored: StoredArray, tmp_path: Path) -> None:
    write_slices(tmp_path / "streamed.b2nd", iter(noise()), SHAPE, np.int16)
    assert (tmp_path / "streamed.b2nd").read_bytes() == stored.path.read_bytes()


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_gives_one_clear_line(stored: StoredArray, share: float) -> None:
    raw = stored.path.read_bytes()
    stored.path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ValueError, match=r"image\.b2nd: cannot be read .* run `volattn prepare` again") as caught:
        again(stored)
    assert "\n" not in str(caught.value)


def test_damage_within_the_file_gives_the_same_line(stored: StoredArray) -> None:
    raw = bytearray(stored.path.read_bytes())
    raw[200:208] = b"\xff" * 8
    stored.path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"image\.b2nd: cannot be read .* run `volattn prepare` again"):
        again(stored)


def test_a_missing_file_is_called_missing(stored: StoredArray) -> None:
    stored.path.unlink()
    with pytest.raises(ValueError, match=r"image\.b2nd: cannot be read \(there is no such file\)"):
        again(stored)


def test_another_cases_array_is_refused(stored: StoredArray) -> None:
    with pytest.raises(ValueError, match=r"image\.b2nd: holds int16 of shape .* where case\.json says"):
        StoredArray(stored.path, (9, 24, 20), np.int16)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from volattn.preprocessing.store import write_array
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
array = np.random.default_rng(0).integers(-200, 300, (10, 24, 20)).astype(np.int16)
for room in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(room), resource.RLIM_INFINITY))
    try:
        write_array(Path(sys.argv[1]), array)
    except OSError as error:
        print(error)
"""


def test_a_full_disk_is_an_error_wherever_it_fills_up(stored: StoredArray) -> None:
    whole, path = stored.path.stat().st_size, stored.path.parent / "other.b2nd"
    rooms = map(str, (0, whole // 2, whole - 1))
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), *rooms], capture_output=True, text=True, check=True
    )
    assert said.stdout.count(f"{path.parent}: cannot be written") == 3


def test_an_unfinished_store_is_told_from_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make one with `volattn prepare"):
        Store.open(tmp_path)
    (tmp_path / JOB).write_text("{}")
    with pytest.raises(ValueError, match="run the same `volattn prepare` again"):
        Store.open(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one case."""
    folder = tmp_path_factory.mktemp("prepared")
    volumes = folder / "lits"
    image = noise((6, 24, 20))
    grid = Geometry.aligned(image.shape, (1.5, 1.0, 1.0))
    labels = np.zeros(image.shape, np.uint8)
    labels[1:4, 5:15, 5:15] = 1
    labels[2, 8:11, 8:11] = 2
    write_volume(volumes / "volume-0.nii.gz", Volume(image, grid))
    write_labels(volumes / "segmentation-0.nii.gz", labels, Volume(labels, grid))
    prepare_dataset(open_dataset(volumes), Plan(size=32), folder / "store")
    return folder / "store"


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(prepared, tmp_path / "store")


@pytest.mark.parametrize("name", ["image", "labels"])
def test_a_flipped_bit_is_seen(store: Path, name: str) -> None:
    (path,) = store.rglob(f"{name}.b2nd")
    content = bytearray(path.read_bytes())
    content[-len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}\.b2nd: cannot be read \(its content is not what was written"):
        getattr(Store.open(store).case("volume-0"), name)


DAMAGED_CASE: list[tuple[str, object, str]] = [
    ("name", "volume-1", "is of the case 'volume-1'"),
    ("name", "../volume-0", "the case name"),
    ("shape", [6, 24], "shape.2: is missing"),
    ("shape", [-6, 24, 20], "shape.0: must be at least 1, found -6"),
    ("shape", [10**9, 24, 20], "shape.0: must be at most"),
    ("shape", [7, 24, 20], "organ_pixels has 6 values for 7 slices"),
    ("step", 0, "step: must be above 0"),
    ("step", "x", "step: must be a number, found 'x'"),
    ("source_affine", [[1, 0, 0, 0]] * 3, "source_affine.3: is missing"),
    ("source_affine", [[0, 0, 0, 0]] * 4, "an affine is a 4 x 4 matrix"),
    ("organ_pixels", [0] * 5, "organ_pixels has 5 values for 6 slices"),
    ("lesion_pixels", [9] * 6, "more pixels of lesion than of organ"),
    ("organ_pixels", [10**5] * 6, "more pixels of lesion than of organ, or more than there are"),
    ("files", {"../image.b2nd": "0"}, "must be 'image.b2nd' or 'labels.b2nd'"),
    ("measures", {"x": [1]}, "measures"),
    ("boxes", {"slice": 6, "boxes": []}, "boxes.slice is 6 of 6 slices"),
    ("boxes", {"slice": 0, "boxes": [[0, 0, 21, 3]]}, "is not within 20 x 24 pixels"),
    ("boxes", {"slice": 0, "boxes": [[5, 0, 2, 3]]}, "is not within 20 x 24 pixels"),
]


@pytest.mark.parametrize(("key", "value", "part"), DAMAGED_CASE)
def test_a_damaged_case_is_one_line(store: Path, key: str, value: object, part: str) -> None:
    (path,) = store.rglob("case.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        Store.open(store).case("volume-0")
    assert part in str(caught.value)
    assert str(caught.value).endswith("run `volattn prepare` again: it rebuilds missing or damaged cases")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("cases", ["../../victim"], "the case name"),
        ("cases", ["/abs"], "the case name"),
        ("cases", [".."], "the case name"),
        ("cases", ["a\nb"], "the case name"),
        ("cases", ["x" * 300], "has more than 200 bytes"),
        ("cases", ["volume-0"] * 2, "has 'volume-0' twice"),
        ("cases", {"volume-0": 1}, "cases: must be a list"),
        ("patients", {"volume-7": "p"}, "patients has 'volume-7', which is none of the cases"),
        ("subsets", {"volume-7": "p"}, "subsets has 'volume-7'"),
        ("plan", {"size": 10**9}, "plan.size: must be at most 4096"),
        ("plan", {"z_spacing": 1e10}, "plan.z_spacing: must be at most 50"),
    ],
)
def test_a_damaged_store_is_one_line(store: Path, key: str, value: object, part: str) -> None:
    path = store / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as caught:
        Store.open(store)
    assert part in str(caught.value)
    assert str(caught.value).isprintable()


def test_stores_of_the_first_version_are_refused_in_one_line(store: Path) -> None:
    path = store / "store.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "format"}))
    with pytest.raises(ValueError, match=r"store: was made by volattn 0\.1; run `volattn prepare` again"):
        Store.open(store)


def test_a_case_is_described_from_the_disk_once(store: Path) -> None:
    opened = Store.open(store)
    before = opened.case("volume-0")
    (store / "cases" / "volume-0" / "case.json").unlink()
    assert opened.case("volume-0").description is before.description
