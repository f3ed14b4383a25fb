"""Every model by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from volattn.models.architectures import Name
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.detectors.one_stage import BagOneStage, fcos, retinanet
from volattn.models.detectors.position_sensitive import ThreeDCE, score_branch
from volattn.models.detectors.rcnn import BagRCNN
from volattn.models.segmenters.block import UNet3D
from volattn.models.segmenters.cascade import Cascade, plain_unet, residual_unet
from volattn.models.segmenters.dense_unet import HybridDenseUNet
from volattn.models.segmenters.unet import UNet

_MOST = 2**31
"""Parameters: ten times the largest network; 8 GiB."""

CATALOGUE: dict[Name, Callable[[ModelConfig, int], BagBackbone]] = {
    "mask_rcnn": partial(BagRCNN, masks=True),
    "faster_rcnn": BagRCNN,
    "deformable_faster_rcnn": BagRCNN,
    "retinanet": partial(BagOneStage, build=retinanet),
    "fcos": partial(BagOneStage, build=fcos),
    "rfcn": partial(BagRCNN, branch=score_branch),
    "three_dce": ThreeDCE,
    "improved_rfcn": ThreeDCE,
    "data_level_fusion": ThreeDCE,
    "unet_2d": UNet,
    "va_unet": UNet,
    "residual_unet_25d": partial(Cascade, network=residual_unet, masked=False),
    "cascade": partial(Cascade, network=plain_unet, masked=True),
    "unet_3d": UNet3D,
    "h_dense_unet": HybridDenseUNet,
}
"""What builds each name of `volattn.models.architectures`."""


def build_model(config: ModelConfig, classes: Sequence[str]) -> BagBackbone:
    """Builds a model with new weights.

    Args:
        config: What it is made of.
        classes: The names of the object classes; the model's label k is `classes[k - 1]`.

    Raises:
        ValueError: There is no class, their number does not fit, a package is missing, or the network is absurdly
            large.
    """
    if not classes:
        raise ValueError("a model needs at least one class, found none")
    if torch.get_default_device().type != "meta":
        with torch.device("meta"):  # Needs no memory.
            sketch = CATALOGUE[config.name](config, len(classes))
        parameters = sum(parameter.numel() for parameter in sketch.parameters())
        if parameters > _MOST:
            raise ValueError(
                f"{config.name} of these widths has {parameters:.3g} parameters, and at most {_MOST:.3g} are taken; "
                "make it narrower"
            )
    return CATALOGUE[config.name](config, len(classes))
