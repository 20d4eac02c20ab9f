"""A recording made with LeRobot's own tools becomes what this bench would have done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.dataset_tools import delete_episodes
from lerobot.datasets.lerobot_dataset import LeRobotDataset

from roborl.clock import FakeClock
from roborl.data.dataset_episode import DatasetEpisode
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.data.lerobot_writer import write_dataset
from roborl.data.weights import write_weights
from roborl.envs.arm import Arm
from roborl.envs.bench import Bench, CameraUse, load_bench
from roborl.envs.bench_maps import state_map
from roborl.envs.config_sim_robot import SimCameraConfig
from roborl.envs.experts import make_expert
from roborl.envs.robot_env import RobotEnv
from roborl.envs.robot_model import load_robot_model
from roborl.errors import DatasetError
from roborl.images import square
from roborl.loops.demonstrations import (
    DemosConfig,
    bench_demos,
    bench_episodes,
    demo_weights,
    is_joint_recording,
    recorded_observations,
    scales,
    warn_of_another_task,
)
from roborl.loops.record import record_scripted
from roborl.loops.scripts import script_maker
from roborl.testing.episodes import ACTION, lerobot_recording, random_episode, write_episodes
from roborl.testing.stub_robot import StubRobot, StubRobotConfig
from roborl.types import EndCause


@pytest.fixture
def bench() -> Bench:
    return load_bench("so101_sim", ["--robot.scene=Reach"])


def still_recording(path: Path, picture: np.ndarray, positions: np.ndarray | None = None) -> None:
    """Write rows in which one camera sees a picture, and the arm stands at home or goes through positions (n, 6)."""
    joints = {"dtype": "float32", "shape": (6,), "names": list(load_robot_model("so101_sim").position_keys)}
    camera = {"dtype": "image", "shape": picture.shape, "names": ["height", "width", "channels"]}
    features = {"action": joints, "observation.state": joints, "observation.images.front": camera}
    dataset = LeRobotDataset.create(
        "someone/wide", fps=10, root=path, use_videos=False, video_backend="pyav", features=features
    )
    rows = load_robot_model("so101_sim").home[None].repeat(3, axis=0) if positions is None else positions
    for row in rows.astype(np.float32):
        dataset.add_frame(
            {"action": row, "observation.state": row, "observation.images.front": picture, "task": "wave"}
        )
    dataset.save_episode(parallel_encoding=False)
    dataset.finalize()


def wide_bench(height: int, width: int) -> Bench:
    """Return a bench that records its camera of this size at 48x64."""
    return Bench(
        robot=StubRobotConfig(cameras={"front": SimCameraConfig(fps=30, width=width, height=height)}),
        model="so101_sim",
        task="wave",
        max_steps=20,
        cameras={"front": CameraUse(height_px=48, width_px=64)},
    )


@pytest.mark.parametrize("size", [(72, 128), (96, 128), (36, 36)])
def test_a_recording_and_the_live_camera_show_the_same_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    still_recording(tmp_path / "w", picture)
    bench = wide_bench(*size)
    robot = StubRobot(bench.robot)
    robot.get_observation = lambda: {**robot.model.to_features(robot.joints), "front": picture}  # type: ignore[method-assign]
    arm = Arm(bench, robot, FakeClock())
    arm.connect()
    live = arm.observe(0).frames["front"].rgb
    (demo,) = bench_demos(DemosConfig(path=str(tmp_path / "w")), bench)
    np.testing.assert_array_equal(demo.steps[0].observation.frames["front"].rgb, live)
    # A reward model that learns from the recording itself sees as much of the scene.
    np.testing.assert_allclose(square(picture, 4).astype(float), square(live, 4).astype(float), atol=6)


def test_a_recording_in_parts_of_the_motors_ranges_is_refused_until_its_calibration_is_named(
    tmp_path: Path,
) -> None:
    # The motors' counts over ranges of lerobot-calibrate, in both of LeRobot's units.
    names = load_robot_model("so101_sim").joint_names
    span = np.array([2679, 2358, 2203, 2341, 4095, 1458])
    counts = np.round(np.linspace(-0.1, 0.15, 30)[:, None] * span + np.array([0, -100, 200, 1000, 0, 0]))
    degrees, parts = counts * 360 / 4095, counts * 200 / span
    degrees[:, 5] = parts[:, 5] = np.linspace(20, 80, 30)
    picture = np.zeros((48, 64, 3), np.uint8)
    still_recording(tmp_path / "d", picture, degrees)
    still_recording(tmp_path / "p", picture, parts)
    motor = {"id": 1, "drive_mode": 0, "homing_offset": 0, "range_min": 800}
    calibration = tmp_path / "arm.json"
    calibration.write_text(
        json.dumps({n: motor | {"range_max": 800 + int(s)} for n, s in zip(names, span, strict=True)})
    )
    bench = wide_bench(48, 64)
    (right,) = bench_episodes(DemosConfig(path=str(tmp_path / "d")), bench)
    plain = DemosConfig(path=str(tmp_path / "p"))
    with pytest.raises(
        DatasetError,
        match=r"not in degrees.*Found: .*shoulder_lift.*Allowed: degrees.*--demos\.units normalised.*--demos\.calibration",
    ):
        list(bench_episodes(plain, bench))
    with pytest.raises(DatasetError, match=r"calibration.*Found: no file"):
        list(bench_episodes(replace(plain, units="normalised"), bench))
    named = replace(plain, units="normalised", calibration=str(calibration))
    (converted,) = bench_episodes(named, bench)
    np.testing.assert_allclose(converted.state, right.state, atol=1e-5)
    np.testing.assert_allclose(converted.action, right.action, atol=1e-3)
    (taken,) = bench_episodes(replace(plain, units="degrees"), bench)
    assert np.abs(taken.state - right.state).max() > 0.02


def test_a_camera_of_another_aspect_than_the_recordings_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    still_recording(tmp_path / "w", np.zeros((72, 128, 3), np.uint8))
    config = DemosConfig(path=str(tmp_path / "w"))
    list(bench_demos(config, wide_bench(144, 256)))
    assert not any("proportions" in said for said in caplog.messages)
    list(bench_demos(config, wide_bench(96, 128)))
    assert any("recorded at 128x72, this bench's gives 128x96" in said for said in caplog.messages)


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


def corrected() -> Bench:
    """Return the bench of these tests with another largest move and another workspace."""
    return load_bench(
        "so101_sim",
        ["--robot.scene=Reach", "--action.step_m=0.02", "--safety.workspace_low_m=[0.10, -0.2, 0.010]"],
    )


def recorded(bench: Bench, path: Path) -> list[DatasetEpisode]:
    """Record one demonstration and return it as it was written."""
    env = RobotEnv(bench)
    record_scripted(env, path, script_maker(), demonstrations=1)
    env.close()
    return list(read_episodes(path))


def metres(bench: Bench, state: np.ndarray) -> np.ndarray:
    """Return the end effector in a bench's states."""
    low, high = np.array(bench.safety.workspace_low_m), np.array(bench.safety.workspace_high_m)
    return 0.5 * (low + high) + state[:, 6:] * 0.5 * (high - low)


def test_a_recording_of_the_bench_before_it_was_corrected_is_rescaled(bench: Bench, tmp_path: Path) -> None:
    (before,) = recorded(bench, tmp_path / "d")
    config = DemosConfig(path=str(tmp_path / "d"))
    (same,) = bench_episodes(config, bench)
    np.testing.assert_array_equal(same.state, before.state)
    np.testing.assert_array_equal(same.action, before.action)
    now = corrected()
    (after,) = bench_episodes(config, now)
    np.testing.assert_allclose(after.action[:, :3] * 0.02, before.action[:, :3] * 0.015, atol=1e-8)
    np.testing.assert_array_equal(after.action[:, 3], before.action[:, 3])
    assert after.provenance is not None
    np.testing.assert_allclose(
        after.provenance.proposed[:, :3] * 0.02, before.provenance.proposed[:, :3] * 0.015, atol=1e-8
    )  # type: ignore[union-attr]
    np.testing.assert_allclose(metres(now, after.state), metres(bench, before.state), atol=1e-7)
    np.testing.assert_allclose(after.state[:, :6], before.state[:, :6], atol=1e-7)
    assert np.abs(after.state[:, 6:] - before.state[:, 6:]).max() > 0.05


def test_moves_beyond_the_benchs_largest_are_cut_and_said(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded(corrected(), tmp_path / "d")
    (demo,) = bench_episodes(DemosConfig(path=str(tmp_path / "d")), bench)
    assert np.abs(demo.action).max() == 1.0
    assert any("largest action" in said for said in caplog.messages)


def test_a_recording_without_scales_is_taken_as_it_is_and_one_of_another_model_refused(
    bench: Bench, tmp_path: Path
) -> None:
    (before,) = recorded(bench, tmp_path / "d")
    config = DemosConfig(path=str(tmp_path / "d"))
    path = tmp_path / "d" / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"]["action"]["scale"]["model"] = "other"
    path.write_text(json.dumps(info))
    with pytest.raises(
        DatasetError, match=r"another robot model.*Found: other.*Allowed: so101_sim.*info\.json"
    ):
        list(bench_episodes(config, bench))
    info["features"]["action"]["scale"]["unit"] = [1.0]
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match=r"scales.*cannot be read.*\[9, 9, 1\]"):
        describe(tmp_path / "d")
    for name in ("action", "observation.state"):
        del info["features"][name]["scale"]
    path.write_text(json.dumps(info))
    (demo,) = bench_episodes(config, corrected())
    np.testing.assert_array_equal(demo.action, before.action)
    np.testing.assert_array_equal(demo.state, before.state)


def test_scales_outlive_lerobots_tools_and_a_recording_of_others_is_not_continued(
    bench: Bench, tmp_path: Path
) -> None:
    env = RobotEnv(bench)
    for demonstrations in (1, 2):
        record_scripted(env, tmp_path / "d", script_maker(), demonstrations=demonstrations)
    env.close()
    assert describe(tmp_path / "d").scales == scales(bench)
    whole = LeRobotDataset("local/d", root=tmp_path / "d", video_backend="pyav")
    delete_episodes(whole, [0], output_dir=tmp_path / "cut", repo_id="local/cut")
    assert describe(tmp_path / "cut").scales == scales(bench)
    with pytest.raises(
        DatasetError, match=r"other scales.*Found: .*'action_unit': \(0\.015.*Allowed: .*0\.02.*new path"
    ):
        recorded(corrected(), tmp_path / "d")


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


def blank(bench: Bench, steps: int = 6) -> dict[str, Any]:
    """Return what makes a random episode one of a bench, in which nothing is to be seen."""
    return {
        "images": {name: np.zeros((steps + 1, 16, 16, 3), np.uint8) for name in bench.cameras},
        "state": np.zeros((steps + 1, state_map(bench).size), np.float32),
    }


def test_what_nobody_judged_is_no_demonstration_where_others_are_judged(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a run: successes, a failure, and what ran out of time or was stopped by the watchdog."""
    names, shape = state_map(bench).names, blank(bench)
    unjudged = shape | {"success": None, "reward": np.zeros(6, np.float32)}
    changes = (
        shape,
        unjudged | {"end": EndCause.TIME_LIMIT},
        shape | {"success": False, "end": EndCause.FAILURE},
        unjudged | {"end": EndCause.WATCHDOG},
        unjudged | {"end": EndCause.TIME_LIMIT},
    )
    episodes = [random_episode(seed, **changed) for seed, changed in enumerate(changes)]
    write_dataset(
        tmp_path / "d", episodes, fps=round(bench.policy_hz), state_names=names, action_names=ACTION
    )
    config = DemosConfig(path=str(tmp_path / "d"))

    def taken(config: DemosConfig) -> dict[int, bool | None]:
        return {demo.key.episode: demo.success for demo in bench_demos(config, bench)}

    assert recorded_observations(config, bench.task, bench.policy_hz) == 7
    assert not caplog.messages, "what is left out is said where it is read"
    assert taken(config) == {0: True}
    (said,) = caplog.messages
    assert "3 episodes are left out, of which nobody says" in said
    assert "--demos.failed" in said
    assert "--demos.success all" in said
    assert taken(replace(config, failures=True, failed=[4])) == {0: True, 2: False, 4: False}
    assert taken(replace(config, success="all")) == dict.fromkeys(range(5), True)
    write_dataset(
        tmp_path / "f", episodes[1:3], fps=round(bench.policy_hz), state_names=names, action_names=ACTION
    )
    config = replace(config, path=str(tmp_path / "f"))
    assert taken(config) == {}, "a run takes this for an error"
    assert taken(replace(config, failures=True)) == {1: False}


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("failures", [False, True])
def test_observations_are_counted_of_what_is_taken_alone(
    bench: Bench, tmp_path: Path, limit: int, failures: bool
) -> None:
    episodes = [
        random_episode(seed, steps, **blank(bench, steps), discarded=seed == 2)
        for seed, steps in enumerate((4, 6, 5, 9, 7))
    ]
    names = state_map(bench).names
    write_dataset(
        tmp_path / "d", episodes, fps=round(bench.policy_hz), state_names=names, action_names=ACTION
    )
    config = DemosConfig(path=str(tmp_path / "d"), failed=[0, 4], limit=limit, failures=failures)
    brought = [len(demo.steps) + 1 for demo in bench_demos(config, bench)]
    assert len(brought) == (limit or 2) + 2 * failures
    assert recorded_observations(config, bench.task, bench.policy_hz) == sum(brought)


def write_unpaid(folder: Path) -> None:
    """Take the rewards out of a dataset."""
    for path in folder.glob("data/**/*.parquet"):
        table = pq.read_table(path)
        place = table.column_names.index("next.reward")
        zeros = pa.nulls(table.num_rows, table.schema.field(place).type).fill_null(0.0)
        pq.write_table(table.set_column(place, table.schema.field(place), zeros), path)


def test_failed_episodes_are_named_and_earn_nothing(bench: Bench, tmp_path: Path) -> None:
    env = RobotEnv(bench)
    record_scripted(env, tmp_path / "d", script_maker(), demonstrations=3)
    env.close()
    config = DemosConfig(path=str(tmp_path / "d"), failed=[1])
    assert [episode.key.episode for episode in bench_demos(config, bench)] == [0, 2]
    for success in ("file", "all"):
        first, second, _ = bench_demos(replace(config, success=success, failures=True), bench)
        assert (first.success, first.steps[-1].reward) == (True, 1.0)
        assert (second.success, second.steps[-1].reward) == (False, 0.0)
        assert second.end is EndCause.FAILURE
    # As one with a column of rewards in which nobody was ever paid, and that says nothing of outcomes.
    write_unpaid(tmp_path / "d")
    paid = list(bench_demos(DemosConfig(path=str(tmp_path / "d"), success="all"), bench))
    assert [(e.success, e.steps[-1].reward) for e in paid] == [(True, 1.0)] * 3
    with pytest.raises(DatasetError, match=r"failed.*Found: \[3\].*0 to 2"):
        list(bench_demos(replace(config, failed=[3]), bench))


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
    assert said.startswith("2 of 2 demonstrations")
    caplog.clear()
    one = replace(bench, task="put the cube in bowl 1")
    warn_of_another_task(config, one)
    (said,) = caplog.messages
    assert said.startswith("1 of 2 demonstrations")
    assert "'put the cube in bowl 0' (1)" in said
    caplog.clear()
    warn_of_another_task(replace(config, only_task=True), one)
    assert caplog.messages == []


def test_demonstrations_of_several_tasks_may_be_held_to_the_benchs_own(bench: Bench, tmp_path: Path) -> None:
    names, shape = state_map(bench).names, blank(bench)
    tasks = (bench.task, "push the cube away", bench.task)
    write_dataset(
        tmp_path / "d",
        [random_episode(seed, **shape, task=task) for seed, task in enumerate(tasks)],
        fps=round(bench.policy_hz),
        state_names=names,
        action_names=ACTION,
    )
    config = DemosConfig(path=str(tmp_path / "d"))
    assert recorded_observations(replace(config, only_task=True), bench.task, bench.policy_hz) == 14
    assert [demo.key.episode for demo in bench_demos(config, bench)] == [0, 1, 2]
    assert [demo.key.episode for demo in bench_demos(replace(config, only_task=True), bench)] == [0, 2]


def test_where_nobody_judged_anything_all_are_successes_and_paid(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names, shape = state_map(bench).names, blank(bench)
    unjudged = shape | {"success": None, "reward": np.zeros(6, np.float32), "end": EndCause.TIME_LIMIT}
    episodes = [random_episode(seed, **unjudged) for seed in range(3)]
    write_dataset(
        tmp_path / "d", episodes, fps=round(bench.policy_hz), state_names=names, action_names=ACTION
    )
    config = DemosConfig(path=str(tmp_path / "d"))
    assert recorded_observations(config, bench.task, bench.policy_hz) == 21
    assert not caplog.messages
    for told, ends in (
        (config, [EndCause.SUCCESS] * 3),
        (replace(config, failed=[1], failures=True), [EndCause.SUCCESS, EndCause.FAILURE, EndCause.SUCCESS]),
    ):
        demos = list(bench_demos(told, bench))
        assert [demo.end for demo in demos] == ends
        assert [demo.steps[-1].reward for demo in demos] == [float(end is EndCause.SUCCESS) for end in ends]
    assert "taken for successes" in caplog.messages[0]


def test_the_other_rate_is_thinned_out(bench: Bench, tmp_path: Path) -> None:
    env = RobotEnv(bench)
    executed = teleoperated(tmp_path / "f", env)
    env.close()
    slower = replace(bench, policy_hz=5.0)
    (demo,) = bench_demos(DemosConfig(path=str(tmp_path / "f")), slower)
    assert len(demo.steps) == len(executed) // 2
    shown = recorded_observations(DemosConfig(path=str(tmp_path / "f")), slower.task, slower.policy_hz)
    assert shown == len(demo.steps) + 1


def test_weights_go_with_a_recording_at_the_benchs_rate(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    path = tmp_path / "weights.parquet"
    write_weights(
        tmp_path / "d", path, {0: np.linspace(1, 0, 7, dtype=np.float32)}, version="v", settings={"chunk": 2}
    )
    bench = load_bench("so101_sim")
    config = DemosConfig(path=str(tmp_path / "d"), weights=str(path))
    found = demo_weights(config, replace(bench, policy_hz=10.0))
    assert found is not None
    assert found[0] == pytest.approx(np.linspace(1, 0, 7))
    assert demo_weights(replace(config, weights=""), bench) is None
    with pytest.raises(DatasetError, match=r"thinned out cannot be weighed.*10 Hz.*5 Hz"):
        demo_weights(config, replace(bench, policy_hz=5.0))
