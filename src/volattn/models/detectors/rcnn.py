"""Two-stage detectors with volumetric attention: torchvision's `rpn` and `roi_heads` on our maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from volattn.models.bag_backbone import Attended, PyramidDetector
from volattn.models.config import ModelConfig
from volattn.models.detectors.config import ProposalConfig
from volattn.models.detectors.roi_heads import BagRoIAlign, BoxHeads, MakeBranch, box_branch, region_pool
from volattn.models.precision import give_full, make_full_anchors


class BagRCNN(PyramidDetector):
    """Faster or Mask R-CNN with volumetric attention (paper, figure 2), and what shares their two stages.

    With `attention.kind` "none", Faster and Mask R-CNN are torchvision's, key for key.

    Args:
        config: The network.
        classes: How many object classes, background not counted.
        branch: Makes what stands behind the proposals.
        masks: Whether there is a mask branch.
    """

    def __init__(
        self, config: ModelConfig, classes: int, *, branch: MakeBranch = box_branch, masks: bool = False
    ) -> None:
        super().__init__(config)
        regions = config.regions
        box = branch(config, self.channels, classes)
        parts = (
            *box,
            regions.iou,
            regions.iou,
            regions.samples,
            regions.positive_fraction,
            regions.box_weights,
            regions.score,
            regions.nms_iou,
            regions.detections,
        )
        pools = {"box": box.pool}
        if masks:
            pools["mask"] = region_pool(config, regions.mask_pool)
            last = regions.mask_layers[-1]
            self.roi_heads: nn.Module = RoIHeads(
                *parts,
                mask_roi_pool=pools["mask"],
                mask_head=MaskRCNNHeads(self.channels, regions.mask_layers, 1),
                mask_predictor=MaskRCNNPredictor(last, last, classes + 1),
            )
        else:
            self.roi_heads = BoxHeads(*parts, beta=regions.box_beta, box_loss=regions.box_loss)
        self.rpn = proposal_network(config.proposals, self.channels)
        make_full_anchors(self.rpn.anchor_generator)
        for head in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            if isinstance(head, nn.Module):
                give_full(head)
        if config.attention.kind != "none" and config.attention.location == "rcnn":
            for name, pool in pools.items():
                setattr(
                    self.roi_heads,
                    f"{name}_roi_pool",
                    BagRoIAlign(pool, config.attention, self.channels, config.bag, name),
                )

    def detect(
        self, attended: Attended, size: tuple[int, int], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Boxes, labels, scores and, for a model of masks, masks per target.

        Args:
            attended: The M targets after attention.
            size: (H, W) of the input images.
            targets: For training; see `forward`.

        Returns:
            With targets the losses, by torchvision's names. Without, per target "boxes" (n, 4) xyxy in input pixels,
            "labels" (n,) from 1, "scores" (n,), and with masks "masks" (n, 1, m, m): probabilities inside the box,
            not pasted.
        """
        maps = attended.maps()
        images = image_list(maps, self.config.slices, size)
        proposals, proposal_losses = self.rpn(images, maps, targets)
        detections, region_losses = self.roi_heads(maps, proposals, images.image_sizes, targets)
        if targets is not None and self.training:
            return {**region_losses, **proposal_losses}
        return detections


def proposal_network(config: ProposalConfig, channels: int) -> RegionProposalNetwork:
    """torchvision's region proposal network.

    Args:
        config: Anchors, samples and what is kept.
        channels: C of the maps.
    """
    anchors = AnchorGenerator(config.anchor_sizes, (config.anchor_ratios,) * len(config.anchor_sizes))
    width = config.channels or channels
    head = RPNHead(width, anchors.num_anchors_per_location()[0])
    if width != channels:
        first = nn.Conv2d(channels, width, 3, padding=1)
        nn.init.normal_(first.weight, std=0.01)
        assert first.bias is not None
        nn.init.zeros_(first.bias)
        head.conv[0][0] = first
    network = RegionProposalNetwork(
        anchors,
        head,
        config.positive_iou,
        config.negative_iou,
        config.samples,
        0.5,
        dict(zip(("training", "testing"), config.before_nms, strict=True)),
        dict(zip(("training", "testing"), config.after_nms, strict=True)),
        config.nms_iou,
    )
    network.min_size = config.min_size
    return network


def image_list(maps: dict[str, Tensor], slices: int, size: tuple[int, int]) -> ImageList:
    """The M targets as torchvision's heads ask for them: they read only the shape, an expanded scalar stands for them.

    Args:
        maps: Of the targets.
        slices: S.
        size: (H, W) of the input images.
    """
    finest = next(iter(maps.values()))
    count = finest.shape[0]
    return ImageList(finest.new_zeros(()).expand(count, slices, *size), [size] * count)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of any detector; they weigh one each."""
    return torch.stack(list(losses.values())).sum()
