"""Reports: made of stored scores alone, complete in one file, and honest about what they leave out."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from key_slices import Slices, random_slices, write_found, write_info
from PIL import Image
from scored_cases import SPACING, label_map

from volattn.report import detection_report, lits_report
from volattn.report.report import SHOWN, Report, build_report, comparison_report
from volattn.scoring import lits_folders
from volattn.scoring.comparison import compare
from volattn.scoring.deeplesion import score_deeplesion
from volattn.scoring.lits import LitsCase, lits_scheme, score_lits
from volattn.scoring.overlap import LabelPair
from volattn.scoring.score_files import read_scores, write_scores
from volattn.structures.geometry import Geometry

pytestmark = pytest.mark.usefixtures("few_resamples")

Maps = tuple[np.ndarray, np.ndarray]

SMALL, MEDIUM = (8, 8, 6), (20, 20, 18)
FOUND: Maps = (label_map(SMALL, MEDIUM), label_map((8, 9, 6), (21, 20, 18)))
MISSED: Maps = (label_map(SMALL), label_map())
MADE_UP: Maps = (label_map(), label_map(MEDIUM))
NOTHING: Maps = (label_map(), label_map())


def lits_content(maps: Sequence[Maps], *, liver: bool = True, failed: dict[str, str] | None = None) -> dict[str, Any]:
    """What `evaluate lits` would write of these label maps."""

    def case(number: int, reference: np.ndarray, prediction: np.ndarray) -> LitsCase:
        pair = LabelPair.cropped(reference, prediction, Geometry.aligned(reference.shape, SPACING))
        return score_lits(f"case-{number}", pair, SPACING, liver=liver)

    cases = [case(number, *pair) for number, pair in enumerate(maps)]
    return lits_folders.lits_content(cases, lits_scheme(1 if liver else None), failed or {})


def deeplesion_content(folder: Path, slices: Slices) -> dict[str, Any]:
    """What `evaluate deeplesion` would write."""
    info = write_info(folder / "DL_info.csv", slices)
    return score_deeplesion(info, write_found(folder / "detections.csv", slices)).content


def pictures_in(html: str) -> list[bytes]:
    """The pictures that a page carries."""
    return [base64.b64decode(data) for data in re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)]


def check(report: Report, names: set[str]) -> None:
    """The pictures are these, are no blank sheets, and the page carries them and asks nobody for anything."""
    html = report.html()
    assert report.pictures.keys() == names
    assert pictures_in(html) == list(report.pictures.values())
    assert html.count("<img") == len(names)
    assert not re.search(r"https?:|<script|<link|@import|url\(", html)
    for png in report.pictures.values():
        assert len(png) < 300_000
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
        assert np.mean(pixels < 128) > 0.002


LITS = {
    "dice-by-size",
    "recall-by-size",
    "lesion-volume",
    "lesion-volume-per-case",
    "liver-volume-per-case",
    "lesion-dice-by-case",
    "liver-dice-by-case",
}
LESIONS_ONLY = {name for name in LITS if "liver" not in name}
BOXES = {"froc", "sensitivity-by-group", "worst-images"}


@pytest.mark.parametrize(
    "maps",
    [(FOUND, MISSED, MADE_UP, NOTHING), (FOUND,), (MISSED, MISSED), (NOTHING, NOTHING)],
    ids=["all kinds", "one case", "nothing found", "no lesion anywhere"],
)
def test_label_maps(maps: Sequence[Maps]) -> None:
    content = lits_content(maps)
    content["cases"][0]["name"] = r"a$\frac{$b"  # is no formula
    check(build_report(content), LITS)


def test_boxes(tmp_path: Path) -> None:
    check(build_report(deeplesion_content(tmp_path, random_slices(5, count=8))), BOXES)


@pytest.mark.parametrize("count", [1, 4], ids=["one patient", "several"])
def test_no_detection_at_all(tmp_path: Path, count: int) -> None:
    slices: Slices = {name: (lesions, []) for name, (lesions, _) in random_slices(5, count=count).items()}
    check(build_report(deeplesion_content(tmp_path, slices)), BOXES)


@pytest.mark.usefixtures("no_plots")
def test_one_score_is_no_curve(tmp_path: Path) -> None:
    several = random_slices(5)
    one: Slices = {name: (lesions, [(box, 1.0) for box, _ in found]) for name, (lesions, found) in several.items()}
    for slices, said in ((several, False), (one, True)):
        html = build_report(deeplesion_content(tmp_path, slices)).html()
        assert ("there is one operating point, and no curve" in html) == said


def test_stored_scores_are_all_it_takes_also_without_a_liver(tmp_path: Path) -> None:
    content = lits_content((FOUND, MISSED), liver=False, failed={"case-9": "case-9.nii: is <empty>; delete it"})
    write_scores(tmp_path / "scores.json", content)
    report = build_report(read_scores(tmp_path / "scores.json"))
    check(report, LESIONS_ONLY)
    page = report.write(tmp_path / "report")
    html = page.read_text(encoding="utf-8")
    files = {path.name: path.read_bytes() for path in page.parent.iterdir()}
    assert files.keys() == {"index.html", *(f"{name}.png" for name in LESIONS_ONLY)}
    assert sorted(pictures_in(html)) == sorted(files[f"{name}.png"] for name in LESIONS_ONLY)
    assert "case-9.nii: is &lt;empty&gt;; delete it" in html
    assert "numpy" in html
    build_report(read_scores(tmp_path / "scores.json")).write(tmp_path / "report")
    assert page.read_text(encoding="utf-8") == html


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Reports get this picture in the place of every plot, which takes most of their time."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    for module in (lits_report, detection_report):
        for name in [name for name in vars(module) if name.startswith("draw_")]:
            monkeypatch.setattr(module, name, lambda *_, **__: buffer.getvalue())
    return buffer.getvalue()


def test_the_worst_cases_come_first(no_plots: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[list[str], list[float]]] = []

    def record(names: list[str], parts: dict[str, list[float]], *_: Any, **__: Any) -> bytes:
        drawn.append((names, parts["Dice"]))
        return no_plots

    monkeypatch.setattr(lits_report, "draw_bars", record)
    # Equally bad: the one that made up more comes first.
    content = lits_content([FOUND, MISSED, MADE_UP])
    content["cases"] += [content["cases"][0] | {"name": f"other-{number}"} for number in range(SHOWN)]
    html = build_report(content).html()
    names, dices = drawn[0]
    assert names[:3] == ["case-2", "case-1", "case-0"]
    assert dices == sorted(dices)
    assert len(names) == SHOWN
    assert f"the worst {SHOWN} of 43 cases" in html


def test_the_curve_goes_through_the_scores_and_the_band_through_their_intervals(
    tmp_path: Path, no_plots: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = deeplesion_content(tmp_path, random_slices(5, count=12))
    seen: dict[float, tuple[float, float, float]] = {}

    def record(levels: Any, sensitivity: Any, band: Any, *_: Any, **__: Any) -> bytes:
        seen.update(zip(levels.tolist(), zip(sensitivity, *band, strict=True), strict=True))
        return no_plots

    monkeypatch.setattr(detection_report, "draw_froc", record)
    build_report(content)
    for level, value in content["sensitivity_at_fp_per_image"].items():
        ends = content["intervals"]["sensitivity_at_fp_per_image"][level]
        assert seen[float(level)] == pytest.approx((value, *ends))


def test_a_comparison(tmp_path: Path) -> None:
    without: Slices = {name: (lesions, []) for name, (lesions, _) in random_slices(5).items()}
    a, b = deeplesion_content(tmp_path, without), deeplesion_content(tmp_path, random_slices(5))
    content = {"a": "a.json", "b": "b.json", **compare(a, b).as_json()}
    check(comparison_report(content), {"differences"})


def test_scores_of_no_known_kind() -> None:
    with pytest.raises(ValueError, match="kind phrenology; give the scores"):
        build_report({"kind": "phrenology", "cases": []})
