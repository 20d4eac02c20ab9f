"""Our reward models as LeRobot's: run here, or asked at a reward server. LeRobot finds the classes by their names."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.configs.rewards import RewardModelConfig
from lerobot.rewards.pretrained import PreTrainedRewardModel
from torch import Tensor

from roborl.errors import ConfigError
from roborl.loops.references import read_demonstration
from roborl.loops.score_episodes import score_over
from roborl.loops.score_line import ScoreLine
from roborl.plugins.rewards.batches import WatchedEpisode, episodes_of
from roborl.plugins.rewards.configuration_rewards import RemoteConfig, RoborlConfig
from roborl.rewards.model import References, score_episode
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.registry import load_reward_model
from roborl.types import Score

log = logging.getLogger(__name__)


class RoborlRewardModel(PreTrainedRewardModel):  # type: ignore[misc]  # LeRobot has no types
    """Any reward model of ours, in LeRobot's process. It has no tensors that LeRobot would see, train or save.

    Args:
        config: Which model.
        kwargs: Statistics and descriptions of a data set, as LeRobot hands them to all models; they play no part.

    Raises:
        ModelLoadError: If the model cannot be used.
    """

    config_class = RoborlConfig
    name = "roborl"

    def __init__(self, config: RoborlConfig, **kwargs: Any) -> None:
        super().__init__(config)
        self._model = load_reward_model(config.place)
        self._references: dict[str, References] = {}

    def compute_reward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the progress at the last frame of each sample; see :func:`compute_progress`."""
        return self.compute_progress(batch)[:, -1]

    def compute_progress(self, batch: Mapping[str, Any]) -> Tensor:
        """Score every frame of every sample, each a whole episode so far, which depends on nothing later.

        Args:
            batch: As of :func:`roborl.plugins.rewards.batches.episodes_of`.

        Returns:
            Progress in [0, 1], float32 (b, t); NaN where the model gave none, and before the episode began.

        Raises:
            ConfigError: If the batch has no pictures or instruction, or the model lacks a reference.
            DatasetError: If the demonstration cannot be read, or is of another task.
            ShapeError: If an array has another form, or a view that the model needs is missing.
        """
        watched = episodes_of(batch, default_task=self.config.default_task)
        return _as_tensor(watched, [self._score(one) for one in watched], self._model.info, self.config)

    def _score(self, episode: WatchedEpisode) -> list[Score]:
        if episode.task not in self._references:
            self._references[episode.task] = read_demonstration(
                self.config.references, episode.cameras, episode.task
            )
        return score_episode(
            self._model,
            episode.task,
            episode.observations,
            references=self._references[episode.task],
            max_batch=self.config.max_batch,
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        self.config._save_pretrained(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: RoborlConfig | None = None, **_: Any
    ) -> Self:
        """Read the settings that were saved, and what they name."""
        return cls(_settings(cls, pretrained_name_or_path, config))


class RemoteRewardModel(PreTrainedRewardModel):  # type: ignore[misc]  # LeRobot has no types
    """A reward model that a running ``roborl serve`` has; its server may have a GPU and other packages than LeRobot.

    Args:
        config: Which server and model. It is asked at the first batch, so it may start later.
        kwargs: As of :class:`RoborlRewardModel`.
    """

    config_class = RemoteConfig
    name = "remote"

    def __init__(self, config: RemoteConfig, **kwargs: Any) -> None:
        super().__init__(config)
        self._line: ScoreLine | None = None
        self._asked: tuple[tuple[str, ...], str] = (), ""

    def compute_reward(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the progress at the last frame of each sample, as of :class:`RoborlRewardModel`."""
        return self.compute_progress(batch)[:, -1]

    def compute_progress(self, batch: Mapping[str, Any]) -> Tensor:
        """Score every frame of every sample, as :meth:`RoborlRewardModel.compute_progress`; blocks for the server.

        Raises:
            ConfigError: As there, and if the server has no such model or wants a view that the batch lacks.
            DatasetError: As there.
            DeadlineExceeded: If nothing comes from the server in time.
        """
        watched = episodes_of(batch, default_task=self.config.default_task)
        scored = [
            score_over(self._line_for(one), one.task, one.observations, deadline_s=self.config.deadline_s)
            for one in watched
        ]
        served = None if self._line is None else self._line.judge()
        return _as_tensor(watched, scored, None if served is None else served.info, self.config)

    def close(self) -> None:
        """Leave the server; the next batch connects again."""
        if self._line is not None:
            self._line.leave()
            self._line = None

    def _line_for(self, episode: WatchedEpisode) -> ScoreLine:
        config = self.config
        # Each task has a demonstration of its own, and a line shows one.
        asked = episode.cameras, episode.task if config.references.path else ""
        if self._line is None or asked != self._asked:
            self.close()
            self._line = ScoreLine(
                config.endpoint,
                episode.cameras,
                model=config.model,
                references=read_demonstration(config.references, episode.cameras, episode.task),
                keys=config.security.load(),
            )
            self._asked = asked
        return self._line

    def _save_pretrained(self, save_directory: Path) -> None:
        self.config._save_pretrained(save_directory)

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: RemoteConfig | None = None, **_: Any
    ) -> Self:
        """Read the settings that were saved."""
        return cls(_settings(cls, pretrained_name_or_path, config))


def _as_tensor(
    watched: Sequence[WatchedEpisode], scored: Sequence[Sequence[Score]], info: ModelInfo | None, config: Any
) -> Tensor:
    rows = [
        [math.nan] * episode.padding + [score.progress if score.valid else math.nan for score in scores]
        for episode, scores in zip(watched, scored, strict=True)
    ]
    progress = torch.tensor(rows, dtype=torch.float32, device=config.device)
    if info is not None and info.looks_back and progress.shape[1] == 1:
        _warn_of_single_pictures(info)
    return progress


@cache
def _warn_of_single_pictures(info: ModelInfo) -> None:
    """Warn once that a model which looks back is shown nothing to look back on."""
    log.warning(
        "%s looks back on earlier observations, and a batch has one per sample: each is taken for the first of its episode,"
        " and one that counts changes gives it 0. Let LeRobotDataset bring the earlier ones too, with delta_timestamps of"
        " all views and the state back to the episode's start",
        info.version,
    )


def _settings(model_class: Any, place: str | Path, config: Any) -> Any:
    config = config or RewardModelConfig.from_pretrained(place)
    if not isinstance(config, model_class.config_class):
        raise ConfigError(
            "These are the settings of another kind of reward model",
            seen=config.type,
            allowed=model_class.name,
        )
    return config
