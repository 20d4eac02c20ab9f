"""Scripted recordings are whole, resumable and say nothing that is not so."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from numpy.typing import NDArray

from roborl.cli.main import main
from roborl.data.lerobot_info import describe
from roborl.data.lerobot_io import read_episodes
from roborl.envs.bench import load_bench
from roborl.envs.experts import make_expert
from roborl.envs.robot_env import RobotEnv
from roborl.errors import DatasetError, RoborlError
from roborl.loops.by_hand import record_by_hand
from roborl.loops.record import record_scripted, spans
from roborl.loops.scripts import failure_kinds
from roborl.loops.seeds import PURPOSES, scene_seed
from roborl.roles import Policy
from roborl.types import EndCause, Observation, RewardSource, Source

NAMES = ["reach", "grasp", "carry", "place"]


class Idle:
    """Does nothing, so it fails by running out of time."""

    version = 0

    def reset(self) -> None: ...

    def act(self, observation: Observation) -> NDArray[np.float32]:
        return np.zeros((1, 4), np.float32)


def script(env: RobotEnv, kind: str, seed: int) -> Policy:
    return make_expert(env.scene, action=env.bench.action, seed=seed) if kind == "expert" else Idle()


@pytest.fixture
def env() -> RobotEnv:
    return RobotEnv(load_bench("so101_sim", ["--robot.scene=Reach", "--max_steps=12"]))


def record(env: RobotEnv, path: Path, demonstrations: int, failures: int = 1, **options: object) -> object:
    return record_scripted(
        env,
        path,
        script,
        demonstrations=demonstrations,
        failures=failures,
        failure_kinds=["stall"],
        **options,  # type: ignore[arg-type]
    )


def test_a_recording_holds_what_happened(env: RobotEnv, tmp_path: Path) -> None:
    record(env, tmp_path / "d", 2, benchmark_progress=True)
    *demos, failed = read_episodes(tmp_path / "d")
    assert [e.success for e in (*demos, failed)] == [True, True, False]
    for demo in demos:
        assert demo.end is EndCause.SUCCESS
        np.testing.assert_array_equal(demo.reward, [0] * (demo.steps - 1) + [1])
        assert [s.name for s in demo.subtasks] == list(env.scene.task.stages)
        assert demo.subtasks[-1].end == demo.steps
        assert demo.benchmark_progress is not None
        assert demo.benchmark_progress[-1] == 1.0
        assert demo.provenance is not None
        assert set(demo.provenance.source) == {Source.SCRIPT}
        assert set(demo.provenance.reward_source) == {RewardSource.ENV}
        assert demo.images["front"].shape == (demo.steps + 1, 64, 64, 3)
        assert demo.images["front"][0].std() > 5
        # The stored action is what was done: the stored states moved along it.
        safety = env.bench.safety
        half = 0.5 * (np.array(safety.workspace_high_m) - np.array(safety.workspace_low_m))
        moved = (demo.state[-1, -3:] - demo.state[0, -3:]) * half
        assert np.abs(demo.action[:, :3].sum(axis=0) * 0.015 - moved).max() < 0.02
    assert failed.failure == "stall"
    assert failed.end is EndCause.TIME_LIMIT
    assert failed.steps == 12
    assert np.abs(failed.action).max() < 1e-6
    info = describe(tmp_path / "d")
    assert info.fps == 10
    assert info.state_names[:2] == ("shoulder_pan.pos", "shoulder_lift.pos")
    assert info.state_dim == env.arm.state_dim


def test_a_stopped_recording_goes_on_and_equals_an_unstopped_one(env: RobotEnv, tmp_path: Path) -> None:
    def stop(kind: str, done: int, wanted: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record(env, tmp_path / "a", 3, on_episode=stop)
    assert describe(tmp_path / "a").episodes == 2
    result = record(env, tmp_path / "a", 3)
    assert result.present == {"expert": 2}
    assert result.written == {"expert": 1, "stall": 1}
    record(env, tmp_path / "b", 3)
    for a, b in zip(read_episodes(tmp_path / "a"), read_episodes(tmp_path / "b"), strict=True):
        assert a.key == b.key
        assert a.subtasks == b.subtasks
        np.testing.assert_array_equal(a.action, b.action)
        np.testing.assert_array_equal(a.images["wrist"], b.images["wrist"])


def test_no_two_kinds_of_failure_share_a_scene(tmp_path: Path) -> None:
    env = RobotEnv(load_bench("so101_sim", ["--robot.scene=PickCube", "--max_steps=3"]))
    seeds: dict[str, set[int]] = {}

    def note(env: RobotEnv, kind: str, seed: int) -> Policy:
        seeds.setdefault(kind, set()).add(seed)
        return Idle()

    kinds = failure_kinds(env)
    record_scripted(env, tmp_path / "d", note, demonstrations=0, failures=4, failure_kinds=kinds)
    env.close()
    assert [len(seeds[kind]) for kind in kinds] == [4] * 7
    assert len(set().union(*seeds.values())) == 28


def test_the_simulators_truth_is_stored_on_request_only(env: RobotEnv, tmp_path: Path) -> None:
    record(env, tmp_path / "d", 1, failures=0)
    assert next(read_episodes(tmp_path / "d")).benchmark_progress is None


@pytest.mark.parametrize("demonstrations", [1, 2])
def test_a_dataset_of_one_task_takes_no_other(env: RobotEnv, tmp_path: Path, demonstrations: int) -> None:
    record(env, tmp_path / "d", 1, failures=0)
    other = RobotEnv(load_bench("so101_sim", ["--robot.scene=PushCube"]))
    drawn: list[str] = []

    def note(env: RobotEnv, kind: str, seed: int) -> Policy:
        drawn.append(kind)
        return Idle()

    words = f"another task. Found: {env.task!r} in .*Allowed: {other.task!r}"
    with pytest.raises(DatasetError, match=words):
        record_scripted(other, tmp_path / "d", note, demonstrations=demonstrations)
    hand: Any = None  # It is refused before it asks anybody.
    with pytest.raises(DatasetError, match=words):
        record_by_hand(other, hand, hand, tmp_path / "d", episodes=demonstrations)
    other.close()
    assert drawn == []
    info = describe(tmp_path / "d")
    assert (info.episodes, info.tasks) == (1, (env.task,))


def test_a_rate_that_no_dataset_can_have_is_refused_before_anything_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scripted", "1", "--bench_overrides", "[--policy_hz=12.5]", "--out", str(tmp_path / "d")]
    assert main(["record", *words]) == 2
    assert "policy_hz 12.5" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("scripted", "-2", "scripted counts episodes. Found: -2. Allowed: 0 or more"),
        ("failures", "-1", "failures counts episodes. Found: -1. Allowed: 0 or more"),
        ("by_hand", "-1", "by_hand counts episodes. Found: -1. Allowed: 0 or more"),
        ("noise", "-1", "Found: noise -1, detours 0.3. Allowed: noise >= 0, detours from 0 to 1"),
        ("detours", "3", "Found: noise 0.2, detours 3. Allowed: noise >= 0, detours from 0 to 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    option: str, value: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--out", str(tmp_path / "d"), f"--{option}", value]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_kind_of_failure_that_the_task_does_not_know_is_refused_before_anything_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--scene", "Reach", "--scripted", "1", "--failures", "1", "--failure_kinds", "[miss, slip]"]
    assert main(["record", "--out", str(tmp_path / "d"), *words]) == 2
    assert "cannot be failed in this way. Found: slip. Allowed: ['miss', " in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_no_device_is_named_to_a_person_that_would_then_be_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["record", "--out", str(tmp_path / "d"), "--by_hand", "1"]) == 2
    said = capsys.readouterr().err
    assert "A person needs a teleoperator. Found: none. Allowed: ['gamepad'" in said
    assert "keyboard" not in said


def test_what_ends_a_recording_keeps_finished_episodes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "import roborl.cli.main as m; raise SystemExit(m.main())",
        "record",
        "--scene",
        "Reach",
    ]
    process = subprocess.Popen(
        [*command, "--scripted", "500", "--out", str(tmp_path / "d")],
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.stderr is not None
    seen = b""
    while b"4/500" not in seen:
        byte = process.stderr.read(1)
        assert byte, seen.decode()
        seen += byte
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(30) == 1
    assert b"stopped by SIGTERM" in rest
    kept = list(read_episodes(tmp_path / "d"))
    assert 4 <= len(kept) < 500
    assert len(LeRobotDataset("local/d", root=tmp_path / "d")) == sum(e.steps + 1 for e in kept)


def test_a_script_that_does_the_opposite_is_reported(env: RobotEnv, tmp_path: Path) -> None:
    with pytest.raises(RoborlError, match=r"'expert'.*10 attempts that failed.*Allowed: a success"):
        record_scripted(env, tmp_path / "d", lambda *_: Idle(), demonstrations=1)
    assert not (tmp_path / "d").exists()


@given(
    st.lists(st.integers(0, 3), min_size=2, max_size=30),
    st.booleans(),
)
def test_spans_cover_an_episode_without_gap_or_overlap(stages: list[int], success: bool) -> None:
    found = spans(stages, NAMES, success=success)
    assert found[0].start == 0
    assert found[-1].end == len(stages) - 1
    assert all(s.start < s.end for s in found)
    assert all(a.end == b.start for a, b in itertools.pairwise(found))


def test_spans_go_back_when_work_is_undone() -> None:
    stages = [0, 0, 1, 1, 2, 2, 0, 0, 0]
    assert [(s.name, s.start, s.end) for s in spans(stages, NAMES, success=False)] == [
        ("reach", 0, 2),
        ("grasp", 2, 4),
        ("carry", 4, 6),
        ("reach", 6, 8),
    ]


def test_a_last_stage_reached_in_the_last_step_counts_for_a_success_only() -> None:
    stages = [0, 0, 0, 0, 3]
    assert [s.name for s in spans(stages, NAMES, success=False)] == ["reach"]
    assert [(s.name, s.start, s.end) for s in spans(stages, NAMES, success=True)] == [
        ("reach", 0, 1),
        ("grasp", 1, 2),
        ("carry", 2, 3),
        ("place", 3, 4),
    ]


def test_scenes_of_different_purposes_never_meet() -> None:
    edges = [(scene_seed(p, 0, 0), scene_seed(p, 39_999, 9_999)) for p in PURPOSES]
    assert all(high < low for (_, high), (low, _) in itertools.pairwise(edges))
    assert edges[-1][1] < 2**31
    with pytest.raises(RoborlError, match="no such scene"):
        scene_seed("evaluation", 0, 10_000)
