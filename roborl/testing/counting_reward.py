"""A reward model that counts observations, and a server of it that can be killed: for tests of what scores lead to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from roborl.loops.serve import RewardServer, ServeConfig
from roborl.rewards.fake import BrightnessFold, BrightnessModel
from roborl.rewards.model import References
from roborl.types import Score


class CountingFold(BrightnessFold):
    """Takes the index of the observation as progress."""

    def __init__(self, cameras: tuple[str, ...], version: str, done_at: int) -> None:
        super().__init__(cameras, version)
        self._done_at = done_at

    def fold(self, observation_id: int, replies: Sequence[tuple[float, float] | None]) -> Score:
        """Return the share of the way to the observation that is called done, whatever the pictures show."""
        score = super().fold(observation_id, replies)
        done = observation_id >= self._done_at
        return replace(score, progress=min(1.0, observation_id / self._done_at), done=done)


class CountingModel(BrightnessModel):
    """A reward model that calls the task done at one observation, and at those after it.

    Args:
        done_at: Which, from 1.
        image_px: What it says about the size of its pictures.
    """

    def __init__(self, done_at: int, image_px: int | None = None) -> None:
        super().__init__(image_px=image_px)
        self._done_at = done_at
        self.info = replace(self.info, version=f"counting-{done_at}")

    def start(self, task: str, references: References) -> CountingFold:
        """Return the fold of a new episode."""
        return CountingFold(self.info.cameras, self.info.version, self._done_at)


def serve_counting(endpoint: str, done_at: int) -> None:
    """Serve such a model until killed."""
    server = RewardServer({"reward": CountingModel(done_at)}, ServeConfig(endpoint=endpoint))
    while True:
        server.turn()


if __name__ == "__main__":
    serve_counting(sys.argv[1], int(sys.argv[2]))
