"""What follows the proposals: pooling, with attention location "roi" in every image of a bag, head and box loss."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, roi_pool

from volattn.config import Channels, Config, Factor, Kernel, Objects, Share
from volattn.models.bag_backbone import AttendedMaps, build_attention
from volattn.models.config import AttentionConfig, BackboneConfig
from volattn.models.precision import full


class RoIHeadsConfig(Config):
    """What follows the proposals, and what is kept at prediction; torchvision's names and values where it has them.

    Attributes:
        batch_size_per_image: Regions per target that enter the loss.
        positive_fraction: Share of positive ones among them.
        fg_iou_thresh: Regions with at least this IoU are positive, below it negative.
        pooling: How a region is read from a map: "align" (bilinear) or "pool" (cells rounded to the map's pixels; one
            map only).
        box_output_size: Side of the pooled region for the box head.
        bbox_reg_weights: Factors on the regression targets (x, y, width, height).
        score_thresh: Detections below are dropped.
        nms_thresh: IoU of suppression, within a class.
        detections_per_img: Detections kept per slice.
    """

    batch_size_per_image: Objects = Field(512, ge=2)
    positive_fraction: float = Field(0.25, gt=0, le=1)
    fg_iou_thresh: Share = 0.5
    pooling: Literal["align", "pool"] = "align"
    box_output_size: Kernel = 7
    bbox_reg_weights: tuple[Factor, Factor, Factor, Factor] = (10.0, 10.0, 5.0, 5.0)
    score_thresh: Share = 0.05
    nms_thresh: Share = 0.5
    detections_per_img: Objects = 100


class FullyConnectedConfig(RoIHeadsConfig):
    """With fully connected layers.

    Attributes:
        representation_size: Width of the layers.
        dropout: Share of their outputs that are left out in training.
        initial_std: Of the normal distribution that these and the last layers start from; null takes PyTorch's own.
    """

    representation_size: Channels = 1024
    dropout: float = Field(0.0, ge=0, lt=1)
    initial_std: Factor | None = None


class MaskHeadsConfig(FullyConnectedConfig):
    """With masks.

    Attributes:
        mask_output_size: Side of the pooled region for the mask head; its output has twice that side.
        mask_layers: Channels of the mask head's 3x3 convolutions.
    """

    mask_output_size: Kernel = 14
    mask_layers: tuple[Channels, ...] = Field((256, 256, 256, 256), max_length=32)


class BoxLossConfig(RoIHeadsConfig):
    """With a box loss whose form is a value.

    Attributes:
        smooth_l1_beta: Where the smooth L1 loss of the boxes turns from square to linear.
        box_loss_weight: Factor on that loss.
    """

    smooth_l1_beta: Factor = 1 / 9
    box_loss_weight: Factor = 1.0


class BoxHeadsConfig(FullyConnectedConfig, BoxLossConfig):
    """Of boxes alone."""


class BagRoIAlign(nn.Module):
    """Pools the same boxes in the target and in every image of its bag, and lets the bag refine the target's regions.

    A pooling for torchvision's `roi_heads`. The attention weights are reported under `name` ("box", "mask").
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
        """The refined regions (R, C, p, p) of boxes (r, 4) per target, xyxy in input pixels."""
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
    """What torchvision's `roi_heads` make boxes with: regions (R, C, p, p), their head, and the last layers.

    The last layers give class scores (R, K) and box regression (R, 4 K), background first.
    """

    pool: nn.Module
    head: nn.Module
    predictor: nn.Module


MakeBranch = Callable[[Any, int, int], Branch]
"""From the model's configuration, the maps' channels C and the number of classes without background to a branch."""


def box_branch(config: Any, channels: int, classes: int) -> Branch:
    """Fast R-CNN's: RoIAlign or RoIPool, and two fully connected layers."""
    heads = config.roi_heads
    pool = region_pool(config.backbone, heads.pooling, heads.box_output_size)
    head = fully_connected(channels * heads.box_output_size**2, heads, layers=2)
    return Branch(pool, head, box_predictor(heads, classes))


def region_pool(backbone: BackboneConfig, pooling: str, side: int) -> nn.Module:
    """Pools regions to (R, C, side, side) from the maps that come from a stage."""
    if pooling == "pool":
        return RoundedPool(side, backbone.strides[0])
    return MultiScaleRoIAlign(featmap_names=list(backbone.stage_levels), output_size=side, sampling_ratio=2)


class RoundedPool(nn.Module):
    """RoIPool on a single map; `stride` is input pixels to a pixel of it."""

    def __init__(self, side: int, stride: int) -> None:
        super().__init__()
        self.output_size = (side, side)
        self.stride = stride

    def forward(self, features: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Regions (R, C, side, side) of boxes (r, 4) per target, xyxy in input pixels, on one map (M, C, h, w)."""
        (only,) = features.values()
        # torchvision's kernel for a CPU knows no bfloat16.
        return roi_pool(full(only), boxes, self.output_size, 1 / self.stride)


def fully_connected(inputs: int, config: FullyConnectedConfig, layers: int) -> nn.Sequential:
    """Fully connected layers, each with ReLU and dropout, under torchvision's names (fc6, fc7)."""
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number in range(6, 6 + layers):
        parts[f"fc{number}"] = _started(nn.Linear(inputs, config.representation_size), config)
        parts[f"relu{number}"] = nn.ReLU()
        parts[f"dropout{number}"] = nn.Dropout(config.dropout)
        inputs = config.representation_size
    return nn.Sequential(parts)


def box_predictor(config: FullyConnectedConfig, classes: int) -> nn.Module:
    """The last layers, class scores and boxes."""
    predictor = FastRCNNPredictor(config.representation_size, classes + 1)
    _started(predictor.cls_score, config)
    _started(predictor.bbox_pred, config)
    return predictor


def _started(layer: nn.Linear, config: FullyConnectedConfig) -> nn.Linear:
    """A layer with the initial weights that the configuration asks for."""
    if config.initial_std is not None:
        nn.init.normal_(layer.weight, std=config.initial_std)
        nn.init.zeros_(layer.bias)
    return layer


class BoxHeads(RoIHeads):
    """torchvision's `roi_heads` for boxes alone, with the box loss of the configuration."""

    def __init__(self, *parts: object, config: BoxLossConfig) -> None:
        super().__init__(*parts)
        self.config = config

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections and losses, one of them empty, from proposals (r, 4) per target, xyxy in input pixels."""
        if self.training:
            proposals, _, labels, offsets = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        scores, regression = self.box_predictor(self.box_head(pooled))
        if self.training:
            return [], self._losses(scores, regression, torch.cat(labels), torch.cat(offsets))
        found = self.postprocess_detections(scores, regression, proposals, image_shapes)
        return [dict(zip(("boxes", "scores", "labels"), row, strict=True)) for row in zip(*found, strict=True)], {}

    def _losses(self, scores: Tensor, regression: Tensor, labels: Tensor, offsets: Tensor) -> dict[str, Tensor]:
        """From the R sampled regions; background regions have no box."""
        positive = torch.where(labels > 0)[0]
        predicted = regression.view(len(labels), -1, 4)[positive, labels[positive]]
        distance = F.smooth_l1_loss(predicted, offsets[positive], beta=self.config.smooth_l1_beta, reduction="sum")
        return {
            "loss_classifier": F.cross_entropy(scores, labels),
            "loss_box_reg": self.config.box_loss_weight * distance / labels.numel(),
        }
