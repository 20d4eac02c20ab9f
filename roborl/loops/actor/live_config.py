"""What the process that watches an arm live is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from roborl.errors import ConfigError
from roborl.loops.references_config import ReferencesConfig
from roborl.serving.security import SecurityConfig

WhenLive = Literal["auto", "always", "never"]


@dataclass(frozen=True, kw_only=True)
class LiveConfig:
    """How a reward model watches the arm while it moves: newest picture first, for what to do now and never as a label."""

    # Whether it does. auto: where server is given; roborl train gives its own where the bench leaves the outcome to the
    # reward model and done is the verdict. always: roborl train gives its own whatever the bench says.
    use: WhenLive = "auto"
    # Address of the reward server.
    server: str = ""
    # Name of the model there; empty for its only one.
    model: str = ""
    # The demonstration that it is shown, for one that compares with it; roborl train shows the labeller's.
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # Keys for a server on another machine.
    security: SecurityConfig = field(default_factory=SecurityConfig)
    # Whether an episode of training ends when it calls the task done, on a bench that leaves the outcome to a reward
    # model. False where the learner's labels.verdict is terminal01, which grades whole episodes; roborl train sees to
    # that itself.
    stops: bool = True
    # Greatest age of a picture that a score which ends an episode may be about, in seconds.
    stale_s: float = 10.0
    # After how many seconds of the bench's time without progress the person is told; 0 for never. null: 8 on a physical
    # bench, never on a simulated one.
    stuck_s: float | None = None
    # What counts as progress, of the whole task's 1.
    stuck_rise: float = 0.02

    def __post_init__(self) -> None:
        if (
            not self.stale_s > 0
            or (self.stuck_s is not None and self.stuck_s < 0)
            or not 0 < self.stuck_rise <= 1
        ):
            raise ConfigError(
                "An arm cannot be watched with these settings",
                seen=f"stale_s={self.stale_s:g} stuck_s={self.stuck_s} stuck_rise={self.stuck_rise:g}",
                allowed="stale_s > 0, stuck_s >= 0 or null, 0 < stuck_rise <= 1",
                remedy="Correct them, or set --live.use to never",
            )

    @property
    def on(self) -> bool:
        """Whether anybody watches."""
        return bool(self.server) and self.use != "never"

    def stuck_after_s(self, *, simulated: bool) -> float:
        """Return after how many seconds without progress a bench's person is told, 0 for never."""
        if self.stuck_s is None:
            return 0.0 if simulated else 8.0
        return self.stuck_s
