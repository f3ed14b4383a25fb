"""Stored arrays: what was written comes back, and a fault names its file and the way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volattn.preprocessing.store import JOB, Store, StoredArray, write_array, write_slices

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
def test_any_slices_come_back(
    tmp_path_factory: pytest.TempPathFactory, depth: int, start: int, stop: int
) -> None:
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
    with pytest.raises(
        ValueError, match=r"image\.b2nd: cannot be read .* run `volattn prepare` again"
    ) as caught:
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
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
array = np.random.default_rng(0).integers(-200, 300, (10, 24, 20)).astype(np.int16)
try:
    write_array(Path(sys.argv[1]), array)
except OSError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_wherever_it_fills_up(stored: StoredArray) -> None:
    whole = stored.path.stat().st_size
    for room in (0, whole // 2, whole - 1):
        path = stored.path.parent / "other.b2nd"
        said = subprocess.run(
            [sys.executable, "-c", FULL_DISK, str(path), str(room)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"{path.parent}: cannot be written" in said.stdout


def test_an_unfinished_store_is_told_from_no_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="make one with `volattn prepare"):
        Store.open(tmp_path)
    (tmp_path / JOB).write_text("{}")
    with pytest.raises(ValueError, match="run the same `volattn prepare` again"):
        Store.open(tmp_path)
