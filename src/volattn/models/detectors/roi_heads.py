"""RoIAlign in every image of a bag, then volumetric attention: location "rcnn" of table 2e.

What stands behind the proposals: pooling, a head and the last layers, and the losses of boxes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from volattn.models.bag_backbone import AttendedMaps, build_attention
from volattn.models.config import AttentionConfig, ModelConfig
from volattn.models.detectors.config import RegionConfig
from volattn.models.precision import full


class BagRoIAlign(nn.Module):
    """Pools the same boxes in the target and in every image of its bag, and lets the bag refine the target's regions.

    It stands where torchvision's `roi_heads` expect a pooling.

    Args:
        pool: The pooling.
        config: The attention.
        channels: C of the maps.
        bag: N.
        name: Of the branch ("box", "mask"), under which the weights are reported.
    """

    def __init__(self, pool: nn.Module, config: AttentionConfig, channels: int, bag: int, name: str) -> None:
        super().__init__()
        self.pool = pool
        self.attention = build_attention(config, channels, bag)
        self.name = name

    @property
    def output_size(self) -> Sequence[int]:
        """Side of the pooled region, as torchvision's heads ask for it."""
        return cast(Sequence[int], self.pool.output_size)

    def forward(self, features: AttendedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """The refined regions of all targets, (R, C, p, p).

        Args:
            features: The targets' maps, which know their bags.
            boxes: Per target (r, 4), xyxy in input pixels.
            image_shapes: (H, W) per target.
        """
        attended = features.attended
        assert attended.regions is not None
        bags, context = attended.regions.bags, attended.regions.pyramid
        target = self.pool(features, boxes, image_shapes)

        # Each target's boxes are pooled once in each image of its bag, however often the bag counts that image.
        images = next(iter(context.values())).shape[0]
        wanted: list[list[Tensor]] = [[] for _ in range(images)]
        filled = [0] * images
        places: dict[tuple[int, int], int] = {}
        for row, bag in enumerate(bags.tolist()):
            for image in dict.fromkeys(bag):
                places[row, image] = filled[image]
                wanted[image].append(boxes[row])
                filled[image] += len(boxes[row])
        empty = boxes[0].new_zeros((0, 4))
        pooled = self.pool(dict(context), [torch.cat(w) if w else empty for w in wanted], [image_shapes[0]] * images)

        starts = [sum(filled[:image]) for image in range(images)]
        index = [
            torch.stack(
                [
                    torch.arange(len(boxes[row]), device=bags.device) + starts[image] + places[row, image]
                    for image in bag
                ],
                dim=1,
            )
            for row, bag in enumerate(bags.tolist())
        ]
        refined = self.attention.refine_with_weights(target, self.attention.describe(pooled), torch.cat(index))
        counts = [len(b) for b in boxes]
        for kind, weights in (("channel", refined.channel), ("spatial", refined.spatial)):
            if weights is not None:
                uniform = weights.new_full((bags.shape[1],), 1 / bags.shape[1])
                attended.weights[f"{kind}.{self.name}"] = torch.stack(
                    [w.mean(dim=0) if len(w) else uniform for w in weights.detach().split(counts)]
                )
        return refined.features


class Branch(NamedTuple):
    """The three parts that torchvision's `roi_heads` make boxes with.

    Attributes:
        pool: From maps, boxes and image sizes to regions (R, C, p, p).
        head: From those to what the last layers take.
        predictor: To class scores (R, K) and box regression (R, 4 K), background first.
    """

    pool: nn.Module
    head: nn.Module
    predictor: nn.Module


MakeBranch = Callable[[ModelConfig, int, int], Branch]
"""From the network, the maps' channels C and the number of classes without background to a branch."""


def box_branch(config: ModelConfig, channels: int, classes: int) -> Branch:
    """Fast R-CNN's: RoIAlign or RoIPool, and two fully connected layers."""
    regions = config.regions
    pool = region_pool(config, regions.box_pool)
    head = fully_connected(channels * regions.box_pool**2, regions, layers=2)
    return Branch(pool, head, box_predictor(regions, classes))


def region_pool(config: ModelConfig, side: int) -> nn.Module:
    """Pools regions to (R, C, side, side) from the maps that come from a stage."""
    backbone = config.backbone
    if config.regions.pooling == "pool":
        return RoundedPool(side, backbone.strides[0])
    return MultiScaleRoIAlign(featmap_names=list(backbone.stage_levels), output_size=side, sampling_ratio=2)


class RoundedPool(nn.Module):
    """RoIPool on a single map, where torchvision's `roi_heads` expect a pooling.

    Args:
        side: Of the pooled region.
        stride: Input pixels to a pixel of the map.
    """

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self.output_size = (side, side)
        self.stride = stride

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """The regions of all targets, (R, C, side, side).

        Args:
            features: One map (M, C, h, w).
            boxes: Per target (r, 4), xyxy in input pixels.
            image_shapes: Not needed: the stride is known.
        """
        (only,) = features.values()
        # torchvision's kernel for a CPU knows no bfloat16.
        return roi_pool(full(only), boxes, self.output_size, 1 / self.stride)


def fully_connected(inputs: int, regions: RegionConfig, layers: int) -> nn.Sequential:
    """Fully connected layers, each with ReLU and dropout, under torchvision's names (fc6, fc7)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number in range(6, 6 + layers):
        parts[f"fc{number}"] = _started(nn.Linear(inputs, regions.box_channels), regions)
        parts[f"relu{number}"] = nn.ReLU()
        parts[f"dropout{number}"] = nn.Dropout(regions.dropout)
        inputs = regions.box_channels
    return nn.Sequential(parts)


def box_predictor(regions: RegionConfig, classes: int) -> nn.Module:
    """The last layers, class scores and boxes."""
    predictor = FastRCNNPredictor(regions.box_channels, classes + 1)
    _started(predictor.cls_score, regions)
    _started(predictor.bbox_pred, regions)
    return predictor


def _started(layer: nn.Linear, regions: RegionConfig) -> nn.Linear:
    """A layer with the initial weights that the configuration asks for."""
    if regions.initial_std is not None:
        nn.init.normal_(layer.weight, std=regions.initial_std)
        nn.init.zeros_(layer.bias)
    return layer


class BoxHeads(RoIHeads):
    """torchvision's `roi_heads` for boxes alone, with a box loss whose form is a value.

    Args:
        beta: Where the smooth L1 loss turns from square to linear; torchvision has 1/9.
        box_loss: Factor on it; torchvision has 1.
        parts: As torchvision's, without masks.
    """

    def __init__(self, *parts: object, beta: float, box_loss: float) -> None:
        super().__init__(*parts)
        self.beta = beta
        self.box_loss = box_loss

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections and losses; one of them is empty.

        Args:
            features: Maps of the M targets.
            proposals: Per target (r, 4), xyxy in input pixels.
            image_shapes: (H, W) per target.
            targets: For training; see `BagBackbone.forward`.
        """
        if self.training:
            proposals, _, labels, offsets = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        scores, regression = self.box_predictor(self.box_head(pooled))
        if self.training:
            return [], self._losses(scores, regression, torch.cat(labels), torch.cat(offsets))
        found = self.postprocess_detections(scores, regression, proposals, image_shapes)
        return [dict(zip(("boxes", "scores", "labels"), row, strict=True)) for row in zip(*found, strict=True)], {}

    def _losses(self, scores: Tensor, regression: Tensor, labels: Tensor, offsets: Tensor) -> dict[str, Tensor]:
        """By torchvision's names, from the R sampled regions; background regions have no box."""
        positive = torch.where(labels > 0)[0]
        theirs = regression.view(len(labels), -1, 4)[positive, labels[positive]]
        distance = F.smooth_l1_loss(theirs, offsets[positive], beta=self.beta, reduction="sum")
        return {
            "loss_classifier": F.cross_entropy(scores, labels),
            "loss_box_reg": self.box_loss * distance / labels.numel(),
        }
