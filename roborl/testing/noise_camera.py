"""A camera without a lens, for physical benches in tests: LeRobot makes it and a robot owns it as it does any other."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from lerobot.cameras.camera import Camera

from roborl.testing.config_noise_camera import NoiseCameraConfig
from roborl.types import Image


class NoiseCamera(Camera):  # type: ignore[misc]  # LeRobot's base class has no types
    """Gives a new picture of noise at each reading.

    Attributes:
        latest_timestamp: When the newest was made, on ``time.perf_counter``, as LeRobot's cameras keep it.
    """

    def __init__(self, config: NoiseCameraConfig) -> None:
        super().__init__(config)
        self.latest_timestamp: float | None = None
        self._rng, self._connected = np.random.default_rng(config.seed), False

    @property
    def is_connected(self) -> bool:
        """Whether ``connect`` was called."""
        return self._connected

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """None are found by looking."""
        return []

    def connect(self, warmup: bool = True) -> None:
        """Switch on."""
        self._connected = True

    def read(self) -> Image:
        """Return a picture, uint8 (h, w, 3)."""
        self.latest_timestamp = time.perf_counter()
        return self._rng.integers(0, 256, (self.height, self.width, 3), dtype=np.uint8)

    def async_read(self, timeout_ms: float = 200) -> Image:
        """Return a picture, uint8 (h, w, 3)."""
        return self.read()

    def read_latest(self, max_age_ms: int = 500) -> Image:
        """Return a picture, uint8 (h, w, 3)."""
        return self.read()

    def disconnect(self) -> None:
        """Switch off."""
        self._connected = False
