"""What every model of the registry keeps to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from detector_losses import AT, BAGS, GOLDEN, bags_for, first_losses, images_for, losses_and_gradients, targets_for
from small_detectors import CLASSES, detectors, images_of, made, randomise, small_config
from torch import Tensor

from volattn.checkpoints import ModelFolder, load_folder, save_folder
from volattn.models.config import AttendingConfig, ModelConfig
from volattn.models.detectors.rcnn import total
from volattn.models.registry import MODELS, build_model
from volattn.preprocessing.plan import Plan
from volattn.provenance import Provenance

DETECTORS = detectors()
every_detector = pytest.mark.parametrize("config", DETECTORS.values(), ids=DETECTORS)


def test_every_name_of_the_registry_is_here() -> None:
    assert {config.name for config in DETECTORS.values()} == set(MODELS)


@every_detector
def test_a_shared_slab_is_the_same_as_bags_of_their_own(config: ModelConfig) -> None:
    model, images = made(config), images_for(config)
    bags = bags_for(config)
    shared = losses_and_gradients(model, images, bags, AT)
    own = torch.arange(bags.numel()).view(bags.shape)
    middle = own[:, bags.shape[1] // 2]
    apart = losses_and_gradients(model, images[bags.flatten()], own, middle)
    torch.testing.assert_close(shared[0], apart[0], rtol=1e-5, atol=1e-9)
    assert shared[1].keys() == apart[1].keys()
    for name in shared[1]:
        torch.testing.assert_close(shared[1][name], apart[1][name], rtol=1e-5, atol=1e-9, msg=name)


@every_detector
def test_images_that_come_one_by_one_are_the_same_as_a_slab(config: ModelConfig) -> None:
    """As the stream does it: descriptors in any places, targets attended and detected alone."""
    model, images = made(config).eval(), images_for(config)
    bags, order = bags_for(config), torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
    place = torch.argsort(order)
    with torch.no_grad():
        whole = model(images, bags, AT)
        pyramids = {z: model.encode(images[z : z + 1]) for z in order.tolist()}
        described = [model.describe(pyramids[z]) for z in order.tolist()]
        context = {name: torch.cat([one[name] for one in described]) for name in described[0]}
        for row, z in enumerate(AT.tolist()):
            attended = model.attend(pyramids[z], context, place[bags[row : row + 1]])
            torch.testing.assert_close(model.detect(attended, (64, 64))[0], whole[row])


@every_detector
def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    model = made(config)
    _, gradients = losses_and_gradients(model, images_for(config), bags_for(config), AT)
    assert {name for name, _ in model.named_parameters()} == gradients.keys()
    assert all(torch.isfinite(g).all() for g in gradients.values())
    assert not [name for name, gradient in gradients.items() if not gradient.abs().sum()]


@every_detector
def test_the_context_changes_a_detection(config: ModelConfig) -> None:
    model, images = made(config).eval(), images_for(config)
    other = images.clone()
    other[[0, 2]] = images[[0, 2]].flip(-1) * 0.5
    with torch.no_grad():
        key = "probabilities" if config.output == "label_map" else "scores"
        here, there = (model(x, bags_for(config)[:1], AT[:1])[0][key] for x in (images, other))
    same = here.shape == there.shape and torch.equal(here, there)
    assert same == (config.images == 1)


@every_detector
def test_detections_are_inside_the_image(config: ModelConfig) -> None:
    model = made(config).eval()
    bags = bags_for(config)
    with torch.no_grad():
        attended = model.attend_slab(images_for(config), bags, AT)
        found = model.detect(attended, (64, 64))
    assert isinstance(found, list)
    assert len(found) == 3
    for detections in found:
        if config.output == "label_map":
            organ, lesion = detections["probabilities"]
            assert organ.shape == (64, 64)
            assert ((lesion >= 0) & (lesion <= organ) & (organ <= 1)).all()
            continue
        count = len(detections["scores"])
        assert 0 < count <= 20
        assert detections["boxes"].shape == (count, 4)
        assert detections["boxes"].min() >= 0
        assert detections["boxes"].max() <= 64
        assert set(detections["labels"].tolist()) <= {1, 2}
        assert ((detections["scores"] >= 0) & (detections["scores"] <= 1)).all()
        assert ("masks" in detections) == (config.output == "masks")
        if "masks" in detections:
            assert detections["masks"].shape == (count, 1, 28, 28)
            assert ((detections["masks"] >= 0) & (detections["masks"] <= 1)).all()
    for name, weights in attended.weights.items():
        assert weights.shape == bags.shape, name
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3).double())
    attention = config.attention.kind if isinstance(config, AttendingConfig) else "none"
    assert bool(attended.weights) == (attention not in ("none", "stacked"))


@every_detector
def test_the_middle_of_a_window_is_the_target(config: ModelConfig) -> None:
    model, images = made(config).eval(), images_for(config)
    window = model.window
    assert window.slices % 2 == 1
    assert 1 <= window.step <= window.slices
    if config.output == "label_map":
        with torch.no_grad():
            attended = model.attend_slab(images, bags_for(config), AT)
            windows = model.predict_window(attended, (64, 64))
            found = model.detect(attended, (64, 64))
        assert windows.shape == (3, len(CLASSES), window.slices, 64, 64)
        middle = torch.stack([one["probabilities"] for one in found])
        torch.testing.assert_close(windows[:, :, window.slices // 2], middle)


@every_detector
def test_mixed_precision_trains_and_detects(config: ModelConfig) -> None:
    model = made(config, dtype=torch.float32)
    images = images_for(config).float()
    targets = [
        {key: rows.float() if key == "boxes" else rows for key, rows in one.items()} for one in targets_for(config)
    ]
    losses = {}
    for mixed in (False, True):
        torch.manual_seed(0)
        model.train().zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses[mixed] = total(model(images, bags_for(config), AT, targets))
        losses[mixed].backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert losses[True].item() == pytest.approx(losses[False].item(), rel=0.2)
    assert losses[True].item() != losses[False].item()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = model.eval()(images, bags_for(config), AT)
    values = [value for one in found for key, value in one.items() if key != "labels"]
    assert {value.dtype for value in values} == {torch.float32}
    assert all(torch.isfinite(value).all() and len(value) for value in values)


@every_detector
def test_slabs_without_any_object_train(config: ModelConfig) -> None:
    model = made(config).train()
    nothing = [
        {key: value * 0 if key == "label_map" else value[:0] for key, value in one.items()}
        for one in targets_for(config)
    ]
    loss = total(model(images_for(config), bags_for(config), AT, nothing))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_detector
def test_one_pixel_boxes_train(config: ModelConfig) -> None:
    model = made(config).train()
    masks = torch.zeros(1, 64, 64, dtype=torch.uint8)
    masks[0, 5, 6] = 1
    target = {"boxes": torch.tensor([[6.0, 5, 7, 6]]).double(), "labels": torch.tensor([2]), "masks": masks}
    if config.output == "label_map":
        target = {"label_map": 2 * masks.expand(config.window.slices, -1, -1)}
    elif config.output == "boxes":
        del target["masks"]
    loss = total(model(images_for(config), bags_for(config)[:1], AT[:1], [target]))
    loss.backward()
    assert torch.isfinite(loss)


@every_detector
def test_a_model_survives_its_folder(config: ModelConfig, tmp_path: Path) -> None:
    model = made(config, dtype=torch.float32).eval()
    folder = ModelFolder(
        model=config,
        plan=Plan(size=64),
        classes=CLASSES,
        threshold=0.5,
        provenance=Provenance(recipe="small", dataset="none", fingerprint="f" * 64),
    )
    save_folder(tmp_path, model, folder)
    again, read = load_folder(tmp_path)
    assert read.model == config
    images, bags = images_for(config).float(), bags_for(config)
    with torch.no_grad():
        here, there = (one(images, bags, AT) for one in (model, again))
    torch.testing.assert_close(here, there)


@every_detector
def test_the_first_losses_are_what_they_were(config: ModelConfig, request: pytest.FixtureRequest) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[request.node.callspec.id]
    assert first_losses(config) == pytest.approx(expected, rel=1e-6), (
        "if the change is meant, run python tests/models/detector_losses.py"
    )


@pytest.mark.parametrize(
    "config",
    [
        small_config(bag=1, name=name, **attention)
        for name, attention in (
            ("mask_rcnn", {}),
            ("mask_rcnn", {"location": "roi"}),
            ("faster_rcnn", {}),
            ("deformable_faster_rcnn", {}),
            ("retinanet", {}),
            ("fcos", {}),
            ("rfcn", {}),
            ("three_dce", {}),
            ("va_unet", {}),
        )
    ],
    ids=lambda config: f"{config.name}-{config.locations[-1:]}",
)
def test_one_image_in_the_bag_looks_at_nothing_else(config: ModelConfig) -> None:
    model, images = made(config).eval(), images_for(config)
    with torch.no_grad():
        alone = model(images[:1], torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        beside = model(images, torch.tensor([[0]]), torch.tensor([0]))
    torch.testing.assert_close(alone[0], beside[0])


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet", "three_dce", "va_unet"])
@pytest.mark.parametrize("mode", ["checkpoint", "none"])
def test_context_gradients_change_no_loss(name: str, mode: str) -> None:
    if (name, mode) == ("three_dce", "none"):
        with pytest.raises(ValueError, match="context_grad: must be 'full' or 'checkpoint', found 'none'"):
            small_config(name=name, changes={"context_grad": mode})
        return
    full, other = (
        losses_and_gradients(made(config), images_for(config), bags_for(config), AT)
        for config in (small_config(name=name), small_config(name=name, changes={"context_grad": mode}))
    )
    torch.testing.assert_close(full[0], other[0])
    if mode == "checkpoint":
        torch.testing.assert_close(full[1], other[1])
    else:
        key = "backbone.body.conv1.weight"
        assert not torch.allclose(full[1][key], other[1][key])


@pytest.mark.parametrize("location", ["pyramid", "roi"])
def test_a_new_model_moves_all_its_attention_in_ten_steps(location: str) -> None:
    torch.manual_seed(0)
    config = small_config(location=location)
    model = build_model(config, CLASSES).double()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "attention." in n}
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(10):
        optimiser.zero_grad()
        total(model(images_of(), BAGS, AT, targets_for(config))).backward()
        optimiser.step()
    after = dict(model.named_parameters())
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_bags_of_any_odd_size() -> None:
    for name in ("mask_rcnn", "three_dce"):
        for size in (1, 3, 9, 11):
            model = made(small_config(bag=size, name=name)).eval()
            images = torch.rand(size, 3, 64, 64).double()
            with torch.no_grad():
                found = model(images, torch.arange(size)[None], torch.tensor([size // 2]))
            assert len(found) == 1
    with pytest.raises(ValueError, match="bag must be odd"):
        small_config(bag=4)


def test_randomised_gates_are_part_of_these_tests() -> None:
    model = made(small_config())
    before: dict[str, Tensor] = {n: p.clone() for n, p in model.named_parameters() if "gate" in n}
    randomise(model, seed=1)
    assert before
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if n in before)
