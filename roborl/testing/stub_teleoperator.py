"""A teleoperator without a person: takes over and gives back by count of its readings."""

from __future__ import annotations

from typing import Any

from lerobot.teleoperators.teleoperator import Teleoperator

from roborl.testing.config_stub_teleoperator import StubTeleoperatorConfig


class StubTeleoperator(Teleoperator):  # type: ignore[misc]  # LeRobot's base class has no types
    """Behaves as LeRobot's gamepad does."""

    config_class = StubTeleoperatorConfig
    name = "stub_pad"

    def __init__(self, config: StubTeleoperatorConfig) -> None:
        super().__init__(config)
        self.config = config
        self._connected, self._readings = False, 0

    @property
    def action_features(self) -> dict[str, Any]:
        """Three deltas and a gripper command."""
        names = {"delta_x": 0, "delta_y": 1, "delta_z": 2, "gripper": 3}
        return {"dtype": "float32", "shape": (4,), "names": names}

    @property
    def feedback_features(self) -> dict[str, Any]:
        """None."""
        return {}

    @property
    def is_connected(self) -> bool:
        """Whether ``connect`` was called."""
        return self._connected

    @property
    def is_calibrated(self) -> bool:
        """Always true."""
        return True

    def connect(self, calibrate: bool = True) -> None:
        """Switch on."""
        self._connected = True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do."""

    def get_action(self) -> dict[str, Any]:
        """Return the way it is held; the gripper stays."""
        self._readings += 1
        return {"delta_x": self.config.delta_x, "delta_y": 0.0, "delta_z": 0.0, "gripper": 1}

    def get_teleop_events(self) -> dict[str, Any]:
        """Return whether the person commands."""
        return {"is_intervention": self._readings // self.config.engaged_after % 2 == 1}

    def send_feedback(self, feedback: dict[str, Any]) -> None:
        """Nothing to do."""

    def disconnect(self) -> None:
        """Switch off."""
        self._connected = False
