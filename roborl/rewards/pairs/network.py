"""The network of the small judge: pictures to keypoints, and two moments between a start and a goal to a hop.

It reads no words. What the task is, the pictures of start and goal have to show.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from roborl.layers import CameraEncoder, perceptron
from roborl.rewards.pairs.config import PairNetworkConfig

FRONT = 0
"""Place of the front camera among the views; the wrists follow it."""


class PairNetwork(nn.Module):
    """Answers with how likely each of some hops is.

    Args:
        config: Sizes.
        wrists: Cameras beside the front one, 0 to 2.
    """

    hops: Tensor

    def __init__(self, config: PairNetworkConfig, wrists: int) -> None:
        super().__init__()
        self.config = config
        self.wrists = wrists
        self.features = 3 * config.keypoints
        self.eyes = nn.ModuleList(
            CameraEncoder(config.keypoints, config.image_px, config.channels) for _ in range(1 + wrists)
        )
        # Start and goal; two moments and whether each wrist is seen in them; their difference; their ways to the goal.
        moment = self.features * (1 + wrists)
        self.head = perceptron(4 * self.features + 3 * moment + 2 * wrists, config.bins, config.width)
        self.register_buffer("hops", torch.linspace(-1.0, 1.0, config.bins))

    def look(self, view: int, pixels: Tensor) -> Tensor:
        """Encode uint8 pictures of one view, (n, px, px, 3), to keypoints, (n, features)."""
        return torch.as_tensor(self.eyes[view](pixels))

    def forward(
        self, references: Tensor, before: Tensor, after: Tensor, seen_before: Tensor, seen_after: Tensor
    ) -> Tensor:
        """Compare moments.

        Args:
            references: Keypoints of start and goal, (n, 2, features).
            before: Keypoints of the first moment's views, (n, 1 + wrists, features); any where a wrist is not seen.
            after: The same of the second.
            seen_before: 1 where a wrist is seen in the first moment, else 0, (n, wrists).
            seen_after: The same of the second.

        Returns:
            Logits of :attr:`hops`, (n, bins).
        """
        b, a = _masked(before, seen_before), _masked(after, seen_after)
        both = _masked(a - b, seen_before * seen_after)
        goal = references[:, 1]
        parts = [
            references.flatten(1),
            b.flatten(1),
            a.flatten(1),
            both.flatten(1),
            seen_before,
            seen_after,
            goal - b[:, FRONT],
            goal - a[:, FRONT],
        ]
        return torch.as_tensor(self.head(torch.cat(parts, dim=1)))


def hop_loss(logits: Tensor, hops: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return how far answers are from hops of which it is known between which values they lie.

    A hop that is known exactly is the cross-entropy with its two nearest bins, weighted so that their mean is the hop.
    One that is known to lie in an interval is the logarithm of the probability of that interval, nothing being said
    about where in it.

    Args:
        logits: (n, bins).
        hops: Hop of each bin, evenly spaced, (bins,).
        low: Least value of the true hop, (n,).
        high: Largest, (n,).

    Returns:
        (n,).
    """
    width = hops[1] - hops[0]
    outside = torch.maximum(low.unsqueeze(1) - hops, hops - high.unsqueeze(1)).clamp_min(0.0)
    inside = (1.0 - outside / width).clamp(0.0, 1.0)
    likely = functional.log_softmax(logits, dim=1)
    exact = -(inside / inside.sum(dim=1, keepdim=True) * likely).sum(dim=1)
    within = -torch.logsumexp(likely + inside.clamp_min(1e-6).log(), dim=1)
    return torch.where(high - low < 1e-4, exact, within)


def _masked(views: Tensor, seen: Tensor) -> Tensor:
    """Put zeros where a wrist is not seen; the front camera always is."""
    return views * torch.cat([torch.ones_like(views[:, :1, 0]), seen], dim=1).unsqueeze(2)
