"""A LeRobot teleoperator as a person's device: its readings in the policy's own action frame, its events as buttons."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roborl.clock import NS, Clock
from roborl.hil.presses import Button
from roborl.hil.supervisor import DeviceReading

type Action = NDArray[np.float32]

_DELTAS = ("delta_x", "delta_y", "delta_z", "gripper")
# LeRobot's gripper command: 0 closes, 1 stays, 2 opens; ours: -1 closes, 0 stays, 1 opens.
_GRIPPER_STAYS = 1.0


class Teleoperator(Protocol):
    """The part of LeRobot's teleoperators that is used here."""

    def get_action(self) -> Mapping[str, Any]:
        """Return the device's present values by name."""
        ...


class DeltaMap:
    """Gamepads and keyboards that give ``delta_x``, ``delta_y``, ``delta_z`` and ``gripper``: an ``ee_delta`` action."""

    def __call__(self, values: Mapping[str, Any], now_ns: int) -> Action:
        """Return the action, float32 (4,), in [-1, 1]."""
        deltas = [float(values.get(name) or 0.0) for name in _DELTAS[:3]]
        gripper = values.get("gripper")
        deltas.append(0.0 if gripper is None else float(gripper) - _GRIPPER_STAYS)
        return np.clip(deltas, -1.0, 1.0).astype(np.float32)


class LeaderMap:
    """Leader arms: what the leader has moved within the last policy period, as an action.

    Only movement counts, so the leader needs not stand as the follower does. What a quick hand moves beyond the largest action
    is lost, but for the gripper: closed by the person, it has no movement left to give, and goes on until it is closed.

    Args:
        names: The leader's joint keys in the order of the model, such as ``shoulder_pan.pos``.
        action_between: Returns the action that moves the arm from one joint vector (n,) to another.
        period_s: One policy period.
        gripper: Index of the gripper among the joints.
        gripper_step: Its largest movement in one policy period.
    """

    def __init__(
        self,
        names: Sequence[str],
        action_between: Callable[[NDArray[np.float64], NDArray[np.float64]], Action],
        period_s: float,
        *,
        gripper: int,
        gripper_step: float,
    ) -> None:
        self._names, self._action_between = names, action_between
        self._period_ns = int(period_s * NS)
        self._gripper, self._gripper_step = gripper, gripper_step
        self._past: deque[tuple[int, NDArray[np.float64]]] = deque()

    def __call__(self, values: Mapping[str, Any], now_ns: int) -> Action:
        """Return the action, float32 (a,), in [-1, 1]."""
        now = np.array([float(values[name]) for name in self._names])
        if self._past:
            then_ns, then = self._past[-1]
            most = self._gripper_step * (now_ns - then_ns) / self._period_ns
            now[self._gripper] = then[self._gripper] + np.clip(now - then, -most, most)[self._gripper]
        self._past.append((now_ns, now))
        while len(self._past) > 2 and self._past[1][0] <= now_ns - self._period_ns:
            self._past.popleft()
        since_ns, before = self._past[0]
        # A device that was read rarely has moved over a longer time than one period.
        share = min(1.0, self._period_ns / max(1, now_ns - since_ns))
        return self._action_between(now - (now - before) * share, now)


class DeviceReader:
    """Reads a teleoperator.

    Args:
        teleoperator: A connected LeRobot teleoperator.
        to_action: Its values to an action.
        clock: Stamps readings.
    """

    def __init__(
        self, teleoperator: Teleoperator, to_action: Callable[[Mapping[str, Any], int], Action], clock: Clock
    ) -> None:
        self._teleoperator, self._to_action, self._clock = teleoperator, to_action, clock
        self._events = getattr(teleoperator, "get_teleop_events", None)
        self._held: set[Button] = set()

    def read(self) -> tuple[DeviceReading, list[Button]]:
        """Return the present reading and the buttons pressed since the last one. Blocks as long as the device does."""
        values = self._teleoperator.get_action()
        now_ns = self._clock.now_ns()
        events = {getattr(event, "value", event): on for event, on in (self._events or dict)().items()}
        held = set()
        if events.get("success"):
            held.add(Button.SUCCESS)
        elif events.get("rerecord_episode"):
            held.add(Button.DISCARD)
        elif events.get("terminate_episode") or events.get("failure"):
            held.add(Button.FAILURE)
        pressed, self._held = held - self._held, held
        reading = DeviceReading(
            action=self._to_action(values, now_ns),
            clutch=bool(events.get("is_intervention", False)),
            stamp_ns=now_ns,
        )
        return reading, sorted(pressed)
