"""Where the runs of a study are trained: in this process, in others on this machine, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from volattn.faults import explain
from volattn.inference.predict import find_device
from volattn.studies.study_run import LOG, StudyRun, attempt
from volattn.workers import Progress, available_cores, map_items


@dataclass(frozen=True)
class ProcessShard:
    """Which of the runs are this process's: every `world`-th under `torchrun`, else all."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> ProcessShard:
        """From the variables that `torchrun` sets."""
        names = {"rank": "RANK", "world": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_world": "LOCAL_WORLD_SIZE"}
        return cls(**{key: int(environment[name]) for key, name in names.items() if name in environment})


@dataclass(frozen=True)
class Executor:
    """Trains and tests the runs of a study.

    Attributes:
        jobs: Runs at a time, each in a process of its own, which share the cores and have a GPU each as far as there
            are several; 0 works in this process. With Ray: runs that share the cluster's cores.
        ray: Address of a cluster, whose machines share the study's folder; "local" starts one here; None uses none.
        device: Of each run: auto, cpu, cuda, or one GPU of this machine for all of them, e.g. cuda:1.
    """

    jobs: int = 1
    shard: ProcessShard = ProcessShard()
    ray: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.ray is None:
            find_device(self.device)  # Refused before any run.
        elif self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(
                f"--device {self.device}: with --ray each run has a GPU of its own; give auto, cpu or cuda"
            )

    def run(self, runs: Sequence[StudyRun], progress: Progress | None = None) -> Iterator[StudyRun]:
        """Gives each run of this process, of those of all, when it is finished or has failed; why is in its folder.

        Raises:
            ValueError: Ray is not installed, or there is no cluster at the address.
        """
        runs = runs[self.shard.rank :: self.shard.world]
        if self.ray is not None:
            yield from _run_on_ray(runs, self.ray, max(self.jobs, 1), self.device, progress)
            return
        threads = max(available_cores() // (self.jobs * self.shard.local_world), 1) if self.jobs else None
        function = partial(attempt, device=self.device, threads=threads)
        environments = [self._environment(slot, threads) for slot in range(self.jobs)]
        for run, result in map_items(
            function, runs, self.jobs, fresh=True, environments=environments, progress=progress
        ):
            if isinstance(result, Exception):  # `attempt` raises none.
                run.note_failure(
                    f"its process was killed twice, likely for want of memory; give fewer --jobs, or see "
                    f"{run.folder / LOG}"
                )
            yield run

    def _environment(self, slot: int, threads: int | None) -> dict[str, str]:
        environment = {"OMP_NUM_THREADS": str(threads)}
        gpus = torch.cuda.device_count() if self.device in ("auto", "cuda") else 0
        if gpus > 1:
            gpu = (self.shard.local_rank * self.jobs + slot) % gpus
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu] if visible else str(gpu)
        return environment


def _run_on_ray(
    runs: Sequence[StudyRun], address: str, jobs: int, device: str, progress: Progress | None
) -> Iterator[StudyRun]:
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
        wanted: dict[str, Any] = {"num_cpus": threads}
        if resources.get("GPU") and device != "cpu":
            wanted = {"num_cpus": 1, "num_gpus": 1}
        # A new process for each run.
        task = ray.remote(**wanted, max_retries=0, max_calls=1)(_attempt_in)
        pending = {task.remote(str(Path.cwd()), run, device, threads): run for run in runs}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            run = pending.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                run.note_failure(explain(error))
            if progress is not None:
                progress("runs", len(runs) - len(pending), len(runs))
            yield run
    finally:
        ray.shutdown()


def _attempt_in(folder: str, run: StudyRun, device: str, threads: int) -> None:
    os.chdir(folder)
    attempt(run, device=device, threads=threads)
