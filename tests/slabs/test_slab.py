"""Objects of a label slice, and slabs joined."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.ops import masks_to_boxes

from volattn.slabs.slab import Slab, component_maps, objects

sides = st.integers(1, 12)
label_slices = st.builds(
    lambda h, w, seed: np.random.default_rng(seed).integers(0, 3, (h, w)).astype(np.uint8),
    sides,
    sides,
    st.integers(0, 999),
)


@given(label_slices, st.sampled_from([1, 2]))
def test_objects_are_the_components_of_each_class(labels, classes):
    found = objects(component_maps(labels, classes))
    regions = {classes: labels == 2}
    if classes == 2:
        regions[1] = labels >= 1
    for label, region in regions.items():
        masks = found["masks"][found["labels"] == label].numpy()
        cross, count = ndimage.label(region)  # 4 neighbours
        assert sorted(mask.tobytes() for mask in masks) == sorted(
            (cross == number).astype(np.uint8).tobytes() for number in range(1, count + 1)
        )


@given(label_slices)
def test_boxes_are_tight_half_open_and_never_degenerate(labels):
    found = objects(component_maps(labels, 2))
    boxes, masks = found["boxes"], found["masks"]
    assert boxes.dtype == torch.float32
    assert boxes.shape == (len(masks), 4)
    assert masks.dtype == torch.uint8
    assert masks.shape[1:] == labels.shape
    assert found["labels"].dtype == torch.int64
    assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
    inclusive = masks_to_boxes(masks)
    inclusive[:, 2:] += 1
    assert torch.equal(boxes, inclusive)


def test_empty_slice_has_no_objects():
    found = objects(component_maps(np.zeros((6, 5), np.uint8), 2))
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "masks": (0, 6, 5),
    }


def test_lost_object_is_dropped():
    maps = np.zeros((2, 5, 5), np.int32)
    maps[0, 1:3, 2:5] = 3  # 1 and 2 have left the frame.
    found = objects(maps)
    assert found["boxes"].tolist() == [[2, 1, 5, 3]]
    assert found["labels"].tolist() == [1]


def slab(images: int, targets: int, name: str, seed: int = 0) -> Slab:
    generator = torch.Generator().manual_seed(seed)
    return Slab(
        images=torch.rand(images, 3, 8, 8, generator=generator),
        bags=torch.randint(images, (targets, 5), generator=generator),
        target_at=torch.randint(images, (targets,), generator=generator),
        targets=[objects(component_maps(np.eye(8, dtype=np.uint8) * 2, 2)) for _ in range(targets)],
        origins=[(name, z) for z in range(targets)],
    )


def test_joined_slabs_keep_their_bags():
    parts = [slab(6, 2, "a"), slab(4, 1, "b", 1), slab(7, 3, "c", 2)]
    joined = Slab.join(parts)
    assert torch.equal(joined.images[joined.bags], torch.cat([part.images[part.bags] for part in parts]))
    targets = [part.images[part.target_at] for part in parts]
    assert torch.equal(joined.images[joined.target_at], torch.cat(targets))
    assert joined.origins == [("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1), ("c", 2)]
    assert len(joined.targets) == 6
    assert Slab.join(parts[:1]) is parts[0]


def test_all_of_a_slab_goes_to_the_device():
    there = slab(4, 2, "a").to("meta")
    of_targets = [value for target in there.targets for value in target.values()]
    tensors = [there.images, there.bags, there.target_at, *of_targets]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert there.origins == [("a", 0), ("a", 1)]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_pinned_slab():
    pinned = slab(4, 2, "a").pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.targets[0]["masks"].is_pinned()
