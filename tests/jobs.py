"""Work for processes that are spawned, killed and orphaned; and a script whose workers beat until they end.

python jobs.py FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from volattn.workers import map_items, report_progress


def double(number: int) -> int:
    return 2 * number


def die_if_negative(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def die_once(marker: Path) -> str:
    if marker.name.startswith("once") and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker.name


class StubbornError(Exception):
    """It cannot travel between processes."""

    def __init__(self, number: int, *, reason: str) -> None:
        super().__init__(number)


def fail_if_odd(number: int) -> int:
    if number == 1:
        raise FileNotFoundError(2, "No such file", "1.nii")
    if number == 3:
        raise StubbornError(number, reason="odd")
    return number


def threads(number: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


def describe(number: int) -> tuple[int, str]:
    report_progress(f"item {number}", number, 3)
    return os.getpid(), os.environ.get("SLOT", "none")


def beat(path: Path) -> None:
    while True:
        with path.open("a") as file:
            file.write(".")
        time.sleep(0.02)


if __name__ == "__main__":
    list(map_items(beat, [Path(sys.argv[1]) / name for name in "ab"], 2))
