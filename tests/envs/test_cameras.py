import numpy as np
import pytest

from roborl.envs.cameras import Freshness
from roborl.errors import RobotError

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
    with pytest.raises(RobotError, match="frozen"):
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
