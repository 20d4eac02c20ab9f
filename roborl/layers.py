"""Parts of small networks that policies and reward models share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_MAP_PX = 32


class CameraEncoder(nn.Module):
    """One camera's picture to keypoints: where each of a few learnt maps is brightest, and how bright it is there.

    The maps keep half the resolution of a 64 px picture, so that a place is known to a fraction of a pixel. Pooling
    them first, or squeezing them through a narrow layer, costs the precision that grasping needs.

    Args:
        keypoints: Maps, and so keypoints.
        image_px: Side of the square pictures; larger ones get larger strides, and maps of about 32 x 32.
        width: Channels before the maps.

    Source:
        Spatial softmax: Levine et al., End-to-End Training of Deep Visuomotor Policies (JMLR 2016), section 5.1; kept
        as the only output: Finn et al., Deep Spatial Autoencoders for Visuomotor Learning (ICRA 2016).
    """

    def __init__(self, keypoints: int, image_px: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=max(1, image_px // _MAP_PX), padding=2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, keypoints, 3, padding=1),
        )
        self.temperature = nn.Parameter(torch.ones(1, keypoints, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode uint8 pixels (b, h, w, 3) to x, y and brightness of every keypoint, (b, 3 * keypoints) in [-1, 1]."""
        x = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
        maps = self.layers(x.contiguous(memory_format=torch.channels_last))
        b, c, h, w = maps.shape
        flat = maps.reshape(b, c, h * w)
        weights = functional.softmax(flat * self.temperature, dim=-1)
        rows = torch.linspace(-1, 1, h, device=maps.device).repeat_interleave(w)
        columns = torch.linspace(-1, 1, w, device=maps.device).repeat(h)
        brightness = torch.tanh((weights * flat).sum(dim=-1) / 3.0)
        return torch.cat([weights @ columns, weights @ rows, brightness], dim=1)


def perceptron(inputs: int, outputs: int, width: int) -> nn.Sequential:
    """Return two hidden layers of ``width`` units with layer normalisation, from ``inputs`` to ``outputs`` numbers."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )
