"""Work spread over processes, of which any may be killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: a process ended without an answer, and a second one with the same work too."""


def each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[Item, Result | WorkerDied]]:
    """Calls a function with every item and gives each result as soon as it is there.

    A killed process takes its pool with it. What was being worked on is tried once more, each item alone, so
    that one that needs more memory than there is is found and costs only itself; the rest goes on in parallel.

    Args:
        function: Importable by name, as are the items' types: the processes are spawned.
        items: What it is called with.
        workers: Processes; 0 or 1 works in this one.

    Yields:
        (item, result) in the order of completion; the result is `WorkerDied` where both attempts were killed. When this
        ends early, by an exception or because nobody asks for more, the processes end at once.

    Raises:
        Exception: What the function raised.
    """
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    waiting = deque(items)
    while waiting:
        suspects: list[Item] = []
        with _processes(min(workers, len(waiting))) as pool:
            held: dict[Future[Result], Item] = {}
            while held or (waiting and not suspects):
                # No more than one item a process: on a break, only these are under suspicion.
                while waiting and not suspects and len(held) < workers:
                    try:
                        held[pool.submit(function, waiting[0])] = waiting[0]
                    except BrokenProcessPool:
                        break
                    waiting.popleft()
                if not held:
                    break
                for future in wait(held, return_when=FIRST_COMPLETED).done:
                    item = held.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        suspects.append(item)
                    else:
                        yield item, result
        for item in suspects:
            yield item, _alone(function, item)


def _alone(function: Callable[[Item], Result], item: Item) -> Result | WorkerDied:
    with _processes(1) as pool:
        try:
            return pool.submit(function, item).result()
        except BrokenProcessPool:
            return WorkerDied()


@contextmanager
def _processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end when the block ends early, and when this process does, however that happens."""
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(theirs,))
    try:
        yield pool
        pool.shutdown()
    finally:
        ours.close()
        theirs.close()
        pool.shutdown(wait=False, cancel_futures=True)


def _start(lifeline: Connection) -> None:
    """Ties a worker to its parent."""
    # Ctrl-C reaches every process of the terminal: workers just end, without a traceback each.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: Connection) -> None:
    # Nobody tells a worker that its parent was killed: it would finish what it has and then wait for ever, and
    # meanwhile write beside the run that goes on. The other end closes with the parent.
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
