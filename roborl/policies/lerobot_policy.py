"""Any policy of LeRobot's that was saved in a folder, as a policy of ours: it acts, and in a run it learns."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs import FeatureType
from lerobot.processor import UnnormalizerProcessorStep
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE
from numpy.typing import NDArray
from torch.nn import functional

from roborl.errors import ModelLoadError
from roborl.images import square
from roborl.policies.exploration import ExplorationConfig, Explorer
from roborl.policies.lerobot_learning import (
    IS_PAD,
    OnlineForm,
    learnt_arrays,
    learnt_groups,
    learnt_parameters,
    load_learnt,
    sample_losses,
)
from roborl.policies.lerobot_opening import LeRobotParts, open_policy
from roborl.types import Image, Observation

log = logging.getLogger(__name__)

_IMAGES = OBS_IMAGES + "."
# Their networks see pixels as they come; others scale pictures themselves.
_AT_TRAINED_SIZE = ("act", "diffusion", "gaussian_actor", "tdmpc", "vqbet")
# Their ``predict_action_chunk`` needs what ``select_action`` has gathered, or is not there.
_ONE_AT_A_TIME = ("gaussian_actor", "lingbot_va", "tdmpc", "vqbet")
# Of an action's range [-1, 1]: what the network's unit must stand for, or the policy does not command that part of an action.
_LEAST_UNIT = 1e-2
# They always answer alike; the others draw their actions.
_DRAWS_NOTHING = ("act",)


class LeRobotPolicy:
    """A :class:`roborl.roles.Policy` around a policy of LeRobot's.

    It reads what ``roborl record`` writes into a dataset, under the same names: pictures by camera, state, instruction.
    Chunks are as long as LeRobot would execute them, ``n_action_steps``. A policy that looks back over several
    observations, or smooths over its chunks, gives one action at a time and must be asked at every step.

    The policy of a run sees what replay memory keeps: every picture is reduced to a square, and brought from there to the
    size that it was trained with. What of it learns takes weights from a learner.

    Args:
        parts: The opened policy.
        task: The instruction in words.
        seed: Of the noise that some kinds draw their actions from, and of exploration.
        online: What a run makes of it; None where it is no run's, and learns nothing.
        explore: How it explores in a run; for a kind that draws its actions by itself, not at all.

    Attributes:
        learnt: The parameters that learn, by name; none outside a run.

    Raises:
        ModelLoadError: If it reads something else than cameras and state, or writes no action; or if it is to learn and
            cannot.
    """

    def __init__(
        self,
        parts: LeRobotParts,
        *,
        task: str = "",
        seed: int = 0,
        online: OnlineForm | None = None,
        explore: ExplorationConfig | None = None,
    ) -> None:
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
        self.online, self._version = online, 0
        self.learnt = learnt_parameters(parts, online) if online else {}
        self._explorer = self._made_to_explore(explore, seed)
        if online:
            self._middle, self._commanded = self._reach()

    @property
    def version(self) -> int:
        """Version of the weights, 0 where they come from no learner."""
        return self._version

    @property
    def parts(self) -> LeRobotParts:
        """The policy as LeRobot runs it."""
        return self._parts

    @property
    def chunk_steps(self) -> int:
        """How many steps of a chunk it acts out, n_action_steps; of chunks that it smooths over, all."""
        config = self._parts.config
        smooths = getattr(config, "temporal_ensemble_coeff", None) is not None
        return int(config.chunk_size if smooths else config.n_action_steps)

    def reset(self) -> None:
        """Forget the observations and actions of the episode so far."""
        if self._explorer:
            self._explorer.reset()
        self.forget_plans()

    def forget_plans(self) -> None:
        """Forget the observations and actions so far, but not how the episode explores."""
        for part in (self._parts.model, self._parts.before, self._parts.after):
            part.reset()

    def act(self, observation: Observation) -> NDArray[np.float32]:
        """Return the next actions, float32 (h, a), clipped to [-1, 1]; what is not finite stays so, for the loop to refuse.

        Raises:
            ModelLoadError: If cameras, pictures or state are not those that it was trained with.
        """
        found = self.unclipped(observation)
        if self._explorer:
            index = max((frame.id for frame in observation.frames.values()), default=None)
            found = self._explorer(found, index)
        return np.clip(found, -1.0, 1.0).astype(np.float32)

    @torch.inference_mode()
    def unclipped(self, observation: Observation) -> NDArray[np.floating]:
        """Return what :meth:`act` does before it explores, and before it clips: what shows that weights have gone astray.

        Raises:
            ModelLoadError: As for :meth:`act`.
        """
        self._check(observation)
        parts, cuda = self._parts, self._device.type == "cuda"
        mixed = torch.autocast(self._device.type) if parts.config.use_amp else nullcontext()
        with mixed, torch.random.fork_rng(devices=[self._device] if cuda else []):
            torch.manual_seed(int(self._random.integers(2**62)))
            batch = parts.before(self._batch(self._pictures(observation), observation.state[None]))
            if self._single:
                actions = parts.model.select_action(batch)
            else:
                chunk = parts.model.predict_action_chunk(batch)
                actions = chunk[:, : getattr(parts.config, "n_action_steps", None)]
            actions = parts.after(actions)
        found: NDArray[np.floating] = np.atleast_2d(actions[0].float().cpu().numpy())
        return found

    def losses(
        self,
        images: Mapping[str, Image],
        state: NDArray[np.float32],
        chunk: NDArray[np.float32],
        horizon: NDArray[np.int64],
    ) -> torch.Tensor:
        """Return how far the policy is from having chosen each chunk itself, (b,), with gradients of what learns.

        Pre-processing is that of acting. Steps behind ``horizon`` repeat the last one, as LeRobot pads, and do not count. Nor do
        parts of an action that all but stood still in its training data: scaled by next to nothing, whatever exploration or a
        person did there would count more than all the rest, and the policy could not do it.

        Args:
            images: Camera to uint8 (b, h, w, 3), as replay memory keeps them.
            state: float32 (b, s).
            chunk: Actions, float32 (b, h, a).
            horizon: How many of them are real, int64 (b,).
        """
        parts = self._parts
        steps = np.arange(int(parts.config.chunk_size))
        kept = np.minimum(steps, horizon[:, None] - 1)
        batch = self._batch({name: images[name] for name in self.cameras}, state)
        actions = torch.from_numpy(np.take_along_axis(chunk, kept[:, :, None], axis=1))
        batch["action"] = torch.where(self._commanded, actions, self._middle)
        batch[IS_PAD] = torch.from_numpy(steps >= horizon[:, None])
        parts.model.train()
        try:
            return sample_losses(parts, parts.before(batch))
        finally:
            parts.model.eval()

    def learnt_groups(self) -> list[dict[str, Any]]:
        """Return what learns in the groups that LeRobot trains it in, for an optimiser."""
        return learnt_groups(self._parts.model, self.learnt)

    def actor_weights(self) -> dict[str, NDArray[np.float32]]:
        """Copy what learns, float32 by name; nothing outside a run."""
        return learnt_arrays(self.learnt)

    def load_actor(self, weights: Mapping[str, NDArray[Any]], version: int) -> None:
        """Replace what learns.

        Raises:
            ModelLoadError: If it is no run's policy, or they are not finite or do not fit; the old ones stay.
        """
        if self.online is None:
            raise ModelLoadError(
                "A LeRobot policy takes weights only as the policy of a run",
                seen=f"version {version}",
                allowed="the folder named policy in a run, where roborl learn has put it",
                remedy="Name that folder, or run this one without a learner's weights",
            )
        load_learnt(self.learnt, weights, f"version {version}")
        self._version = version

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        task: str = "",
        explore: ExplorationConfig | None = None,
        seed: int = 0,
        device: str = "",
    ) -> LeRobotPolicy:
        """Read what LeRobot saved; arguments as for the class.

        Args:
            folder: Such as ``pretrained_model`` of a checkpoint, or the policy of a run.
            task: The instruction in words.
            explore: How the policy of a run explores. Outside a run it is ignored, and that is said.
            seed: Of the noise that some kinds draw their actions from, and of exploration.
            device: Where it runs, if not where it was saved.

        Raises:
            ModelLoadError: If it cannot be used, see :func:`roborl.policies.lerobot_opening.open_policy`.
        """
        parts = open_policy(folder, device=device)
        return cls(parts, task=task, seed=seed, online=OnlineForm.read(folder), explore=explore)

    def _made_to_explore(self, explore: ExplorationConfig | None, seed: int) -> Explorer | None:
        if explore is None:
            return None
        if self.online is None:
            log.warning("A LeRobot policy that is no run's does not explore: it acts as it was trained")
        elif self.kind in _DRAWS_NOTHING:
            return Explorer(explore, self.action_dim, seed=seed)
        else:
            log.info("A policy of the kind %s draws its actions, and explores by that alone", self.kind)
        return None

    def _reach(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the action in the middle of what the network commands, float32 (a,), and which parts of it it does command."""
        after = self._parts.after
        # Some kinds write more numbers than an action has, and the post-processor drops those behind it.
        width = next(
            (
                step.features[ACTION].shape[0]
                for step in after.steps
                if isinstance(step, UnnormalizerProcessorStep)
            ),
            self.action_dim,
        )
        with torch.inference_mode():
            middle, beside = (
                after(torch.full((1, 1, width), value, device=self._device))[0, 0].cpu().float()
                for value in (0.0, 1.0)
            )
        commanded = (beside - middle).abs() >= _LEAST_UNIT
        if not commanded.all():
            log.warning(
                "Parts %s of an action all but stood still in the policy's training data: it does not learn to move them",
                (~commanded).nonzero().flatten().tolist(),
            )
        return middle.clone(), commanded.clone()

    def _pictures(self, observation: Observation) -> dict[str, Image]:
        """Return what the policy is shown, uint8 (1, h, w, 3) by camera."""
        if self.online is None:
            return {name: frame.rgb[None] for name, frame in observation.frames.items()}
        side = self.online.image_px
        return {name: square(observation.frames[name].rgb, side)[None] for name in self.cameras}

    def _batch(self, images: Mapping[str, Image], state: NDArray[np.float32]) -> dict[str, Any]:
        batch: dict[str, Any] = {OBS_STATE: torch.tensor(state), "task": [self._task] * len(state)}
        for name, pictures in images.items():
            shown = torch.tensor(pictures).permute(0, 3, 1, 2).contiguous().float().div(255)
            if self.online is not None and tuple(shown.shape[2:]) != self.cameras[name]:
                shown = functional.interpolate(shown, self.cameras[name], mode="bilinear")
            batch[_IMAGES + name] = shown
        return batch

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
        if wrong and self._sized and self.online is None:
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
