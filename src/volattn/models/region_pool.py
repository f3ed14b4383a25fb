"""RoIAlign in every image of a bag, then volumetric attention: location "rcnn" of table 2e."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from volattn.models.bag_backbone import build_attention
from volattn.models.config import AttentionConfig
from volattn.models.pyramid import AttendedMaps


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

    def forward(
        self, features: AttendedMaps, boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
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
        pooled = self.pool(
            dict(context), [torch.cat(w) if w else empty for w in wanted], [image_shapes[0]] * images
        )

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
        refined = self.attention.refine_with_weights(
            target, self.attention.describe(pooled), torch.cat(index)
        )
        counts = [len(b) for b in boxes]
        for kind, weights in (("channel", refined.channel), ("spatial", refined.spatial)):
            if weights is not None:
                uniform = weights.new_full((bags.shape[1],), 1 / bags.shape[1])
                attended.weights[f"{kind}.{self.name}"] = torch.stack(
                    [w.mean(dim=0) if len(w) else uniform for w in weights.detach().split(counts)]
                )
        return refined.features
