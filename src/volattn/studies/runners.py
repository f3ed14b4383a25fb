"""Where the cells of a study run: in this process, in others on this machine, or on a Ray cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from volattn.faults import explain
from volattn.studies.cell import FAILED, Cell, note_failure, run_cell

Progress = Callable[[str, int, int], None]
Finished = Callable[[Cell], None]
Runner = Callable[[Sequence[Cell], Finished, Progress], None]
"""Runs cells, and says when one is finished or has failed; a cell that fails has said why in its folder."""

_LOG = "log.txt"
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Share:
    """Which of the cells are this process's: every `world`-th, under `torchrun`; else all.

    Attributes:
        rank: Of this process.
        world: Processes in all.
        local_rank: Among those of this machine.
        local_world: Processes of this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Share:
        """As `torchrun` tells its processes."""
        rank, world, local, local_world = (
            int(environment.get(key, default))
            for key, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        )
        return cls(rank, world, local, local_world)

    def of_cells(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """The cells that are run here."""
        return cells[self.rank :: self.world]


def choose_runner(jobs: int, share: Share, *, ray: str | None = None, cpu: bool = False) -> Runner:
    """Where cells run.

    Args:
        jobs: Cells at a time; 0 runs them in this process.
        share: Of this process.
        ray: Address of a cluster; None for this machine.
        cpu: Leaves GPUs alone.
    """
    if ray is not None:
        return partial(run_on_ray, address=ray, jobs=max(jobs, 1), cpu=cpu)
    if jobs == 0:
        return partial(run_here, cpu=cpu)
    return partial(run_in_processes, jobs=jobs, share=share, cpu=cpu)


def run_here(cells: Sequence[Cell], finished: Finished, progress: Progress, *, cpu: bool = False) -> None:
    """Runs cells one after the other in this process."""
    for cell in cells:

        def tell(what: str, done: int, total: int, name: str = cell.name) -> None:
            progress(f"{name}: {what}", done, total)

        try:
            run_cell(cell, cpu=cpu, progress=tell)
        except Exception as error:  # Whatever is wrong with one cell must not cost the user the others.
            note_failure(cell, explain(error))
        finished(cell)


def run_in_processes(
    cells: Sequence[Cell], finished: Finished, progress: Progress, *, jobs: int, share: Share, cpu: bool = False
) -> None:
    """Runs cells in processes of their own, which end with this one.

    Args:
        cells: In this order.
        finished: Called in this thread.
        progress: Called from several threads.
        jobs: Cells at a time. They share the processor's cores, and have a GPU each as far as there are several.
        share: Of this process.
        cpu: Leaves GPUs alone.
    """
    slots: SimpleQueue[int] = SimpleQueue()
    for slot in range(jobs):
        slots.put(slot)
    threads = max(_cores() // (jobs * share.local_world), 1)
    gpus = 0 if cpu else torch.cuda.device_count()
    children: set[subprocess.Popen[str]] = set()
    stopped = threading.Event()

    def run(cell: Cell) -> Cell:
        slot = slots.get()
        try:
            gpu = (share.local_rank * jobs + slot) % gpus if gpus > 1 else None
            reason = supervise(cell, threads, cpu=cpu, gpu=gpu, progress=progress, children=children)
            if reason is not None and not stopped.is_set():
                note_failure(cell, reason)
        finally:
            slots.put(slot)
        return cell

    pool = ThreadPoolExecutor(jobs)
    try:
        futures: list[Future[Cell]] = [pool.submit(run, cell) for cell in cells]
        for future in as_completed(futures):
            finished(future.result())
    finally:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        for child in list(children):
            child.kill()


def supervise(
    cell: Cell,
    threads: int,
    *,
    cpu: bool = False,
    gpu: int | None = None,
    progress: Progress | None = None,
    children: set[subprocess.Popen[str]] | None = None,
) -> str | None:
    """Runs a cell in a process of its own and survives its end, whatever that is.

    Args:
        cell: The cell.
        threads: That it may use.
        cpu: Leaves a GPU alone.
        gpu: The only one that it sees; None hides none.
        progress: Told what the cell says.
        children: Holds the process while it runs.

    Returns:
        Why its process ended, if the cell could not say so itself; else None.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    (cell.folder / FAILED).unlink(missing_ok=True)
    environment = {key: value for key, value in os.environ.items() if key not in _OF_TORCHRUN}
    environment |= {"OMP_NUM_THREADS": str(threads)}
    if gpu is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[gpu] if seen else str(gpu)
    words = [json.dumps(cell.as_json()), str(threads), "cpu" if cpu else "auto"]
    with (
        (cell.folder / _LOG).open("a", encoding="utf-8") as log,
        subprocess.Popen(
            [sys.executable, "-m", "volattn.studies.child", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the study, which ends its cells.
        ) as process,
    ):
        if children is not None:
            children.add(process)
        assert process.stdout is not None
        for line in process.stdout:
            if progress is not None and line.startswith("["):
                what, done, total = json.loads(line)
                progress(f"{cell.name}: {what}", done, total)
        code = process.wait()
        if children is not None:
            children.discard(process)
    if code == 0 or cell.failure is not None:
        return None
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    return f"its process {how}; see {cell.folder / _LOG}"


def run_on_ray(
    cells: Sequence[Cell], finished: Finished, progress: Progress, *, address: str, jobs: int, cpu: bool = False
) -> None:
    """Runs cells as tasks of a Ray cluster, whose machines share the study's folder.

    Args:
        cells: Those to run.
        finished: Called in this thread.
        progress: Told of finished cells only.
        address: Of the cluster; "local" starts one on this machine.
        jobs: Cells that share the cluster's cores; where it has GPUs a cell takes one instead.
        cpu: Leaves GPUs alone.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at the address.
    """
    if find_spec("ray") is None:
        raise ValueError("Ray is not installed; install volattn[ray], or leave --ray out")
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=None)
    except (ConnectionError, ValueError) as error:
        raise ValueError(f"--ray {address}: no cluster answers ({' '.join(str(error).split())[:200]})") from None
    try:
        resources = ray.cluster_resources()
        threads = max(int(resources.get("CPU", 1)) // jobs, 1)
        wanted: dict[str, Any] = {"num_cpus": threads, "max_retries": 0}
        if resources.get("GPU") and not cpu:
            wanted = {"num_cpus": 1, "num_gpus": 1, "max_retries": 0}
        task = ray.remote(**wanted)(_supervise_remotely)
        pending = {task.remote(cell.as_json(), threads, cpu, str(Path.cwd())): cell for cell in cells}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            cell = pending.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                note_failure(cell, explain(error))
            finished(cell)
            progress("cells", len(cells) - len(pending), len(cells))
    finally:
        ray.shutdown()


def _supervise_remotely(values: dict[str, Any], threads: int, cpu: bool, home: str) -> None:
    os.chdir(home)
    cell = Cell.from_json(values)
    reason = supervise(cell, threads, cpu=cpu)
    if reason is not None:
        note_failure(cell, reason)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
