"""A reward model behind the calibration that its benchmark fitted: the same questions, progress mapped."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError
from roborl.rewards.calibration import Calibration
from roborl.rewards.measured import read_measured, row_of
from roborl.rewards.model import Fold, References, RewardModel
from roborl.rewards.model_info import ModelInfo
from roborl.rewards.verdicts import DoneCounter
from roborl.types import Observation, Score

log = logging.getLogger(__name__)


class CalibratedFold(Fold[Any, Any]):
    """The fold of a model, its scores mapped; what the model remembers stays as the model has it.

    Args:
        inner: The model's own fold.
        calibration: The map.
        info: Of the calibrated model: its version, and the rule that reads "done" off the mapped progress; without one
            the model's own word is left, which it has from elsewhere.
    """

    def __init__(self, inner: Fold[Any, Any], calibration: Calibration, info: ModelInfo) -> None:
        self._inner, self._calibration, self._info = inner, calibration, info
        self._done = None if info.done_rule is None else DoneCounter(info.done_rule)

    @property
    def written(self) -> float | None:
        """The number that the latest answer states for a level, which no calibration maps."""
        return self._inner.written

    def queries(self, observation: Observation) -> list[Any]:
        """Ask what the model asks.

        Raises:
            RoborlError: As the model's fold.
        """
        return list(self._inner.queries(observation))

    def skip(self, observation: Observation) -> None:
        """Let the model see an observation that will not be scored."""
        self._inner.skip(observation)

    def lose(self, observation_id: int) -> None:
        """Let the model hear of a missing score, and the rule that reads "done"."""
        self._inner.lose(observation_id)
        self._miss()

    def fold(self, observation_id: int, replies: Sequence[Any]) -> Score:
        """Map the model's score; ``raw`` is as the model gave it, and a missing score stays missing."""
        score = replace(self._inner.fold(observation_id, replies), version=self._info.version)
        if not score.valid:
            self._miss()
            return score
        around = (score.progress - score.spread, score.progress, score.progress + score.spread)
        low, progress, high = self._calibration(around).tolist()
        done = score.done
        if self._done is not None:
            says = self._done.read(progress)
            # The first progress of a model that knows changes alone is 0 by definition, and says nothing of the scene.
            done = None if done is None and not says else says
        return replace(score, progress=progress, spread=(high - low) / 2, done=done)

    def _miss(self) -> None:
        if self._done is not None and not self._info.done_holds:
            self._done.read(None)


class CalibratedModel:
    """A reward model with a calibration, which is part of its version; it is told in the log where it can never say done.

    Args:
        model: The model that was measured.
        calibration: The map that was fitted to it.
    """

    def __init__(self, model: RewardModel[Any, Any], calibration: Calibration) -> None:
        of, rule = model.info, model.info.done_rule
        # The rule reads what the map gives: behind the same map another reading is another version.
        reading = {} if rule is None else {"done_rule": asdict(rule), "done_holds": of.done_holds}
        described = json.dumps(calibration.as_dict() | reading, sort_keys=True).encode()
        self.info = replace(
            of,
            version=f"{of.version}-cal{hashlib.sha256(described).hexdigest()[:12]}",
            says_done=rule is not None or of.says_done,
            about={"kind": "calibrated", "of": of.about, "calibration": calibration.as_dict()} | reading,
        )
        self.judge = model.judge
        self._inner, self._calibration = model, calibration
        highest = calibration.calibrated[-1]
        if rule is not None and rule.progress > highest:
            log.warning(
                "this calibrated judge never says done: that takes a progress of %g, and its calibration maps nothing above"
                " %.3f. Set that to somewhat less in the model's settings (done.progress, RoboReward's done_score, or done_progress in"
                " training), then measure and name it anew",
                rule.progress,
                highest,
            )

    def start(self, task: str, references: References) -> CalibratedFold:
        """Return the fold of a new episode.

        Raises:
            ConfigError: If a reference that the model needs is missing.
        """
        fold = self._inner.start(task, references)
        return CalibratedFold(fold, self._calibration, self.info)


def calibrated(model: RewardModel[Any, Any], result: Path) -> CalibratedModel:
    """Return a model behind the calibration that a benchmark fitted to its very version.

    Args:
        model: The model as it was measured.
        result: The ``bench_reward.json`` of ``roborl bench-reward``.

    Raises:
        ConfigError: If the file cannot be read, is about other versions, or fitted no calibration to this one.
    """
    found = row_of(read_measured(result), model.info.version, path=result)["calibration"]
    if found is None:
        raise ConfigError(
            "A benchmark fitted no calibration to this reward model",
            seen=f"version {model.info.version} in {result}",
            allowed="a benchmark with validation episodes whose progress is known",
            remedy="Run roborl bench-reward on a dataset with marks, with ends that were told, or from simulation",
        )
    return CalibratedModel(model, Calibration.from_dict(found))
