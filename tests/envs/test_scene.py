"""The simulator's own truth: time passes as it is told, and to press on something is not to hold it."""

from __future__ import annotations

import numpy as np
import pytest

from roborl.envs.bench import load_bench
from roborl.envs.experts import Noise, make_expert
from roborl.envs.failures import failure_maker
from roborl.envs.robot_env import RobotEnv
from roborl.envs.robot_model import load_robot_model
from roborl.envs.scene import Scene
from roborl.envs.tasks.registry import make_task


@pytest.mark.parametrize("control_hz", [20, 30, 50, 60, 100, 200, 400])
def test_as_much_time_passes_as_is_asked_for(control_hz: int) -> None:
    scene = Scene(make_task("Reach"), load_robot_model("so101_sim"))
    for _ in range(control_hz):
        scene.advance(1.0 / control_hz)
    assert scene.data.time == pytest.approx(1.0, abs=1e-6)
    assert scene.model.opt.timestep <= 0.004 + 1e-12
    scene.close()


@pytest.mark.parametrize("beside_m", [0.0, 0.05])
def test_closed_fingers_that_press_on_an_object_do_not_hold_it(beside_m: float) -> None:
    env = RobotEnv(load_bench("so101_sim", ["--robot.scene=PickCube", "--max_steps=60"]), images=False)
    touched = 0
    for seed in range(3):
        env.reset(seed=seed)
        scene = env.scene
        for step in range(30):
            above = [0.0, 0.0, 0.05] if step < 14 else [0.0, 0.0, 0.005 if beside_m == 0.0 else 0.0]
            goal = scene.position("red_cube") + above - [beside_m if step < 16 else 0.0, 0.0, 0.0]
            move = (goal - scene.kinematics.position(scene.commanded())) / 0.015
            env.step(np.append(np.clip(move, -1.0, 1.0), -1.0).astype(np.float32))
            if scene.opening() < 5.0:
                touched += all(scene.touching("red_cube"))
                assert not scene.grasped("red_cube")
    env.close()
    assert touched > 5


def test_neither_detours_nor_stalls_can_be_read_off_the_light() -> None:
    """Scripts and looks are drawn from one seed, and not from one stream."""
    bench = load_bench("so101_sim", ["--robot.scene=PickCube", "--robot.randomisation=mild"])
    env = RobotEnv(bench, images=False)
    light, stops, detours = [], [], []
    for seed in range(80):
        env.reset(seed=seed)
        light.append(float(env.scene.model.vis.headlight.ambient[0]))
        stalled = failure_maker("stall", env.scene, action=bench.action, seed=seed)
        stalled.reset()  # as a recording does
        stops.append(stalled._stop_at)
        expert = make_expert(env.scene, action=bench.action, noise=Noise(detours=0.5), seed=seed)
        expert.reset()
        detours.append(expert._detour_left > 0)
    env.close()
    assert np.ptp(light) > 0.05
    assert abs(np.corrcoef(light, stops)[0, 1]) < 0.3
    assert abs(np.corrcoef(light, detours)[0, 1]) < 0.3
