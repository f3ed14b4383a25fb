"""The one way to read a file: a regular one, up to a limit, errors that name it. And to write one: whole or not."""

from __future__ import annotations

import hashlib
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

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_TEXT_BYTES = 256 * 2**20
"""No text file that this project reads is larger: the scores of all of DeepLesion take 20 MiB."""


def check_regular(path: Path | str) -> int:
    """The size of a regular file, bytes; others are never opened: a pipe would wait, and a device has no end.

    Raises:
        ValueError: It does not exist, is a folder, a pipe, a socket or a device, or may not be looked at.
    """
    path = Path(path)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ValueError(f"{path}: does not exist; check the name") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ValueError(f"{path}: cannot be read ({_reason(error)}); check the path") from None
    if stat.S_ISDIR(found.st_mode):
        raise ValueError(f"{path}: is a folder; name a file in it")
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise ValueError(f"{path}: is {kind}, not a file; save its content as a file and give that")
    return found.st_size


def read_bytes(path: Path | str, limit: int) -> bytes:
    """The whole content of a regular file of at most `limit` bytes.

    Raises:
        ValueError: See `check_regular`, or the file is larger or cannot be read.
    """
    path = Path(path)
    size = check_regular(path)
    if size > limit:
        raise ValueError(f"{path}: is {size} bytes long, where at most {limit} are expected; check the file")
    try:
        with path.open("rb") as file:
            return file.read(size)  # A larger number would be allocated before it is read.
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({_reason(error)}); check its permissions") from None


def read_text(path: Path | str, limit: int = _TEXT_BYTES) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark; line ends become a bare newline.

    Raises:
        ValueError: See `read_bytes`, or it is not UTF-8.
    """
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a text file in UTF-8; save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: See `read_text`, or it is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{path}: is not valid JSON (nested too deeply); write it again") from None
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON ({error}); correct it or write it again") from None


def read_json_lines(path: Path | str) -> list[Any]:
    """The values of a file with one JSON value a line; a last line that a kill cut short is left out.

    Raises:
        ValueError: See `read_text`, or a line is not JSON.
    """
    lines = read_text(path).splitlines(keepends=True)
    values = []
    for number, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            try:
                values.append(json.loads(line))
            except (ValueError, RecursionError):
                raise ValueError(f"{path}: line {number} is not valid JSON; delete the line") from None
    return values


def sha256(path: Path | str) -> str:
    """SHA-256 of a regular file, or of the names and content of all files in a folder; errors as in `read_bytes`."""
    path = Path(path)
    if path.is_dir():
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        lines = [f"{sha256(file)} {file.relative_to(path)}\n" for file in inside]
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    check_regular(path)
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({_reason(error)}); check its permissions") from None


def sha256_of_values(content: Any) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


_LEFTOVER = re.compile(r"\.part-[0-9a-f]{12}-.+")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Gives a temporary name beside `path` that becomes `path` when the block ends without an exception.

    The temporary name is hidden and keeps the suffix, so that writers that choose a format by suffix still
    do, and a file left behind by a kill is never taken for data. Missing parent folders are created. An earlier file
    stays until the new content is complete; a link is replaced, not followed. A device or a pipe stays what it is: the
    content is written into it at the end.

    Raises:
        OSError: The file cannot be written; the error names `path`.
    """
    path = Path(path)
    if is_stream(path):
        with tempfile.TemporaryDirectory(prefix="volattn-") as folder:
            yield Path(folder) / path.name
            # Opening a pipe that nobody reads would wait for ever; in this way it is an error.
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            os.set_blocking(descriptor, True)
            with (Path(folder) / path.name).open("rb") as content, os.fdopen(descriptor, "wb") as stream:
                shutil.copyfileobj(content, stream)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{uuid.uuid4().hex[:12]}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # The error of a full disk names no file, and the temporary name would not help.
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
    """Writes UTF-8 text with `\\n` line ends, atomically; other bytes, as names may hold, as `printable` has them."""
    with atomic_path(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8", newline="\n")


def append_line(path: Path, line: str) -> None:
    """Adds a line of UTF-8 to a journal; a kill may cut it short. An OSError names `path`."""
    try:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{printable(line)}\n")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path | str, content: Any) -> None:
    """Writes indented JSON, atomically; a ValueError for NaN and infinity, which JSON has not."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
