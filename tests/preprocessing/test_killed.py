"""A preparation killed in a known state, workers and all, goes on to the bytes of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from volattn.datasets.open import open_dataset
from volattn.io.readers import write_labels, write_volume
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
from volattn.preprocessing.store import STORE
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

PLAN = Plan(size=112, z_spacing=1.5)
SCRIPT = """
import sys
from volattn.datasets.open import open_dataset
from volattn.preprocessing.plan import Plan
from volattn.preprocessing.prepare import prepare_dataset
if __name__ == "__main__":
    plan = Plan(size=112, z_spacing=1.5)
    prepare_dataset(open_dataset(sys.argv[1]), plan, sys.argv[2], workers=int(sys.argv[3]), resume=True)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for a file to be seen half written."""
    return write_dataset(tmp_path_factory.mktemp("lits"), (60, 128, 128))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A smaller data set, and its store."""
    folder = write_dataset(tmp_path_factory.mktemp("small"), (12, 48, 48))
    store = tmp_path_factory.mktemp("store")
    prepare_dataset(open_dataset(folder), PLAN, store, resume=True)
    return folder, contents(store)


def write_dataset(folder: Path, shape: tuple[int, int, int]) -> Path:
    depth, height, width = shape
    labels = np.zeros(shape, np.uint8)
    labels[depth // 6 : -depth // 6, height // 4 : -height // 4, width // 4 : -width // 4] = 1
    labels[depth // 3 : depth // 2, height // 3 : height // 2, width // 3 : width // 2] = 2
    for number in range(3):
        noise = np.random.default_rng(number).normal(50, 60, shape).astype(np.int16)
        volume = Volume(noise, Geometry.aligned(shape, (2.0, 0.8, 0.8)))
        write_volume(folder / f"volume-{number}.nii", volume)
        write_labels(folder / f"segmentation-{number}.nii", labels, volume)
    return folder


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    store = tmp_path_factory.mktemp("whole")
    prepare_dataset(open_dataset(dataset), PLAN, store, resume=True)
    return contents(store)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("state", "workers"),
    [
        ("cases/*/.part-*-image.b2nd", 1),
        ("cases/*/labels.b2nd", 1),
        ("cases/*/image.b2nd", 2),
        ("cases/*/case.json", 2),
    ],
)
@pytest.mark.slow
def test_a_kill_changes_no_byte(
    dataset: Path, whole: dict[str, bytes], tmp_path: Path, state: str, workers: int
) -> None:
    script, store = tmp_path / "prepare.py", tmp_path / "store"
    script.write_text(SCRIPT)
    run = subprocess.Popen([sys.executable, str(script), str(dataset), str(store), str(workers)])
    try:
        deadline = time.monotonic() + 60
        while not list(store.glob(state)):
            assert run.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
    finally:
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert not (store / STORE).exists()
    prepare_dataset(open_dataset(dataset), PLAN, store, resume=True)
    assert contents(store) == whole


ORPHAN = """
import sys, time
from pathlib import Path
from volattn.io.output import claim_folder
folder = Path(sys.argv[1])
with claim_folder(folder):
    print("held", flush=True)
    sys.stdin.readline()
    time.sleep(0.3)
    (folder / ".part-0123456789ab-image.b2nd").write_bytes(b"half")
    print("written", flush=True)
    time.sleep(60)
"""


def test_a_worker_that_outlives_its_run_is_waited_for(small: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """What it still writes is swept."""
    dataset, whole = small
    orphan = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(tmp_path / "cases" / "volume-1")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert orphan.stdin is not None
    assert orphan.stdout is not None
    assert orphan.stdout.readline() == "held\n"

    def end() -> None:
        assert orphan.stdout is not None
        orphan.stdout.readline()
        orphan.kill()

    ending = threading.Thread(target=end)

    def progress(what: str, done: int, total: int) -> None:
        if done == 1:  # volume-0 is ready, volume-1 comes next
            assert orphan.stdin is not None
            orphan.stdin.write("\n")
            orphan.stdin.flush()
            ending.start()

    (tmp_path / "job.json").write_bytes(whole["job.json"])
    prepare_dataset(open_dataset(dataset), PLAN, tmp_path, progress=progress, resume=True)
    ending.join()
    orphan.communicate()
    assert contents(tmp_path) == whole


def test_a_half_written_file_in_a_case_that_stands_is_swept(
    small: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    """A kill while a damaged case was mended leaves one beside files that are whole."""
    dataset, whole = small
    prepare_dataset(open_dataset(dataset), PLAN, tmp_path, resume=True)
    (tmp_path / "cases" / "volume-1" / ".part-0123456789ab-labels.b2nd").write_bytes(b"half")
    prepare_dataset(open_dataset(dataset), PLAN, tmp_path, resume=True)
    assert contents(tmp_path) == whole
