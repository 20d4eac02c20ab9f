"""How a judge is trained: which of its weights, how fast, for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from roborl.errors import ConfigError


class Method(StrEnum):
    """Which weights learn."""

    LORA = "lora"
    """Small matrices beside the language network's, in a file of their own."""
    FULL = "full"
    """All weights."""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Size and place of the small matrices."""

    # Rank of each.
    rank: int = 16
    # What its product is multiplied by, over the rank.
    alpha: int = 32
    # Share of their input that is dropped in training, in [0, 1).
    dropout: float = 0.05
    # Layers of the language network that get one, by the last part of their name.
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0.0 <= self.dropout < 1.0 or not self.targets:
            raise ConfigError(
                "A LoRA adapter cannot have this form",
                seen=f"rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}, targets {self.targets}",
                allowed="rank ≥ 1, alpha > 0, dropout in [0, 1), at least one target",
            )


@dataclass(frozen=True, kw_only=True)
class AdaptationTraining:
    """How a judge learns its answers.

    The defaults are those published for one-shot adaptation of a hop judge: 32 questions per step, each seen twice.
    Source: Robo-Dopamine, arXiv 2512.23703, and its published scripts.
    """

    # Which weights learn: lora or full.
    method: Method = Method.LORA
    lora: LoraSettings = field(default_factory=LoraSettings)
    # How often each question is seen.
    epochs: float = 2.0
    # Optimiser steps instead of that; 0 leaves it to epochs.
    steps: int = 0
    # Questions read at once.
    batch: int = 4
    # How many times that is done before a step is taken.
    accumulate: int = 8
    # Largest learning rate; 0 for 1e-4 with LoRA and 1e-5 for all weights. It ends in a cosine.
    learning_rate: float = 0.0
    # Learning rate of the vision network as a share of it, where all weights learn; 0 leaves that network alone.
    vision_share: float = 0.05
    # Share of the steps in which the rate grows to its largest.
    warm_up: float = 0.03
    # Weight decay of AdamW.
    weight_decay: float = 0.01
    # Longest gradient; a longer one is shortened.
    clip: float = 1.0
    # Whether activations are computed again in the backward pass, which takes a third more time and far less memory.
    checkpointing: bool = False
    # Of the order of questions, of which are drawn, and of all that is random in training.
    seed: int = 0
    # Share of the episodes, or of one episode's questions, that it never learns from, in [0, 1).
    held_out: float = 0.1
    # Steps from one measurement on held-out questions to the next.
    measure_every: int = 50
    # Questions in each.
    measure: int = 64
    # Held-out questions that the finished judge answers for the report.
    report: int = 256
    # Seconds from one resume point to the next.
    save_every_s: float = 300.0

    def __post_init__(self) -> None:
        counts = (self.batch, self.accumulate, self.measure_every, self.measure, self.report)
        shares = (self.warm_up, self.held_out)
        least = (
            *(self.learning_rate, self.vision_share, self.weight_decay),
            *(self.save_every_s, self.steps, self.seed),
        )
        if (
            min(counts) < 1
            or not all(0.0 <= share < 1.0 for share in shares)
            or min(least) < 0
            or self.clip <= 0
            or (self.epochs <= 0 and not self.steps)
        ):
            raise ConfigError(
                "A judge cannot be trained in this way",
                seen=f"counts {counts}, warm_up {self.warm_up}, held_out {self.held_out},"
                f" learning_rate {self.learning_rate}, clip {self.clip}, epochs {self.epochs}, steps {self.steps},"
                f" seed {self.seed}",
                allowed="counts ≥ 1, shares in [0, 1), clip > 0, epochs > 0 or steps ≥ 1, the rest ≥ 0",
            )

    @property
    def rate(self) -> float:
        """The largest learning rate."""
        return self.learning_rate or (1e-4 if self.method is Method.LORA else 1e-5)

    def planned_steps(self, questions: int) -> int:
        """Return how many steps are taken with so many questions to learn from."""
        return self.steps or max(1, round(self.epochs * questions / (self.batch * self.accumulate)))
