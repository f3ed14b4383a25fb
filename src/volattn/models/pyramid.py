"""What flows between encode, attend and detect."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

Pyramid = Mapping[str, Tensor]
"""Feature maps by level name, finest first, each (B, C, h, w)."""

ContextDescriptors = Mapping[str, Tensor]
"""What context keeps of its images, by name; the first axis of every tensor is the image axis B."""


@dataclass(frozen=True)
class RegionContext:
    """The bags of the targets, where regions are pooled in every image: attention after RoIAlign, and 3DCE.

    Attributes:
        pyramid: Maps of the B context images, raw or as 3DCE pools them.
        bags: Integers into B, shape (M, N).
    """

    pyramid: Pyramid
    bags: Tensor


@dataclass
class Attended:
    """Targets after attention: what `detect` takes.

    Attributes:
        pyramid: Maps of the M targets, refined if attention sits before the RPN.
        regions: The bags, if regions are pooled in all their images.
        weights: Softmax weights over the bag, (M, N) each, by "channel.LEVEL" and "spatial.LEVEL"; for location
            "rcnn" by "channel.box", ... (means over a target's regions, filled in by `detect`).
    """

    pyramid: Pyramid
    regions: RegionContext | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def maps(self) -> AttendedMaps:
        """The pyramid as the plain dict that torchvision's heads take, which still knows its bags."""
        maps = AttendedMaps(self.pyramid)
        maps.attended = self
        return maps


class AttendedMaps(OrderedDict[str, Tensor]):
    """A pyramid on its way through torchvision's `rpn` and `roi_heads`."""

    attended: Attended
