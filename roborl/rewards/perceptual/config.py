"""Settings of the perceptual reward model."""

from __future__ import annotations

from dataclasses import dataclass

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PerceptualConfig:
    """What is looked at, how steps are found, and how they are told apart."""

    encoder: str = "efficientnet-lite0"  # frozen, of frames: efficientnet-lite0 | pretrained:FOLDER-OR-HUB-ID
    image_px: int = 96  # side of the square frame the encoder sees
    steps: int = 0  # how many steps the task has; 0: as many as pay, see least_gain
    most_steps: int = 8  # most that are found where the number is not given
    least_gain: float = 0.05  # what a further step must take away of the deviation around a single one
    shortest: int = 3  # least frames of a step
    features: int = 32  # features by which a step is recognised
    contrast: float = 5.0  # weight of the difference of means against the deviations when features are chosen
    # Floor of a feature's deviation within a step, in deviations over all frames.
    least_deviation: float = 0.5
    strange: float = 3.0  # so many times as far from every look as any demonstrated frame: no score
    finish_frames: int = 3  # so many last frames of each demonstration show the task done
    evidence: float = 4.0  # how many independent features the chosen ones are worth together
    # Most that one picture says against a step, as a difference of log-likelihoods.
    most_evidence: float = 6.0
    undo: float = 0.1  # chance per frame of falling back to the step before

    def __post_init__(self) -> None:
        if (
            self.steps == 1
            or self.steps < 0
            or min(self.image_px, self.features, self.finish_frames) < 1
            or min(self.most_steps, self.shortest) < 2
            or min(self.contrast, self.least_deviation, self.evidence, self.most_evidence) <= 0.0
            or self.strange < 1.0
            or not 0.0 < self.least_gain < 1.0
            or not 0.0 < self.undo < 0.5
        ):
            raise ConfigError(
                "The settings of the perceptual reward model cannot be used",
                seen=self,
                allowed="steps 0 or at least 2, most_steps and shortest at least 2, the other numbers positive,"
                " strange at least 1, least_gain below 1, undo below 0.5",
            )
