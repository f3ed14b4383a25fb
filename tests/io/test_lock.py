"""One writer to a folder: others are refused while it writes, and no longer."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from volattn.io.lock import sole_writer

HOLD = """
import sys
import threading
from pathlib import Path
from volattn.io.lock import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that keeps the folder until it is killed or its input ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def test_another_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    other = hold(tmp_path / "store")
    with (
        pytest.raises(ValueError, match=r"store: another process is writing to it"),
        sole_writer(tmp_path / "store"),
    ):
        pass
    other.kill()
    other.communicate()
    with sole_writer(tmp_path / "store"):
        (tmp_path / "store" / "kept").touch()
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["kept"]


def test_nothing_is_left_of_a_folder_that_was_not_filled(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), sole_writer(tmp_path / "store"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_that_was_there_stays(tmp_path: Path) -> None:
    with sole_writer(tmp_path):
        pass
    assert tmp_path.is_dir()
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "store").touch()
    with pytest.raises(ValueError, match="store: is a file"), sole_writer(tmp_path / "store"):
        pass


def test_the_patient_get_it_when_it_is_free(tmp_path: Path) -> None:
    other = hold(tmp_path / "store")
    ending = threading.Timer(0.3, other.kill)
    ending.start()
    with sole_writer(tmp_path / "store", patience=60):
        assert other.wait(60) != 0
    other.communicate()
