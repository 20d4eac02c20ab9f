"""LeRobot's reward models as judges. Its classes do the computing; known defects of LeRobot 0.6.1 are named where avoided."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor

from roborl.errors import ModelLoadError
from roborl.rewards.judges.queries import expected_value
from roborl.rewards.judges.weights import quiet
from roborl.rewards.lerobot_checkpoint import training_statistics
from roborl.rewards.lerobot_loading import LerobotModel
from roborl.rewards.model import Judge
from roborl.types import Image

_EPSILON = 1e-8


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Showing:
    """A query.

    Attributes:
        frames: Of a video model the frames of its view, oldest first; else one picture per view.
        task: The instruction in words.
    """

    frames: tuple[Image, ...]
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardReply:
    """What a model says.

    Attributes:
        progress: In [0, 1].
        raw: Its own value.
        finished: Whether its threshold of success is passed; None where it has none.
    """

    progress: float
    raw: float
    finished: bool | None = None


class ShowingJudge(Judge[Showing, RewardReply], Protocol):
    """A judge of showings."""

    @property
    def says_done(self) -> bool:
        """Whether it has a threshold of success."""
        ...

    def answer(self, queries: Sequence[Showing]) -> list[RewardReply]:
        """Return one reply per query."""
        ...


class RobometerJudge(Judge[Showing, RewardReply]):
    """Asks Robometer for progress and success at the last frame.

    Args:
        loaded: The model.
    """

    says_done = True

    def __init__(self, loaded: LerobotModel) -> None:
        self._model = loaded.model
        self._encoder = loaded.encoder

    @torch.inference_mode()
    def answer(self, queries: Sequence[Showing]) -> list[RewardReply]:
        """Return one reply per query."""
        from lerobot.rewards.robometer.modeling_robometer import ROBOMETER_INPUT_KEYS, decode_progress_outputs

        config = self._model.config
        device = next(self._model.parameters()).device

        def ask(batch: Sequence[Showing]) -> list[RewardReply]:
            # Known defect: its encoder's own call takes the last frames of a video, and so loses the beginning. Here it is
            # given no more than it takes, and pictures as bytes: a dark float picture would be taken for one in [0, 1].
            with quiet():  # the library remarks at every call on how the encoder calls it
                made = self._encoder.encode_samples([(np.stack(query.frames), query.task) for query in batch])
            inputs = {key: made[key] for key in ROBOMETER_INPUT_KEYS if key in made}
            inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
            # Known defect: compute_reward gives either the progress or a thresholded success, never both.
            logits = self._model._compute_rbm_logits(inputs)
            read = decode_progress_outputs(*logits, is_discrete_mode=config.use_discrete_progress)
            return [
                RewardReply(
                    progress=min(max(progress[-1], 0.0), 1.0),
                    raw=progress[-1],
                    finished=success[-1] > config.success_threshold,
                )
                for progress, success in zip(read["progress_pred"], read["success_probs"], strict=True)
            ]

        # Known defect: a batch of videos of different lengths raises.
        return _in_groups(queries, lambda query: len(query.frames), ask)


class TopRewardJudge(Judge[Showing, RewardReply]):
    """Asks TOPReward how likely the network finds the word that says that the task is done.

    Known defect: LeRobot's own curves are stretched over [0, 1] episode by episode, so that a failed episode ends at 1
    too. Progress here is the probability itself, which can be compared between episodes.

    Args:
        loaded: The model.
    """

    def __init__(self, loaded: LerobotModel) -> None:
        self._model = loaded.model
        self._encoder = loaded.encoder
        self._threshold = float(self._model.config.success_threshold)
        self.says_done = math.isfinite(self._threshold)
        # With a threshold, compute_reward would throw the value away and return 0 or 1.
        self._model.config.success_threshold = -math.inf

    @torch.inference_mode()
    def answer(self, queries: Sequence[Showing]) -> list[RewardReply]:
        """Return one reply per query."""
        from lerobot.lerobot_types import TransitionKey

        def ask(batch: Sequence[Showing]) -> list[RewardReply]:
            videos = torch.from_numpy(np.stack([np.stack(query.frames) for query in batch]))
            transition = {
                TransitionKey.OBSERVATION: {self._encoder.image_key: videos.permute(0, 1, 4, 2, 3)},
                TransitionKey.COMPLEMENTARY_DATA: {self._encoder.task_key: [query.task for query in batch]},
            }
            made = self._encoder(transition)[TransitionKey.OBSERVATION]
            return [self._reply(value) for value in self._model.compute_reward(made).tolist()]

        # A batch is one array: videos of the same length and size.
        return _in_groups(queries, lambda query: (len(query.frames), query.frames[0].shape), ask)

    def _reply(self, value: float) -> RewardReply:
        finished = value > self._threshold if self.says_done else None
        return RewardReply(progress=min(math.exp(value), 1.0), raw=value, finished=finished)


class ClassifierJudge(Judge[Showing, RewardReply]):
    """Asks the image classifier how likely success is; of more than two classes, for the mean class.

    Args:
        loaded: The model.

    Raises:
        ModelLoadError: If the statistics of its training pictures are not with it.
    """

    def __init__(self, loaded: LerobotModel) -> None:
        self._model = loaded.model
        config = loaded.model.config
        self.keys = tuple(key for key in config.input_features if key.startswith("observation.image"))
        self.says_done = config.num_classes == 2
        self.sizes = tuple(tuple(config.input_features[key].shape[-2:]) for key in self.keys)
        mode = config.normalization_mapping["VISUAL"].name
        if mode not in ("MEAN_STD", "IDENTITY"):
            raise ModelLoadError(
                "The classifier's pictures are normalised in a way that is not known here",
                seen=mode,
                allowed="MEAN_STD or IDENTITY",
            )
        # Known defect: LeRobot trains it on normalised pictures, and shows it raw ones when it is asked during RL.
        self._scales = [
            training_statistics(loaded.folder, key) if mode == "MEAN_STD" else None for key in self.keys
        ]

    @torch.inference_mode()
    def answer(self, queries: Sequence[Showing]) -> list[RewardReply]:
        """Return one reply per query."""
        if not queries:
            return []
        images = [
            self._normal(place, [query.frames[place] for query in queries]) for place in range(len(self.keys))
        ]
        # Known defect: compute_reward throws the probability away and returns 0 or 1.
        chances = self._model.predict(images).probabilities
        if chances.ndim == 1:
            return [RewardReply(progress=p, raw=p, finished=p > 0.5) for p in chances.tolist()]
        levels = tuple(range(chances.shape[1]))
        means = [expected_value(levels, row)[0] for row in chances.tolist()]
        return [RewardReply(progress=min(mean / levels[-1], 1.0), raw=mean) for mean in means]

    def _normal(self, place: int, pictures: Sequence[Image]) -> Tensor:
        """Return the pictures of a view as the network was trained to take them, float32 (b, 3, h, w)."""
        height, width = self.sizes[place]
        sized = [
            picture
            if picture.shape[:2] == (height, width)
            else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            for picture in pictures
        ]
        images = torch.from_numpy(np.stack(sized)).permute(0, 3, 1, 2).float() / 255.0
        scale = self._scales[place]
        if scale is not None:
            mean, std = scale
            images = (images - mean) / (std + _EPSILON)
        return images.to(next(self._model.parameters()).device)


def _in_groups[R](
    queries: Sequence[Showing],
    form: Callable[[Showing], Hashable],
    ask: Callable[[Sequence[Showing]], list[R]],
) -> list[R]:
    """Ask about queries of the same form together; return the replies in the order of the queries."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for place, query in enumerate(queries):
        groups[form(query)].append(place)
    replies: dict[int, R] = {}
    for places in groups.values():
        replies |= zip(places, ask([queries[place] for place in places]), strict=True)
    return [replies[place] for place in range(len(queries))]
