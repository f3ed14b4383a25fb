"""Stores: the same bytes whatever happened on the way, and every fault named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets.open import open_dataset
from volattn.io.readers import read_labels, read_volume
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import estimate, prepare_dataset
from volattn.preprocessing.prepared import PreparedSlices, prepare_labels
from volattn.preprocessing.store import Store, write_array

PLAN = Plan(size=32, z_spacing=1.5)
WriteCase = Callable[..., tuple[Path, Path]]


@pytest.fixture
def dataset(write_lits_case: WriteCase, tmp_path: Path) -> Path:
    for number in range(3):
        write_lits_case(number, shape=(10 + number, 40, 48))
    return tmp_path / "lits"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_store_holds_what_was_prepared(dataset: Path, tmp_path: Path) -> None:
    opened = open_dataset(dataset)
    expected = estimate(opened, PLAN)
    told: list[tuple[str, int, int]] = []
    outcome = prepare_dataset(opened, PLAN, tmp_path / "store", progress=lambda *step: told.append(step), resume=True)
    assert told[-1] == ("prepare", 3, 3)
    assert outcome.prepared == ("volume-0", "volume-1", "volume-2")
    store = Store.open(tmp_path / "store")
    assert store.plan == PLAN
    assert store.classes == ("liver", "lesion")
    for case in opened.cases:
        stored = store.case(case.name)
        assert case.labels is not None
        image, labels = read_volume(case.image), read_labels(case.labels)
        np.testing.assert_array_equal(stored.image[:], np.stack(list(PreparedSlices(image, PLAN))))
        np.testing.assert_array_equal(stored.labels[:], prepare_labels(labels, opened.scheme, PLAN))
        assert stored.shape == stored.image.shape == stored.labels.shape
        assert stored.image.dtype == np.int16
        assert -200 <= stored.image[:].min() < stored.image[:].max() <= 300
        np.testing.assert_array_equal(stored.slices.has_lesion, (stored.labels[:] == 2).any(axis=(1, 2)))
        np.testing.assert_array_equal(stored.slices.has_organ, (stored.labels[:] > 0).any(axis=(1, 2)))
        assert stored.source == image.canonical().geometry
    measured = json.loads((tmp_path / "store" / "fingerprint.json").read_text())
    assert measured["cases"] == 3
    assert measured["lesions"] == sum(measured["lesions_per_case"].values()) == 3
    assert measured["spacing_mm_zyx"]["median"] == pytest.approx([2.0, 0.8, 0.8])
    used = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.b2nd"))
    assert expected.cases == 3
    assert used / 3 < expected.disk_bytes < used * 3


def test_labels_are_cut_at_a_half(dataset: Path) -> None:
    opened = open_dataset(dataset)
    assert opened.cases[0].labels is not None
    labels = read_labels(opened.cases[0].labels)
    same = Plan(size=64, z_spacing=None)
    np.testing.assert_array_equal(prepare_labels(labels, opened.scheme, same), labels.canonical().array)
    finer = prepare_labels(labels, opened.scheme, Plan(size=64, z_spacing=labels.geometry.spacing[0] / 2))
    np.testing.assert_array_equal(finer[::2], labels.canonical().array)


def test_workers_and_repetition_change_no_byte(dataset: Path, tmp_path: Path) -> None:
    opened = open_dataset(dataset)
    prepare_dataset(opened, PLAN, tmp_path / "one", resume=True)
    first = contents(tmp_path / "one")
    again = prepare_dataset(opened, PLAN, tmp_path / "one", resume=True)
    assert again.kept == ("volume-0", "volume-1", "volume-2")
    prepare_dataset(opened, PLAN, tmp_path / "two", workers=2, resume=True)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == first


SCRIPT = """
import sys
from volattn.datasets.open import open_dataset
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
prepare_dataset(open_dataset(sys.argv[1]), Plan(size=32, z_spacing=1.5), sys.argv[2],
                progress=lambda *step: print(*step, flush=True), resume=True)
"""


@pytest.mark.parametrize("after", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_preparation_goes_on(dataset: Path, tmp_path: Path, after: int) -> None:
    prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "whole", resume=True)
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(dataset), str(tmp_path / "killed")], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.split()[1] == str(after):
            break
    time.sleep(0.002 * after)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    (tmp_path / "killed" / "cases" / "volume-2").mkdir(parents=True, exist_ok=True)
    (tmp_path / "killed" / "cases" / "volume-2" / ".part-0123456789ab-image.b2nd").write_bytes(b"half")
    prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "killed", resume=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_damaged_case_is_made_again(dataset: Path, tmp_path: Path) -> None:
    prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "store", resume=True)
    before = contents(tmp_path / "store")
    image = tmp_path / "store" / "cases" / "volume-1" / "image.b2nd"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"image\.b2nd: cannot be read .* run `volattn prepare` again"):
        Store.open(tmp_path / "store").case("volume-1").image  # noqa: B018
    outcome = prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "store", resume=True)
    assert outcome.prepared == ("volume-1",)
    assert contents(tmp_path / "store") == before


def test_a_changed_source_is_prepared_again(dataset: Path, tmp_path: Path, write_lits_case: WriteCase) -> None:
    before = prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "store", resume=True).store.fingerprint
    write_lits_case(1, shape=(11, 40, 48), seed=77)
    outcome = prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "store", resume=True)
    assert outcome.prepared == ("volume-1",)
    assert outcome.store.fingerprint != before


def test_one_bad_case_does_not_stop_the_others(dataset: Path, tmp_path: Path) -> None:
    (dataset / "volume-1.nii.gz").write_bytes((dataset / "volume-1.nii.gz").read_bytes()[:200])
    outcome = prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "store", resume=True)
    assert outcome.store.names == ("volume-0", "volume-2")
    assert list(outcome.failed) == ["volume-1"]
    assert "volume-1.nii.gz" in outcome.failed["volume-1"]


def test_labels_of_another_grid_are_refused(dataset: Path, tmp_path: Path, write_lits_case: WriteCase) -> None:
    write_lits_case(9, folder=tmp_path / "other", shape=(12, 40, 48), spacing=(2.0, 0.9, 0.9))
    (tmp_path / "other" / "segmentation-9.nii.gz").rename(dataset / "segmentation-2.nii.gz")
    outcome = prepare_dataset(open_dataset(dataset), PLAN, tmp_path / "store", resume=True)
    assert "it has voxels of 0.9 x 0.9 x 2 mm, not 0.8 x 0.8 x 2 mm" in outcome.failed["volume-2"]


def test_the_folder_must_be_ours(dataset: Path, tmp_path: Path) -> None:
    opened = open_dataset(dataset)
    prepare_dataset(opened, PLAN, tmp_path / "store", resume=True)
    with pytest.raises(ValueError, match=r"store of another plan"):
        prepare_dataset(opened, Plan(size=64), tmp_path / "store", resume=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not touch")
    with pytest.raises(ValueError, match=r"not empty and holds no store"):
        prepare_dataset(opened, PLAN, tmp_path / "mine", resume=True)
    with pytest.raises(ValueError, match=r"is a file"):
        prepare_dataset(opened, PLAN, tmp_path / "mine" / "thesis.txt", resume=True)
    with pytest.raises(ValueError, match=r"not a finished store"):
        Store.open(tmp_path / "mine")


def test_a_slab_reads_little(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-200, 300, (64, 32, 32)).astype(np.int16)
    write_array(tmp_path / "image.b2nd", array)
    import blosc2

    opened = blosc2.open(str(tmp_path / "image.b2nd"), mode="r")
    assert opened.chunks[0] <= 4
    np.testing.assert_array_equal(opened[17:21], array[17:21])
