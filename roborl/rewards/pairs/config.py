"""Settings of the small judge of hops: its network and its training."""

from __future__ import annotations

from dataclasses import dataclass

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PairNetworkConfig:
    """The network."""

    image_px: int = 64  # side of the square pictures it sees
    keypoints: int = 16  # places that are read off each picture
    channels: int = 8  # of the convolutions before them
    width: int = 192  # units per hidden layer of what compares moments
    bins: int = 25  # hops it may answer, evenly spaced from -1 to 1, odd so that 0 is one of them

    def __post_init__(self) -> None:
        if (
            self.image_px < 16
            or min(self.keypoints, self.channels, self.width) < 1
            or self.bins < 3
            or self.bins % 2 == 0
        ):
            raise ConfigError(
                "A judge of pairs cannot have this network",
                seen=self,
                allowed="image_px ≥ 16, bins odd and ≥ 3, the rest ≥ 1",
            )


@dataclass(frozen=True, kw_only=True)
class PairTraining:
    """How it is trained. Every step shows it a few episodes, and asks about all pairs of some of their moments."""

    steps: int = 1500  # optimiser steps; 0 leaves a judge that was trained before as it is
    episodes: int = 8  # per step
    moments: int = 8  # of each, and the goal as one more
    failure_share: float = 0.4  # of the episodes, where their task has failures, in [0, 1)
    # Share of the episodes that are the demonstration's, where the judge is adapted to one, in (0, 1].
    demonstration_share: float = 0.5
    # How often the picture of the start is another episode's; that of the goal is drawn from all successes of the task.
    foreign_start: float = 0.4
    no_wrist: float = 0.15  # how often a pair is shown without its wrist pictures
    mirror: float = 0.5  # how often an episode is shown in a mirror
    shift_px: int = 6  # largest shift of an episode's front pictures; those of the wrists shift half as far
    # Largest change of an episode's brightness and of each colour's share, of the full range.
    colour: float = 0.15
    learning_rate: float = 2e-3  # largest; it ends in a cosine
    weight_decay: float = 1e-4  # of AdamW
    seed: int = 0  # of network initialisation and every draw
    threads: int = 1  # of the tensor library
    save_every_s: float = 60.0  # between resume points

    def __post_init__(self) -> None:
        shares = (self.failure_share, self.foreign_start, self.no_wrist, self.mirror)
        if (
            min(self.episodes, self.threads) < 1
            or self.steps < 0
            or self.moments < 2
            or not all(0.0 <= share <= 1.0 for share in shares)
            or not 0.0 < self.demonstration_share <= 1.0
            or min(self.shift_px, self.colour, self.weight_decay, self.save_every_s, self.seed) < 0
            or self.learning_rate <= 0.0
        ):
            raise ConfigError(
                "A judge of pairs cannot be trained in this way",
                seen=self,
                allowed="steps ≥ 0, counts ≥ 1, moments ≥ 2, shares in [0, 1], demonstration_share above 0, learning_rate above 0,"
                " the rest ≥ 0",
            )
