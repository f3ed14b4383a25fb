"""What tests share: the real data if it is there, and small volumes made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from volattn.io.readers import write_labels, write_volume
from volattn.structures.geometry import Geometry
from volattn.structures.volume import Volume

# What an example takes says more of the machine's other work than of ours.
settings.register_profile("volattn", deadline=None)
settings.load_profile("volattn")


_SLOW = (
    *("deformable_faster_rcnn", "fcos", "rfcn", "three_dce", "improved_rfcn", "data_level_fusion"),
    *("unet_2d", "residual_unet_25d", "cascade", "unet_3d", "h_dense_unet"),
)
"""Their contracts are slow tests; mask_rcnn, faster_rcnn, retinanet and va_unet keep the same in quick ones."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the contracts and trainings of all but one network of each kind as slow."""
    for item in items:
        _, _, parameters = item.name.partition("[")
        other = not set(_SLOW).isdisjoint(parameters.rstrip("]").split("-"))
        if item.path.parent.name in ("models", "training", "inference") and other:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real CTs beside the repository; tests that need it are skipped where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real data is not there")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The CPU, and a GPU where there is one, which then computes in float32 what is float32."""
    if request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a GPU")
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return request.param


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the signature alone in place of a prediction's picture, which takes most of the time of a small one."""

    def sign(path: Path, *_: object, **__: object) -> None:
        path.write_bytes(b"tEXtSoftware\0volattn")

    monkeypatch.setattr("volattn.inference.prediction.draw_outlines", sign)


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """Makes a small CT-like volume: `make_volume(shape, spacing, affine=None, seed=0)`."""
    return _make_volume


@pytest.fixture
def write_lits_case(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Writes one case in LiTS's layout: `write_lits_case(number, folder=tmp_path / "lits", **options)`.

    Options: `shape`, `spacing`, `seed`, `suffix` (".nii.gz"), `labels` (an array instead of the default liver
    with one lesion). Returns the paths of the volume and the segmentation.
    """

    def write(
        number: int = 0,
        folder: Path = tmp_path / "lits",
        *,
        shape: tuple[int, int, int] = (12, 24, 28),
        spacing: tuple[float, float, float] = (2.0, 0.8, 0.8),
        seed: int = 0,
        suffix: str = ".nii.gz",
        labels: np.ndarray | None = None,
    ) -> tuple[Path, Path]:
        volume = _make_volume(shape, spacing, seed=seed + number)
        image = folder / f"volume-{number}{suffix}"
        segmentation = folder / f"segmentation-{number}{suffix}"
        write_volume(image, volume)
        write_labels(segmentation, _liver_with_lesion(shape) if labels is None else labels, volume)
        return image, segmentation

    return write


@pytest.fixture
def write_description(tmp_path: Path) -> Callable[..., Path]:
    """Writes a `dataset.json` with the given entries into `tmp_path / "set"`; returns that folder."""

    def write(**entries: object) -> Path:
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        (folder / "dataset.json").write_text(json.dumps(entries))
        return folder

    return write


def _make_volume(
    shape: tuple[int, int, int] = (12, 24, 28),
    spacing: tuple[float, float, float] = (2.0, 0.8, 0.8),
    affine: np.ndarray | None = None,
    seed: int = 0,
) -> Volume:
    """Noise around soft tissue in a body, air around it; int16 HU."""
    noise = np.random.default_rng(seed).normal(60, 25, shape)
    body = _ellipsoid(shape, (shape[0], shape[1] * 0.42, shape[2] * 0.42))
    array = np.where(body, noise, -1000 + noise / 10).round().astype(np.int16)
    geometry = Geometry.aligned(shape, spacing) if affine is None else Geometry(shape, affine)
    return Volume(array, geometry, "made")


def _liver_with_lesion(shape: tuple[int, int, int]) -> np.ndarray:
    z, y, x = shape
    liver = _ellipsoid(shape, (z * 0.4, y * 0.3, x * 0.3))
    lesion = _ellipsoid(shape, (max(z * 0.15, 1), y * 0.12, x * 0.12))
    return liver.astype(np.uint8) + lesion


def _ellipsoid(shape: tuple[int, int, int], radii: tuple[float, float, float]) -> np.ndarray:
    axes = [np.arange(size) - (size - 1) / 2 for size in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return (z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2 <= 1
