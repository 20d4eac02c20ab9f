"""Any policy of LeRobot's that was saved in a folder, as a policy of ours: it acts, and does not learn here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from numpy.typing import NDArray

from roborl.errors import ModelLoadError
from roborl.policies.exploration import ExplorationConfig
from roborl.policies.lerobot_opening import LeRobotParts, open_policy
from roborl.types import Observation

log = logging.getLogger(__name__)

_IMAGES = OBS_IMAGES + "."
# Their networks see pixels as they come; others scale pictures themselves.
_AT_TRAINED_SIZE = ("act", "diffusion", "gaussian_actor", "tdmpc", "vqbet")
# Their ``predict_action_chunk`` needs what ``select_action`` has gathered, or is not there.
_ONE_AT_A_TIME = ("gaussian_actor", "lingbot_va", "tdmpc", "vqbet")


class LeRobotPolicy:
    """A :class:`roborl.roles.Policy` around a policy of LeRobot's.

    It reads what ``roborl record`` writes into a dataset, under the same names: pictures by camera, state, instruction.
    Chunks are as long as LeRobot would execute them, ``n_action_steps``. A policy that looks back over several
    observations, or smooths over its chunks, gives one action at a time and must be asked at every step.

    Args:
        parts: The opened policy.
        task: The instruction in words.
        seed: Of the noise that some kinds draw their actions from.

    Raises:
        ModelLoadError: If it reads something else than cameras and state, or writes no action.
    """

    def __init__(self, parts: LeRobotParts, *, task: str = "", seed: int = 0) -> None:
        config = parts.config
        self.kind, self._parts, self._task = parts.kind, parts, task
        inputs = {parts.renamed.get(key, key): feature for key, feature in config.input_features.items()}
        foreign = [
            key
            for key, feature in inputs.items()
            if feature.type in (FeatureType.STATE, FeatureType.ENV) and key != OBS_STATE
        ]
        if foreign or config.action_feature is None:
            raise ModelLoadError(
                "The LeRobot policy reads or writes what a bench does not have",
                seen=f"inputs {sorted(inputs)}, outputs {sorted(config.output_features)}",
                allowed=f"inputs {_IMAGES}<camera> and {OBS_STATE}, output {ACTION}",
                remedy="Train it on a dataset that roborl record wrote",
            )
        self.action_dim = int(config.action_feature.shape[0])
        self.state_dim = int(inputs[OBS_STATE].shape[0]) if OBS_STATE in inputs else None
        pictures = {
            key.removeprefix(_IMAGES): (int(feature.shape[-2]), int(feature.shape[-1]))
            for key, feature in inputs.items()
            if feature.type is FeatureType.VISUAL
        }
        known = {parts.renamed.get(key, key).removeprefix(_IMAGES) for key in parts.known} & set(pictures)
        self.cameras = {name: size for name, size in pictures.items() if name in known or not known}
        self._sized = parts.kind in _AT_TRAINED_SIZE and not getattr(config, "resize_shape", None)
        self._single = (
            parts.kind in _ONE_AT_A_TIME
            or config.n_obs_steps > 1
            or getattr(config, "temporal_ensemble_coeff", None) is not None
        )
        self._device = torch.device(config.device)
        self._random = np.random.default_rng(seed)

    @property
    def version(self) -> int:
        """Always 0: its weights come from no learner."""
        return 0

    def reset(self) -> None:
        """Forget the observations and actions of the episode so far."""
        for part in (self._parts.model, self._parts.before, self._parts.after):
            part.reset()

    @torch.inference_mode()
    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next actions, float32 (h, a), clipped to [-1, 1]; what is not finite stays so, for the loop to refuse.

        Raises:
            ModelLoadError: If cameras, pictures or state are not those that it was trained with.
        """
        self._check(observation)
        parts, cuda = self._parts, self._device.type == "cuda"
        mixed = torch.autocast(self._device.type) if parts.config.use_amp else nullcontext()
        with mixed, torch.random.fork_rng(devices=[self._device] if cuda else []):
            torch.manual_seed(int(self._random.integers(2**62)))
            batch = parts.before(self._batch(observation))
            if self._single:
                actions = parts.model.select_action(batch)
            else:
                chunk = parts.model.predict_action_chunk(batch)
                actions = chunk[:, : getattr(parts.config, "n_action_steps", None)]
            actions = parts.after(actions)
        found: NDArray[np.float32] = np.atleast_2d(actions[0].float().cpu().numpy())
        return np.clip(found, -1.0, 1.0)

    def load_actor(self, weights: Mapping[str, NDArray[Any]], version: int) -> None:
        """Refuse: weights that a learner publishes are those of the small policy.

        Raises:
            ModelLoadError: Always.
        """
        raise ModelLoadError(
            "A LeRobot policy takes no weights from a learner",
            seen=f"version {version}",
            allowed="the weights in its folder",
            remedy="Learning online fine-tunes the small policy only; run this one without a learner's weights",
        )

    @classmethod
    def load(
        cls, folder: Path, *, task: str = "", explore: ExplorationConfig | None = None, seed: int = 0
    ) -> LeRobotPolicy:
        """Read what LeRobot saved; arguments as for the class.

        Args:
            folder: Such as ``pretrained_model`` of a checkpoint.
            task: The instruction in words.
            explore: Ignored, and said so: exploration is for what learns.
            seed: Of the noise that some kinds draw their actions from.

        Raises:
            ModelLoadError: If it cannot be used, see :func:`roborl.policies.lerobot_opening.open_policy`.
        """
        if explore is not None:
            log.warning("A LeRobot policy does not explore: it acts as it was trained")
        return cls(open_policy(folder), task=task, seed=seed)

    def _batch(self, observation: Observation) -> dict[str, Any]:
        batch: dict[str, Any] = {
            _IMAGES + name: torch.tensor(frame.rgb).permute(2, 0, 1).contiguous().float().div(255)[None]
            for name, frame in observation.frames.items()
        }
        return batch | {OBS_STATE: torch.tensor(observation.state)[None], "task": self._task}

    def _check(self, observation: Observation) -> None:
        sizes = {name: frame.rgb.shape[:2] for name, frame in observation.frames.items()}
        if missing := sorted(set(self.cameras) - set(sizes)):
            raise ModelLoadError(
                f"The LeRobot policy looks through cameras that the bench does not have: {', '.join(missing)}",
                seen=sorted(sizes),
                allowed=f"all of {sorted(self.cameras)}",
                remedy="Use the bench that its dataset was recorded on, or name the bench's cameras as they are there",
            )
        wrong = {name: sizes[name] for name, size in self.cameras.items() if sizes[name] != size}
        if wrong and self._sized:
            raise ModelLoadError(
                "The LeRobot policy was trained on pictures of another size",
                seen=f"{wrong}, height and width",
                allowed=f"{ {name: self.cameras[name] for name in wrong} }",
                remedy="Set height_px and width_px of these cameras in the bench file as they were at recording",
            )
        if self.state_dim not in (None, observation.state.size):
            raise ModelLoadError(
                "The LeRobot policy was trained with a state of another size",
                seen=observation.state.size,
                allowed=self.state_dim,
                remedy="Use the bench that its dataset was recorded on",
            )
