"""Work for processes that are spawned, killed and orphaned; and a script whose workers beat until they end.

python jobs.py FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from volattn.workers import each


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


def fail(number: int) -> int:
    raise KeyError(number)


def beat(path: Path) -> None:
    while True:
        with path.open("a") as file:
            file.write(".")
        time.sleep(0.02)


if __name__ == "__main__":
    list(each(beat, [Path(sys.argv[1]) / name for name in "ab"], 2))
