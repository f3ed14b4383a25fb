"""Exit codes: 0 good, 1 some cases failed, 2 nothing could be done, 130 stopped by the user."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

GOOD = 0
SOME_FAILED = 1
NOTHING_DONE = 2
STOPPED = 130


def run(command: Callable[[], int | None], *, debug: bool = False) -> int:
    """Runs a command; a user's mistake becomes one line on standard error.

    Args:
        command: Returns its exit code, None for good.
        debug: Shows the traceback too.
    """
    try:
        return command() or GOOD
    except (ValueError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        say(_one_line(error))
        return NOTHING_DONE
    except KeyboardInterrupt:
        say("stopped; what was written is whole, and --resume (prepare: the same command) goes on from there")
        return STOPPED


def say(text: str) -> None:
    """One line on standard error."""
    print(f"volattn: {text}", file=sys.stderr)


def report_failures(failed: dict[str, str], total: int) -> int:
    """Lists the cases that failed, at the very end where they are seen; the exit code."""
    for name, reason in failed.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if not failed:
        return GOOD
    print(f"{len(failed)} of {total} failed", file=sys.stderr)
    return NOTHING_DONE if len(failed) == total else SOME_FAILED


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory; close other programs, or use a machine with more"
    return " ".join(str(error).split())
