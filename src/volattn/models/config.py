"""What all models share as values: the bag, volumetric attention, and the backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from volattn.config import Channels, Config, Factor, Images, Kernel, Share, merged

Output = Literal["boxes", "masks", "label_map"]
"""What a model finds: boxes, boxes with a mask each, or the class of every pixel."""

Mean = Annotated[tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...], Field(max_length=255)]
Std = Annotated[tuple[Factor, ...], Field(max_length=255)]
Location = Literal["pyramid", "roi"]
ContextGrad = Literal["full", "checkpoint", "none"]
Refinement = Literal["none", "crf"]
"""Of a segmenter's probabilities, in prediction."""

BLOCK_SLICES = 3
"""Slices of a block for each image of its bag: neighbouring centres are so far apart."""


class Window(NamedTuple):
    """R slices around its own that a target predicts, odd, and how many slices apart such targets are.

    (1, 1): every slice is a target.
    """

    slices: int = 1
    step: int = 1


class AttentionConfig(Config):
    """Volumetric attention (paper, section 2; the open points as in `docs/explanation`).

    Attributes:
        kind: Which of the two attentions are there; "none" is the plain 2D model. "stacked" is no attention: maps of
            the bag's images, side by side (`StackedContext`; not in the paper).
        location: "pyramid" refines the pyramid before the proposals, "roi" the regions after RoIAlign (table 2e).
        reduction: r of eq. 2: the channel embedding narrows C to max(1, C // r).
        kernel_size: Odd side of the spatial embedding's convolution (eq. 3), in feature pixels.
        gate_kernel: Odd side of the convolution that makes the spatial gate; 1 is the counterpart of the channel gate.
        scale: Factor on the spatial dot products: 1, 1/sqrt(KHW) or 1/KHW.
        rectifier: In front of the gates: "relu" (as in the paper), or "leaky", which no training can switch off.
        gate: "sigmoid" (as in the paper) starts at 0.95, where it hardly moves; "twice_sigmoid" starts at 1 and moves.
        norm: What the gates read is normalised first, which keeps rectifiers alive; false as in the paper.
        embedding: Of the spatial attention: "pooled", one map of the channels' maximum and mean (as in the paper), or
            "channels", `maps` maps of all channels, for the pooling loses what tells lesions apart.
        maps: K, the maps of an image ("channels", "stacked").
        gate_channels: Spatial gates: "one" (as in the paper), or one for each of "all" channels.
        offsets: Slices of the bag are told apart by a learned factor for each, for a mean forgets their order; false as
            in the paper.
        shared: Whether all pyramid levels share one module.
    """

    kind: Literal["none", "channel", "spatial", "both", "stacked"] = "both"
    location: Location = "pyramid"
    reduction: Channels = 16
    kernel_size: Kernel = 7
    gate_kernel: Kernel = 1
    scale: Literal["none", "sqrt", "mean"] = "mean"
    rectifier: Literal["relu", "leaky"] = "relu"
    gate: Literal["sigmoid", "twice_sigmoid"] = "sigmoid"
    norm: bool = False
    embedding: Literal["pooled", "channels"] = "pooled"
    maps: Channels = 8
    gate_channels: Literal["one", "all"] = "one"
    offsets: bool = False
    shared: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("kernel_size", "gate_kernel"):
            if getattr(self, key) % 2 == 0:
                raise ValueError(f"{key} must be odd, found {getattr(self, key)}")
        return self


class DeformableConfig(Config):
    """Deformable convolutions in a ResNet.

    Attributes:
        stages: Whose 3x3 convolutions are deformable, counted as in the papers: 2 is the first residual stage, 5 the
            last of the published network.
        modulated: Whether each sampled value is weighed too, by 2 sigmoid(m), so that m = 0 is the plain convolution.
    """

    stages: tuple[Literal[2, 3, 4, 5], ...] = Field((3, 4, 5), max_length=4)
    modulated: bool = False


class ResNetConfig(Config):
    """A ResNet.

    Attributes:
        norm: "frozen": FrozenBatchNorm2d, for pretrained weights. "group": GroupNorm, from scratch, so that no result
            depends on what shares a batch.
        norm_eps: Epsilon of the frozen norm: 0 for torchvision's COCO weights, 1e-5 for ImageNet's.
        trainable_layers: How many of the 5 layers of the published network learn, counted from the last (torchvision's
            default 3 freezes the stem and layer1; 5 trains all).
        width: Channels of the first stage; 64 is the published network.
        stages: How many residual stages are kept (4 is the published network).
    """

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    norm: Literal["group", "frozen"] = "frozen"
    norm_eps: Share = 0.0
    trainable_layers: int = Field(3, ge=0, le=5)
    width: Channels = Field(64, ge=8)
    stages: int = Field(4, ge=1, le=4)


class BackboneConfig(ResNetConfig):
    """ResNet or any pyramid network of timm with a feature pyramid, or VGG-16 with one map of stride 8.

    Attributes:
        name: A ResNet of torchvision, "vgg16" (no fourth pooling), or "timm:NAME".
        norm: See `ResNetConfig`; "none" is VGG-16 as published. Of a network of timm it replaces batch norms only.
        trainable_layers: See `ResNetConfig`. Of a network of timm all up to its map of stride 2^(5 - trainable_layers)
            is frozen.
        pyramid_channels: C of every pyramid level.
        pyramid_from: The first stage with a pyramid level: 1 is stride 4, 2 stride 8.
        pyramid_top: What follows above the last stage: "pool" (one level, subsampled) or "p6p7" (two, convolved).
        deformable: Where the convolutions are deformable; null for none.
    """

    name: Annotated[str, Field(pattern=r"^(resnet(18|34|50|101|152)|vgg16|timm:[a-z0-9_.]+)$")] = "resnet50"  # type: ignore[assignment]
    norm: Literal["group", "frozen", "none"] = "frozen"  # type: ignore[assignment]
    pyramid_channels: Channels = Field(256, ge=8)
    pyramid_from: int = Field(1, ge=1, le=4)
    pyramid_top: Literal["pool", "p6p7"] = "pool"
    deformable: DeformableConfig | None = None

    @property
    def single_map(self) -> bool:
        """Whether it gives one map instead of a pyramid."""
        return self.name == "vgg16"

    @property
    def timm(self) -> str | None:
        """timm's name of the network; None for torchvision's."""
        return self.name.removeprefix("timm:") if self.name.startswith("timm:") else None

    @property
    def stage_levels(self) -> tuple[str, ...]:
        """Names of the maps that come from a stage, finest first: regions are pooled from these."""
        return ("0",) if self.single_map else tuple(map(str, range(self.stages - self.pyramid_from + 1)))

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of all maps, finest first."""
        if self.single_map:
            return self.stage_levels
        return (*self.stage_levels, *(("pool",) if self.pyramid_top == "pool" else ("p6", "p7")))

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels to a pixel of each map."""
        first = 3 if self.single_map else self.pyramid_from + 1
        return tuple(2 ** (first + place) for place in range(len(self.levels)))

    @model_validator(mode="after")
    def _check(self) -> Self:
        others: tuple[str, ...] = ()
        if self.single_map:
            others = ("stages", "pyramid_channels", "pyramid_from", "pyramid_top", "deformable")
        elif self.norm == "none":
            raise ValueError(f"norm none is for vgg16; {self.name} takes frozen or group")
        elif self.timm is not None:
            others = ("width", "deformable")
        for key in others:
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{self.name} has no {key}; leave it out")
        if self.pyramid_from > self.stages:
            raise ValueError(f"pyramid_from must be one of the {self.stages} stages, found {self.pyramid_from}")
        missing = [stage for stage in (self.deformable.stages if self.deformable else ()) if stage > self.stages + 1]
        if missing:
            raise ValueError(
                f"deformable.stages names stage {missing[0]}, but the last that is kept is {self.stages + 1}"
            )
        return self


class ModelConfig(Config):
    """A model by its name in the registry (`volattn.models.registry`); each model has a class of its own.

    Attributes:
        name: The name in the registry.
        bag: N, the 2.5D images in a bag; odd. 1 with attention is a gate without context, the control. M of 3DCE.
        slices: S, the adjacent slices that make one 2.5D image; odd.
        mean: Normalisation of the network's input, per channel or one for all: ImageNet's for weights trained with it.
        context_grad: Whether the context is trained through: "full"; "checkpoint" (recomputed in the backward pass,
            for memory); "none" (the context is a constant).
    """

    summary: ClassVar[str]
    output: ClassVar[Output]
    locations: ClassVar[tuple[Location, ...]] = ()
    package: ClassVar[str | None] = None

    name: str
    bag: Images = 9
    slices: Images = 3
    mean: Mean = (0.485, 0.456, 0.406)
    std: Std = (0.229, 0.224, 0.225)
    context_grad: ContextGrad = "full"

    @property
    def uses_context(self) -> bool:
        """Whether anything looks at the other images of a bag."""
        return False

    @property
    def attention_kind(self) -> str:
        """`attention.kind`, "none" where there is no place for it."""
        return "none"

    @property
    def images(self) -> int:
        """The images that a target's bag must hold: N, or 1 where nothing looks at the others."""
        return self.bag if self.uses_context else 1

    @property
    def pyramid_attention(self) -> AttentionConfig | None:
        """The attention that refines the pyramid, if there is one."""
        return None

    @property
    def window(self) -> Window:
        """The slices that a target predicts."""
        return Window()

    @property
    def needs_weights(self) -> bool:
        """Whether it cannot learn from scratch: its norms are frozen."""
        return False

    @property
    def norm_eps(self) -> float:
        """Epsilon of its frozen norms, if it has any."""
        return 0.0

    def with_norm_eps(self, eps: float) -> Self:
        """The same model, its frozen norms, if it has any, with another epsilon."""
        return self

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """Of the background, then of each class, where the loss weighs them."""
        return None

    @property
    def auxiliary_classes(self) -> tuple[str, ...]:
        """Classes that are learned and not reported; their labels follow the lesion's."""
        return ()

    @property
    def refinement(self) -> Config | None:
        """What refines its probabilities in prediction."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _fill_parts(cls, values: Any) -> Any:
        """What a part leaves out is the model's default, which need not be the part's own."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        for key, field in cls.model_fields.items():
            if isinstance(field.default, Config) and isinstance(filled.get(key), Mapping):
                filled[key] = merged(field.default.model_dump(exclude_unset=True), filled[key])
        return filled

    @model_validator(mode="after")
    def _check_images(self) -> Self:
        for key, value in (("bag", self.bag), ("slices", self.slices)):
            if value % 2 == 0:
                raise ValueError(f"{key} must be odd, found {value}")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.slices):
                raise ValueError(f"{key} must have 1 or {self.slices} values, found {len(values)}")
        return self


class AttendingConfig(ModelConfig):
    """A model with a place for volumetric attention."""

    locations: ClassVar[tuple[Location, ...]] = ("pyramid",)

    attention: AttentionConfig = AttentionConfig()

    @property
    def attention_kind(self) -> str:
        return self.attention.kind

    @property
    def uses_context(self) -> bool:
        """Whether it has attention."""
        return self.attention.kind != "none"

    @property
    def pyramid_attention(self) -> AttentionConfig | None:
        return self.attention if self.uses_context and self.attention.location == "pyramid" else None

    @model_validator(mode="after")
    def _check_location(self) -> Self:
        if self.uses_context and self.attention.location not in self.locations:
            raise ValueError(
                f"{self.name} has no place for attention.location={self.attention.location}; "
                f"set attention.location={self.locations[0]}"
            )
        return self


class FusingConfig(ModelConfig):
    """A model that looks at its bag by itself, without volumetric attention, and learns through it."""

    context_grad: Literal["full", "checkpoint"] = "full"

    @property
    def uses_context(self) -> bool:
        """Always."""
        return True


class EncoderConfig(ModelConfig):
    """A model on a backbone with published weights."""

    backbone: ResNetConfig = ResNetConfig()

    @property
    def needs_weights(self) -> bool:
        return self.backbone.norm == "frozen"

    @property
    def norm_eps(self) -> float:
        return self.backbone.norm_eps

    def with_norm_eps(self, eps: float) -> Self:
        if self.backbone.norm != "frozen":
            return self
        return self.model_copy(update={"backbone": self.backbone.model_copy(update={"norm_eps": eps})})


class DetectorConfig(EncoderConfig):
    """A detector of boxes on a feature pyramid, or on VGG-16's one map.

    Attributes:
        auxiliary: Names of classes that it learns beside organ and lesion, so that lesions are told from them, and that
            are not reported: "look-alike" is all that `synthetic` paints and that is no lesion.
    """

    output: ClassVar[Output] = "boxes"

    backbone: BackboneConfig = BackboneConfig()
    auxiliary: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = Field((), max_length=32)

    @property
    def auxiliary_classes(self) -> tuple[str, ...]:
        return self.auxiliary

    @model_validator(mode="after")
    def _check_auxiliary(self) -> Self:
        if len(set(self.auxiliary)) < len(self.auxiliary):
            raise ValueError(f"auxiliary names a class twice: {', '.join(self.auxiliary)}")
        return self

    def _check_anchors(self, key: str, sizes: tuple[tuple[float, ...], ...]) -> None:
        levels = self.backbone.levels
        if len(sizes) != len(levels):
            raise ValueError(
                f"{key} must have one tuple for each of the {len(levels)} pyramid levels, found {len(sizes)}"
            )
        if len({len(row) for row in sizes}) != 1:
            raise ValueError(f"{key} must have equally many sizes on every level: they share a head")


VGG16 = BackboneConfig(name="vgg16", norm="none", trainable_layers=5)
"""The backbone of R-FCN and 3DCE, as published."""
