import contextlib
import threading
import time
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig
from lerobot.cameras.zmq import ZMQCameraConfig
from lerobot.cameras.zmq.camera_zmq import ZMQCamera

from roborl.envs.cameras import Freshness, close_after_reading, let_be_old
from roborl.errors import FrozenCamera, RobotError

PICTURE = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


def pose(degrees: float) -> np.ndarray:
    return np.full(6, degrees)


def test_a_stale_frame_is_refused_with_its_age() -> None:
    watch = Freshness(stale_s=0.5, frozen_frames=3)
    watch.check("front", PICTURE, 0.4, pose(0))
    with pytest.raises(RobotError, match=r"'front' is stale.*0\.60 s"):
        watch.check("front", PICTURE + 1, 0.6, pose(0))


def test_identical_frames_while_the_arm_moves_mean_a_frozen_camera() -> None:
    watch = Freshness(stale_s=0.5, frozen_frames=3)
    for step in range(3):
        watch.check("front", PICTURE, 0.0, pose(step))
    with pytest.raises(FrozenCamera, match="frozen"):
        watch.check("front", PICTURE, 0.0, pose(3))


def test_an_arm_at_rest_may_look_the_same_for_ever() -> None:
    watch = Freshness(stale_s=0.5, frozen_frames=3)
    for _ in range(50):
        watch.check("front", PICTURE, 0.0, pose(0))


def test_a_fresh_frame_or_a_reset_clears_the_count() -> None:
    watch = Freshness(stale_s=0.5, frozen_frames=2)
    for step in range(12):
        watch.check("front", PICTURE + step // 2, 0.0, pose(step))
        watch.check("wrist", PICTURE + step, 0.0, pose(step))
    watch.reset()
    watch.check("front", PICTURE, 0.0, pose(50))


def test_cameras_are_watched_one_by_one() -> None:
    watch = Freshness(stale_s=0.5, frozen_frames=2)
    for step in range(3):
        watch.check("front", PICTURE + step, 0.0, pose(3 * step))
        if step < 2:
            watch.check("wrist", PICTURE, 0.0, pose(3 * step))
    with pytest.raises(RobotError, match="'wrist' is frozen"):
        watch.check("wrist", PICTURE, 0.0, pose(6))


def test_a_picture_of_lerobots_cameras_may_be_as_old_as_the_bench_says() -> None:
    camera = OpenCVCamera(OpenCVCameraConfig(index_or_path=0, width=4, height=4, fps=30))
    camera.videocapture = Mock(spec=cv2.VideoCapture)
    camera.thread, camera.latest_frame = threading.current_thread(), PICTURE
    camera.latest_timestamp = time.perf_counter() - 1.0
    let_be_old({"front": camera}, 0.25)
    with pytest.raises(TimeoutError, match="500 ms"):
        camera.read_latest()
    let_be_old({"front": camera}, 2.0)
    np.testing.assert_array_equal(camera.read_latest(), PICTURE)
    camera.latest_timestamp -= 4.0
    with pytest.raises(TimeoutError, match="4000 ms"):
        camera.read_latest()


def network_camera(port: int = 1, **timing: int) -> ZMQCamera:
    """LeRobot's camera of another computer, which is not there."""
    where = {"server_address": "127.0.0.1", "port": port, "camera_name": "front"}
    return ZMQCamera(ZMQCameraConfig(**where, width=32, height=32, fps=30, **timing))


def test_a_network_camera_is_not_closed_in_the_middle_of_a_read() -> None:
    camera = network_camera()
    camera._connected = True
    within, found_within = threading.Event(), []

    def read() -> None:
        if not camera._connected:
            raise ConnectionError
        within.set()
        time.sleep(0.2)
        within.clear()

    def keep_reading() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                camera._read_from_hardware()

    camera._read_from_hardware, camera._cleanup = read, lambda: found_within.append(within.is_set())
    close_after_reading({"front": camera})
    reader = threading.Thread(target=keep_reading)
    reader.start()
    assert within.wait(2.0)
    camera._cleanup()
    assert found_within == [False]
    reader.join(2.0)
    assert not reader.is_alive()


def test_a_network_camera_that_shows_nothing_fails_and_its_reader_ends() -> None:
    camera = network_camera(timeout_ms=1300, warmup_s=1)
    close_after_reading({"front": camera})
    with pytest.raises(RuntimeError, match="Failed to connect"):
        camera.connect()
    assert camera.socket is None
    assert camera.thread is not None
    camera.thread.join(2.0)
    assert not camera.thread.is_alive()
