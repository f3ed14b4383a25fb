"""A CT of boxes and a detector that finds them by their HU: what it says is known to the voxel."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product
from typing import Any

import numpy as np
import torch
from small_detectors import CLASSES, small_config
from torch import Tensor, nn

from volattn.checkpoints import ModelFolder
from volattn.inference.predict import Predictor
from volattn.models.bag_backbone import Attended
from volattn.models.config import ModelConfig, Window
from volattn.preprocessing.plan import Plan
from volattn.provenance import Provenance
from volattn.structures.geometry import Geometry, Turn
from volattn.structures.lesions import label_components
from volattn.structures.volume import Volume

SHAPE = (12, 20, 24)
SPACING = (1.5, 0.8, 0.8)
AS_IT_IS = Turn()
AIR, LIVER, TUMOUR = -1000, 100, 200

LIVER_BOX = (2, 4, 3, 11, 17, 21)
LESION_BOXES = ((3, 6, 5, 6, 9, 7), (7, 8, 12, 10, 12, 19))
"""(z0, y0, x0, z1, y1, x1) in canonical voxels; no symmetry hides a wrong turn."""


def truth() -> np.ndarray:
    """0, 1, 2 in canonical axes."""
    labels = np.zeros(SHAPE, np.uint8)
    for value, box in ((1, LIVER_BOX), *((2, box) for box in LESION_BOXES)):
        labels[box[0] : box[3], box[1] : box[4], box[2] : box[5]] = value
    return labels


def ct(turn: Turn = AS_IT_IS, tilt: float = 0.0, spacing: tuple[float, float, float] = SPACING) -> Volume:
    """The CT stored in other file axes: `turn` brings it to canonical ones."""
    canonical = np.array([AIR, LIVER, TUMOUR], np.int16)[truth()]
    geometry = Geometry.aligned(SHAPE, spacing, (-31.0, -87.5, 412.0))
    if tilt:
        cosine, sine = np.cos(tilt), np.sin(tilt)
        rotation = np.eye(4)
        rotation[1:3, 1:3] = [[cosine, -sine], [sine, cosine]]
        geometry = Geometry(SHAPE, rotation @ geometry.affine)
    back = np.argsort(turn.axes)
    inverse = Turn(
        (int(back[0]), int(back[1]), int(back[2])), (turn.flips[back[0]], turn.flips[back[1]], turn.flips[back[2]])
    )
    assert geometry.turned(inverse).turn() == turn
    return Volume(np.ascontiguousarray(turn.undo(canonical)), geometry.turned(inverse), "boxes")


def turns() -> Iterator[Turn]:
    """All 48."""
    for axes in permutations(range(3)):
        for flips in product((False, True), repeat=3):
            yield Turn(axes, flips)


class BoxDetector(nn.Module):
    """Finds the liver as what is brighter than air, and a lesion in each bright box of the middle slice.

    Its scores follow the slice's mean brightness, and it leans on the first image of its bag.
    """

    window = Window()

    def __init__(self, config: ModelConfig, bag: int = 3) -> None:
        super().__init__()
        self.config = config
        self.bag = bag
        self.weight = nn.Parameter(torch.zeros(1))
        self.encoded = 0

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        self.encoded += len(images)
        return {"0": images[:, self.config.slices // 2 : self.config.slices // 2 + 1]}

    def describe(self, pyramid: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"channel.0": pyramid["0"].mean(dim=(-1, -2))}

    def attend(self, target: dict[str, Tensor], context: dict[str, Tensor], bags: Tensor) -> Attended:
        assert torch.equal(context["channel.0"][bags[:, self.bag // 2]], target["0"].mean(dim=(-1, -2)))
        weights = torch.full(bags.shape, 0.5 / max(1, self.bag - 1))
        weights[:, 0] = 0.5 if self.bag > 1 else 1.0
        return Attended(target, weights={"channel.0": weights, "spatial.0": weights.flip(-1)})

    def detect(self, attended: Attended, size: tuple[int, int]) -> list[dict[str, Tensor]]:
        return [self._detect(image[0]) for image in attended.pyramid["0"]]

    def predict_window(self, attended: Attended, size: tuple[int, int]) -> Tensor:
        hu = attended.pyramid["0"][:, 0] * 500 - 200
        return torch.stack([hu > -50, hu > 150], dim=1)[:, :, None] * 0.9

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        hu = image * 500 - 200
        boxes, labels = [], []
        for label, mask in ((1, hu > -50), (2, hu > 150)):
            for part in _components(mask.numpy()):
                rows, columns = np.nonzero(part)
                boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
                labels.append(label)
        scores = [0.9 if label == 1 else 0.6 + float(image.mean()) for label in labels]
        masks = {"masks": torch.ones(len(boxes), 1, 28, 28)} if self.config.output != "boxes" else {}
        return {
            "boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor(scores),
            **masks,
        }


def _components(mask: np.ndarray) -> list[np.ndarray]:
    numbers, count = label_components(mask)
    return [numbers == number for number in range(1, count + 1)]


def box_predictor(bag: int = 3, batch: int = 1, name: str = "mask_rcnn", **training: Any) -> Predictor:
    """A predictor around the detector, with the CT's own spacing and pixels."""
    config = small_config(bag, name)
    folder = ModelFolder(
        model=config,
        plan=Plan(z_spacing=1.5, size=max(32, *SHAPE[1:])),
        classes=CLASSES,
        threshold=0.5,
        provenance=Provenance(recipe="boxes", dataset="boxes", fingerprint="0", **training),
    )
    model: Any = BoxDetector(config, bag)
    return Predictor(model, folder, fingerprint="f" * 64, device="cpu", batch=batch)
