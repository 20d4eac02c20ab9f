"""Settings of the stage-aware reward model and of its training."""

from __future__ import annotations

from dataclasses import dataclass, field

from roborl.errors import ConfigError
from roborl.rewards.sarm.windows import WindowAugmentation, WindowConfig
from roborl.rewards.verdicts import DoneRule


@dataclass(frozen=True, kw_only=True)
class SarmConfig:
    """What the network is."""

    encoder: str = "cnn"  # of frames: cnn | efficientnet-lite0 | pretrained:FOLDER-OR-HUB-ID
    text: str = "words"  # encoder of the instruction: words | minilm | a folder
    image_px: int = 64  # side of the square frame the encoder sees
    frame_dim: int = 96  # size of the vector of one picture (trained encoders)
    dim: int = 96  # width of the transformer
    layers: int = 2  # of the transformer
    attention_heads: int = 4  # of each layer; they share its width equally
    members: int = 3  # heads of the ensemble that gives the spread
    use_state: bool = False  # also look at proprioception
    window: WindowConfig = field(default_factory=WindowConfig)
    done_progress: float = 0.9  # progress from which a frame counts as finished
    done_frames: int = 2  # so many finished frames in a row make "done"

    def __post_init__(self) -> None:
        for name in ("image_px", "frame_dim", "dim", "layers", "attention_heads", "members", "done_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive", seen=getattr(self, name), allowed="≥ 1")
        if self.dim % self.attention_heads:
            raise ConfigError(
                "The attention heads must share the width equally",
                seen=f"dim {self.dim}, attention_heads {self.attention_heads}",
            )
        if not 0.0 < self.done_progress <= 1.0:
            raise ConfigError(
                "done_progress is a progress", seen=self.done_progress, allowed="above 0, 1 at most"
            )

    @property
    def done_rule(self) -> DoneRule:
        """When progress counts as the task being finished."""
        return DoneRule(progress=self.done_progress, readings=self.done_frames)


@dataclass(frozen=True, kw_only=True)
class SarmTraining:
    """How it is trained. Training ends at ``steps`` or at ``budget_s``, whichever comes first."""

    steps: int = 600  # optimiser steps
    budget_s: float = 240.0  # seconds of optimisation; the learning rate follows whichever ends first
    episodes_per_step: int = 6  # episodes drawn for an optimiser step
    windows_per_episode: int = 16  # windows drawn of each
    failure_share: float = 0.5  # of the episodes of a step, where there are failures
    practice_share: float = 0.33  # of the successes among them, where there is practice to learn from
    wrong_task: float = 0.1  # probability that a window's instruction is a foreign one and its progress 0
    failure_ceiling: float = 0.6  # progress of a failure's unlabelled frames must not pass this
    learning_rate: float = 1e-3  # largest; it ends in a cosine
    weight_decay: float = 1e-2  # of AdamW
    # How often a frozen encoder sees each picture, once as it is and else shifted and relit: its vectors are kept.
    takes: int = 1
    shift_px: int = 4  # largest shift of the augmentation, per camera and episode
    brightness: float = 0.15  # largest relative change of brightness and contrast
    held_out: float = 0.2  # share of the episodes kept for the report
    windows: WindowAugmentation = field(default_factory=WindowAugmentation)
    seed: int = 0  # of network initialisation and every draw
    # torch threads; 0 leaves torch's own choice. Two on a busy two-core machine are ten times slower than one.
    threads: int = 1
    save_every_s: float = 30.0  # between resume points, where a folder is given

    def __post_init__(self) -> None:
        for name in ("steps", "episodes_per_step", "windows_per_episode", "takes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive", seen=getattr(self, name), allowed="≥ 1")
        for name in ("budget_s", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive", seen=getattr(self, name), allowed="> 0")
        shares = (self.failure_share, self.practice_share, self.wrong_task, self.failure_ceiling)
        least = (
            self.weight_decay,
            self.shift_px,
            self.brightness,
            self.seed,
            self.threads,
            self.save_every_s,
        )
        if (
            not all(0.0 <= share <= 1.0 for share in shares)
            or not 0.0 <= self.held_out < 1.0
            or not min(least) >= 0
        ):
            raise ConfigError(
                "A stage-aware model cannot be trained in this way",
                seen=self,
                allowed="failure_share, practice_share, wrong_task and failure_ceiling in [0, 1], held_out in [0, 1), the rest ≥ 0",
            )
