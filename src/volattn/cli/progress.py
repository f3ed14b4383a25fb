"""Progress on the terminal, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, int, int], None]


@contextmanager
def shown() -> Iterator[Report]:
    """A callback that shows (what, done, total), one bar for each `what`.

    On a terminal the bars move; in a log each tenth of the way is a line.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        tenths: dict[str, int] = {}

        def log(what: str, done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if tenths.get(what) != tenth and done:
                tenths[what] = tenth
                console.print(f"{what}: {done} of {total}", highlight=False, markup=False)

        yield log
        return

    bar = Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, int] = {}
    with bar:

        def move(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(bar.task_ids[list(tasks).index(what)], completed=done, total=total)

        yield move
