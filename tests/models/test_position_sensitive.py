"""Position-sensitive regions and 3DCE's fusion against loops over boxes, cells, channels and images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from detector_losses import AT, BAGS, images_for
from small_detectors import made, small_config
from torch import Tensor

from volattn.models.bag_backbone import Attended, RegionContext
from volattn.models.detectors.position_sensitive import POSITION, FusedPool, PositionSensitivePool, ThreeDCE

SIDE, STRIDE = 3, 8
BOXES = torch.tensor(
    [[8.0, 8, 56, 40], [0, 0, 64, 64], [16.5, 3.2, 30.1, 61.7], [6, 5, 7, 6], [40, 40, 47, 63]], dtype=torch.float64
)


def rounded_cell(plane: np.ndarray, box: np.ndarray, row: int, column: int, side: int) -> float:
    """R-FCN: the mean of the pixels in a cell of a region whose corners are rounded to the map."""
    height, width = plane.shape
    x0, y0, x1, y1 = (math.floor(value / STRIDE + 0.5) for value in box)
    tall, wide = max(y1 - y0, 1) / side, max(x1 - x0, 1) / side
    # torchvision lets no cell reach the last row or column of the map: their stops are clamped like indices.
    top, bottom = (
        min(max(y0 + round_(edge * tall), 0), height - 1) for round_, edge in ((math.floor, row), (math.ceil, row + 1))
    )
    left, right = (
        min(max(x0 + round_(edge * wide), 0), width - 1)
        for round_, edge in ((math.floor, column), (math.ceil, column + 1))
    )
    cell = plane[top:bottom, left:right]
    return float(cell.mean()) if cell.size else 0.0


def aligned_cell(plane: np.ndarray, box: np.ndarray, row: int, column: int, side: int) -> float:
    """The mean of 2 x 2 bilinear samples in a cell; pixel centres are at whole numbers plus one half."""
    x0, y0, x1, y1 = box / STRIDE - 0.5
    tall, wide = (y1 - y0) / side, (x1 - x0) / side
    samples = [
        bilinear(plane, y0 + (row + (i + 0.5) / 2) * tall, x0 + (column + (j + 0.5) / 2) * wide)
        for i in range(2)
        for j in range(2)
    ]
    return float(np.mean(samples))


def bilinear(plane: np.ndarray, y: float, x: float) -> float:
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 1), min(int(x), width - 1)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    return float(
        (1 - dy) * ((1 - dx) * plane[top, left] + dx * plane[top, right])
        + dy * ((1 - dx) * plane[bottom, left] + dx * plane[bottom, right])
    )


CELLS = {"pool": rounded_cell, "align": aligned_cell}


def brute_force(maps: Tensor, boxes: Tensor, pooling: str, side: int) -> np.ndarray:
    """(r, D, side, side) of one image's maps (D side side, h, w)."""
    planes, depth = maps.detach().numpy(), maps.shape[0] // side**2
    return np.array(
        [
            [
                [
                    [
                        CELLS[pooling](planes[(d * side + row) * side + column], box, row, column, side)
                        for column in range(side)
                    ]
                    for row in range(side)
                ]
                for d in range(depth)
            ]
            for box in boxes.numpy()
        ]
    )


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_each_cell_reads_its_own_map(pooling: str) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 2 * SIDE**2, 8, 8, dtype=torch.float64, generator=generator)
    found = PositionSensitivePool(SIDE, pooling, STRIDE)(maps, [BOXES, BOXES[1:3]])
    expected = np.concatenate(
        [brute_force(maps[0], BOXES, pooling, SIDE), brute_force(maps[1], BOXES[1:3], pooling, SIDE)]
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pooling", ["pool", "align"])
def test_regions_of_a_bag_stand_side_by_side_in_its_order(pooling: str) -> None:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(4, 2 * SIDE**2, 8, 8, dtype=torch.float64, generator=generator)
    bags = torch.tensor([[0, 0, 2], [3, 1, 2]])
    attended = Attended({"0": maps[:2]}, RegionContext({POSITION: maps}, bags))
    boxes = [BOXES[:3], BOXES[3:]]
    fused = FusedPool(PositionSensitivePool(SIDE, pooling, STRIDE))
    found = fused(attended.maps(), boxes, [(64, 64)] * 2)
    expected = np.concatenate(
        [
            np.concatenate([brute_force(maps[image], of_target, pooling, SIDE) for image in bag], axis=1)
            for of_target, bag in zip(boxes, bags.tolist(), strict=True)
        ]
    )
    assert found.shape == (5, 3 * 2, SIDE, SIDE)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_a_target_without_proposals_takes_no_part_in_the_fusion() -> None:
    maps = torch.rand(3, 2 * SIDE**2, 8, 8, dtype=torch.float64)
    attended = Attended({"0": maps[:2]}, RegionContext({POSITION: maps}, torch.tensor([[0, 1], [1, 2]])))
    fused = FusedPool(PositionSensitivePool(SIDE, "pool", STRIDE))
    found = fused(attended.maps(), [BOXES[:0], BOXES], [(64, 64)] * 2)
    torch.testing.assert_close(found[:, :2], fused.pool(maps, [BOXES[:0], BOXES, BOXES[:0]]))


@pytest.mark.parametrize("bag", [1, 3])
def test_3dce_from_its_parts(bag: int) -> None:
    """Every image alone through the shared convolutions, fused by hand, one fully connected layer."""
    config = small_config(bag=bag, name="three_dce", changes={"roi_heads": {"pooling": "pool"}})
    model = made(config).eval()
    assert isinstance(model, ThreeDCE)
    images = images_for(config)
    bags = BAGS[:, 1:4] if bag == 3 else AT[:, None]
    with torch.no_grad():
        attended = model.attend_slab(images, bags, AT)
        boxes = [BOXES, BOXES[:2], BOXES[2:]]
        scores, regression = model.roi_heads.box_predictor(
            model.roi_heads.box_head(model.roi_heads.box_roi_pool(attended.maps(), boxes, [(64, 64)] * 3))
        )
        state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
        rows = []
        for of_target, images_of_bag in zip(boxes, bags.tolist(), strict=True):
            per_image = []
            for image in images_of_bag:
                features = model.backbone((images[image][None] - 0.5) / 0.25)["0"][0].numpy()
                maps = np.einsum("oc,chw->ohw", state["position_maps.weight"][:, :, 0, 0], features)
                maps += state["position_maps.bias"][:, None, None]
                per_image.append(brute_force(torch.from_numpy(maps), of_target, "pool", 7))
            rows.append(np.concatenate(per_image, axis=1).reshape(len(of_target), -1))
        heads = ("roi_heads.box_head.fc6", "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred")
        hidden, cls, reg = ((state[f"{head}.weight"], state[f"{head}.bias"]) for head in heads)
        fused = np.maximum(np.concatenate(rows) @ hidden[0].T + hidden[1], 0)
    assert fused.shape[1] == 32
    np.testing.assert_allclose(scores.numpy(), fused @ cls[0].T + cls[1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(regression.numpy(), fused @ reg[0].T + reg[1], rtol=1e-8, atol=1e-10)


def test_proposals_of_3dce_are_those_of_the_central_image() -> None:
    model = made(small_config(name="three_dce")).eval()
    images = images_for(model.config)
    with torch.no_grad():
        attended = model.attend_slab(images, BAGS, AT)
        alone = model.encode(images[AT])
    torch.testing.assert_close(attended.pyramid["0"], alone["0"])


def test_r_fcn_averages_its_cells() -> None:
    model = made(small_config(name="rfcn", kind="none", changes={"roi_heads": {"pooling": "pool"}})).eval()
    images = images_for(model.config)[:1]
    heads = model.roi_heads
    with torch.no_grad():
        attended = model.attend_slab(images, torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        scores, regression = heads.box_predictor(
            heads.box_head(heads.box_roi_pool(attended.maps(), [BOXES], [(64, 64)]))
        )
        features = attended.pyramid["0"]
        maps = heads.box_roi_pool.maps(heads.box_roi_pool.hidden(features).clamp(min=0))[0]
    expected = brute_force(maps, BOXES, "pool", 7).mean(axis=(-2, -1))
    assert (scores.shape, regression.shape) == ((5, 3), (5, 12))
    np.testing.assert_allclose(torch.cat([scores, regression], dim=1).numpy(), expected, rtol=1e-8, atol=1e-12)
