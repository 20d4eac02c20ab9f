"""The small networks: an image encoder, an actor head and an ensemble of critics, sized for a laptop's CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from roborl.layers import CameraEncoder, perceptron

_SCALE = 0.5
# So that a centimetre of a short way counts.
_WAY_SCALE = 5.0
# A keypoint that hardly moves in the demonstrations must not turn into noise.
_LEAST_DEVIATION = 0.01


class Encoder(nn.Module):
    """Several cameras to one feature vector, each camera with its own weights, every feature on a common scale.

    Args:
        cameras: Names, in the order in which their features are laid side by side.
        keypoints: Keypoints per camera.
        image_px: Side of the square pictures.
        channels: Of each camera's maps before the keypoints'.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, cameras: Sequence[str], keypoints: int = 16, image_px: int = 64, channels: int = 16
    ) -> None:
        super().__init__()
        self.cameras = tuple(cameras)
        self.output_dim = 3 * keypoints * len(self.cameras)
        self.by_camera = nn.ModuleDict(
            {name: CameraEncoder(keypoints, image_px, channels) for name in self.cameras}
        )
        self.register_buffer("mean", torch.zeros(self.output_dim))
        self.register_buffer("deviation", torch.full((self.output_dim,), _SCALE))

    def keypoints(self, images: Mapping[str, Tensor]) -> Tensor:
        """Encode uint8 pixels (b, h, w, 3) per camera to keypoints (b, output_dim), in their own units."""
        return torch.cat([self.by_camera[name](images[name]) for name in self.cameras], dim=1)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Encode uint8 pixels (b, h, w, 3) per camera to features (b, output_dim)."""
        return _SCALE * (self.keypoints(images) - self.mean) / self.deviation

    def standardise(self, keypoints: Tensor) -> None:
        """Take mean and deviation of keypoints (n, output_dim) into the weights: features then vary by half a unit."""
        self.mean.copy_(keypoints.mean(dim=0))
        self.deviation.copy_(keypoints.std(dim=0, correction=0).clamp_min(_LEAST_DEVIATION))


class Remaining(nn.Module):
    """Adds to features and state how far the state is from where the pictures show that each sub-task ends.

    Pictures show places; what a hand has to do depends on the way that remains. A network that has been shown the way
    from one place alone does not take that difference by itself.

    Args:
        features: Size of the features.
        state_dim: Size of the state.
        waypoints: Ends of sub-tasks that are read off; 0 adds nothing.
        from_first: Read them off the episode's first pictures too. There the arm is where it always begins, hiding nothing;
            what the latest pictures show is more uncertain, and right where something has been moved.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, state_dim: int, waypoints: int, *, from_first: bool = False) -> None:
        super().__init__()
        self._from_first = from_first
        self.output_dim = features + state_dim + waypoints * state_dim * (2 if from_first else 1)
        self.register_buffer("weight", torch.zeros(waypoints, state_dim, features))
        self.register_buffer("bias", torch.zeros(waypoints, state_dim))

    def forward(self, features: Tensor, state: Tensor, first: Tensor) -> Tensor:
        """Return (b, output_dim) for features (b, features), states (b, state_dim), features of the first pictures (b, features)."""
        ways = [self._ways(seen, state) for seen in ((features, first) if self._from_first else (features,))]
        return torch.cat([features, state, *ways], dim=1)

    def _ways(self, features: Tensor, state: Tensor) -> Tensor:
        ends = torch.einsum("bf,ksf->bks", features, self.weight) + self.bias
        return (_WAY_SCALE * (ends - state.unsqueeze(1))).flatten(1)

    def fit(
        self,
        features: Tensor,
        ends: Tensor,
        known: Tensor,
        *,
        strayed: Tensor | None = None,
        still: Tensor | None = None,
        weight: float = 0.0,
    ) -> None:
        """Read the ends of sub-tasks off the features linearly, by ridge regression.

        Args:
            features: (n, features).
            ends: State at the end of each sub-task, (n, waypoints, state_dim).
            known: How much that counts, (n, waypoints), from 0, where it is not known or no longer ahead, to 1.
            strayed: How far the features are from those of another picture with the same ends, (n, features).
            still: Whether that other picture does have the same end, (n, waypoints).
            weight: What all the rows that are still weigh together beside all those whose end is known.
        """
        ones = torch.ones(len(features), 1)
        for k in range(len(self.bias)):
            rows = known[:, k] > 0
            x, y = torch.cat([features, ones], dim=1)[rows].double(), ends[rows, k].double()
            counted = known[rows, k, None].double()
            square = x.T @ (counted * x) + torch.eye(x.shape[1], dtype=x.dtype)
            if weight and strayed is not None and still is not None and (same := still[:, k] > 0).any():
                apart = torch.cat([strayed, 0.0 * ones], dim=1)[same].double()
                square += weight * counted.sum() / len(apart) * (apart.T @ apart)
            solved = torch.linalg.solve(square, x.T @ (counted * y)).float()
            self.weight[k], self.bias[k] = solved[:-1].T, solved[-1]


class Actor(nn.Module):
    """Features and proprioception to the mean action.

    Args:
        input_dim: Size of what it is told.
        action_dim: Size of an action.
        width: Units per hidden layer.
        skipped: How many of the first inputs it leaves out of account.
    """

    def __init__(self, input_dim: int, action_dim: int, width: int = 256, skipped: int = 0) -> None:
        super().__init__()
        self._skipped = skipped
        self.layers = perceptron(input_dim - skipped, action_dim, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return mean actions in [-1, 1], (b, action_dim), for inputs (b, input_dim)."""
        return torch.tanh(self.layers(inputs[:, self._skipped :]))


class EnsembleLinear(nn.Module):
    """One linear layer for each member of an ensemble, computed together.

    Args:
        members: Size of the ensemble.
        inputs: Input units.
        outputs: Output units.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor, members: Tensor | None = None) -> Tensor:
        """Map (members, b, inputs) to (members, b, outputs), for all members or those at ``members``, int64 (m,)."""
        if members is None:
            return torch.baddbmm(self.bias, x, self.weight)
        return torch.baddbmm(self.bias[members], x, self.weight[members])


class Critics(nn.Module):
    """An ensemble of action values with layer normalisation.

    Args:
        input_dim: Size of features, state, action and, where the critic sees it, potential.
        members: Size of the ensemble.
        width: Units per hidden layer.

    Source:
        Ball et al., Efficient Online Reinforcement Learning with Offline Data (ICML 2023), section 4.
    """

    def __init__(self, input_dim: int, members: int, width: int) -> None:
        super().__init__()
        self.members = members
        self.first = EnsembleLinear(members, input_dim, width)
        self.second = EnsembleLinear(members, width, width)
        self.last = EnsembleLinear(members, width, 1)

    def forward(self, inputs: Tensor, members: Tensor | None = None) -> Tensor:
        """Return values (members, b) for inputs (b, input_dim), of all members or those at ``members``, int64 (m,)."""
        x = inputs.unsqueeze(0).expand(self.members if members is None else len(members), -1, -1)
        for layer in (self.first, self.second):
            x = functional.relu(functional.layer_norm(layer(x, members), (layer.bias.shape[-1],)))
        return torch.as_tensor(self.last(x, members)).squeeze(-1)
