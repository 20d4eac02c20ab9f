"""Tells a camera that shows the present from one that is late, frozen or dead."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from roborl.clock import NS
from roborl.envs.robot_model import Joints
from roborl.errors import FrozenCamera, RobotError
from roborl.types import Image

_TRAVEL_DEG = 2.0
"""An arm that has turned a joint this far looks different to each of its cameras."""
_LEROBOTS_LIMIT_S = 0.5
"""The age above which a camera of LeRobot's hands out no picture unless it is told otherwise."""


@dataclass(slots=True, eq=False)
class _Seen:
    rgb: Image
    joints: Joints
    repeats: int


class Freshness:
    """Watches the frames of one episode.

    Args:
        stale_s: Greatest age of a frame when the observation is put together.
        frozen_frames: How many frames in a row may be identical to the last byte while the arm moves; 0 for any number.
    """

    def __init__(self, stale_s: float, frozen_frames: int) -> None:
        self._stale_s, self._frozen_frames = stale_s, frozen_frames
        self._seen: dict[str, _Seen] = {}

    def reset(self) -> None:
        """Forget the frames so far."""
        self._seen.clear()

    def check(self, camera: str, rgb: Image, age_s: float, joints: Joints) -> None:
        """Accept a frame.

        Args:
            camera: Its camera.
            rgb: Its pixels; kept until the next call, not copied.
            age_s: How long ago it was taken.
            joints: The arm's measured pose at that time, (n,).

        Raises:
            RobotError: If the frame is too old.
            FrozenCamera: If it is identical to its predecessors though the arm has moved.
        """
        if age_s > self._stale_s:
            raise RobotError(
                f"Camera {camera!r} is stale",
                seen=f"a frame {age_s:.2f} s old",
                allowed=f"{self._stale_s:g} s",
                remedy="Check its cable and frame rate, or raise watchdog.stale_s",
            )
        if not self._frozen_frames:
            return
        seen = self._seen.get(camera)
        if seen is None or not np.array_equal(seen.rgb, rgb):
            self._seen[camera] = _Seen(rgb, joints, 0)
            return
        seen.repeats += 1
        if seen.repeats >= self._frozen_frames and np.abs(joints - seen.joints).max() > _TRAVEL_DEG:
            raise FrozenCamera(
                f"Camera {camera!r} is frozen",
                seen=f"{seen.repeats + 1} identical frames while the arm moved",
                allowed=f"{self._frozen_frames} identical frames",
                remedy="Reconnect the camera",
            )


def close_after_reading(cameras: Mapping[str, Any]) -> None:
    """Make LeRobot's network cameras close when their last read is over, and never in the middle of it.

    LeRobot 0.6.1 waits two seconds for the thread that reads, which may be in a read for five, then closes the socket
    under it, and where the connecting fails it does not wait at all. A socket of ZeroMQ that two threads use ends the whole
    process: one disconnecting of 25 did, once the computer with the cameras was gone.

    Args:
        cameras: By name, not connected yet. Those of other types are left as they are.
    """
    from lerobot.cameras.zmq.camera_zmq import ZMQCamera

    for camera in cameras.values():
        if isinstance(camera, ZMQCamera):
            _close_after_reading(camera)


def let_be_old(cameras: Mapping[str, Any], stale_s: float) -> None:
    """Let LeRobot's cameras hand out a picture that is older than half a second, where the bench's watchdog allows it.

    LeRobot's robots leave the camera's own limit at its default. Twice the bench's takes its place, so that it is the bench
    that refuses what is too old, but for a camera that shows nothing more.

    Args:
        cameras: By name.
        stale_s: Greatest age of a frame when the observation is put together.
    """
    from lerobot.cameras.camera import Camera

    for camera in cameras.values():
        if stale_s > _LEROBOTS_LIMIT_S and isinstance(camera, Camera):
            camera.read_latest = partial(camera.read_latest, max_age_ms=int(2000 * stale_s))


def _close_after_reading(camera: Any) -> None:
    read, close, reading = camera._read_from_hardware, camera._cleanup, threading.Lock()

    def read_alone() -> Any:
        with reading:
            return read()

    def close_alone() -> None:
        camera._connected = False  # The thread that reads ends at its next attempt.
        with reading:
            close()

    camera._read_from_hardware, camera._cleanup = read_alone, close_alone


def frame_age_s(cameras: Mapping[str, Any], name: str) -> float:
    """Return how old a camera's newest frame is, by the capture stamp that LeRobot's threaded cameras keep; else 0.

    A camera without a stamp is read synchronously, so its frame is as old as the call.
    """
    stamp = getattr(cameras.get(name), "latest_timestamp", None)
    return 0.0 if stamp is None else max(0.0, time.perf_counter() - stamp)


def age_ns(age_s: float) -> int:
    """Return an age as whole nanoseconds."""
    return int(age_s * NS)
