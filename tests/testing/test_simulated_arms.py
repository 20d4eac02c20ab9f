"""The servos of an emulated desk are the joints of the simulated arm, and LeRobot's own drivers see no difference."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.cameras.utils import make_cameras_from_configs
from lerobot.cameras.zmq import ZMQCameraConfig

from roborl.clock import NS, FakeClock
from roborl.envs.bench import load_bench, make_robot
from roborl.envs.cameras import close_after_reading
from roborl.testing.servo_chain import ServoChain
from roborl.testing.simulated_arms import SimulatedArms

# A servo turns in steps of 0.09 degrees, and LeRobot rounds towards zero; the gripper has 14 of them in a hundredth.
STEP = 0.13
TICK_S = 0.02


class Desk:
    """Simulated arms on a clock that stands still until it is set, and LeRobot's bus of the follower."""

    def __init__(self, folder: Path, chains: list[ServoChain]) -> None:
        self.clock = FakeClock()
        self.arms = SimulatedArms(folder, image_px=32, now_s=lambda: self.clock.now_ns() / NS)
        chains += [self.arms.follower.chain, self.arms.leader.chain]

    def bus(self) -> Any:
        bus = make_robot(load_bench(str(self.arms.bench()))).bus  # type: ignore[attr-defined]
        bus.connect()
        return bus

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            self.arms.advance()


@pytest.fixture
def simulated(tmp_path: Path, patient_driver: list[ServoChain]) -> Iterator[Desk]:
    desk = Desk(tmp_path, patient_driver)
    with desk.arms:
        yield desk


def test_goals_arrive_as_lerobot_meant_them_and_joints_are_reported_as_they_stand(simulated: Desk) -> None:
    arms, model = simulated.arms, simulated.arms.scene.robot
    bus = simulated.bus()
    bus.enable_torque()
    for share in (0.35, 0.5, 0.62):
        wanted = model.lower + share * (model.upper - model.lower)
        wanted[1:4] = model.home[1:4] + np.array([5.0, -5.0, -3.0]) * share
        bus.sync_write("Goal_Position", dict(zip(model.joint_names, wanted.tolist(), strict=True)))
        bus.sync_read("Present_Position")  # what is asked after a command is answered after it
        np.testing.assert_allclose(arms.follower.goals(), wanted, atol=STEP)
        simulated.wait(1.5)
        np.testing.assert_allclose(arms.scene.joints(), wanted, atol=0.5)
        seen = list(bus.sync_read("Present_Position").values())
        np.testing.assert_allclose(seen, arms.scene.joints(), atol=STEP)
    figures = arms.following.figures()
    assert max(figures["settled"]["most"]) < 0.5 < max(figures["moving"]["most"])
    bus.port_handler.closePort()


def test_goals_beyond_the_limits_end_at_them_and_the_gripper_goes_from_shut_to_open(simulated: Desk) -> None:
    arms, model = simulated.arms, simulated.arms.scene.robot
    bus = simulated.bus()
    bus.enable_torque()
    for opening in (0.0, 100.0):
        bus.write("Goal_Position", "gripper", opening)
        simulated.wait(0.8)
        assert arms.scene.opening() == pytest.approx(opening, abs=1.0)
        assert bus.read("Present_Position", "gripper") == pytest.approx(opening, abs=1.0)
    bus.write("Goal_Position", "shoulder_pan", 300.0)
    assert arms.follower.goals()[0] == pytest.approx(model.upper[0], abs=STEP)
    bus.port_handler.closePort()


def test_a_joint_without_torque_stays_where_it_stands(simulated: Desk) -> None:
    arms = simulated.arms
    before = arms.scene.joints()
    bus = simulated.bus()
    bus.write("Goal_Position", "shoulder_pan", 40.0)
    simulated.wait(0.5)
    np.testing.assert_allclose(arms.scene.joints(), before, atol=STEP)
    bus.sync_write("Goal_Position", bus.sync_read("Present_Position", normalize=False), normalize=False)
    bus.enable_torque()
    simulated.wait(0.5)
    np.testing.assert_allclose(arms.scene.joints(), before, atol=STEP)
    bus.port_handler.closePort()


def test_a_scene_that_is_made_ready_moves_objects_and_no_arm(simulated: Desk) -> None:
    scene = simulated.arms.scene
    stood, ball = scene.joints(), scene.position("red_ball")
    simulated.arms.make_ready(7)
    np.testing.assert_allclose(scene.joints(), stood, atol=1e-6)
    assert np.linalg.norm(scene.position("red_ball") - ball) > 0.01


def test_time_that_the_computer_was_away_for_is_not_made_up_for(simulated: Desk) -> None:
    simulated.clock.advance(5.0)
    simulated.arms.advance()
    assert simulated.arms.lost_s == pytest.approx(4.9)


def test_lerobots_camera_shows_the_scene_and_never_twice_the_same(simulated: Desk) -> None:
    arms = simulated.arms
    config = load_bench(str(arms.bench())).robot.cameras["front"]  # type: ignore[attr-defined]
    assert isinstance(config, ZMQCameraConfig)
    cameras = make_cameras_from_configs({"front": replace(config, timeout_ms=500)})
    close_after_reading(cameras)
    camera = cameras["front"]
    connected = threading.Thread(target=camera.connect, kwargs={"warmup": False})
    connected.start()
    pictures: list[Any] = []
    until = time.monotonic() + 10
    while len(pictures) < 2 and time.monotonic() < until:
        simulated.wait(0.1)
        if not connected.is_alive():
            pictures.append(camera.async_read(timeout_ms=2000))
        time.sleep(0.01)
    connected.join()
    camera.disconnect()
    first, second = pictures
    assert not np.array_equal(first, second)
    truth = arms.scene.render("front", 32, 32)
    # Red is red: a swap of red and blue would be far off.
    assert np.abs(first.astype(int) - truth).mean() < 12
    assert (
        np.abs(first[..., ::-1].astype(int) - truth).mean() > 1.5 * np.abs(first.astype(int) - truth).mean()
    )
