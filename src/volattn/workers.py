"""Work spread over processes that end with their parent, whatever ends it."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Literal, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
Workers = int | Literal["auto"]
"""Processes; 0 works in this one, see `choose_workers` for `auto`."""

_BYTES_A_WORKER = 2 * 2**30
"""Free memory for each process: a CT of 512 x 512 x 500 voxels with its labels is 0.4 GB, and is held several times."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")
_POLL = 0.2
"""Seconds between two looks at what the processes report."""

_send: Callable[[tuple[str, int, int]], None] | None = None


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_workers(workers: Workers, items: int) -> int:
    """Processes for work on whole CTs; `auto`: one for each core, CT and 2 GiB of free memory, at most 16."""
    if workers != "auto":
        return workers
    import psutil

    count = min(available_cores(), items, psutil.virtual_memory().available // _BYTES_A_WORKER, 16)
    return count if count > 1 else 0


def map_items(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 0,
    *,
    name: Callable[[Item], object] = str,
    fresh: bool = False,
    environments: Sequence[Mapping[str, str]] = (),
    progress: Progress | None = None,
) -> Iterator[tuple[Item, Result | Exception]]:
    """Calls a function with every item and yields each result as soon as it is there, in place of it what it raised.

    The item of a process that is killed is tried once more at the end, alone, so that only the one that needs more
    memory than there is fails; the rest goes on in parallel.

    Args:
        function: Importable by name, as are the items' types: the processes are spawned.
        items: What it is called with.
        workers: Processes; 0 works in this one, as does 1 unless `fresh`. They share the cores' threads.
        name: What the error calls an item whose process was killed twice.
        fresh: A new process for each item.
        environments: Environment variables of each worker, set before it imports anything else.
        progress: Takes what the function passes to `report_progress`.

    Yields:
        (item, result or exception) in the order of completion. If the caller stops early, the processes end at once.
    """
    if workers <= (0 if fresh else 1):
        yield from _map_in_this_process(function, items, progress)
        return
    shared = {name: str(max(1, available_cores() // workers)) for name in _THREADS if name not in os.environ}
    unused = [{**shared, **(environments[slot] if environments else {})} for slot in range(workers)]
    waiting, died = deque(items), []
    idle: list[_Worker] = []
    busy: dict[Future[Result | Exception], tuple[Item, _Worker]] = {}
    try:
        while waiting or busy:
            # No more than one item a process.
            while waiting and (idle or unused):
                worker = idle.pop() if idle else _Worker(unused.pop())
                try:
                    busy[worker.pool.submit(_attempt_in_worker, function, waiting[0])] = waiting[0], worker
                    waiting.popleft()
                except BrokenProcessPool:  # It was killed while it had nothing to do.
                    unused.append(worker.close())
            done = wait(busy, timeout=None if progress is None else _POLL, return_when=FIRST_COMPLETED).done
            for _, worker in busy.values():
                worker.pass_reports(progress)
            for future in done:
                item, worker = busy.pop(future)
                broken = isinstance(future.exception(), BrokenProcessPool)
                if broken or fresh:
                    unused.append(worker.close())
                else:
                    idle.append(worker)
                if broken:
                    died.append(item)
                else:
                    yield item, future.result()
        for item in died:
            worker = _Worker(unused[-1] if unused else idle[-1].environment)
            future = worker.pool.submit(_attempt_in_worker, function, item)
            busy[future] = item, worker
            while not wait([future], timeout=_POLL).done:
                worker.pass_reports(progress)
            del busy[future]
            worker.close()
            if isinstance(future.exception(), BrokenProcessPool):
                reason = "its process was killed, likely for want of memory; give fewer --workers"
                yield item, ValueError(f"{name(item)}: {reason}")
            else:
                yield item, future.result()
    finally:
        for worker in (*idle, *(worker for _, worker in busy.values())):
            worker.close()


def report_progress(what: str, done: int, total: int) -> None:
    """Passes progress to the `map_items` that called this function, in whichever process."""
    if _send is not None:
        _send((what, done, total))


def _map_in_this_process(
    function: Callable[[Item], Result], items: Sequence[Item], progress: Progress | None
) -> Iterator[tuple[Item, Result | Exception]]:
    global _send
    before = _send

    def send(message: tuple[str, int, int]) -> None:
        if progress is not None:
            progress(*message)

    for item in items:
        _send = send
        try:
            result = _attempt(function, item)
        finally:
            _send = before
        yield item, result


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return function(item)
    except Exception as error:
        return error


def _attempt_in_worker(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    result = _attempt(function, item)
    if isinstance(result, Exception):
        try:
            pickle.loads(pickle.dumps(result))
        except Exception:  # Some libraries' exceptions cannot travel between processes.
            return RuntimeError(f"{type(result).__name__}: {result}")
    return result


class _Worker:
    """A process that ends with this one, however that happens."""

    def __init__(self, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.environment = environment
        self._ours, self._theirs = context.Pipe()
        self.pool = ProcessPoolExecutor(1, context, initializer=_start, initargs=(self._theirs, environment))

    def pass_reports(self, progress: Progress | None) -> None:
        with suppress(EOFError, OSError):
            while progress is not None and self._ours.poll():
                progress(*self._ours.recv())

    def close(self) -> dict[str, str]:
        """Ends the process at once, and gives its environment."""
        self._ours.close()
        self._theirs.close()
        self.pool.shutdown(wait=False, cancel_futures=True)
        return self.environment


def _start(lifeline: Connection, environment: Mapping[str, str]) -> None:
    global _send
    # Ctrl-C reaches every process of the terminal; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    _send = lifeline.send
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: Connection) -> None:
    # Without this a worker whose parent was killed would finish its item, beside the run that goes on, and then wait
    # for ever. The pipe's other end closes with the parent.
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
