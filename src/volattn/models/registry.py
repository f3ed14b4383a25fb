"""Every model: its configuration and what builds it, one line each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BeforeValidator, SerializeAsAny

from volattn.config import merged, pruned
from volattn.io.names import shown
from volattn.models.bag_backbone import BagBackbone
from volattn.models.config import ModelConfig
from volattn.models.detectors.one_stage import BagOneStage, FCOSConfig, RetinaNetConfig, fcos, retinanet
from volattn.models.detectors.position_sensitive import (
    DataLevelFusionConfig,
    ImprovedRFCNConfig,
    RFCNConfig,
    ThreeDCE,
    ThreeDCEConfig,
    score_branch,
)
from volattn.models.detectors.rcnn import BagRCNN, DeformableFasterRCNNConfig, FasterRCNNConfig, MaskRCNNConfig
from volattn.models.segmenters.cascade import Cascade, CascadeConfig, ResidualUNetConfig, plain_unet, residual_unet
from volattn.models.segmenters.dense_unet import HybridDenseUNet, HybridDenseUNetConfig
from volattn.models.segmenters.unet import UNet, UNet2DConfig, VAUNetConfig
from volattn.models.segmenters.unet_3d import UNet3D, UNet3DConfig

_MOST = 2**31
"""Parameters: ten times the largest network; 8 GiB."""


class Model(NamedTuple):
    """A model's configuration class, and what builds it from such a configuration and the number of classes."""

    config: type[ModelConfig]
    build: Callable[[Any, int], BagBackbone]

    @property
    def name(self) -> str:
        """The default of the configuration's `name`."""
        return str(self.config.model_fields["name"].default)


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(MaskRCNNConfig, BagRCNN),
        Model(FasterRCNNConfig, BagRCNN),
        Model(DeformableFasterRCNNConfig, BagRCNN),
        Model(RetinaNetConfig, partial(BagOneStage, build=retinanet)),
        Model(FCOSConfig, partial(BagOneStage, build=fcos)),
        Model(RFCNConfig, partial(BagRCNN, branch=score_branch)),
        Model(ThreeDCEConfig, ThreeDCE),
        Model(ImprovedRFCNConfig, ThreeDCE),
        Model(DataLevelFusionConfig, ThreeDCE),
        Model(UNet2DConfig, UNet),
        Model(VAUNetConfig, UNet),
        Model(ResidualUNetConfig, partial(Cascade, network=residual_unet, masked=False)),
        Model(CascadeConfig, partial(Cascade, network=plain_unet, masked=True)),
        Model(UNet3DConfig, UNet3D),
        Model(HybridDenseUNetConfig, HybridDenseUNet),
    )
}
"""By name. A new model is one more line."""


def find_config(values: Mapping[str, Any]) -> type[ModelConfig] | None:
    """The configuration class of `values["name"]`, Mask R-CNN's without a name; None if there is no such model."""
    name = values.get("name", "mask_rcnn")
    return MODELS[name].config if isinstance(name, str) and name in MODELS else None


def config_class(values: Mapping[str, Any]) -> type[ModelConfig]:
    """As `find_config`.

    Raises:
        ValueError: There is no model of that name.
    """
    found = find_config(values)
    if found is None:
        raise ValueError(f"name must be one of {', '.join(MODELS)}, found {shown(values['name'])}")
    return found


def parse_model(values: Any, source: str = "model") -> ModelConfig:
    """A model's configuration from plain values, by their `name`.

    Raises:
        ValueError: There is no such model, it has no such key, or a value does not fit.
    """
    try:
        chosen = config_class(values) if isinstance(values, Mapping) else ModelConfig
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return chosen.parse(values, source)


def _validate(values: Any) -> Any:
    return config_class(values).model_validate(values) if isinstance(values, Mapping) else values


AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_validate)]
"""A configuration of any model of the registry, as a field of another configuration."""


def settable(config: ModelConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values that settings change; with another `name` its own, and of the present ones what it has too."""
    chosen = find_config(given)
    if chosen is None or given.get("name", config.name) == config.name:
        return config.settable(given)
    kept = config.model_dump(mode="json", exclude_unset=True, exclude={"name"})
    return merged(chosen.parse({}, chosen.__name__).model_dump(mode="json"), pruned(kept, chosen))


def build_model(config: ModelConfig, classes: Sequence[str]) -> BagBackbone:
    """Builds a model with new weights.

    Args:
        classes: The names of the object classes; the model's label k is `classes[k - 1]`. The configuration's
            auxiliary classes follow.

    Raises:
        ValueError: There is no class, their number does not fit, a package is missing, or the network is absurdly
            large.
    """
    if not classes:
        raise ValueError("a model needs at least one class, found none")
    build, count = MODELS[config.name].build, len(classes) + len(config.auxiliary_classes)
    if torch.get_default_device().type != "meta":
        with torch.device("meta"):  # Needs no memory.
            sketch = build(config, count)
        parameters = sum(parameter.numel() for parameter in sketch.parameters())
        if parameters > _MOST:
            raise ValueError(
                f"{config.name} of these widths has {parameters:.3g} parameters, and at most {_MOST:.3g} are taken; "
                "make it narrower"
            )
    return build(config, count)
