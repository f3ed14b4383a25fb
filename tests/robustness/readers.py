"""Every reader of files that users give, with small valid files for it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

CHARACTERS = 2000
"""The most that a message may have."""


@dataclass(frozen=True)
class Reader:
    """What is read.

    Attributes:
        make: Writes valid files into an empty folder, and gives those that may be changed.
        read: Reads one of them, with what lies beside it, and gives an answer that can be hashed.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]


def wrong_line(error: Exception, folder: str) -> str | None:
    """What is wrong with an error as a user reads it; None if nothing is."""
    text = str(error).replace(folder, "")
    if not isinstance(error, OSError) and type(error) is not ValueError:
        return f"{type(error).__name__}: {text[:300]}"
    if not text or len(text) > CHARACTERS or "\n" in text:
        return f"{len(text)} characters on {1 + text.count(chr(10))} lines: {text[:300]!r}"
    return None


# The project is imported in the functions: the process that waits needs none of it.
def _volume(kind: type[np.generic]) -> Any:
    from volattn.structures.geometry import Geometry
    from volattn.structures.volume import Volume

    array = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(kind)
    if kind is np.int16:
        array = array * np.int16(500) - np.int16(1000)  # HU, with air
    return Volume(array, Geometry.aligned(array.shape, (3.0, 1.0, 1.0)))


def _make_image(folder: Path) -> list[Path]:
    from volattn.io.readers import write_volume

    for name in ("ct.nii.gz", "ct.nii"):
        write_volume(folder / name, _volume(np.int16))
    return sorted(folder.iterdir())


def _make_labels(folder: Path) -> list[Path]:
    from volattn.io.readers import write_labels

    for name in ("ct.nii.gz", "ct.nii"):
        write_labels(folder / name, _volume(np.uint8).array, _volume(np.uint8))
    return sorted(folder.iterdir())


def _read_image(path: Path) -> object:
    from volattn.io.readers import read_volume

    volume = read_volume(path)
    assert volume.array.shape == volume.geometry.shape
    return volume.array, volume.geometry.affine


def _read_labels(path: Path) -> object:
    from volattn.io.readers import read_labels

    volume = read_labels(path)
    assert volume.array.shape == volume.geometry.shape
    return volume.array, volume.geometry.affine


def _make_png(folder: Path) -> list[Path]:
    from volattn.io.readers.png import write_slice

    write_slice(folder / "001.png", np.random.default_rng(0).normal(40, 30, (40, 48)).astype(np.int16))
    return [folder / "001.png"]


def _read_png(path: Path) -> object:
    from volattn.io.readers.png import read_slice

    found = read_slice(path)
    assert found.dtype == np.int16
    assert found.ndim == 2
    return found


def _make_csv(folder: Path) -> list[Path]:
    from key_slices import random_slices, write_found, write_info

    slices = random_slices(1, count=3)
    return [write_info(folder / "DL_info.csv", slices), write_found(folder / "detections.csv", slices)]


def _read_csv(path: Path) -> object:
    from volattn.datasets.deeplesion import read_detections, read_dl_info

    info = read_dl_info(path.with_name("DL_info.csv"))
    found = read_detections(path.with_name("detections.csv"), {lesion.file_name for lesion in info.lesions})
    for fault in (*info.faults.values(), *found.faults.values()):
        assert wrong_line(ValueError(fault), str(path.parent)) is None, fault
    return info, found


def _make_scores(folder: Path) -> list[Path]:
    from key_slices import random_slices, write_found, write_info
    from scored_cases import SPACING, label_map

    from volattn.scoring.deeplesion import score_deeplesion
    from volattn.scoring.detection import PRESETS, score_detections
    from volattn.scoring.lits import lits_scheme, score_lits
    from volattn.scoring.lits_folders import lits_content
    from volattn.scoring.overlap import LabelPair
    from volattn.scoring.score_files import write_scores
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
    content = lits_content(cases, lits_scheme(), {})
    write_scores(folder / "lits.json", content)
    return sorted(folder.iterdir())


def _read_scores(path: Path) -> object:
    from volattn.report.tables import score_tables
    from volattn.scoring.pool import pool_of
    from volattn.scoring.score_files import froc_settings, read_scores

    content = read_scores(path)
    measures = froc_settings(content)
    if measures is None:
        return [table.text() for table in score_tables(content)]
    pool = pool_of(content["cases"], measures)
    return pool.measure(pool.whole()), [table.text() for table in score_tables(content)]


def _write_mask(path: Path) -> None:
    from volattn.io.readers import write_labels
    from volattn.structures.geometry import Geometry
    from volattn.structures.volume import Volume

    mask = np.zeros((12, 40, 40), np.uint8)
    mask[2:5, 5:12, 5:15] = 1
    mask[6:9, 20:30, 20:30] = 2
    path.parent.mkdir(parents=True, exist_ok=True)
    write_labels(path, mask, Volume(mask, Geometry.aligned(mask.shape, (3.0, 1.0, 1.0))))


def _make_boxes(folder: Path) -> list[Path]:
    from volattn.io.readers import read_labels

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
    seen = {"subset": "validation", "case": "volume-1", "known_by": "content"}
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
    from volattn.io.readers import read_labels
    from volattn.scoring.pairing import trained_on

    mask = path.with_name("case.nii.gz")
    seen = trained_on(path.with_suffix(".nii.gz"))
    found = read_mask(mask) if path.stem == "case" else read_boxes(path, read_labels(mask))
    return seen, found and found.found


def _make_dataset(folder: Path) -> list[Path]:
    from volattn.io.readers import write_labels, write_volume

    for layout, ending in (("msd", ""), ("nnunet", "_0000")):
        for number in (1, 2):
            write_volume(folder / layout / "imagesTr" / f"case_{number}{ending}.nii.gz", _volume(np.int16))
            labels = folder / layout / "labelsTr" / f"case_{number}.nii.gz"
            write_labels(labels, _volume(np.uint8).array, _volume(np.uint8))
    training = [
        {"image": f"./imagesTr/case_{number}.nii.gz", "label": f"./labelsTr/case_{number}.nii.gz"} for number in (1, 2)
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

    from volattn.models.registry import build_model

    torch.manual_seed(0)
    changes = {"backbone": {"width": 8, "pyramid_channels": 8, "stages": 1}, "roi_heads": {"representation_size": 8}}
    config = small_config(3, changes={**changes, "rpn": {"anchor_sizes": [[8], [16]]}})
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

    from volattn.checkpoints import ModelFolder, save_folder
    from volattn.preprocessing.plan import Plan
    from volattn.provenance import Provenance

    model = _tiny()
    training = Provenance(recipe="tiny", dataset="phantom", fingerprint="0" * 64, cases=("volume-1",))
    described = ModelFolder(model=model.config, plan=Plan(size=64), classes=CLASSES, threshold=0.4, provenance=training)
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
    return sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".b2nd") and "finger" not in path.name)


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
