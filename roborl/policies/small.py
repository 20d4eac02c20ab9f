"""The small policy: frozen image features and proprioception to one action, with exploration on request."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from roborl.errors import ModelLoadError
from roborl.finite import all_finite
from roborl.images import square
from roborl.policies.exploration import ExplorationConfig, Explorer
from roborl.policies.networks import Actor, Encoder, Remaining
from roborl.pretrained import disk_faults
from roborl.types import Observation
from roborl.whole_files import whole_file, write_whole

type Weights = dict[str, NDArray[np.float32]]

# How it explores stood in a policy's folder once.
_OF_OLDER_RELEASES = ("exploration_std", "noise_persistence", "burst_rate", "burst_steps")


@dataclass(frozen=True, kw_only=True)
class SmallPolicyConfig:
    """Shape of a small policy.

    Attributes:
        cameras: Cameras it looks through, in order.
        image_px: Side of the square pictures.
        state_dim: Size of the proprioceptive state.
        action_dim: Size of an action.
        keypoints: Keypoints per camera; each is three features.
        channels: Channels of the convolutions before them.
        waypoints: Sub-tasks whose ends are read off the features, for the way that remains; 0: none.
        from_first: Whether they are read off the episode's first pictures too: the first that it is asked about, which are later
            ones where a person begins the episode or the policy's process was started anew.
        ways_alone: Whether the actor is told of the pictures only what remains of the way to each of those ends.
        width: Units per hidden layer of the actor.
    """

    cameras: tuple[str, ...]
    image_px: int
    state_dim: int
    action_dim: int
    keypoints: int = 16
    channels: int = 16
    waypoints: int = 0
    from_first: bool = False
    ways_alone: bool = False
    width: int = 256


class SmallPolicy:
    """A :class:`roborl.roles.Policy` of an encoder and an actor.

    Args:
        config: Its shape.
        explore: How it explores; None for the mean action alone.
        seed: Of exploration.
    """

    def __init__(
        self, config: SmallPolicyConfig, *, explore: ExplorationConfig | None = None, seed: int = 0
    ) -> None:
        self.config = config
        self._explorer = Explorer(explore, config.action_dim, seed=seed) if explore else None
        self.encoder = Encoder(config.cameras, config.keypoints, config.image_px, config.channels)
        self.remaining = Remaining(
            self.encoder.output_dim, config.state_dim, config.waypoints, from_first=config.from_first
        )
        skipped = self.encoder.output_dim if config.ways_alone else 0
        self.actor = Actor(self.remaining.output_dim, config.action_dim, config.width, skipped)
        self._version = 0
        self._first: Tensor | None = None
        self.encoder.eval()
        self.actor.eval()

    @property
    def version(self) -> int:
        """Version of the actor's weights, 0 before any were published."""
        return self._version

    def reset(self) -> None:
        """Begin an episode: the next pictures are its first."""
        self._first = None
        if self._explorer:
            self._explorer.reset()

    @torch.inference_mode()
    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return one action as a chunk, float32 (1, a), in [-1, 1]."""
        images = {
            name: torch.tensor(square(observation.frames[name].rgb, self.config.image_px)).unsqueeze(0)
            for name in self.config.cameras
        }
        state = torch.tensor(observation.state).unsqueeze(0)
        features = self.encoder(images)
        if self._first is None:
            self._first = features
        mean = self.actor(self.remaining(features, state, self._first))
        action: NDArray[np.floating] = mean.numpy()
        if self._explorer:
            action = self._explorer(action)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def load_actor(self, weights: Mapping[str, NDArray[np.float32]], version: int) -> None:
        """Replace the actor's weights.

        Args:
            weights: Arrays by name, used where they lie: not to be changed any more.
            version: Their number.

        Raises:
            ModelLoadError: If they are not finite or do not fit; the old ones stay.
        """
        if not all(map(all_finite, weights.values())):
            raise ModelLoadError(
                "New weights are not finite",
                seen=f"version {version}",
                allowed="finite numbers",
                remedy="The last good weights stay in force; look at the trainer's losses",
            )
        _load(self.actor, weights, f"version {version} of the actor")
        self._version = version

    def save(self, folder: Path) -> None:
        """Write ``policy.json`` and ``policy.safetensors`` into ``folder``, making it."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"encoder.{k}": v for k, v in to_arrays(self.encoder).items()}
        tensors |= {f"remaining.{k}": v for k, v in to_arrays(self.remaining).items()}
        tensors |= {f"actor.{k}": v for k, v in to_arrays(self.actor).items()}
        with whole_file(folder / "policy.safetensors") as draft, disk_faults():
            save_file(tensors, draft)
        write_whole(folder / "policy.json", json.dumps({"kind": "small"} | asdict(self.config), indent=2))

    @classmethod
    def load(cls, folder: Path, *, explore: ExplorationConfig | None = None, seed: int = 0) -> SmallPolicy:
        """Read what :meth:`save` wrote.

        Raises:
            ModelLoadError: If a file is missing, names another kind of policy, or its weights do not fit.
        """
        try:
            fields = dict(json.loads((folder / "policy.json").read_text()))
            kind = fields.pop("kind", None)
            if kind != "small":
                raise ModelLoadError(
                    "This folder holds another kind of policy",
                    seen=kind,
                    allowed="small",
                    remedy="Give the folder of a policy that roborl saved",
                )
            for name in _OF_OLDER_RELEASES:
                fields.pop(name, None)
            shape = SmallPolicyConfig(**fields | {"cameras": tuple(fields["cameras"])})
            tensors = load_file(folder / "policy.safetensors")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ModelLoadError(
                "This is no policy folder: it cannot be read",
                seen=f"{folder}: {type(error).__name__}: {error}",
                allowed="policy.json and policy.safetensors as a policy saves them, or config.json, model.safetensors and "
                "processors as LeRobot does",
                remedy="Give the folder that a policy was saved to; roborl act and evaluate take a run's folder too, and run what it learnt",
            ) from error
        if not all(map(all_finite, tensors.values())):
            raise ModelLoadError(
                "The policy's weights are not finite",
                seen=sorted(name for name, array in tensors.items() if not all_finite(array))[0],
                allowed="finite numbers",
                remedy="Go back to an older version: --rollback",
            )
        policy = cls(shape, explore=explore, seed=seed)
        for name, module in (
            ("encoder", policy.encoder),
            ("remaining", policy.remaining),
            ("actor", policy.actor),
        ):
            part = {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}
            _load(module, part, f"the {name} in {folder}")
        return policy


def to_arrays(module: nn.Module) -> Weights:
    """Copy a module's parameters and buffers into numpy arrays by name."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in module.state_dict().items()}


def _load(module: nn.Module, weights: Mapping[str, NDArray[np.float32]], what: str) -> None:
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(weights)) or [
        f"{name} {tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if tuple(weights[name].shape) != tuple(own[name].shape)
    ]
    if wrong:
        raise ModelLoadError(
            f"The weights of {what} do not fit this policy",
            seen=wrong[0],
            allowed=f"exactly its {len(own)} tensors",
            remedy="Give the folder of a policy with the same cameras, state and action sizes",
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # who acts does not write
        given = {
            name: torch.from_numpy(np.asarray(array, own[name].numpy().dtype))
            for name, array in weights.items()
        }
    module.load_state_dict(given, assign=True)  # a copy would take longer than all the rest
