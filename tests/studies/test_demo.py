"""The demo from end to end, with a small untrained network in the place of the shipped weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_detectors import CLASSES, small_config

from volattn import checkpoints
from volattn.checkpoints import ModelFolder, save_folder
from volattn.io.files import sha256
from volattn.models.registry import build_model
from volattn.preprocessing.plan import Plan
from volattn.provenance import Provenance
from volattn.studies.demo import NO_PATIENTS, DemoConfig, run_demo

CONFIG = DemoConfig(cases=2, size=64)


def _ship(folder: Path, monkeypatch: pytest.MonkeyPatch, sources: dict[str, str] | None = None) -> None:
    """Puts an untrained network where the package has its weights."""
    torch.manual_seed(0)
    model = build_model(small_config(bag=3), CLASSES)
    training = Provenance(
        recipe="tiny", dataset="phantoms", fingerprint="none", cases=tuple(sources or ()), sources=sources or {}
    )
    described = ModelFolder(
        model=model.config, plan=Plan(z_spacing=12.0, size=64), classes=CLASSES, threshold=0.5, provenance=training
    )
    save_folder(folder, model, described)
    monkeypatch.setattr(checkpoints, "DEMO", folder)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, int, int]], list[str]]:
    """A demo that was run twice into one folder: the progress of the first time, and the names of its files."""
    folder = tmp_path_factory.mktemp("demo")
    seen: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        _ship(folder / "weights", monkeypatch)
        out = folder / "out"
        run_demo(out, config=CONFIG, workers=1, progress=lambda *call: seen.append(call))
        manifest = json.loads((out / "demo.json").read_text())
        before = {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
        with pytest.raises(ValueError, match="continue it with --resume"):
            run_demo(out, config=CONFIG, workers=1)
        again = run_demo(out, config=CONFIG, workers=1, resume=True)
        assert before == {path: path.stat().st_mtime_ns for path in (out / "predictions").iterdir()}
        assert again.as_json() == manifest["results"]
    return out, seen, [str(path.relative_to(out)) for path in out.rglob("*")]


def test_everything_is_there(demo: tuple[Path, list[tuple[str, int, int]], list[str]]) -> None:
    _, _, names = demo
    for name in ("index.html", "demo.json"):
        assert name in names
    for folder in ("predictions", "predictions-alone"):
        for case in (0, 1):
            for suffix in (".nii.gz", "_lesions.nii.gz", ".json", ".png"):
                assert f"{folder}/volume-{case}{suffix}" in names
    assert not any(".part-" in name for name in names)


def test_no_case_was_learned_from(demo: tuple[Path, list[tuple[str, int, int]], list[str]]) -> None:
    out, _, _ = demo
    tested = {case["name"] for case in json.loads((out / "demo.json").read_text())["results"]["cases"]}
    assert tested == {"volume-0", "volume-1"}
    for name in tested:
        described = json.loads((out / "predictions" / f"{name}.json").read_text())
        assert described["seen_in_training"] is None


def test_one_prediction_sees_the_slices_around_and_the_other_does_not(
    demo: tuple[Path, list[tuple[str, int, int]], list[str]],
) -> None:
    out, _, _ = demo
    seen, alone = (
        json.loads((out / folder / "volume-0.json").read_text()) for folder in ("predictions", "predictions-alone")
    )
    assert (seen["settings"]["neighbours"], alone["settings"]["neighbours"]) == (True, False)
    assert seen["fingerprint"] != alone["fingerprint"]


def test_the_page_says_what_it_must(demo: tuple[Path, list[tuple[str, int, int]], list[str]]) -> None:
    out, _, _ = demo
    page = (out / "index.html").read_text()
    assert NO_PATIENTS in page
    pictures = 2 if "In no case is a lesion found, missed or falsely reported because of them" in page else 4
    assert page.count('src="data:image/png;base64,') == pictures
    assert "http" not in page
    assert "Nothing was trained here" in page
    assert "each slice alone" in page


def test_progress_covers_every_stage(demo: tuple[Path, list[tuple[str, int, int]], list[str]]) -> None:
    _, seen, _ = demo
    ended = {what for what, done, total in seen if done == total}
    assert {"phantom", "score"} <= ended
    assert any(what.startswith("2/2") for what in ended)


def test_phantoms_that_made_the_weights_are_refused(
    demo: tuple[Path, list[tuple[str, int, int]], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = demo
    _ship(tmp_path / "weights", monkeypatch, {"volume-7": sha256(out / "phantoms" / "volume-1.nii.gz")})
    with pytest.raises(ValueError, match=r"volume-1\.nii\.gz.*seed 7 is no test"):
        run_demo(tmp_path / "out", config=CONFIG, workers=1)
