"""Mask R-CNN with volumetric attention: torchvision's `rpn` and `roi_heads` on our pyramid."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from volattn.models.backbones import build_backbone
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.pyramid import Attended
from volattn.models.region_pool import BagRoIAlign


class BagMaskRCNN(BagBackbone):
    """VA Mask R-CNN (paper, figure 2). With `attention.kind` "none" it is torchvision's Mask R-CNN, key for key.

    Args:
        config: The network.
        classes: How many object classes, background not counted.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        backbone = build_backbone(config.backbone, config.slices)
        levels = [*(str(stage) for stage in range(config.backbone.stages)), "pool"]
        super().__init__(config, backbone, levels)
        channels = backbone.out_channels
        proposals, regions = config.proposals, config.regions
        pools = {
            name: MultiScaleRoIAlign(featmap_names=levels[:-1], output_size=side, sampling_ratio=2)
            for name, side in (("box", regions.box_pool), ("mask", regions.mask_pool))
        }
        parts = MaskRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator(
                proposals.anchor_sizes, (proposals.anchor_ratios,) * len(proposals.anchor_sizes)
            ),
            rpn_pre_nms_top_n_train=proposals.before_nms[0],
            rpn_pre_nms_top_n_test=proposals.before_nms[1],
            rpn_post_nms_top_n_train=proposals.after_nms[0],
            rpn_post_nms_top_n_test=proposals.after_nms[1],
            rpn_nms_thresh=proposals.nms_iou,
            rpn_fg_iou_thresh=proposals.positive_iou,
            rpn_bg_iou_thresh=proposals.negative_iou,
            rpn_batch_size_per_image=proposals.samples,
            box_roi_pool=pools["box"],
            box_head=TwoMLPHead(channels * regions.box_pool**2, regions.box_channels),
            box_predictor=FastRCNNPredictor(regions.box_channels, classes + 1),
            box_score_thresh=regions.score,
            box_nms_thresh=regions.nms_iou,
            box_detections_per_img=regions.detections,
            box_fg_iou_thresh=regions.iou,
            box_bg_iou_thresh=regions.iou,
            box_batch_size_per_image=regions.samples,
            box_positive_fraction=regions.positive_fraction,
            mask_roi_pool=pools["mask"],
            mask_head=MaskRCNNHeads(channels, regions.mask_layers, 1),
            mask_predictor=MaskRCNNPredictor(regions.mask_layers[-1], regions.mask_layers[-1], classes + 1),
        )
        self.rpn: nn.Module = parts.rpn
        self.roi_heads: nn.Module = parts.roi_heads
        if config.attention.kind != "none" and config.attention.location == "rcnn":
            for name, pool in pools.items():
                setattr(
                    self.roi_heads, f"{name}_roi_pool", BagRoIAlign(pool, config.attention, channels, name)
                )

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Boxes, labels, scores and masks per target.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            targets: For training; see `forward`.

        Returns:
            With targets the losses, by torchvision's names. Without, per target "boxes" (n, 4) xyxy in input pixels,
            "labels" (n,) from 1, "scores" (n,) and "masks" (n, 1, m, m): probabilities inside the box, not pasted.
        """
        maps = attended.maps()
        finest = next(iter(maps.values()))
        sizes = [size] * finest.shape[0]
        # The RPN reads only the shape of the images: an expanded scalar stands for them.
        images = ImageList(finest.new_zeros(()).expand(finest.shape[0], self.config.slices, *size), sizes)
        proposals, proposal_losses = self.rpn(images, maps, targets)
        detections, region_losses = self.roi_heads(maps, proposals, sizes, targets)
        if targets is not None and self.training:
            return {**region_losses, **proposal_losses}
        return detections


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses, as Mask R-CNN weighs them (one each)."""
    return torch.stack(list(losses.values())).sum()
