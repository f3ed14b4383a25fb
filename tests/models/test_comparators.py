"""Networks of other papers: their layers' shapes and numbers of parameters, as published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from volattn.models.registry import build_model, parse_model
from volattn.models.segmenters.cascade import refine
from volattn.models.segmenters.crf import CrfConfig
from volattn.models.segmenters.dense_unet import DenseUNet, DenseUNet3D, HybridConfig
from volattn.models.segmenters.networks import PlainUNet, ResidualUNet

CLASSES = ("liver", "lesion")


def shapes(network: Callable[..., Any], images: Tensor, kind: type[nn.Module]) -> list[tuple[int, ...]]:
    """Of the outputs of every module of a kind, without the batch, in the order in which they run."""
    found: list[tuple[int, ...]] = []
    for module in network.modules():  # type: ignore[attr-defined]
        if isinstance(module, kind):
            module.register_forward_hook(lambda _m, _i, out: found.append(tuple(out.shape[1:])))
    network(images)
    return list(found)


def millions(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def test_the_2d_dense_unet_is_as_published() -> None:
    with torch.device("meta"):
        network = DenseUNet(HybridConfig(), 3, skips=True)
        found = shapes(network, torch.empty(1, 3, 224, 224), nn.Conv2d)
    assert millions(network) == pytest.approx(49.5, abs=0.05)
    assert found[0] == (96, 112, 112)
    assert [name for name, _ in network.encoder.named_children()][4::2][:4] == [
        f"denseblock{number}" for number in (1, 2, 3, 4)
    ]
    blocks = [module for name, module in network.encoder.named_children() if "denseblock" in name]
    assert [len(list(block.children())) for block in blocks] == [6, 12, 36, 24]
    # One convolution at the stem, two a layer, one a transition: 161 - 1 of a classifier.
    assert sum(isinstance(m, nn.Conv2d) for m in network.encoder.modules()) == 160
    assert found[-7:] == [
        (2208, 14, 14),
        (768, 14, 14),
        (384, 28, 28),
        (96, 56, 56),
        (96, 112, 112),
        (64, 224, 224),
        (3, 224, 224),
    ]


def test_the_3d_dense_unet_is_as_published() -> None:
    with torch.device("meta"):
        network = DenseUNet3D(HybridConfig(), 4)
        found = shapes(network, torch.empty(1, 4, 12, 224, 224), nn.Conv3d)
    assert millions(network) == pytest.approx(16.0, abs=0.05)
    assert found[0] == (96, 6, 112, 112)
    # z is pooled four times, by the stem alone; transitions halve the channels.
    halved = [shape for shape in found if shape[0] in (96, 112, 248)]
    assert halved[1:4] == [(96, 3, 56, 56), (112, 3, 28, 28), (248, 3, 14, 14)]
    assert found[-5:] == [(504, 3, 14, 14), (224, 3, 28, 28), (192, 3, 56, 56), (96, 6, 112, 112), (64, 12, 224, 224)]


def test_the_released_hybrid_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        model = build_model(parse_model({"name": "h_dense_unet"}, "h_dense_unet"), CLASSES)
    assert millions(model) == pytest.approx(61.0, abs=0.05)


def test_hans_network_is_32_layers_deep() -> None:
    with torch.device("meta"):
        network = ResidualUNet(5, 3, 64)
        found = shapes(network, torch.empty(1, 5, 320, 320), nn.Conv2d)
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == len(found) == 32
    assert {layer.kernel_size for layer in layers[:-1]} == {(3, 3)}
    assert (64, 320, 320) in found
    assert {shape[0] for shape in found if shape[1:] == (160, 160)} == {128}
    assert {shape[0] for shape in found if shape[1:] == (20, 20)} == {1024}
    assert found[-1] == (3, 320, 320)
    assert sum(isinstance(module, nn.PReLU) for module in network.modules()) == 1 + 9 * 2 + 3 * 4
    # Counted here, from these layers: the paper gives no number.
    assert millions(network) == pytest.approx(50.2, abs=0.05)


def test_christs_network_is_the_unet_of_2015() -> None:
    with torch.device("meta"):
        network = PlainUNet(1, 2, 64, 0.5)
        found = shapes(network, torch.empty(1, 1, 388, 388), nn.Conv2d)
        odd = network(torch.empty(1, 1, 200, 301))
    assert millions(network) == pytest.approx(31.0, abs=0.05)
    assert (found[0], found[9], found[-1]) == ((64, 570, 570), (1024, 28, 28), (2, 388, 388))
    assert odd.shape == (1, 2, 200, 301)


def test_the_mirror_puts_a_pixel_where_it_was() -> None:
    """The output for a moved image is the moved output, as far from the edges as the network sees."""
    torch.manual_seed(0)
    network = PlainUNet(1, 2, 4, 0.0).eval()
    image = torch.zeros(1, 1, 404, 404)
    image[..., 190:206, 180:200] = 1
    with torch.no_grad():
        here = network(image)[0, 1]
        there = network(image.roll((16, 32), (-2, -1)))[0, 1]
    torch.testing.assert_close(here[170:230, 160:220], there[186:246, 192:252], atol=1e-4, rtol=1e-3)


def reference_crf(config: CrfConfig, shares: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Pixel by pixel, as the equation says."""
    height, width = image.shape
    found = shares.copy()
    for _ in range(config.iterations):
        energy = np.log(shares)
        for y in range(height):
            for x in range(width):
                for v in range(height):
                    for u in range(width):
                        distance = (y - v) ** 2 + (x - u) ** 2
                        if not 0 < distance <= config.radius**2:
                            continue
                        alike = (image[y, x] - image[v, u]) ** 2 / (2 * config.image_std**2)
                        kernel = config.position_weight * np.exp(-distance / (2 * config.position_std**2))
                        kernel += config.image_weight * np.exp(-distance / (2 * config.image_position_std**2) - alike)
                        energy[:, y, x] += kernel * found[:, v, u]
        found = np.exp(energy - energy.max(axis=0))
        found /= found.sum(axis=0)
    return found


def test_the_mean_field_is_the_equation() -> None:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet((1, 1, 1), (5, 6)).transpose(2, 0, 1)
    image = generator.random((5, 6))
    config = CrfConfig(iterations=2, radius=2, image_std=0.3, position_weight=0.3, image_weight=0.5)
    found = refine(config, torch.from_numpy(shares)[None], torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(found, reference_crf(config, shares, image), rtol=1e-9)


def test_the_field_follows_the_image() -> None:
    """A speck on even ground goes; an unsure pixel joins the side that looks like it."""
    image = torch.zeros(1, 12, 12)
    image[..., 6:] = 0.5
    bright = torch.full((1, 12, 12), 0.1)
    bright[..., 6:] = 0.9
    bright[0, 3, 2], bright[0, 5, 6] = 0.6, 0.45
    found = refine(CrfConfig(), torch.stack([1 - bright, bright], dim=1), image)[0, 1]
    assert torch.equal(found >= 0.5, image[0] > 0)
