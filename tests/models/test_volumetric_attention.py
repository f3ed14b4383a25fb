"""The module against the equations, in numpy, and its symmetries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import correlate

from volattn import VolumetricAttention
from volattn.models.attention import entropy

NAMES = {
    "channel.reduce.weight",
    "channel.expand.weight",
    "channel.gate.weight",
    "channel.gate.bias",
    "spatial.embed.weight",
    "spatial.gate.weight",
    "spatial.gate.bias",
}


def module(channels: int = 12, seed: int = 0, **options: object) -> VolumetricAttention:
    torch.manual_seed(seed)
    made = VolumetricAttention(channels, reduction=4, kernel_size=3, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return made


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def normed(x: np.ndarray, weight: dict[str, np.ndarray], part: str) -> np.ndarray:
    """GroupNorm with one group, if the part has it."""
    if f"{part}.norm.weight" not in weight:
        return x
    shape = (-1, *[1] * (x.ndim - 1))
    standard = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return standard * weight[f"{part}.norm.weight"].reshape(shape) + weight[f"{part}.norm.bias"].reshape(shape)


def written_out(
    va: VolumetricAttention, target: np.ndarray, context: np.ndarray, scale: str, slope: float = 0.0, most: float = 1.0
) -> np.ndarray:
    """Eqs. 2 and 3 for one target (C, H, W) and its bag (N, C, H, W), with no tensor library; gates up to `most`."""

    def rectify(x: np.ndarray) -> np.ndarray:
        return np.where(x > 0, x, slope * x)

    def convolve(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        """(I, H, W) and (O, I, k, k) to (O, H, W)."""
        return np.array(
            [sum(correlate(m, k, mode="constant") for m, k in zip(maps, row, strict=True)) for row in kernel]
        )

    weight = {name: tensor.detach().numpy() for name, tensor in va.named_parameters()}
    if va.channel is not None:
        w1, w2 = weight["channel.reduce.weight"], weight["channel.expand.weight"]

        def g(x: np.ndarray) -> np.ndarray:
            return w2 @ np.maximum(w1 @ x.mean(axis=(1, 2)), 0)

        bag = np.stack([g(x) for x in context])
        value = rectify(normed(softmax(bag @ g(target)) @ bag, weight, "channel"))
        gate = most * sigmoid(weight["channel.gate.weight"] @ value + weight["channel.gate.bias"])
        target = target * gate[:, None, None]
    if va.spatial is not None:

        def e(x: np.ndarray) -> np.ndarray:
            seen = np.stack([x.max(axis=0), x.mean(axis=0)]) if va.spatial.pooled else x
            return convolve(seen, weight["spatial.embed.weight"])

        maps = np.stack([e(x) for x in context])
        own = e(target)
        factor = {"none": 1.0, "sqrt": 1 / np.sqrt(own.size), "mean": 1 / own.size}[scale]
        offsets = weight.get("spatial.offsets", np.ones(maps.shape[:2]))
        attended = softmax(np.array([(own * m).sum() * factor for m in maps]))
        value = sum(a * d[:, None, None] * m for a, d, m in zip(attended, offsets, maps, strict=True))
        value = rectify(normed(value, weight, "spatial"))
        gate = convolve(value, weight["spatial.gate.weight"]) + weight["spatial.gate.bias"][:, None, None]
        target = target * most * sigmoid(gate)
    return target


@pytest.mark.parametrize("scale", ["none", "sqrt", "mean"])
@pytest.mark.parametrize(("channel", "spatial"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(("gate_kernel", "rectifier", "slope"), [(1, "relu", 0.0), (7, "relu", 0.0), (1, "leaky", 0.1)])
def test_equals_the_equations(
    scale: str, channel: bool, spatial: bool, gate_kernel: int, rectifier: str, slope: float
) -> None:
    va = module(channel=channel, spatial=spatial, scale=scale, gate_kernel=gate_kernel, rectifier=rectifier)
    target, context = torch.randn(2, 12, 9, 10).double(), torch.randn(2, 5, 12, 9, 10).double()
    expected = np.stack(
        [written_out(va, t, c, scale, slope) for t, c in zip(target.numpy(), context.numpy(), strict=True)]
    )
    np.testing.assert_allclose(va(target, context).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"maps": 4},
        {"gate": "twice_sigmoid"},
        {"norm": True},
        {"gate_channels": "all"},
        {"offsets": 5},
        {"maps": 4, "gate": "twice_sigmoid", "norm": True, "gate_channels": "all", "offsets": 5, "rectifier": "leaky"},
    ],
    ids=lambda options: "+".join(options),
)
def test_the_forms_beside_the_paper_equal_theirs(options: dict[str, object]) -> None:
    va = module(**options)
    target, context = torch.randn(2, 12, 9, 10).double(), torch.randn(2, 5, 12, 9, 10).double()
    most, slope = 2.0 if "gate" in options else 1.0, 0.1 if "rectifier" in options else 0.0
    pairs = zip(target.numpy(), context.numpy(), strict=True)
    expected = np.stack([written_out(va, t, c, "mean", slope, most) for t, c in pairs])
    np.testing.assert_allclose(va(target, context).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_gate_of_twice_the_sigmoid_starts_at_one_where_it_moves() -> None:
    target, context = torch.randn(1, 32, 8, 8), torch.randn(1, 5, 32, 8, 8)
    va = VolumetricAttention(32, gate="twice_sigmoid", maps=8, norm=True, rectifier="leaky", gate_channels="all")
    refined = va(target, context)
    assert (refined / target - 1).abs().max() < 0.1
    refined.square().sum().backward()
    assert va.spatial is not None
    assert va.spatial.embed.weight.grad is not None
    assert va.spatial.embed.weight.grad.abs().max() > 1e-4, "the embedding learns from the first step"


def test_the_order_of_slices_counts_with_offsets_only() -> None:
    target, context = torch.randn(1, 12, 6, 6).double(), torch.randn(1, 5, 12, 6, 6).double()
    for options, alike in (({"offsets": 5}, False), ({}, True)):
        va = module(maps=4, **options)
        assert torch.allclose(va(target, context), va(target, context.flip(1))) is alike


def test_the_parameters_have_their_names() -> None:
    assert {name for name, _ in VolumetricAttention(32).named_parameters()} == NAMES


def test_gates_start_all_but_open() -> None:
    target = torch.rand(1, 32, 8, 8)
    refined = VolumetricAttention(32)(target, torch.rand(1, 5, 32, 8, 8))
    torch.testing.assert_close(refined, target * torch.sigmoid(torch.tensor(3.0)) ** 2)


@pytest.mark.parametrize(("scale", "channels"), [("mean", 256), ("sqrt", 16), ("none", 16)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_mixed_precision_attends_as_float32_does(device: str, dtype: torch.dtype, scale: str, channels: int) -> None:
    """On 256 x 256 places sums of products are beyond float16, and their differences beyond bfloat16's digits."""
    torch.manual_seed(0)
    va = VolumetricAttention(channels, scale=scale).to(device)  # type: ignore[arg-type]
    assert va.channel is not None
    assert va.spatial is not None
    with torch.no_grad():
        va.channel.gate.weight.normal_(std=0.05)
        va.spatial.gate.weight.fill_(-0.5)
    levels = torch.tensor([1.0, 1.01, 1.02])[:, None, None, None] * (2.0 if scale == "mean" else 0.1)
    images = (levels * torch.rand(3, channels, 256, 256)).to(device, dtype)
    bags = torch.arange(3, device=device)[None]
    with torch.no_grad():
        exact = va.refine_with_weights(images[1:2].float(), va.describe(images.float()), bags)
    with torch.autocast(device, dtype):
        descriptors = va.describe(images)
        mixed = va.refine_with_weights(images[1:2], descriptors, bags)
    assert exact.spatial is not None
    assert float(exact.spatial.detach().std()) > 0.001  # else any rounding would do
    for ours, theirs in ((mixed.channel, exact.channel), (mixed.spatial, exact.spatial)):
        assert ours is not None
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert mixed.features.dtype == dtype
    error = (mixed.features.detach().float() - exact.features).abs() / exact.features.abs().clamp(min=1e-3)
    assert float(error.max()) < 4 * torch.finfo(dtype).eps
    mixed.features.sum(dtype=torch.float32).backward()
    assert all(one.grad is not None and bool(one.grad.isfinite().all()) for one in va.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_module_can_be_in_reduced_precision_altogether(dtype: torch.dtype) -> None:
    va = module().to(dtype)
    target, context = torch.rand(1, 12, 6, 6, dtype=dtype), torch.rand(1, 3, 12, 6, 6, dtype=dtype)
    exact = va.double()(target.double(), context.double())
    refined = va.to(dtype)(target, context)
    assert refined.dtype == dtype
    torch.testing.assert_close(refined.double(), exact, rtol=0.05, atol=0.02)


@given(seed=st.integers(0, 1000), images=st.integers(1, 7))
def test_the_order_of_a_bag_does_not_matter(seed: int, images: int) -> None:
    torch.manual_seed(seed)
    va = module(seed=seed)
    target, context = torch.randn(1, 12, 6, 6).double(), torch.randn(1, images, 12, 6, 6).double()
    torch.testing.assert_close(va(target, context), va(target, context[:, torch.randperm(images)]))


def test_identical_images_get_uniform_attention() -> None:
    va = module()
    image = torch.randn(1, 12, 6, 6).double()
    refined = va.refine_with_weights(image, va.describe(image), torch.zeros(1, 5, dtype=torch.long))
    for weights in (refined.channel, refined.spatial):
        assert weights is not None
        torch.testing.assert_close(weights, torch.full((1, 5), 0.2).double())


def test_pooled_context_is_the_whole_context() -> None:
    va = module()
    images = torch.randn(6, 12, 6, 6).double()
    bags = torch.tensor([[0, 0, 1, 2, 3], [1, 2, 3, 4, 5]])
    pooled = va.refine(images[[1, 3]], va.describe(images), bags)
    torch.testing.assert_close(va(images[[1, 3]], images[bags]), pooled)


def test_every_parameter_moves_within_ten_steps() -> None:
    torch.manual_seed(0)
    va = VolumetricAttention(32)
    before = {name: parameter.detach().clone() for name, parameter in va.named_parameters()}
    optimiser = torch.optim.SGD(va.parameters(), lr=0.1)
    for _ in range(10):
        target, context = torch.rand(2, 32, 8, 8), torch.rand(2, 5, 32, 8, 8)
        optimiser.zero_grad()
        (va(target, context) - target * context.mean(dim=1)).square().mean().backward()
        optimiser.step()
    for name, parameter in va.named_parameters():
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize(("rectifier", "learns"), [("relu", False), ("leaky", True)])
def test_an_embedding_that_is_negative_everywhere_learns_with_a_leak_only(rectifier: str, learns: bool) -> None:
    va = module(channel=False, rectifier=rectifier)
    assert va.spatial is not None
    with torch.no_grad():
        va.spatial.embed.weight.copy_(-va.spatial.embed.weight.abs())
    target, context = torch.rand(1, 12, 6, 6).double(), torch.rand(1, 5, 12, 6, 6).double()
    va(target, context).square().sum().backward()
    assert va.spatial.embed.weight.grad is not None
    assert bool(va.spatial.embed.weight.grad.any()) is learns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "kernel_size must be odd"),
        ({"gate_kernel": 0}, "gate_kernel must be odd"),
        ({"scale": "half"}, "scale must be"),
        ({"rectifier": "elu"}, "rectifier must be"),
        ({"gate": "tanh"}, "gate must be"),
        ({"gate_channels": "some"}, "gate_channels must be"),
        ({"reduction": 0}, "must be positive"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VolumetricAttention(8, **options)  # type: ignore[arg-type]


def test_entropy_is_one_when_uniform_and_zero_when_one_hot() -> None:
    weights = torch.tensor([[0.25] * 4, [1.0, 0, 0, 0]])
    torch.testing.assert_close(entropy(weights), torch.tensor([1.0, 0.0]))
    assert entropy(torch.ones(2, 1)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("target", "context"), [((2, 8, 5, 5), (2, 8, 5, 5)), ((8, 5, 5), (1, 3, 8, 5, 5)), ((2, 8, 5, 5), (3, 4, 8, 5, 5))]
)
def test_wrong_shapes_are_named(target: tuple[int, ...], context: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"target of shape \(M, C, H, W\)") as caught:
        VolumetricAttention(8)(torch.rand(target), torch.rand(context))
    assert f"found {target} and {context}" in str(caught.value)
