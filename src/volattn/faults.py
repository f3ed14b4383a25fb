"""What went wrong, in one line: the one place that turns an exception into what a user reads. Standard library only."""

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
"""What libraries raise on damaged or extreme input. Anything else, but for OSError, is a fault of this program."""


def explain(error: BaseException, path: Path | str | None = None) -> str:
    """An exception as one line that says where, what, and what to do.

    Args:
        error: A ValueError of this project says all that itself.
        path: The file that was being worked on; named where the error does not name one.
    """
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
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, (*_OF_THE_INPUT, OSError)):
        if path is None:
            return said
        return f"{where}cannot be processed ({said}); check the file, or leave it out"
    return f"{where}internal error ({said}); please report it with the traceback that --debug shows"
