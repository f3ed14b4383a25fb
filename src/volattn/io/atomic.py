"""The one way to write a file: whole or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from volattn.io.names import printable

_LEFTOVER = re.compile(r"\.part-[0-9a-f]{12}-.+")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Gives a temporary name beside `path` that becomes `path` when the block ends without an exception.

    The temporary name is hidden and keeps the suffix, so that writers that choose a format by suffix still
    do, and a file left behind by a kill is never taken for data. Missing parent folders are created. A device or a
    pipe stays what it is: the content is written into it at the end.

    Args:
        path: The file to write. What stood there before stays until the new content is complete. A symbolic link is
            replaced, not followed.

    Yields:
        The temporary path; the block must write a file there.

    Raises:
        OSError: The file cannot be written; the error names `path`.
    """
    path = Path(path)
    if is_stream(path):
        with tempfile.TemporaryDirectory(prefix="volattn-") as folder:
            yield Path(folder) / path.name
            _pour(Path(folder) / path.name, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # A full disk names no file, and the temporary name says nothing to anybody.
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a file has the temporary name of a write that was killed."""
    return _LEFTOVER.fullmatch(path.name) is not None


def is_stream(path: Path) -> bool:
    """Whether something is written into rather than replaced: a pipe, a terminal, /dev/null, /dev/stdout."""
    if path.parts[:2] in (("/", "dev"), ("/", "proc")):
        return True
    try:
        mode = path.lstat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text with `\\n` line ends, atomically; of a name that is not UTF-8 what `printable` makes."""
    with atomic_path(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8", newline="\n")


def append_line(path: Path, line: str) -> None:
    """Adds a line of UTF-8 to a journal; a kill may cut it short.

    Raises:
        OSError: It cannot be written; the error names `path`.
    """
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{printable(line)}\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path | str, content: Any) -> None:
    """Writes indented JSON, atomically.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON cannot say.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _pour(source: Path, target: Path) -> None:
    """Writes a file's content into a device or a pipe."""
    # Opening a pipe that nobody reads would wait for ever; in this way it is an error.
    descriptor = os.open(target, os.O_WRONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    with source.open("rb") as content, os.fdopen(descriptor, "wb") as stream:
        shutil.copyfileobj(content, stream)
