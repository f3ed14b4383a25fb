"""The verbs from the outside: four commands in a row, and bad input."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import volattn
from small_detectors import CLASSES, small_config

from volattn.checkpoints import ModelFolder, save_folder
from volattn.io.readers import read_labels
from volattn.models.registry import build_model
from volattn.phantoms.write import write_phantom
from volattn.preprocessing.plan import Plan
from volattn.provenance import Provenance
from volattn.training.recipe import Recipe, ScheduleConfig

WriteCase = Callable[..., tuple[Path, Path]]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Two steps of a small network."""
    chosen = Recipe(
        name="small",
        plan=Plan(z_spacing=2.0, size=64),
        model=small_config(bag=3),
        schedule=ScheduleConfig(unit="steps", length=2, decay="cosine", warmup=0),
    )
    path = tmp_path / "small.yaml"
    path.write_text(chosen.text(), encoding="utf-8")
    return path


@pytest.fixture
def data(write_lits_case: WriteCase, tmp_path: Path) -> Path:
    for number in range(3):
        write_lits_case(number, shape=(8, 64, 64))
    return tmp_path / "lits"


def test_four_commands(tmp_path: Path, data: Path, recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, run, out = tmp_path / "store", tmp_path / "run", tmp_path / "out"
    assert volattn("check", data) == 0
    assert "3 cases, 0 errors" in capsys.readouterr().out
    assert volattn("prepare", data, "-o", store, "--recipe", recipe) == 0
    assert "3 cases, about" in capsys.readouterr().out
    assert volattn("train", recipe, "--data", store, "--dry-run", "--device", "cpu", "--set", "weights=imagenet") == 0
    assert re.fullmatch(r"2 steps, about \S+ min, about .* of memory on each process\n", capsys.readouterr().out)
    training = ("train", recipe, "--data", store, "-o", run, "--device", "cpu", "--set", "seed=3", "--fold", "1/3")
    assert volattn(*training, "--set", "step.targets=2") == 0
    said = capsys.readouterr()
    assert "2 steps, about" in said.out
    assert f"{run}: the best weights are those of step" in said.out
    assert "train: 2 of 2" in said.err
    assert Recipe.read(run / "recipe.yaml").step.targets == 2
    assert json.loads((run / "split.json").read_text())["fold"] == "1/3"

    images = sorted(data.glob("volume-*.nii.gz"))
    predicting = ("predict", "-m", run, "-o", out, "--device", "cpu", "--reference", data, "-i")
    assert volattn(*predicting, images[0], images[1], "--threshold", "0") == 0
    said = capsys.readouterr()
    told, scored = said.out.split("Case by case")
    assert len(told.splitlines()) == 2
    rows = {line.split("  ")[0]: "(trained on)" in line for line in scored.splitlines() if "volume-" in line[:8]}
    trained = json.loads((run / "split.json").read_text())["train"]
    for name in ("volume-0", "volume-1"):
        result = json.loads((out / f"{name}.json").read_text())
        assert (result["seen_in_training"]["subset"] == "training") == (name in trained)
        assert rows[f"{name} (trained on)" if name in trained else name] == (name in trained)
        assert (result["threshold"], result["file"]) == (0, f"{name}.nii.gz")
        assert read_labels(out / f"{name}.nii.gz").array.shape == (8, 64, 64)
        assert (out / f"{name}.png").stat().st_size > 0
    assert f"the model was trained on this case ({trained[0]}" in said.out or trained == ["volume-2"]

    assert volattn(*predicting, data, "--threshold", "0", "--resume") == 0
    assert capsys.readouterr().out.count("(finished before)") == 2


def test_a_run_is_not_written_over(tmp_path: Path, data: Path, recipe: Path) -> None:
    volattn("prepare", data, "-o", tmp_path / "store", "--recipe", recipe)
    training = ("train", recipe, "--data", tmp_path / "store", "-o", tmp_path / "run", "--device", "cpu")
    assert volattn(*training, "--set", "schedule.length=1") == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert volattn(*training, "--set", "schedule.length=1") == 2
    assert volattn(*training, "--set", "schedule.length=2", "--resume") == 2
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before


def test_prepare_goes_on_with_resume_only(
    tmp_path: Path, data: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Done cases are kept, damaged and missing ones rebuilt."""
    store = tmp_path / "store"
    words = ("prepare", data, "-o", store, "--recipe", recipe, "--workers", "0")
    assert volattn(*words, "--resume") == 0
    first = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    damaged, missing = sorted(store.glob("cases/volume-[01]/image.*"))
    damaged.write_bytes(b"x")
    missing.unlink()
    capsys.readouterr()
    assert volattn(*words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--resume" in said
    assert damaged.read_bytes() == b"x"
    assert volattn(*words, "--resume") == 0
    assert "2 cases prepared, 1 kept" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == first


def test_check_ends_with_1_where_there_are_errors(
    data: Path, write_lits_case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lits_case(3, shape=(8, 64, 64), labels=np.full((8, 64, 64), 7, np.uint8))
    (data / "segmentation-1.nii.gz").unlink()
    assert volattn("check", data) == 1
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("error: ") for line in said) == 2
    assert said[-1].endswith("4 cases, 2 errors, 1 note")


def test_prepare_ends_with_1_where_a_case_failed(
    tmp_path: Path, data: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "volume-1.nii.gz").write_bytes(b"no gzip")
    assert volattn("prepare", data, "-o", tmp_path / "store", "--recipe", recipe) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-2] == "volattn: 1 of 3 cases failed:"
    assert "volume-1.nii.gz" in said[-1]


def test_phantom_writes_what_its_seed_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert volattn("phantom", "-o", tmp_path / "a", "--cases", "1", "--seed", "5", "--size", "64") == 0
    (tmp_path / "b").mkdir()
    write_phantom(tmp_path / "b", seed=5, index=0, size=64)
    for path in (tmp_path / "b").iterdir():
        assert (tmp_path / "a" / path.name).read_bytes() == path.read_bytes()
    words = ("phantom", "-o", tmp_path / "a", "--cases", "1", "--seed", "5", "--size", "64")
    assert volattn(*words) == 2
    assert "continue it with --resume" in capsys.readouterr().err
    assert volattn(*words, "--resume") == 0


def bad_volume(kind: str, path: Path) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "no NIfTI":
        path.write_bytes(gzip.compress(b"hello" * 200))
    elif kind == "missing":
        path.unlink()


@pytest.mark.parametrize("kind", ["empty", "truncated", "no NIfTI", "missing"])
def test_a_bad_volume_is_one_line_and_nothing_written(
    kind: str, tmp_path: Path, write_lits_case: WriteCase, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(bag=3)
    training = Provenance(recipe="none", dataset="none", fingerprint="0")
    folder = ModelFolder(model=config, plan=Plan(size=64), classes=CLASSES, threshold=0.5, provenance=training)
    save_folder(tmp_path / "model", build_model(config, CLASSES), folder)
    image, _ = write_lits_case(0)
    bad_volume(kind, image)
    out = tmp_path / "out"
    assert volattn("predict", "-m", tmp_path / "model", "-i", image, "-o", out) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "volume-0.nii.gz" in said.err
    assert said.out == ""
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("check nowhere", "nowhere: is not a folder"),
        ("prepare nowhere -o store", "nowhere: is not a folder"),
        ("prepare {data} -o store --recipe nothing", "no such recipe"),
        ("prepare {data} -o {data}", "not empty and holds no store"),
        ("prepare {data} -o store --workers many", "--workers many: give a whole number, or auto"),
        ("train tiny --data {data} -o run", "not a finished store"),
        ("train tiny --data {data}", "give -o FOLDER, or --dry-run"),
        ("train tiny --data {data} -o run --set modle.bag=3", "did you mean model?"),
        ("train tiny --data {data} -o run --set model.bag=4", "bag must be odd"),
        ("train {data}/none.yaml --data {data} -o run", "none.yaml"),
        ("predict -m {data} -i {data} -o out", "is not a model folder"),
        ("predict -m demo -o out", "nothing to predict"),
    ],
)
def test_bad_words_are_one_line_and_nothing_written(
    words: str,
    part: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*"))
    assert volattn(*words.format(data=data).split()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert part in said
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_unknown_options_end_with_2(data: Path) -> None:
    assert volattn("check", data, "--bogus") == 2
    assert volattn("predict", "-i", data, "-o", "out") == 2
