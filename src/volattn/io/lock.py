"""One writer to a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".lock"
"""The lock's file, there while somebody writes. The operating system lets go of a lock with the process that holds it,
however that one ends."""


@contextmanager
def sole_writer(folder: Path, *, patience: float = 0) -> Iterator[None]:
    """Keeps a folder to this process for a while; it is made if there is none, and goes again if it stays empty.

    Args:
        folder: What is written to.
        patience: Seconds to wait for another process that holds it.

    Raises:
        ValueError: Another process holds it, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; give a folder")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"{folder}: another process is writing to it; wait until it is done, or give another folder"
        ) from None
    try:
        yield
    finally:
        # While it is held: whoever opened it in the meantime sees that it is gone, and makes a new one.
        with suppress(OSError):
            (folder / LOCK).unlink()
        lock.release()
        if made:
            with suppress(OSError):
                folder.rmdir()
