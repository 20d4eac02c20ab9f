"""A recording made with LeRobot's own tools becomes what this bench would have done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.data.lerobot_info import describe
from roborl.envs.bench import Bench, load_bench
from roborl.envs.experts import make_expert
from roborl.envs.robot_env import RobotEnv
from roborl.errors import DatasetError
from roborl.loops.demonstrations import DemosConfig, bench_demos, is_joint_recording, warn_of_another_task
from roborl.loops.record import record_scripted
from roborl.loops.scripts import script_maker
from roborl.testing.episodes import lerobot_recording, random_episode, write_episodes


@pytest.fixture
def bench() -> Bench:
    return load_bench("so101_sim", ["--robot.scene=Reach"])


def teleoperated(path: Path, env: RobotEnv) -> list[np.ndarray]:
    """Drive the expert and write what lerobot-record would have seen: joints, and the joint targets that were sent."""
    joints = {"dtype": "float32", "shape": (6,), "names": list(env.arm.model.position_keys)}
    dataset = LeRobotDataset.create(
        "someone/reach",
        fps=10,
        root=path,
        use_videos=False,
        video_backend="pyav",
        features={
            "action": joints,
            "observation.state": joints,
            **{
                f"observation.images.{n}": {"dtype": "image", "shape": (64, 64, 3), "names": ["h", "w", "c"]}
                for n in ("cam_a", "cam_b")
            },
        },
    )
    env.reset(seed=3)
    expert = make_expert(env.scene, action=env.bench.action)
    expert.reset()
    executed, done = [], False
    while not done:
        observation = env.last_observation
        assert observation is not None
        measured = env.scene.joints()
        _, _, done, _, info = env.step(expert.act(observation)[0])
        executed.append(info["executed"])
        dataset.add_frame(
            {
                "observation.state": measured.astype(np.float32),
                "action": env.scene.commanded().astype(np.float32),
                "observation.images.cam_a": observation.images["front"],
                "observation.images.cam_b": observation.images["wrist"],
                "task": "touch the red ball",
            }
        )
    dataset.save_episode(parallel_encoding=False)
    dataset.finalize()
    return executed


def test_joint_targets_become_the_actions_that_sent_them(bench: Bench, tmp_path: Path) -> None:
    env = RobotEnv(bench)
    executed = teleoperated(tmp_path / "f", env)
    assert is_joint_recording(describe(tmp_path / "f"), bench)
    (demo,) = bench_demos(DemosConfig(path=str(tmp_path / "f")), bench)
    actions = np.stack([step.command.action for step in demo.steps])
    assert actions.shape == (len(executed), 4)
    # The first target is reached from the measured pose, which gravity pulls a little off the set-point.
    np.testing.assert_allclose(actions[1:], executed[1:], atol=0.02)
    np.testing.assert_allclose(actions[0], executed[0], atol=0.3)
    env.reset(seed=3)
    assert env.last_observation is not None
    np.testing.assert_allclose(demo.steps[0].observation.state, env.last_observation.state, atol=0.02)
    assert list(demo.steps[0].observation.frames) == ["front", "wrist"]
    env.close()


def test_our_own_recordings_are_taken_as_they_are(bench: Bench, tmp_path: Path) -> None:
    env = RobotEnv(bench)
    record_scripted(env, tmp_path / "d", script_maker(), demonstrations=2)
    env.close()
    assert not is_joint_recording(describe(tmp_path / "d"), bench)
    demos = list(bench_demos(DemosConfig(path=str(tmp_path / "d"), limit=1), bench))
    assert len(demos) == 1
    assert demos[0].steps[-1].reward == 1.0


def test_failures_come_only_when_asked_for_and_do_not_count_as_demonstrations(tmp_path: Path) -> None:
    bench = load_bench("so101_sim", ["--robot.scene=PickCube"])
    env = RobotEnv(bench)
    record_scripted(
        env, tmp_path / "d", script_maker(), demonstrations=2, failures=1, failure_kinds=["miss", "stall"]
    )
    env.close()
    config = DemosConfig(path=str(tmp_path / "d"), limit=1)
    assert [episode.success for episode in bench_demos(config, bench)] == [True]
    both = list(bench_demos(replace(config, failures=True), bench))
    assert sorted(bool(episode.success) for episode in both) == [False, False, True]


def test_datasets_that_do_not_fit_are_refused(bench: Bench, tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    with pytest.raises(DatasetError, match=r"state.*Found: 6 .*joint_0\.pos.*Allowed: 9 .*shoulder_pan\.pos"):
        list(bench_demos(DemosConfig(path=str(tmp_path / "d")), bench))
    lerobot_recording(tmp_path / "f", [4])
    with pytest.raises(
        DatasetError, match=r"actions.*another size.*Found: 6.*Allowed: 4.*--demos.actions targets"
    ):
        list(bench_demos(DemosConfig(path=str(tmp_path / "f")), bench))
    with pytest.raises(DatasetError, match=r"lacks joints.*pan\.pos.*Allowed.*shoulder_pan\.pos"):
        list(bench_demos(DemosConfig(path=str(tmp_path / "f"), actions="targets"), bench))


def test_demonstrations_of_another_task_are_warned_of(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DemosConfig(path=str(tmp_path / "d"))
    write_episodes(tmp_path / "d", random_episode(0), random_episode(1))
    warn_of_another_task(config, bench)
    (said,) = caplog.messages
    assert all(
        repr(task) in said for task in ("put the cube in bowl 0", "put the cube in bowl 1", bench.task)
    )
    caplog.clear()
    warn_of_another_task(config, replace(bench, task="put the cube in bowl 1"))
    assert caplog.messages == []


def test_the_other_rate_is_thinned_out(bench: Bench, tmp_path: Path) -> None:
    env = RobotEnv(bench)
    executed = teleoperated(tmp_path / "f", env)
    env.close()
    slower = replace(bench, policy_hz=5.0)
    (demo,) = bench_demos(DemosConfig(path=str(tmp_path / "f")), slower)
    assert len(demo.steps) == len(executed) // 2
