"""Reads files made wrong, thousands a minute: a right answer or one line, within 5 s and 1 GiB, whatever they are.

    python tests/robustness/fuzz_readers.py --reader all --mutations 10000 --seed 0 --log fuzz.json

Files that led to anything else are kept, and each can be made again from its reader, the seed and its number.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from mutations import mutate

sys.path.append(str(Path(__file__).parents[1]))
SECONDS, BYTES, CHARACTERS = 5.0, 2**30, 2000
_RENEWED = 2000
"""Calls after which the reading process is replaced, so that what it once held is not counted for ever."""


@dataclass(frozen=True)
class Reader:
    """What is read.

    Attributes:
        make: Writes valid files into an empty folder, and gives those that may be changed.
        read: Reads one of them, with what lies beside it, and gives an answer that can be hashed.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]


# The project is imported in the functions: the process that waits needs none of it.
def _volume(kind: type[np.generic]) -> Any:
    from volattn.structures.geometry import Geometry
    from volattn.structures.volume import Volume

    array = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(kind)
    return Volume(array, Geometry.aligned(array.shape, (3.0, 1.0, 1.0)))


def _make_image(folder: Path) -> list[Path]:
    from volattn.io.nifti import write_volume

    for name in ("ct.nii.gz", "ct.nii"):
        write_volume(folder / name, _volume(np.int16))
    return sorted(folder.iterdir())


def _make_labels(folder: Path) -> list[Path]:
    from volattn.io.nifti import write_labels

    for name in ("ct.nii.gz", "ct.nii"):
        write_labels(folder / name, _volume(np.uint8).array, _volume(np.uint8))
    return sorted(folder.iterdir())


def _read_image(path: Path) -> object:
    from volattn.io.nifti import read_volume

    volume = read_volume(path)
    assert volume.array.shape == volume.geometry.shape
    return volume.array, volume.geometry.affine


def _read_labels(path: Path) -> object:
    from volattn.io.nifti import read_labels

    volume = read_labels(path)
    assert volume.array.shape == volume.geometry.shape
    return volume.array, volume.geometry.affine


def _make_png(folder: Path) -> list[Path]:
    from volattn.io.png import write_slice

    write_slice(folder / "001.png", np.random.default_rng(0).normal(40, 30, (40, 48)).astype(np.int16))
    return [folder / "001.png"]


def _read_png(path: Path) -> object:
    from volattn.io.png import read_slice

    found = read_slice(path)
    assert found.dtype == np.int16
    assert found.ndim == 2
    return found


def _make_csv(folder: Path) -> list[Path]:
    from key_slices import random_slices, write_found, write_info

    slices = random_slices(1, count=3)
    return [write_info(folder / "DL_info.csv", slices), write_found(folder / "detections.csv", slices)]


def _read_csv(path: Path) -> object:
    from volattn.datasets.dl_detections import read_detections
    from volattn.datasets.dl_info import read_dl_info

    info = read_dl_info(path.with_name("DL_info.csv"))
    found = read_detections(path.with_name("detections.csv"), {lesion.file_name for lesion in info.lesions})
    for fault in (*info.faults.values(), *found.faults.values()):
        assert _wrong_line(ValueError(fault), str(path.parent)) is None, fault
    return info, found


def _make_scores(folder: Path) -> list[Path]:
    from key_slices import random_slices, write_found, write_info
    from scored_cases import SPACING, label_map

    from volattn.evaluation.deeplesion import score_deeplesion
    from volattn.evaluation.detection import PRESETS, score_detections
    from volattn.evaluation.label_pair import LabelPair
    from volattn.evaluation.lits import lits_scheme, score_lits
    from volattn.evaluation.lits_folders import LitsFolderScores
    from volattn.evaluation.lits_summary import summarise_lits
    from volattn.evaluation.score_file import write_scores
    from volattn.structures.geometry import Geometry

    slices = random_slices(5, count=3)
    with tempfile.TemporaryDirectory() as beside:
        info = write_info(Path(beside) / "DL_info.csv", slices)
        found = write_found(Path(beside) / "detections.csv", slices)
        write_scores(folder / "deeplesion.json", score_deeplesion(info, found).content)
        for part in ("reference", "prediction"):
            _write_mask(Path(beside) / part / "case_01.nii.gz")
        scores = score_detections(Path(beside) / "reference", Path(beside) / "prediction", PRESETS["nndet"])
        write_scores(folder / "detection.json", scores.content)
    grid = Geometry.aligned(label_map().shape, SPACING)
    pair = LabelPair.cropped(label_map((8, 8, 6), (20, 20, 18)), label_map((8, 9, 6)), grid)
    cases = [score_lits(name, pair, SPACING) for name in ("a", "b")]
    content = LitsFolderScores(summarise_lits(cases), {}, (), lits_scheme(), False).content
    write_scores(folder / "lits.json", content)
    return sorted(folder.iterdir())


def _read_scores(path: Path) -> object:
    from volattn.evaluation.curves import measures_of, pool_of
    from volattn.evaluation.score_file import read_scores
    from volattn.reporting.detection_scores import detection_table
    from volattn.reporting.lits import lits_tables

    content = read_scores(path)
    measures = measures_of(content)
    if measures is None:
        return [table.text() for table in lits_tables(content)]
    pool = pool_of(content["cases"], measures)
    return pool.measure(pool.whole()), detection_table(content, "").text()


def _write_mask(path: Path) -> None:
    from volattn.io.nifti import write_labels
    from volattn.structures.geometry import Geometry
    from volattn.structures.volume import Volume

    mask = np.zeros((12, 40, 40), np.uint8)
    mask[2:5, 5:12, 5:15] = 1
    mask[6:9, 20:30, 20:30] = 2
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, mask, Volume(mask, Geometry.aligned(mask.shape, (3.0, 1.0, 1.0))))


def _make_boxes(folder: Path) -> list[Path]:
    from volattn.io.nifti import read_labels

    _write_mask(folder / "case.nii.gz")
    geometry = read_labels(folder / "case.nii.gz").geometry
    start, stop = [2, 5, 5], [5, 12, 15]
    world = geometry.to_world(np.array([start, stop]) - 0.5)
    lesion = {
        "id": 1,
        "score": 0.9,
        "box_voxels": {"axes": "kji", "start": start, "stop": stop},
        "box_lps_mm": {"min": world.min(axis=0).tolist(), "max": world.max(axis=0).tolist()},
    }
    seen = {"split": "validation", "case": "volume-1", "known_by": "content"}
    contents = {
        "predicted": {"grid": {"shape": [12, 40, 40]}, "lesions": [lesion], "seen_in_training": seen},
        "nndet": {"1": {"box": [1, 4, 5, 12, 4, 15], "score": 0.5, "label": 0}},
        "case": {"instances": {"1": 0, "2": 1}, "scores": {"1": 0.5, "2": 0.75}},
    }
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return [folder / f"{name}.json" for name in contents]


def _read_boxes(path: Path) -> object:
    from volattn.datasets.instances import read_boxes, read_mask
    from volattn.evaluation.seen import trained_on
    from volattn.io.nifti import read_labels

    mask = path.with_name("case.nii.gz")
    seen = trained_on(path.with_suffix(".nii.gz"))
    found = read_mask(mask) if path.stem == "case" else read_boxes(path, read_labels(mask))
    return seen, found and found.found


def _make_dataset(folder: Path) -> list[Path]:
    from volattn.io.nifti import write_labels, write_volume

    for layout, ending in (("msd", ""), ("nnunet", "_0000")):
        for number in (1, 2):
            write_volume(folder / layout / "imagesTr" / f"case_{number}{ending}.nii.gz", _volume(np.int16))
            labels = folder / layout / "labelsTr" / f"case_{number}.nii.gz"
            write_labels(labels, _volume(np.uint8).array, _volume(np.uint8))
    training = [
        {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"}
        for number in (1, 2)
    ]
    msd = {
        "name": "liver",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "cancer"},
        "numTraining": 2,
        "numTest": 0,
        "training": training,
        "test": [],
    }
    nnunet = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "lesion": 2},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    for layout, content in (("msd", msd), ("nnunet", nnunet)):
        (folder / layout / "dataset.json").write_text(json.dumps(content))
    return sorted(folder.glob("*/dataset.json"))


def _read_dataset(path: Path) -> object:
    from volattn.datasets.open import open_dataset

    return [case.name for case in open_dataset(path.parent).cases]


def _make_yaml(folder: Path) -> list[Path]:
    from volattn.training.recipe import load_recipe

    (folder / "whole.yaml").write_text(load_recipe("tiny").text())
    (folder / "json.yaml").write_text(load_recipe("tiny").text("json"))
    (folder / "short.yaml").write_text("base: tiny\nname: mine\nmodel: {bag: 3, attention: {kind: both}}\n")
    return sorted(folder.iterdir())


def _read_yaml(path: Path) -> object:
    from volattn.training.recipe import load_recipe

    return load_recipe(path).text()


@cache
def _tiny() -> Any:
    import torch
    from small_detectors import CLASSES, small_config

    from volattn.models.catalogue import build_model

    torch.manual_seed(0)
    changes = {"backbone": {"width": 8, "pyramid_channels": 8, "stages": 1}, "regions": {"box_channels": 8}}
    config = small_config(3, changes={**changes, "proposals": {"anchor_sizes": [[8], [16]]}})
    return build_model(config, CLASSES)


def _make_safetensors(folder: Path) -> list[Path]:
    from safetensors.torch import save_file

    save_file(_tiny().state_dict(), folder / "weights.safetensors")
    return [folder / "weights.safetensors"]


def _make_pth(folder: Path) -> list[Path]:
    import torch

    state = _tiny().state_dict()
    torch.save(state, folder / "zip.pth")
    torch.save({"model": state, "epoch": 3}, folder / "old.pth", _use_new_zipfile_serialization=False)
    return sorted(folder.iterdir())


def _read_weights(path: Path) -> object:
    from volattn.models.weights import load_weights

    return load_weights(_tiny(), path)


def _make_model(folder: Path) -> list[Path]:
    from small_detectors import CLASSES

    from volattn.checkpoints import ModelFolder, Training, save_folder
    from volattn.preprocessing.plan import Plan

    model = _tiny()
    training = Training(recipe="tiny", dataset="phantom", fingerprint="0" * 64, cases=("volume-1",))
    described = ModelFolder(
        model=model.config, plan=Plan(size=64), classes=CLASSES, threshold=0.4, training=training
    )
    save_folder(folder, model, described)
    return [folder / "config.json", folder / "config.json", folder / "model.safetensors"]


def _read_model(path: Path) -> object:
    from volattn.checkpoints import load_folder

    model, described = load_folder(path.parent)
    return described.text(), [tensor.sum().item() for tensor in model.state_dict().values()]


def _make_store(folder: Path) -> list[Path]:
    from volattn.datasets.open import open_dataset
    from volattn.preprocessing.plan import Plan
    from volattn.preprocessing.prepare import prepare_dataset

    with tempfile.TemporaryDirectory() as beside:
        _make_dataset(Path(beside))
        prepare_dataset(open_dataset(Path(beside) / "msd"), Plan(size=32), folder / "store")
    return sorted(
        path for path in folder.rglob("*") if path.suffix in (".json", ".b2nd") and "finger" not in path.name
    )


def _read_store(path: Path) -> object:
    from volattn.preprocessing.prepare import Job
    from volattn.preprocessing.store import JOB, Store

    folder = next(above for above in path.parents if above.name == "store")
    store = Store.open(folder)
    read: list[object] = [Job.read(folder / JOB).text(), store.description.text()]
    for name in store.names:
        case = store.case(name)
        table = case.slices
        read += [case.image[:], case.labels[:], table.organ_pixels, case.source.affine]
    return read


def _make_run(folder: Path) -> list[Path]:
    from volattn.datasets.splits import Split
    from volattn.training.recipe import load_recipe

    (folder / "recipe.yaml").write_text(load_recipe("tiny").text())
    Split(train=("a", "b"), validation=("c",), seed=0).write(folder / "split.json")
    rows = [{"step": 0, "loss": 1.5, "seconds": 0.1, "targets": 4}, {"step": 0, "lesion_dice": 0.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sorted(folder.iterdir())


def _read_run(path: Path) -> object:
    from volattn.datasets.splits import Split
    from volattn.training.folder import read_metrics
    from volattn.training.recipe import Recipe

    if path.suffix == ".jsonl":
        return read_metrics(path.parent)
    return (Recipe if path.suffix == ".yaml" else Split).read(path).text()


READERS = {
    "nifti": Reader(_make_image, _read_image),
    "labels": Reader(_make_labels, _read_labels),
    "png": Reader(_make_png, _read_png),
    "csv": Reader(_make_csv, _read_csv),
    "scores": Reader(_make_scores, _read_scores),
    "boxes": Reader(_make_boxes, _read_boxes),
    "dataset": Reader(_make_dataset, _read_dataset),
    "yaml": Reader(_make_yaml, _read_yaml),
    "safetensors": Reader(_make_safetensors, _read_weights),
    "pth": Reader(_make_pth, _read_weights),
    "model": Reader(_make_model, _read_model),
    "store": Reader(_make_store, _read_store),
    "run": Reader(_make_run, _read_run),
}


@dataclass
class Tally:
    """What became of a reader's calls.

    Attributes:
        outcomes: How often which.
        slowest: Seconds of the longest call.
        most_bytes: That a call added to the process.
        failures: Number of the call -> what was wrong with its outcome.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    most_bytes: int = 0
    failures: dict[int, str] = field(default_factory=dict)


def fuzz(names: Sequence[str], mutations: int, seed: int, kept: Path | None = None) -> dict[str, Tally]:
    """Calls each reader so many times.

    Args:
        names: Of `READERS`.
        mutations: Calls of each.
        seed: Decides the changes.
        kept: Folder for the files that led to failures.
    """
    tallies = {name: Tally() for name in names}
    work = [(name, number) for name in names for number in range(mutations)]
    while work:
        with _reading(seed) as (process, pipe):
            for _ in range(min(_RENEWED, len(work))):
                name, number = work.pop(0)
                if not _call(process, pipe, name, number, tallies[name]):
                    break
        for name, tally in tallies.items():
            for number in tally.failures if kept else ():
                _keep(kept / f"{name}-{seed}-{number}", name, seed, number)  # type: ignore[operator]
    return tallies


@contextlib.contextmanager
def _reading(seed: int) -> Iterator[tuple[Any, Connection]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, seed), daemon=True)
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        ours.close()
        process.join(1)
        process.kill()
        process.join()


def _call(process: Any, pipe: Connection, name: str, number: int, tally: Tally) -> bool:
    """Whether the process is still of use."""
    pipe.send((name, number))
    try:
        pipe.recv()  # Its files are made.
        if not pipe.poll(2 * SECONDS):
            tally.outcomes["hang"] += 1
            tally.failures[number] = f"no answer within {2 * SECONDS:g} s"
            return False
        outcome, fault, seconds, grown = pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        tally.outcomes["crash"] += 1
        tally.failures[number] = f"the process ended with {process.exitcode}"
        return False
    tally.slowest, tally.most_bytes = max(tally.slowest, seconds), max(tally.most_bytes, grown)
    if seconds > SECONDS:
        outcome, fault = "slow", f"took {seconds:.1f} s"
    elif grown > BYTES:
        outcome, fault = "memory", f"took {grown / 2**20:.0f} MiB"
    tally.outcomes[outcome] += 1
    if fault:
        tally.failures[number] = fault
    return True


def _serve(pipe: Connection, seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 2)
    made: dict[str, tuple[list[Path], dict[Path, str]]] = {}
    with tempfile.TemporaryDirectory() as root, contextlib.suppress(EOFError):
        while True:
            name, number = pipe.recv()
            if name not in made:
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
                folder = Path(root) / name
                folder.mkdir()
                files = READERS[name].make(folder)
                made[name] = files, {path: _hash(READERS[name].read(path)) for path in files}
                size = _status("VmSize") + BYTES
                resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
            files, right = made[name]
            path, before, content, summed = change(name, files, seed, number)
            path.write_bytes(content)
            pipe.send(None)
            pipe.send(_attempt(READERS[name].read, path, right[path] if summed else None))
            path.write_bytes(before)


def change(name: str, files: list[Path], seed: int, number: int) -> tuple[Path, bytes, bytes, bool]:
    """What a call changes: a file, its content before and after, and whether a reader must see it."""
    chance = random.Random(f"{name} {seed} {number}")
    path = chance.choice(files)
    before = path.read_bytes()
    content, summed = mutate(path, before, chance)
    return path, before, content, summed


def _attempt(
    read: Callable[[Path], object], path: Path, right: str | None
) -> tuple[str, str | None, float, int]:
    Path("/proc/self/clear_refs").write_text("5")  # The peak of memory starts anew.
    began, held = time.monotonic(), _status("VmRSS")
    outcome: str
    fault: str | None = None
    try:
        answer = _hash(read(path))
        outcome = "answer"
        if right is not None and answer != right:
            outcome, fault = "wrong answer", "another answer, where checksums tell"
    except (ValueError, OSError) as error:
        fault = _wrong_line(error, str(path.parent))
        outcome = "no line" if fault else "line"
    except BaseException as error:
        outcome, fault = type(error).__name__, f"{type(error).__name__}: {str(error)[:300]}"
    return outcome, fault, time.monotonic() - began, _status("VmHWM") - held


def _wrong_line(error: Exception, folder: str) -> str | None:
    """What is wrong with an error as a user reads it; None if nothing is."""
    text = str(error).replace(folder, "")
    if not isinstance(error, OSError) and type(error) is not ValueError:
        return f"{type(error).__name__}: {text[:300]}"
    if not text or len(text) > CHARACTERS or "\n" in text:
        return f"{len(text)} characters on {1 + text.count(chr(10))} lines: {text[:300]!r}"
    return None


def _hash(answer: object) -> str:
    digest = hashlib.sha256()

    def add(value: object) -> None:
        if isinstance(value, np.ndarray):
            digest.update(value.tobytes())
        elif isinstance(value, list | tuple):
            for one in value:
                add(one)
        else:
            digest.update(repr(value).encode("utf-8", "surrogatepass"))

    add(answer)
    return digest.hexdigest()


def _status(key: str) -> int:
    """Bytes, from the kernel."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split(f"{key}:")[1].split()[0])


def _keep(folder: Path, name: str, seed: int, number: int) -> None:
    """The files of a call, as they were when it was made."""
    if not folder.exists():
        folder.mkdir(parents=True)
        path, _, content, _ = change(name, READERS[name].make(folder), seed, number)
        path.write_bytes(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if no outcome was other than a right answer or one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reader", default="all", choices=["all", *READERS])
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, help="folder for files that led to a failure")
    parser.add_argument("--log", type=Path, help="a .json file")
    options = parser.parse_args(arguments)
    kept = options.kept or Path(tempfile.mkdtemp(prefix="fuzz-"))
    log: dict[str, Any] = {}
    for name in READERS if options.reader == "all" else (options.reader,):
        began = time.monotonic()
        tally = fuzz([name], options.mutations, options.seed, kept)[name]
        log[name] = {
            "mutations": options.mutations,
            "outcomes": dict(sorted(tally.outcomes.items())),
            "slowest_seconds": round(tally.slowest, 3),
            "most_mib": round(tally.most_bytes / 2**20, 1),
            "failures": len(tally.failures),
        }
        print(f"{name}: {json.dumps(log[name])} in {time.monotonic() - began:.0f} s", flush=True)
        for number, fault in list(tally.failures.items())[:20]:
            print(f"  {name} seed {options.seed} number {number}: {fault}", flush=True)
    if options.log is not None:
        from volattn.provenance import commit, versions

        words = ["python", "tests/robustness/fuzz_readers.py", *(arguments or sys.argv[1:])]
        content = {
            "command": " ".join(words),
            "seed": options.seed,
            "limits": {"seconds": SECONDS, "mib": BYTES // 2**20, "characters": CHARACTERS},
            "readers": log,
            "versions": versions(),
            "commit": commit(),
        }
        options.log.write_text(json.dumps(content, indent=2) + "\n")
    failures = sum(one["failures"] for one in log.values())
    print(f"{failures} failures; their files are in {kept}" if failures else "no failures")
    if not failures and not options.kept:
        shutil.rmtree(kept)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
