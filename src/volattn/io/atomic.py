"""The one way to write a file: whole or not at all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from volattn.io.names import printable


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Gives a temporary name beside `path` that becomes `path` when the block ends without an exception.

    The temporary name is hidden and keeps the suffix, so that writers that choose a format by suffix still
    do, and a file left behind by a kill is never taken for data. Missing parent folders are created.

    Args:
        path: The file to write. What stood there before stays until the new content is complete.

    Yields:
        The temporary path; the block must write a file there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text with `\\n` line ends, atomically; of a name that is not UTF-8 what `printable` makes."""
    with atomic_path(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8", newline="\n")


def write_json(path: Path | str, content: Any) -> None:
    """Writes indented JSON, atomically.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON cannot say.
    """
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
