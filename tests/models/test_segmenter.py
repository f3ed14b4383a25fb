"""Segmenters: nested classes, and what is learnt from label maps."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from detector_losses import label_map
from small_detectors import CLASSES, small_config, targets_of

from volattn.models.registry import build_model
from volattn.models.segmenters.segmenter import SegmentationConfig, nested_probabilities, segmentation_losses
from volattn.models.weights import load_weights


def test_classes_are_nested_in_any_logits() -> None:
    logits = 5 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    organ, lesion = nested_probabilities(logits).unbind(1)
    shares = logits.softmax(dim=1)
    torch.testing.assert_close(organ, 1 - shares[:, 0])
    torch.testing.assert_close(lesion, shares[:, 2])
    assert (lesion <= organ).all()


def test_losses_are_by_name_and_near_zero_for_what_is_right() -> None:
    labels = torch.stack([label_map(one) for one in targets_of(3)]).long()
    right = 40 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).double()
    both = segmentation_losses(SegmentationConfig(), right, labels)
    assert list(both) == ["loss_cross_entropy", "loss_dice"]
    assert all(0 <= loss < 1e-6 for loss in both.values())
    wrong = segmentation_losses(SegmentationConfig(losses=("dice",)), -right, labels)
    assert list(wrong) == ["loss_dice"]
    shown = np.mean([[bool((one >= label).any()) for label in (1, 2)] for one in labels])
    assert 0.8 * shown < wrong["loss_dice"] <= shown
    weighed = SegmentationConfig(losses=("cross_entropy",), class_weights=(0.0, 0.0, 2.0))
    even = segmentation_losses(weighed, torch.zeros_like(right), labels)["loss_cross_entropy"]
    assert even == pytest.approx(2 * np.log(3) * (labels == 2).double().mean().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_a_large_slice_do_not_overflow(dtype: torch.dtype) -> None:
    labels = torch.ones(1, 512, 512, dtype=torch.long)
    logits = torch.zeros(1, 3, 512, 512, dtype=dtype)
    config = SegmentationConfig(losses=("cross_entropy", "dice"))
    ours, exact = (segmentation_losses(config, one, labels) for one in (logits, logits.float()))
    assert ours == exact


def test_overlap_is_asked_of_shown_classes_only() -> None:
    """Else the many slices without a lesion would push its probability to nothing."""
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    labels[0, :2] = 1
    logits = torch.zeros(2, 3, 4, 4, requires_grad=True)
    loss = segmentation_losses(SegmentationConfig(losses=("dice",)), logits, labels)["loss_dice"]
    # Organ on 8 of 16 pixels, probability 2/3 everywhere; one of four pairs of class and target is shown.
    assert loss.item() == pytest.approx((1 - (2 * 8 * 2 / 3 + 1) / (8 + 16 * 2 / 3 + 1)) / 4)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()


def test_class_weights_are_one_for_each_class() -> None:
    config = small_config(name="unet_2d", changes={"segmentation": {"class_weights": [1, 2]}})
    with pytest.raises(ValueError, match="class_weights must have 3 values, the background's first, found 2"):
        build_model(config, CLASSES)


def test_it_is_the_librarys_network() -> None:
    """Weight for weight: the encoder is torchvision's, as the library's is, and so is the decoder."""
    library = pytest.importorskip("segmentation_models_pytorch")
    changes = {"backbone": {"width": 64, "stages": 4}}
    ours = build_model(small_config(name="unet_2d", changes=changes), CLASSES).eval()
    theirs = library.Unet("resnet18", encoder_weights=None, in_channels=3, classes=3).eval()
    for name, module in list(theirs.named_modules()):
        if isinstance(module, torch.nn.BatchNorm2d):
            above, _, own = name.rpartition(".")
            norm = torch.nn.GroupNorm(max(1, module.num_features // 8), module.num_features)
            setattr(theirs.get_submodule(above), own, norm)
    renamed = {
        key.replace("backbone.body.", "encoder.").replace("head.", "segmentation_head.0."): tensor
        for key, tensor in ours.state_dict().items()
    }
    theirs.load_state_dict(renamed)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        mine = ours.logits(ours.attend(ours.encode(images), {}, torch.tensor([[0]])), (64, 96))
        torch.testing.assert_close(mine, theirs((images - 0.5) / 0.25))


def test_without_its_package_a_model_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.decoders.unet.decoder", None)
    with pytest.raises(ValueError, match=r"^va_unet: is made with segmentation_models_pytorch.*install vol"):
        build_model(small_config(name="va_unet"), CLASSES)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("unet_3d", "imagenet", "there are none for unet_3d"),
        ("unet_2d", "coco", "published for mask_rcnn, .*; the model is unet_2d"),
    ],
)
def test_weights_that_nobody_published(name: str, source: str, message: str) -> None:
    changes = {} if name == "unet_3d" else {"backbone": {"name": "resnet50", "width": 64, "norm": "frozen"}}
    model = build_model(small_config(name=name, changes=changes), CLASSES)
    with pytest.raises(ValueError, match=message):
        load_weights(model, source)
