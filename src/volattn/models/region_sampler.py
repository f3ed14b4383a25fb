"""Which regions of a target enter the loss."""

from __future__ import annotations

import torch
from torch import Tensor


class LikeliestNegatives:
    """Positive regions at random, as torchvision draws them, and of the negative ones what looks most like objects.

    Most negatives are easy, and of a few dozen that are drawn at random hardly one is a finding that only looks like a
    lesion. Proposals come in the order of their objectness, so that the first negatives are the hardest that can be
    known without running the head on all of them, as online hard example mining does (Shrivastava et al., CVPR 2016).

    Args:
        samples: Regions per target.
        positive_fraction: Share of positive ones among them, at most.
    """

    def __init__(self, samples: int, positive_fraction: float) -> None:
        self.samples = samples
        self.positives = int(samples * positive_fraction)

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Positive and negative regions that are taken, per target masks (r,).

        Args:
            labels: Per target (r,), in the proposals' order: a class from 1, 0 for background, -1 for what is ignored.
        """
        chosen = [self._choose(one) for one in labels]
        return [positive for positive, _ in chosen], [negative for _, negative in chosen]

    def _choose(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        positive, negative = torch.where(labels > 0)[0], torch.where(labels == 0)[0]
        positive = positive[torch.randperm(len(positive), device=labels.device)[: self.positives]]
        negative = negative[: self.samples - len(positive)]
        return _mask(labels, positive), _mask(labels, negative)


def _mask(labels: Tensor, chosen: Tensor) -> Tensor:
    mask = torch.zeros_like(labels, dtype=torch.bool)
    mask[chosen] = True
    return mask
