"""Exit codes: 0 success, 1 some cases failed, 2 nothing was done, 130 stopped by Ctrl-C, 143 by SIGTERM."""

from __future__ import annotations

import inspect
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

import typer

from volattn.cli.options import Debug
from volattn.faults import explain
from volattn.io.names import count_of, one_line

if TYPE_CHECKING:
    from volattn.datasets.issues import LeftOut

GOOD = 0
SOME_FAILED = 1
NOTHING_DONE = 2
STOPPED = 130
TERMINATED = 143

RESUME = "what was written is whole; the same command with --resume continues"


class Terminated(KeyboardInterrupt):
    """SIGTERM, as schedulers and containers send it: as Ctrl-C, with another exit code."""


def verb(after_stop: str = RESUME) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Makes a verb of a function: it gets the option --debug, and ends with its exit code; see `run`."""

    def decorate(function: Callable[..., int | None]) -> Callable[..., None]:
        @wraps(function)
        def command(*, debug: bool, **options: Any) -> None:
            raise typer.Exit(run(lambda: function(**options), after_stop=after_stop, debug=debug))

        signature = inspect.signature(function, eval_str=True)
        option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
        # Typer reads the options of a verb from here.
        vars(command)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), option])
        return command

    return decorate


def run(command: Callable[[], int | None], *, after_stop: str = RESUME, debug: bool = False) -> int:
    """Runs a command and gives its exit code; a user's mistake becomes one line on standard error.

    Args:
        after_stop: How to continue, for a user who stopped the command.
        debug: Shows the traceback too.
    """
    previous = None
    if threading.current_thread() is threading.main_thread():
        previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        return command() or GOOD
    except (ValueError, OSError, MemoryError) as error:
        if debug:
            traceback.print_exc()
        say(explain(error))
        return NOTHING_DONE
    except KeyboardInterrupt as stop:
        say(f"stopped; {after_stop}")
        return TERMINATED if isinstance(stop, Terminated) else STOPPED
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # A second one ends the process at once.
    raise Terminated


def say(text: str) -> None:
    """One line on standard error."""
    print(f"volattn: {one_line(text)}", file=sys.stderr)


def say_left_out(left_out: Iterable[LeftOut]) -> None:
    """Counts and names the files that a listing left out; those with an error are listed as failures."""
    from volattn.datasets.issues import count_left_out

    sentence = count_left_out(left_out)
    if sentence is not None:
        say(sentence)


def report_failures(failed: Mapping[str, str], total: int) -> int:
    """Lists the cases that failed, with their reasons, and gives the exit code; called last, where it is seen."""
    if not failed:
        return GOOD
    if total == 1:
        say(next(iter(failed.values())))
        return NOTHING_DONE
    say(f"{len(failed)} of {count_of(total, 'case')} failed:")
    for name, reason in failed.items():
        print(one_line(f"  {name}: {reason}"), file=sys.stderr)
    return NOTHING_DONE if len(failed) == total else SOME_FAILED
