"""Files in, scores out; a bad file stops nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scored_cases import SPACING, label_map

from volattn.datasets.case import Case, Dataset, LabelScheme
from volattn.io.readers import write_volume
from volattn.scoring.cases import score_folder
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

SCHEME = LabelScheme(organ_name="liver", organ_values=(1,), lesion_values=(2,))


def _write(path: Path, labels: np.ndarray) -> Path:
    write_volume(path, Volume(labels, Geometry.aligned(labels.shape, SPACING)))
    return path


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    labels = label_map((10, 10, 8))
    cases = [
        Case(
            f"volume-{number}",
            tmp_path / f"volume-{number}.nii",
            _write(tmp_path / f"segmentation-{number}.nii", labels),
        )
        for number in range(3)
    ]
    return Dataset("small", tmp_path, (*cases, Case("volume-3", tmp_path / "volume-3.nii", None)), SCHEME)


def test_pairs_by_name_and_reports_what_fails(dataset: Dataset, tmp_path: Path) -> None:
    predictions = tmp_path / "predictions"
    _write(predictions / "volume-0.nii.gz", label_map((10, 10, 8)))
    _write(predictions / "volume-1.nii.gz", label_map((12, 10, 8))[:-1])
    seen: list[tuple[str, int, int]] = []
    noted = {"seen_in_training": {"subset": "training", "case": "volume-0", "known_by": "content"}}
    (predictions / "volume-0.json").write_text(json.dumps(noted))
    scores = score_folder(dataset, predictions, progress=lambda *call: seen.append(call))
    assert [(case.name, case.lesion.dice, case.trained_on) for case in scores.cases] == [("volume-0", 1.0, True)]
    assert [line.split(":")[0] for line in scores.failed] == ["volume-1", "volume-2"]
    assert "volume-2.nii.gz" in scores.failed[1]
    assert seen == [("score", done, 3) for done in (1, 2, 3)]
