"""Exceptions as one line for the user. Standard library only."""

from __future__ import annotations

import errno
import struct
import zlib
from pathlib import Path

_NO_SPACE = "make room on the disk and give the same command again"
_WAYS_OUT = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EACCES: "check its permissions",
    errno.EPERM: "check its permissions",
    errno.EROFS: "give a folder that can be written to",
    errno.ENOSPC: _NO_SPACE,
    errno.EDQUOT: _NO_SPACE,
    errno.EMFILE: "allow more open files (ulimit -n), or give fewer workers",
}
_OF_THE_INPUT = (ValueError, ArithmeticError, RuntimeError, EOFError, zlib.error, struct.error)
"""Exceptions of libraries on damaged or extreme input. Others, except OSError, are faults of this program."""


def explain(error: BaseException, path: Path | str | None = None) -> str:
    """An exception as one line with place, fault and way out; `path` is named where the error names no file."""
    text = " ".join(str(error).split())
    where = "" if path is None or str(path) in text else f"{path}: "
    if isinstance(error, MemoryError):
        return f"{where}out of memory; give fewer workers, crop the CT, or use a machine with more"
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename is not None else where
        way_out = _WAYS_OUT.get(error.errno)
        return f"{where}{error.strerror}" + (f"; {way_out}" if way_out else "")
    if type(error) is ValueError and text:
        return text if ": " in text else f"{where}{text}"  # Most errors of this project name their file.
    described = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, (*_OF_THE_INPUT, OSError)):
        if path is None:
            return described
        return f"{where}cannot be processed ({described}); check the file, or leave it out"
    return f"{where}internal error ({described}); please report it with the traceback that --debug shows"
