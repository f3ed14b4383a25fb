"""Values, intervals and tests of a study against summaries and comparisons made without it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from volattn.scoring import statistics
from volattn.scoring.comparison import compare
from volattn.scoring.deeplesion import FROC
from volattn.scoring.pool import Pool, ScoredDetection, ScoredImage
from volattn.studies.definition import Row, Study
from volattn.studies.page import write_study
from volattn.studies.table import Sample, StudyRow, StudyTable, contrasts, estimates

pytestmark = pytest.mark.usefixtures("few_resamples")

MASKS = ("dice_per_case", "dice_small", "recall", "false_positives_per_case")
BOXES = ("sensitivity_at_fp_per_image.0.5", "sensitivity_at_fp_per_image.1", "mean_sensitivity", "ap50")


def mask_cases(seed: int, better: float = 0.0, patients: int = 12) -> list[dict[str, Any]]:
    """Every third patient has two cases; how hard a case is does not depend on the seed."""
    hardness = np.random.default_rng(99)
    noise = np.random.default_rng(seed)
    cases = []
    for patient in range(patients):
        for scan in range(1 + (patient % 3 == 0)):
            base = hardness.uniform(0.2, 0.7)
            lesions = [
                {"size": size, "dice": float(np.clip(base + better + noise.normal(0, 0.03), 0, 1))}
                for size in ("small", "small", "large")[: 1 + patient % 3]
            ]
            score = {
                "lesion": {"dice": float(np.clip(base + better + noise.normal(0, 0.03), 0, 1))},
                "organ": None,
                "reference_lesions": lesions,
                "false_positives": int(noise.integers(0, 3)),
            }
            cases.append({"name": f"{patient}-{scan}", "patient": str(patient), "score": score})
    return cases


def box_cases(seed: int, better: float = 0.0, patients: int = 10) -> list[dict[str, Any]]:
    noise = np.random.default_rng(seed)
    cases = []
    for patient in range(patients):
        hit = [ScoredDetection(float(noise.uniform(0.3 + better, 1)), (0,), 0)] if noise.random() < 0.7 + better else []
        false = [ScoredDetection(float(noise.uniform(0, 0.8)))]
        detections = tuple(sorted(hit + false, key=lambda one: -one.score))
        image = ScoredImage(f"{patient} 0007", str(patient), ({},), detections)
        cases.append({"name": str(patient), "patient": str(patient), "images": [image.as_json()]})
    return cases


def masks(seed: int, better: float = 0.0, metrics: tuple[str, ...] = MASKS) -> Sample:
    return Sample("masks", mask_cases(seed, better), metrics)


def test_a_value_is_the_mean_over_seeds_of_what_each_seed_scores() -> None:
    samples = {seed: masks(seed) for seed in (0, 1, 2)}
    found = estimates(samples, MASKS)
    dice = [[case["score"]["lesion"]["dice"] for case in mask_cases(seed)] for seed in (0, 1, 2)]
    assert found["dice_per_case"].value == pytest.approx(np.mean(dice))
    assert found["dice_per_case"].by_seed == pytest.approx({seed: np.mean(dice[seed]) for seed in (0, 1, 2)})
    small = [
        lesion["dice"]
        for seed in (0, 1, 2)
        for case in mask_cases(seed)
        for lesion in case["score"]["reference_lesions"]
        if lesion["size"] == "small"
    ]
    assert found["dice_small"].value == pytest.approx(np.mean(small))
    for name in ("dice_per_case", "dice_small", "recall"):
        low, high = found[name].interval or (np.nan, np.nan)
        assert low <= found[name].value <= high


def test_more_patients_and_more_agreement_make_intervals_narrower() -> None:
    def width(spread: float, seeds: int, patients: int) -> float:
        samples = {seed: Sample("masks", mask_cases(seed, spread * seed, patients), MASKS) for seed in range(seeds)}
        low, high = estimates(samples, MASKS)["dice_per_case"].interval or (0.0, 0.0)
        return high - low

    assert width(0.0, 3, 48) < 0.7 * width(0.0, 3, 12)
    # Seeds that disagree are part of the uncertainty.
    assert width(0.1, 3, 48) > 2 * width(0.0, 3, 48)


def simulated(seed: int, trainings: int, patients: int) -> tuple[dict[int, Sample], dict[int, Sample]]:
    """Two rows without a difference, but for what trainings and patients scatter."""
    noise = np.random.default_rng(seed)
    hardness = noise.normal(0.5, 0.1, patients)

    def row() -> dict[int, Sample]:
        found = {}
        for training in range(trainings):
            dice = hardness + noise.normal(0, 0.03) + noise.normal(0, 0.03, patients)
            cases = [
                {
                    "name": str(patient),
                    "patient": str(patient),
                    "score": {
                        "lesion": {"dice": float(value)},
                        "organ": None,
                        "reference_lesions": [],
                        "false_positives": 0,
                    },
                }
                for patient, value in enumerate(dice)
            ]
            found[training] = Sample("masks", cases, MASKS[:1])
        return found

    return row(), row()


@pytest.mark.parametrize("trainings", [2, 6])
@pytest.mark.slow
def test_an_interval_holds_the_truth_as_often_as_it_says(trainings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where trainings scatter as much as methods might differ, and there are few of them."""
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    held, draws = {"value": 0, "difference": 0}, 80
    for seed in range(draws):
        row, baseline = simulated(seed, trainings, 25)
        low, high = estimates(row, MASKS[:1])["dice_per_case"].interval or (np.nan, np.nan)
        held["value"] += low <= 0.5 <= high
        low, high = contrasts(row, baseline, MASKS[:1])["dice_per_case"].interval or (np.nan, np.nan)
        held["difference"] += low <= 0 <= high
    assert min(held.values()) >= binom.ppf(0.01, draws, 0.95), held


def test_intervals_of_shares_end_at_0_and_1() -> None:
    samples = {seed: Sample("masks", mask_cases(seed, 0.3 * seed - 0.4), MASKS) for seed in (0, 1)}
    found = estimates(samples, MASKS)
    assert found["dice_per_case"].interval == (0.0, 1.0)
    assert (found["false_positives_per_case"].interval or (0.0, 0.0))[1] > 1


def test_differences_are_paired() -> None:
    plain = {seed: masks(seed) for seed in (0, 1, 3)}
    better = {seed: masks(seed + 10, 0.1) for seed in (0, 1, 2, 3)}
    found = contrasts(better, plain, MASKS)["dice_per_case"]
    assert found.seeds == 3
    assert found.difference == pytest.approx(0.1, abs=0.03)
    assert found.interval is not None
    low, high = found.interval
    assert low > 0, "every case is better, however different the cases are"
    (unpaired_low, unpaired_high) = estimates(plain, MASKS)["dice_per_case"].interval or (0.0, 0.0)
    assert high - low < 0.5 * (unpaired_high - unpaired_low)
    assert found.p is not None
    assert found.p < 0.01
    assert contrasts({5: masks(5)}, plain, MASKS) == {}


def test_one_seed_is_compared_as_two_evaluations_are() -> None:
    a, b = masks(0), masks(1, 0.02)
    found = contrasts({0: b}, {0: a}, MASKS)
    direct = compare(*({"kind": "study", "cases": side.compared()} for side in (a, b)))
    assert {row.metric: row.p for row in direct.rows} == {name: one.p for name, one in found.items()}


def test_boxes_are_pooled_as_elsewhere() -> None:
    cases = box_cases(0)
    images = [ScoredImage.from_json(case["images"][0]) for case in cases]
    pool = Pool(images, FROC)
    expected = dict(zip(FROC.names, pool.measure(pool.whole())[0], strict=True))
    sample = Sample("boxes", cases, BOXES)
    assert sample.whole.tolist() == pytest.approx([expected[name] for name in BOXES])
    # Patient 10 sorts before patient 2 as text, and after it as a number.
    more = Sample("boxes", box_cases(0, patients=12), BOXES)
    weights = np.zeros((1, 12))
    chosen = [more.patients.index(name) for name in ("2", "10", "11")]
    weights[0, chosen] = 1
    three = Sample("boxes", [case for case in box_cases(0, patients=12) if case["name"] in ("2", "10", "11")], BOXES)
    assert more._measure(weights)[0].tolist() == pytest.approx(three.whole.tolist(), nan_ok=True)
    contrast = contrasts({0: Sample("boxes", box_cases(1, 0.2), BOXES)}, {0: sample}, BOXES)["ap50"]
    assert contrast.difference == pytest.approx(Sample("boxes", box_cases(1, 0.2), BOXES).whole[3] - expected["ap50"])


def table(results: dict[str, dict[int, dict[str, Any]]], missing: dict[int, str | None] | None = None) -> StudyTable:
    study = Study(
        title="Small",
        question="Why?",
        paper="Table 9",
        kind="masks",
        recipe="tiny",
        rows=(
            Row(key="plain", title="Plain | simple", paper={"dice_per_case": 56.1}),
            Row(key="va", title="VA"),
            Row(key="other", title="Others", paper={"dice_per_case": 70.2}, published=True),
        ),
        metrics=("dice_per_case", "false_positives_per_case"),
        baseline="plain",
        notes=("A note.",),
    )
    unfinished = {"va": missing or {}}
    rows = [StudyRow(row, results.get(row.key, {}), unfinished.get(row.key, {})) for row in study.rows]
    return StudyTable("small", study, tuple(rows), "volattn study small", (0, 1))


LEFT = {1: None, 2: "no memory"}


def cell(seed: int, better: float = 0.0) -> dict[str, Any]:
    return {
        "cases": mask_cases(seed, better),
        "command": f"volattn train --set seed={seed}",
        "targets": 96,
        "flops": 2e9,
        "parameters": 3e6,
        "train_seconds": 60.0,
        "test_seconds": 6.0,
        "peak_bytes": None,
        "versions": {"python": "3"},
        "commit": None,
    }


def test_what_is_written_says_one_thing(tmp_path: Path) -> None:
    found = {"plain": {0: cell(0), 1: cell(1)}, "va": {0: cell(2, 0.05)}}
    write_study(tmp_path, table(found, LEFT))
    page = (tmp_path / "table.md").read_text()
    content = json.loads((tmp_path / "table.json").read_text())
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "3 of 5 runs done" in page
    assert "- VA, seed 1: unfinished" in page
    assert "- VA, seed 2: failed: no memory" in page
    assert "Plain \\| simple" in page
    assert [row["state"] for row in rows] == ["2 of 2", "1 of 3, 1 failed, unfinished", "quoted"]
    value = content["rows"][1]["scores"]["dice_per_case"]["value"]
    assert float(rows[1]["dice_per_case"]) == value
    assert f"| {100 * value:.1f} |" in page
    assert float(rows[2]["dice_per_case paper"]) == 0.702
    assert content["rows"][1]["against_baseline"]["dice_per_case"]["seeds"] == 1
    assert "volattn study small --seeds 0,1 -o OUT" in page
    assert page.count("volattn train --set seed=0") == 1
    again = {name: (tmp_path / name).read_bytes() for name in ("table.md", "table.json", "table.csv", "table.png")}
    write_study(tmp_path, table(found, LEFT))
    assert all((tmp_path / name).read_bytes() == content for name, content in again.items())


def test_nothing_finished_is_a_table_too(tmp_path: Path) -> None:
    write_study(tmp_path, table({"plain": {}, "va": {}}, {0: None}))
    assert "Nothing is finished yet." in (tmp_path / "table.md").read_text()
