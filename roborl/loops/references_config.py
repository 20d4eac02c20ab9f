"""Which demonstration reward models are shown, apart from what reads it: a robot's computer need not load that."""

from __future__ import annotations

from dataclasses import dataclass, field

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ReferencesConfig:
    """The demonstration that a reward model is shown, for one that compares with it."""

    # a LeRobotDataset v3 (folder or hub id), a folder of filmed episodes, or a folder with the videos of one episode,
    # named after their cameras; empty: none
    path: str = ""
    # which episode, whatever task it is of; -1: the first success of the task that is watched
    episode: int = -1
    # numbers of episodes that failed, whatever the dataset says; in train and learn those of demos.failed, where both are of
    # one recording and nothing is said here
    failed: list[int] = field(default_factory=list)
    # most pictures of each camera, evenly spaced, the first and the last among them; 1: the last one alone, as the goal.
    # Of eleven, VLAC's six stand exactly where it is told that they do, a fifth of the way apart
    frames: int = 11
    # our camera name to the dataset's, where they differ
    camera_map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.frames < 1 or self.episode < -1:
            raise ConfigError(
                "A demonstration cannot be shown in this way",
                seen=f"frames {self.frames}, episode {self.episode}",
                allowed="frames ≥ 1, episode ≥ 0, or -1 for the first success",
            )
