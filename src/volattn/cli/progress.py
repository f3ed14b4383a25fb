"""Progress on the terminal, with the time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from volattn.workers import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_SPEED_SECONDS = 600
"""A case may take a minute: a shorter memory would never see two of them."""


@contextmanager
def shown() -> Iterator[Progress]:
    """A callback that shows what is done and the time left: bars on a terminal, in a log a line each tenth."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines().report
        return
    bars = Bars(console)
    try:
        yield bars.report
    finally:
        bars.close()


class Lines:
    """Lines on standard error, one for each tenth of the way; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started: dict[str, tuple[float, int]] = {}
        self._last: dict[str, int] = {}

    def report(self, what: str, done: int, total: int) -> None:
        """Prints a line if another tenth is done."""
        now, last = self._clock(), self._last.get(what)
        self._last[what] = done
        if last is None or done < last:  # It starts, or starts again, as each validation does.
            self._started[what] = (now, done)
            last = 0
        if 10 * done // max(total, 1) == 10 * last // max(total, 1):
            return
        started, before = self._started[what]
        left = ""
        if before < done < total:
            left = f", {_duration((now - started) / (done - before) * (total - done))} left"
        print(f"{what}: {done} of {total}{left}", file=sys.stderr, flush=True)


class Bars:
    """Bars on a terminal for what is running; what is finished becomes a line above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}

    def report(self, what: str, done: int, total: int) -> None:
        """Moves a bar, and shows it at first."""
        progress = self._progress = self._progress or self._start()
        if what not in self._tasks:
            self._tasks[what] = progress.add_task(what, total=total)
        task = self._tasks[what]
        progress.update(task, completed=done, total=total)
        if done >= total:
            elapsed = next(one.elapsed for one in progress.tasks if one.id == task) or 0.0
            progress.remove_task(task)
            del self._tasks[what]
            self._console.print(
                f"{what}: {total} in {_duration(elapsed)}", highlight=False, markup=False, soft_wrap=True
            )

    def close(self) -> None:
        """Leaves the bars as they are."""
        if self._progress is not None:
            self._progress.stop()

    def _start(self) -> RichProgress:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        progress = RichProgress(
            TextColumn("{task.description:>12}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self._console,
            speed_estimate_period=_SPEED_SECONDS,
            redirect_stdout=sys.stdout.isatty(),  # Results that go into a file stay there.
        )
        progress.start()
        return progress


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
