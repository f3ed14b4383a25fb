"""What a detector is made of, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from volattn.config import Channels, Config, Factor, Images, Kernel, Share, merged
from volattn.models.architectures import ARCHITECTURES, BLOCK_SLICES, Architecture, Name, Window, find_architecture
from volattn.models.detectors.config import DenseConfig, ProposalConfig, RegionConfig
from volattn.models.segmenters.config import SegmentationConfig

Attention = Literal["none", "channel", "spatial", "both", "stacked"]
Location = Literal["rpn", "rcnn"]
Scale = Literal["none", "sqrt", "mean"]
Rectifier = Literal["relu", "leaky"]
ContextGrad = Literal["full", "checkpoint", "none"]
Norm = Literal["group", "frozen", "none"]


class AttentionConfig(Config):
    """Volumetric attention (paper, section 2; the open points as in `docs/explanation`).

    Attributes:
        kind: Which of the two attentions are there. "none" is the plain 2D detector. "stacked" is no attention: what
            the bag says, side by side (`volattn.models.attention`; not in the paper).
        location: "rpn" refines the pyramid before the proposals, "rcnn" the pooled regions after RoIAlign (table 2e).
        reduction: r of eq. 2: the channel embedding narrows C to max(1, C // r).
        kernel_size: Odd side of the spatial embedding's convolution (eq. 3), in feature pixels.
        gate_kernel: Odd side of the convolution that makes the spatial gate; 1 is the counterpart of the channel gate.
        scale: Factor on the spatial dot products: 1, 1/sqrt(HW) or 1/HW.
        rectifier: In front of the gates: "relu" (the paper's letter), or "leaky", which no training can switch off.
        maps: K, what an image of the bag says of each place ("stacked").
        shared: Whether all pyramid levels share one module.
        context_grad: Whether the context is trained through: "full"; "checkpoint" (recomputed in the backward pass,
            for memory); "none" (the context is a constant).
    """

    kind: Attention = "both"
    location: Location = "rpn"
    reduction: Channels = 16
    kernel_size: Kernel = 7
    gate_kernel: Kernel = 1
    scale: Scale = "mean"
    rectifier: Rectifier = "relu"
    maps: Channels = 8
    shared: bool = False
    context_grad: ContextGrad = "full"


class DeformableConfig(Config):
    """Deformable convolutions in a ResNet.

    Attributes:
        stages: Whose 3x3 convolutions are deformable, counted as in the papers: 2 is the first residual stage, 5 the
            last of the published network.
        modulated: Whether each sampled value is weighed too, by 2 sigmoid(m), so that m = 0 is the plain convolution.
    """

    stages: tuple[Literal[2, 3, 4, 5], ...] = Field((3, 4, 5), max_length=4)
    modulated: bool = False


class BackboneConfig(Config):
    """ResNet with a feature pyramid, or VGG-16 with one map of stride 8 (no fourth pooling).

    Attributes:
        name: Which network.
        norm: "frozen": FrozenBatchNorm2d, for pretrained weights. "group": GroupNorm, from scratch, so that no result
            depends on what shares a batch. "none": VGG-16 as published.
        norm_eps: Epsilon of the frozen norm: 0 for torchvision's COCO weights, 1e-5 for ImageNet's.
        frozen_stages: How many stages get no gradient, the stem being a ResNet's first (2 freezes stem and layer1,
            which is the usual "frozen first stage").
        width: Channels of the first stage; 64 is the published network.
        stages: How many residual stages are kept (4 is the published network).
        pyramid_channels: C of every pyramid level.
        pyramid_from: The first residual stage with a pyramid level: 1 is stride 4, 2 stride 8.
        pyramid_top: What follows above the last stage: "pool" (one level, subsampled) or "p6p7" (two, convolved).
        deformable: Where the convolutions are deformable; null for none.
    """

    name: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg16"] = "resnet50"
    norm: Norm = "frozen"
    norm_eps: Share = 0.0
    frozen_stages: int = Field(2, ge=0, le=5)
    width: Channels = Field(64, ge=8)
    stages: int = Field(4, ge=1, le=4)
    pyramid_channels: Channels = Field(256, ge=8)
    pyramid_from: int = Field(1, ge=1, le=4)
    pyramid_top: Literal["pool", "p6p7"] = "pool"
    deformable: DeformableConfig | None = None

    @property
    def single_map(self) -> bool:
        """Whether it gives one map instead of a pyramid."""
        return self.name == "vgg16"

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
        if self.single_map:
            others = ("stages", "pyramid_channels", "pyramid_from", "pyramid_top", "deformable")
            for key in others:
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"{key} has no part in vgg16; leave it out")
        elif self.norm == "none":
            raise ValueError(f"norm none is for vgg16; {self.name} takes frozen or group")
        if self.pyramid_from > self.stages:
            raise ValueError(f"pyramid_from must be one of the {self.stages} stages, found {self.pyramid_from}")
        missing = [stage for stage in (self.deformable.stages if self.deformable else ()) if stage > self.stages + 1]
        if missing:
            raise ValueError(
                f"deformable.stages names stage {missing[0]}, but the last that is kept is {self.stages + 1}"
            )
        return self


class ModelConfig(Config):
    """A detector by its catalogue name, and its parts.

    The name decides the defaults of the other values, and which of them have a part in it
    (`volattn.models.architectures`).

    Attributes:
        name: The name in `volattn.models.catalogue`.
        bag: N, the 2.5D images in a bag; odd. 1 with attention is a gate without context, the control. M of 3DCE.
        slices: S, the adjacent slices that make one 2.5D image; odd.
        mean: Normalisation of the backbone's input, per channel or one for all. ImageNet's values for weights that
            were trained with them.
        std: See `mean`.
    """

    name: Name = "mask_rcnn"
    bag: Images = 9
    slices: Images = 3
    mean: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = Field((0.485, 0.456, 0.406), max_length=255)
    std: tuple[Factor, ...] = Field((0.229, 0.224, 0.225), max_length=255)
    attention: AttentionConfig = AttentionConfig()
    backbone: BackboneConfig = BackboneConfig()
    proposals: ProposalConfig = ProposalConfig()
    regions: RegionConfig = RegionConfig()
    dense: DenseConfig = DenseConfig()
    segmentation: SegmentationConfig = SegmentationConfig()

    @property
    def architecture(self) -> Architecture:
        """What the name means."""
        return ARCHITECTURES[self.name]

    @property
    def uses_context(self) -> bool:
        """Whether anything looks at the other images of a bag."""
        return self.architecture.fuses or self.attention.kind != "none"

    @property
    def needs_weights(self) -> bool:
        """Whether it cannot learn from scratch: its norms are frozen."""
        return "backbone" not in self.architecture.unread and self.backbone.norm == "frozen"

    @property
    def images(self) -> int:
        """The images that a target's bag must hold: N, or 1 where nothing looks at the others."""
        return self.bag if self.uses_context else 1

    @property
    def window(self) -> Window:
        """The slices that a target speaks for; the step as a multiple of 3, so that windows share their images."""
        if self.architecture.block is None:
            return Window()
        step = max(1, int(self.segmentation.step * self.bag))
        return Window(BLOCK_SLICES * self.bag, BLOCK_SLICES * step)

    def settable(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values that settings change; those of another `name` are its own, and of ours what it reads."""
        facts = find_architecture(given.get("name"))
        if facts is None or given["name"] == self.name:
            return super().settable(given)
        theirs = type(self).parse({"name": given["name"]}, given["name"]).model_dump(mode="json")
        ours = facts.without_unread(self.model_dump(mode="json", exclude_unset=True, exclude={"name"}))
        return merged(theirs, ours)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        known = find_architecture(values.get("name", "mask_rcnn"))
        return values if known is None else merged(known.defaults, values)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.architecture.without_unread(write(self))

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key, value in (
            ("bag", self.bag),
            ("slices", self.slices),
            ("attention.kernel_size", self.attention.kernel_size),
            ("attention.gate_kernel", self.attention.gate_kernel),
        ):
            if value % 2 == 0:
                raise ValueError(f"{key} must be odd, found {value}")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.slices):
                raise ValueError(f"{key} must have 1 or {self.slices} values, found {len(values)}")
        self._check_parts()
        self._check_anchors()
        return self

    def _check_parts(self) -> None:
        """Whether the parts are such that this architecture can be made of them."""
        facts, backbone = self.architecture, self.backbone
        for key in facts.unread:
            part, _, name = key.partition(".")
            given = getattr(self, part)
            default = type(given)()
            if (getattr(given, name) != getattr(default, name)) if name else given != default:
                raise ValueError(f"{key} has no part in {self.name}; leave it out")
        if self.attention.kind != "none" and self.attention.location not in facts.locations:
            raise ValueError(
                f"{self.name} has no place for attention.location={self.attention.location}; set "
                + (f"attention.location={facts.locations[0]}" if facts.locations else "attention.kind=none")
            )
        if facts.fuses and self.attention.context_grad == "none":
            raise ValueError(f"{self.name} learns through its bag; set attention.context_grad to full or checkpoint")
        if facts.single_image and self.bag != 1:
            raise ValueError(
                f"{self.name} looks at one image: set bag=1"
                + (", or name=three_dce" if facts.fuses else "")
                + f", found {self.bag}"
            )
        if facts.segments and "backbone" not in facts.unread and backbone.single_map:
            raise ValueError(f"{self.name} takes a ResNet: set backbone.name=resnet50, found {backbone.name}")
        if facts.block is not None and self.slices != facts.block:
            raise ValueError(f"{self.name} takes slices={facts.block}, found {self.slices}")
        if facts.single_map and not backbone.single_map:
            raise ValueError(f"{self.name} takes one map: set backbone.name=vgg16, found {backbone.name}")
        if self.regions.pooling == "pool" and not backbone.single_map:
            raise ValueError("regions.pooling pool takes one map: set regions.pooling=align, or vgg16")
        if (backbone.deformable is not None) != (self.name == "deformable_faster_rcnn") and self.name in (
            "faster_rcnn",
            "deformable_faster_rcnn",
        ):
            raise ValueError(
                "deformable_faster_rcnn is faster_rcnn with backbone.deformable, e.g. {stages: [3, 4, 5]}: "
                f"give both or neither, found {self.name} with {backbone.deformable}"
            )
        if self.name == "fcos" and (backbone.single_map or backbone.pyramid_channels % 32):
            raise ValueError("fcos takes a ResNet with backbone.pyramid_channels a multiple of 32")

    def _check_anchors(self) -> None:
        levels = self.backbone.levels
        for part, sizes in (("proposals", self.proposals.anchor_sizes), ("dense", self.dense.anchor_sizes)):
            if part in self.architecture.unread or f"{part}.anchor_sizes" in self.architecture.unread:
                continue
            if len(sizes) != len(levels):
                raise ValueError(
                    f"{part}.anchor_sizes must have one tuple for each of the {len(levels)} pyramid levels, "
                    f"found {len(sizes)}"
                )
            if len({len(row) for row in sizes}) != 1:
                raise ValueError(f"{part}.anchor_sizes must have equally many sizes on every level: they share a head")
