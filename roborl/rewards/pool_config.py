"""How a reward server's sessions share its judges."""

from __future__ import annotations

import math
from dataclasses import dataclass

from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How sessions share the judges."""

    # Most observations gathered at once, and most queries in one call of a judge; fewer where a judge takes fewer.
    max_batch: int = 32
    # Longest an observation waits for company before its batch goes off, s.
    max_wait_s: float = 0.01
    # Share of a batch that the live lane may take while labels are waiting, in (0, 1).
    live_share: float = 0.5
    # Most bytes of pictures kept waiting, all sessions together.
    max_bytes: int = 1 << 30
    # Most sessions at once.
    max_sessions: int = 256
    # A session with nothing to judge that nobody has touched for so long is forgotten, s; .inf for never.
    idle_s: float = 600.0
    # Pause before a judge that is away is asked again for labels, s; doubled each time, up to 30 s.
    retry_s: float = 1.0
    # Longest that a label waits for a judge that is reached and answers nothing, s; for one that cannot be reached it
    # waits without end, as for any with .inf.
    silent_s: float = 300.0

    def __post_init__(self) -> None:
        waits_s, counts = (
            (self.max_wait_s, self.idle_s, self.silent_s),
            (self.max_batch, self.max_bytes, self.max_sessions),
        )
        fits = min(counts) >= 1 and 0 < self.live_share < 1 and 0 < self.retry_s < math.inf
        if not fits or not all(wait_s >= 0 for wait_s in waits_s):
            raise ConfigError(
                "The reward server's settings cannot be used",
                seen=f"max_batch {self.max_batch}, max_bytes {self.max_bytes}, max_sessions {self.max_sessions},"
                f" live_share {self.live_share}, max_wait_s {self.max_wait_s}, idle_s {self.idle_s}, retry_s {self.retry_s}, silent_s {self.silent_s}",
                allowed="max_batch, max_bytes and max_sessions ≥ 1, 0 < live_share < 1, retry_s > 0 and finite, the other times ≥ 0",
                remedy="Correct them under pool",
            )

    def live_most(self, most: int) -> int:
        """Return how many observations of the live lane a batch of ``most`` may have while labels are waiting."""
        return max(1, int(most * self.live_share))

    def most_batches(self, most: int) -> int:
        """Return how many batches of ``most`` observations a label session waits for at most, the one under way included."""
        # Where one lane alone fills a batch, labels have every other.
        return 1 + math.ceil(self.max_sessions / (most - self.live_most(most) or 0.5))
