"""Context side by side, against its equation in numpy."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import correlate

from volattn.models.attention import StackedContext


def made(bag: int = 3) -> StackedContext:
    torch.manual_seed(0)
    module = StackedContext(6, bag, maps=2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def test_equals_the_equation() -> None:
    module = made()
    images = torch.randn(4, 6, 5, 7).double()
    bags = torch.tensor([[0, 0, 1], [1, 2, 3]])
    found = module.refine_with_weights(images[[0, 2]], module.describe(images), bags).features

    embed, mix = module.embed.weight.detach().numpy(), module.mix.weight.detach().numpy()[:, :, 0, 0]
    for row, (target, bag) in enumerate(zip((0, 2), bags.tolist(), strict=True)):
        told = np.stack(
            [
                sum(correlate(images[k, c].numpy(), kernel[c], mode="constant") for c in range(6))
                for k in bag
                for kernel in embed
            ]
        )
        added = np.tensordot(mix, np.maximum(told, 0), axes=1) + module.mix.bias.detach().numpy()[:, None, None]
        np.testing.assert_allclose(found[row].detach().numpy(), images[target].numpy() + added, rtol=1e-10)


def test_a_pretrained_network_starts_as_it_was() -> None:
    module = StackedContext(6, 3)
    images = torch.randn(3, 6, 4, 4)
    refined = module.refine_with_weights(images[[1]], module.describe(images), torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(refined.features, images[[1]])
    assert refined.channel is None
    assert refined.spatial is None


def test_every_parameter_moves_within_ten_steps() -> None:
    torch.manual_seed(0)
    module = StackedContext(6, 3)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    for _ in range(10):
        images = torch.randn(3, 6, 4, 4)
        found = module.refine_with_weights(images[[1]], module.describe(images), torch.tensor([[0, 1, 2]]))
        optimiser.zero_grad()
        (found.features - images[[2]]).square().mean().backward()
        optimiser.step()
    assert not any(torch.equal(parameter, before[name]) for name, parameter in module.named_parameters())


def test_the_order_of_the_slices_matters() -> None:
    module = made()
    images = torch.randn(3, 6, 4, 4).double()
    told = module.describe(images)
    up, down = (
        module.refine_with_weights(images[[1]], told, torch.tensor([bag])).features for bag in ([0, 1, 2], [2, 1, 0])
    )
    assert not torch.allclose(up, down)
