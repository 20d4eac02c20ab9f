"""Which critic watches, what it is shown, and how its replies become progress."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from roborl.errors import ConfigError
from roborl.rewards.judges.config import JudgeConfig
from roborl.rewards.prompts import PromptConfig
from roborl.rewards.recurrences import Recurrence
from roborl.rewards.verdicts import DoneVotes


class DoneQuestion(StrEnum):
    """Whether and how the critic is asked if the task is done."""

    OFF = "off"
    """It is not asked; scores do not say."""
    TASK = "task"
    """Shown the present picture alone."""
    GOAL = "goal"
    """Shown a picture of the goal beside it."""


@dataclass(frozen=True, kw_only=True)
class VlacConfig:
    """Which checkpoint watches, what it is shown, and how its replies are used."""

    # Folder of the checkpoint, in the published or the native layout, or its name in the hub's cache.
    checkpoint: str = ""
    # How the network runs.
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    # Where the words of the questions come from: the published evo_vlac/utils/model_utils.py, or a JSON file.
    prompt: PromptConfig = field(default_factory=PromptConfig)
    # Views to look at, by name. Each is judged by itself, and the changes are averaged; "done" is asked of the first.
    cameras: tuple[str, ...] = ("front",)
    # Side of the square to which a picture is squeezed, px: that of the checkpoint.
    image_px: int = 448
    # How many pictures of a demonstration are shown with every pair; 0 for none, which is far weaker in new scenes.
    reference_frames: int = 6
    # Whether each pair is also asked the other way round; the disagreement gives the spread.
    two_sided: bool = True
    # How changes accumulate: linear, inverse or mixed. Two-sided replies are antisymmetric, which inverse undoes exactly.
    recurrence: Recurrence = Recurrence.INVERSE
    # The value never falls below this; the start of the episode is 0. Without a limit one absurd reply decides an episode.
    floor: float = -1.0
    # Observations per second, Hz.
    observation_hz: float = 10.0
    # Least time from one anchor to the next, s; 0 for one observation. Replies are whole percent, so too short a hop reads
    # as none: a task of more than about 25 s wants a fiftieth of its time.
    hop_s: float = 0.5
    # A rise up to this counts as no change.
    quiet_rise: float = 0.0
    # A fall down to this counts as no change.
    quiet_fall: float = 0.0
    # A pair whose looks have a larger standard deviation than this is not believed: its score is missing.
    contradiction: float = 0.5
    # Pairs that were answered with nothing but 0 after which scores are missing until another reply comes; 0 for never.
    abstain_pairs: int = 8
    # Whether the probabilities of the judge's tokens refine a change and its spread, the sign's among them.
    use_probabilities: bool = True
    # Whether and how the critic is asked if the task is done: off, task or goal.
    done: DoneQuestion = DoneQuestion.TASK
    # How the answers become "done".
    done_votes: DoneVotes = field(default_factory=DoneVotes)
    # Probability that yes and no must have together for their ratio to count.
    done_mass: float = 0.5
    # Most tokens that a reply may have.
    max_tokens: int = 8

    def __post_init__(self) -> None:
        if not self.cameras or "" in self.cameras or len(set(self.cameras)) != len(self.cameras):
            raise ConfigError(
                "The cameras of the critic cannot be used",
                seen=self.cameras,
                allowed="one view or several different ones, by name",
            )
        counts_hold = (
            self.image_px >= 1
            and 0 <= self.hop_s < math.inf
            and 0 < self.observation_hz < math.inf
            and self.max_tokens >= 4
            and min(self.reference_frames, self.abstain_pairs) >= 0
        )
        shares = (self.quiet_rise, self.quiet_fall, self.contradiction, self.done_mass)
        if (
            not counts_hold
            or not all(0.0 <= share <= 1.0 for share in shares)
            or math.isnan(self.floor)
            or self.floor > 0.0
        ):
            raise ConfigError(
                "The settings of the critic cannot be used",
                seen=f"image_px {self.image_px}, observation_hz {self.observation_hz}, hop_s {self.hop_s},"
                f" max_tokens {self.max_tokens},"
                f" reference_frames {self.reference_frames}, abstain_pairs {self.abstain_pairs}, floor {self.floor},"
                f" quiet_rise {self.quiet_rise}, quiet_fall {self.quiet_fall}, contradiction {self.contradiction},"
                f" done_mass {self.done_mass}",
                allowed="image_px ≥ 1, observation_hz > 0, hop_s ≥ 0, max_tokens ≥ 4, counts ≥ 0, floor ≤ 0, the others"
                " in [0, 1]",
            )

    @property
    def hop_frames(self) -> int:
        """Least number of observations from one anchor to the next."""
        return max(1, round(self.hop_s * self.observation_hz))
