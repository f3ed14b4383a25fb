"""`volattn predict` on a GPU writes what it writes on the CPU. Without a GPU it runs twice on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from volattn.cli.main import main
from volattn.io.readers import read_labels, write_volume
from volattn.phantoms import make_phantom
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slices of a phantom with the largest lesions, and their neighbours."""
    phantom = make_phantom(1001, 1, size=128)
    lesions = (phantom.labels == 2).sum(axis=(1, 2))
    middle = int(np.clip(lesions.argmax(), 6, len(lesions) - 6))
    image = np.ascontiguousarray(phantom.image[middle - 6 : middle + 6])
    path = tmp_path_factory.mktemp("ct") / "ct.nii.gz"
    write_volume(path, Volume(image, Geometry.aligned(image.shape, phantom.spacing)))
    return path


@pytest.mark.slow
def test_files_are_those_of_the_cpu(device: str, ct: Path, tmp_path: Path) -> None:
    """With the weights in the package, and in batches: all voxels but a few on edges, and all lesions and scores."""
    maps, records = [], []
    for name, place, batch in (("cpu", "cpu", "1"), ("there", device, "4")):
        words = ["predict", "-m", "demo", str(ct), "-o", str(tmp_path / name), "--device", place, "--batch", batch]
        with pytest.raises(SystemExit) as ended:
            main([*words, "--threshold", "0.3"])
        assert ended.value.code == 0
        maps.append([read_labels(tmp_path / name / file).array for file in ("ct.nii.gz", "ct_lesions.nii.gz")])
        records.append(json.loads((tmp_path / name / "ct.json").read_text()))
    lesions = [record["lesions"] for record in records]
    assert len(lesions[0]) > 0
    assert len(lesions[1]) == len(lesions[0])
    assert [one["score"] for one in lesions[1]] == pytest.approx([one["score"] for one in lesions[0]], abs=1e-3)
    for here, there in zip(*maps, strict=True):
        assert np.count_nonzero(here) > 100
        assert np.count_nonzero(here != there) <= 0.001 * np.count_nonzero(here)
