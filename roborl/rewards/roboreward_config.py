"""How RoboReward is asked, and what its scores stand for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from roborl.errors import ConfigError
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.prompts import PromptConfig
from roborl.rewards.verdicts import DoneRule

LEVELS = (1, 2, 3, 4, 5)
# Each of the other levels keeps some probability: a mean of 5 would take a network without any doubt.
_MOST_EXPECTED = 4.9


class ScoreReadout(StrEnum):
    """How a score is read off the network."""

    PROBABILITIES = "probabilities"
    """From the probabilities of the five digits behind the words that start every answer; where a judge gives none, from
    the answer as written."""
    TEXT = "text"
    """From the answer as written."""


@dataclass(frozen=True, kw_only=True)
class RoboRewardConfig:
    """Which checkpoint watches, and how it is asked."""

    # Folder of the checkpoint, or its name in the hub's cache.
    checkpoint: str = ""
    # How the network runs.
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    # Where the words of the question come from.
    prompt: PromptConfig = field(default_factory=PromptConfig)
    # View to look at; empty where there is only one.
    camera: str = ""
    # Most frames of a question.
    frames: int = 16
    # Frames shown per second of the episode, until they are too many; then half as many, and so on, Hz.
    frame_hz: float = 2.0
    # Observations per second, Hz.
    observation_hz: float = 10.0
    # Whether the words come before the video.
    words_first: bool = True
    # How the score is read: probabilities or text.
    reading: ScoreReadout = ScoreReadout.PROBABILITIES
    # Least probability that the network gives all five digits together; below, the score is missing.
    min_mass: float = 0.5
    # Most tokens of an answer that is read as text.
    max_tokens: int = 64
    # Answers per observation, averaged; more than one needs a temperature, and answers read as text.
    votes: int = 1
    # Of sampling; 0 takes the likeliest.
    temperature: float = 0.0
    # Least pixels of a frame as the network sees it: smaller ones are enlarged; 0 leaves that to the checkpoint.
    min_pixels: int = 0
    # Most pixels of the same, whatever the number of frames: those of 320 x 240.
    max_pixels: int = 76_800
    # Least visual tokens that the network must see of each frame; fewer are refused.
    min_cells: int = 32
    # Expected score from which the task counts as done, such as 4.5: above 1 and 4.9 at most, as text 5 at most; 0 leaves
    # that to others.
    done_score: float = 0.0
    # Observations in a row that must reach it.
    done_frames: int = 3

    def __post_init__(self) -> None:
        if self.frames < 2 or self.votes < 1 or self.max_tokens < 1 or self.done_frames < 1:
            raise ConfigError(
                "The settings of RoboReward cannot be used",
                seen=f"frames {self.frames}, votes {self.votes}, max_tokens {self.max_tokens},"
                f" done_frames {self.done_frames}",
                allowed="at least two frames, and one of each of the others",
            )
        if not (0 < self.frame_hz <= self.observation_hz) or not 0 <= self.min_mass <= 1:
            raise ConfigError(
                "The settings of RoboReward cannot be used",
                seen=f"frame_hz {self.frame_hz}, observation_hz {self.observation_hz}, min_mass {self.min_mass}",
                allowed="0 < frame_hz ≤ observation_hz, min_mass in [0, 1]",
            )
        if self.votes > 1 and (not self.temperature or self.reading is not ScoreReadout.TEXT):
            raise ConfigError(
                "Several answers would be the same answer several times",
                seen=f"votes {self.votes}, temperature {self.temperature}, reading {self.reading}",
                allowed="votes with a temperature above 0, read as text",
                remedy="Set reading text and a temperature such as 0.7, or votes 1",
            )
        if self.done_score and not LEVELS[0] < self.done_score <= LEVELS[-1]:
            raise ConfigError(
                "A task that counts as done from such a score always does, or never",
                seen=f"done_score {self.done_score}",
                allowed="above 1 and 5 at most, or 0 to leave that to others",
                remedy="Set 4.5, which is nearer to 5 than to 4",
            )
        if self.reading is ScoreReadout.PROBABILITIES and self.done_score > _MOST_EXPECTED:
            raise ConfigError(
                "The mean of probabilities hardly ever comes so near to 5, and no task would ever count as done",
                seen=f"done_score {self.done_score}, reading {self.reading}",
                allowed=f"{_MOST_EXPECTED} at most, or reading text, whose 5 is one",
                remedy="Set done_score 4.5, which is nearer to 5 than to 4",
            )

    @property
    def done_rule(self) -> DoneRule | None:
        """When progress counts as the task being finished; None where that is left to others."""
        if not self.done_score:
            return None
        return DoneRule(progress=as_progress(self.done_score), readings=self.done_frames)


def as_progress(score: float) -> float:
    """Return the progress that a score from 1 to 5 stands for, exactly, so that bounds of both mean the same.

    Example:
        >>> as_progress(4.0)
        0.75
    """
    return min(max((score - 1) / 4, 0.0), 1.0)
