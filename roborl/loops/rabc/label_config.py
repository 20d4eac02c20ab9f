"""What ``roborl label`` is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from roborl.errors import ConfigError
from roborl.loops.references_config import ReferencesConfig
from roborl.serving.security import SecurityConfig


@dataclass(frozen=True, kw_only=True)
class LabelDatasetConfig:
    """Which dataset, and who scores it."""

    # LeRobotDataset v3 whose observations are scored: a folder or a hub id
    dataset: str = ""
    # reward model to load into this process, named as for roborl serve
    reward: str = ""
    # instead: address of a reward server
    server: str = ""
    # name of the model there; empty for its only one
    model: str = ""
    # keys for a server on another machine
    security: SecurityConfig = field(default_factory=SecurityConfig)
    # the demonstration that the model is shown, for one that compares with it; of each task its own
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # our camera name, which the model knows, to the dataset's, where they differ
    camera_map: dict[str, str] = field(default_factory=dict)
    # the instruction in words; empty for each episode's own
    task: str = ""
    # score every so many observations of an episode, and its last; those in between hold the score before them, and filter takes the line to the next
    stride: int = 1
    # folder for the file, which is named by the model's version; empty: the dataset's own
    out: Path | None = None
    # episodes that are scored side by side
    at_once: int = 8
    # most observations in one call of a model in this process
    max_batch: int = 32
    # most memory for the pictures of episodes under way, MB; one episode is read whatever it takes
    memory_mb: int = 2048
    # how long the server may be away or give no score, s
    deadline_s: float = 120.0
    # threads of the tensor library, for a model in this process
    threads: int = 1

    def __post_init__(self) -> None:
        if not self.dataset or bool(self.reward) == bool(self.server):
            raise ConfigError(
                "Labelling needs a dataset, and a reward model or a server of one",
                seen=f"dataset {self.dataset!r}, reward {self.reward!r}, server {self.server!r}",
                allowed="--dataset, and either --reward or --server",
                remedy="For example: roborl label --dataset outputs/reach --reward outputs/reach-reward",
            )
        counts = (self.stride, self.at_once, self.max_batch, self.memory_mb, self.threads)
        if min(counts) < 1 or not self.deadline_s > 0:
            raise ConfigError(
                "A dataset cannot be labelled in this way",
                seen=f"stride {self.stride}, at_once {self.at_once}, max_batch {self.max_batch}, memory_mb {self.memory_mb},"
                f" threads {self.threads}, deadline_s {self.deadline_s:g}",
                allowed="stride, at_once, max_batch, memory_mb and threads ≥ 1, deadline_s > 0",
            )
