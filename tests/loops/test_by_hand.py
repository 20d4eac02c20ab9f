"""A person's hands drive the arm through the loop that policies run on."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roborl.clock import FakeClock
from roborl.data.lerobot_io import read_episodes
from roborl.envs.bench import load_bench
from roborl.envs.experts import make_expert
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, FrozenCamera, RoborlError, RobotError, SafetyStop
from roborl.hil.operator import ASKS
from roborl.hil.presses import Button, Presses, PressSender
from roborl.loops.by_hand import HandOperator, HandPolicy, buttons_at_the_terminal, record_by_hand
from roborl.types import EndCause, Source


class Bench:
    """A simulated bench with a person: ready at once, presses what the test says at each look for a verdict."""

    def __init__(self, folder: Path, presses: dict[int, Button]) -> None:
        self.sender = PressSender(folder, "test")
        self.clock = FakeClock()
        self.operator = HandOperator(Presses(folder), say=self._say, clock=self.clock)
        self._looks, self._presses = 0, presses
        self.said: list[str] = []
        self.keys: list[list[Button]] = []
        bench = load_bench("so101_sim", ["--robot.scene=Reach", "--max_steps=9"])
        self.env = RobotEnv(bench, operator=self)
        self.scene = self.env.scene

    def _say(self, line: str) -> None:
        self.said.append(line)
        if ASKS in line:
            for button in self.keys.pop(0) if self.keys else [Button.READY]:
                self.sender.press(button)

    def reset(self, seed: int | None) -> None:
        self.operator.reset(seed)

    def verdict(self) -> bool | None:
        self._looks += 1
        if self._looks in self._presses:
            self.sender.press(self._presses[self._looks])
        return self.operator.verdict()


class Leader:
    """A leader arm in the hands of somebody who knows where the ball is."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._expert = make_expert(bench.scene, action=bench.env.bench.action)
        self._fresh = -1

    def get_action(self) -> dict[str, float]:
        arm, scene = self._bench.env.arm, self._bench.scene
        wanted = scene.kinematics.solve(scene.position(scene.task.goal), arm.set_point)
        toward = arm.set_point + np.clip(wanted - arm.set_point, -3.0, 3.0)
        return arm.model.to_features(toward)


def test_each_episode_in_simulation_begins_with_a_scene_of_its_own(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {})
    begins = []
    for seed in (0, 1, 0):
        bench.env.reset(seed=seed)
        begins.append((bench.scene.position(bench.scene.task.goal), bench.env.arm.set_point.copy()))
        for _ in range(3):
            bench.env.step(np.full(4, 0.5, np.float32))
    (ball, pose), (other, _), (again, back) = begins
    assert np.linalg.norm(other - ball) > 0.01
    np.testing.assert_array_equal(again, ball)
    np.testing.assert_array_equal(back, pose)


@pytest.fixture
def bench_with(tmp_path: Path) -> Callable[[dict[int, Button]], Bench]:
    return lambda presses: Bench(tmp_path, presses)


def test_a_person_records_judges_and_discards(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path
) -> None:
    bench = bench_with({5: Button.SUCCESS, 8: Button.DISCARD, 20: Button.FAILURE})
    told: list[int] = []
    limits_s: list[float] = []
    lost: list[RoborlError] = []
    result = record_by_hand(
        bench.env,
        bench.operator,
        Leader(bench),
        tmp_path / "d",
        episodes=2,
        on_begin=limits_s.append,
        on_episode=lambda kind, done, wanted: told.append(done),
        on_lost=lost.append,
    )
    assert (result.written, result.rejected) == ({"person": 3}, {"person": 1})
    assert told == [1, 1, 2], "what the person discards is not counted"
    assert limits_s == [0.9] * 4
    (late,) = lost
    assert re.search(r"Out of time, no verdict: not counted.*0\.9 s.*max_steps", str(late))
    won, dropped, failed = read_episodes(tmp_path / "d")
    assert (won.steps, won.end, won.success, won.discarded) == (5, EndCause.SUCCESS, True, False)
    assert (dropped.steps, dropped.end, dropped.discarded) == (3, EndCause.FAILURE, True)
    assert (failed.steps, failed.end, failed.success, failed.discarded) == (3, EndCause.FAILURE, False, False)
    assert won.provenance is not None
    assert set(won.provenance.source) == {Source.PERSON}
    assert np.abs(won.action).max() > 0.1
    assert won.subtasks == ()
    again = record_by_hand(bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=2)
    assert (again.present, again.written) == ({"person": 2}, {})


def test_what_is_pressed_between_two_episodes_judges_neither_and_is_told(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with({5: Button.FAILURE, 10: Button.FAILURE})
    bench.keys = [[Button.READY], [Button.FAILURE, Button.READY]]
    bench.env.arm.connect()
    begin = bench.env.arm.begin_episode

    def go_home() -> None:
        """On its way home a physical arm asks for stops."""
        begin()
        bench.sender.press(Button.DISCARD)
        assert bench.operator.verdict() is None
        bench.sender.press(Button.SUCCESS)

    monkeypatch.setattr(bench.env.arm, "begin_episode", go_home)
    record_by_hand(bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=2)
    kept = list(read_episodes(tmp_path / "d"))
    assert [(e.steps, e.success, e.discarded) for e in kept] == [(5, False, False)] * 2
    told = [line.split()[5] for line in bench.said if "has no effect" in line]
    assert told == ["discard", "success", "failure", "discard", "success"]
    monkeypatch.setattr(bench.env.arm, "begin_episode", lambda: bench.sender.press(Button.STOP))
    with pytest.raises(SafetyStop, match="stopped the recording"):
        record_by_hand(bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=3)


def test_stopping_keeps_what_is_finished_and_the_next_call_goes_on(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path
) -> None:
    bench = bench_with({2: Button.SUCCESS, 4: Button.STOP})
    with pytest.raises(SafetyStop, match="stopped the recording"):
        record_by_hand(bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=2)
    assert [e.key for e in read_episodes(tmp_path / "d")] == ["person-0001-000000"]
    bench = bench_with({3: Button.FAILURE})
    result = record_by_hand(bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=2)
    assert result.present == {"person": 1}
    assert [(e.key, e.success) for e in read_episodes(tmp_path / "d")] == [
        ("person-0001-000000", True),
        ("person-0001-000001", False),
    ]


def test_an_episode_whose_camera_was_late_is_lost_alone_and_shown_once_more(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with({5: Button.SUCCESS})
    observe, looks, lost = bench.env.arm.observe, iter(range(99)), []

    def late_once(index: int, **kwargs: Any) -> Any:
        if next(looks) == 3:
            raise RobotError("Camera 'wrist' is stale")
        return observe(index, **kwargs)

    monkeypatch.setattr(bench.env.arm, "observe", late_once)
    result = record_by_hand(
        bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=1, on_lost=lost.append
    )
    assert [str(error) for error in lost] == ["Camera 'wrist' is stale."]
    assert (result.written, result.rejected) == ({"person": 1}, {"person": 1})
    (kept,) = read_episodes(tmp_path / "d")
    assert kept.steps == 3, "pressed at the fifth look, of which the lost episode had two"


def test_a_recording_ends_where_a_camera_is_frozen_for_only_connecting_it_anew_helps(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with({})
    observe = bench.env.arm.observe

    def frozen(index: int, **kwargs: Any) -> Any:
        if index == 3:
            raise FrozenCamera("Camera 'wrist' is frozen")
        return observe(index, **kwargs)

    monkeypatch.setattr(bench.env.arm, "observe", frozen)
    lost: list[RoborlError] = []
    with pytest.raises(FrozenCamera):
        record_by_hand(
            bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=1, on_lost=lost.append
        )
    assert not lost


def test_a_folder_that_cannot_be_made_is_told_before_anybody_is_asked_for_a_scene(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with({2: Button.SUCCESS})
    (tmp_path / "file").touch()
    monkeypatch.setattr(bench, "reset", lambda seed: pytest.fail("the person was asked"))
    with pytest.raises(OSError, match="file"):
        record_by_hand(
            bench.env, bench.operator, Leader(bench), tmp_path / "file" / "demos" / "d", episodes=1
        )


def test_a_recording_ends_where_arm_leader_or_camera_stay_silent(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with({})
    silent = Device(ConnectionError("unplugged"))
    lost: list[RoborlError] = []
    with pytest.raises(RobotError, match=r"does not answer.*unplugged"):
        record_by_hand(bench.env, bench.operator, silent, tmp_path / "d", episodes=1, on_lost=lost.append)

    def no_port() -> None:
        raise RobotError("The robot cannot be connected", seen="no such port")

    bench.env.arm.disconnect()
    connect = bench.env.arm.connect
    monkeypatch.setattr(bench.env.arm, "connect", no_port)
    with pytest.raises(RobotError, match="no such port"):
        record_by_hand(
            bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=1, on_lost=lost.append
        )
    monkeypatch.setattr(bench.env.arm, "connect", connect)
    assert not lost

    def unplugged(index: int, **kwargs: Any) -> Any:
        raise RobotError("Camera 'wrist' is stale")

    monkeypatch.setattr(bench.env.arm, "observe", unplugged)
    with pytest.raises(RobotError, match="stale"):
        record_by_hand(
            bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=1, on_lost=lost.append
        )
    assert not lost, "nobody is asked for another scene"


def test_a_recording_ends_where_the_robot_fails_again_and_again(
    bench_with: Callable[[dict[int, Button]], Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_with({})
    observe, looks, lost = bench.env.arm.observe, iter(range(99)), []

    def flickers(index: int, **kwargs: Any) -> Any:
        if next(looks) % 2 == 0:
            raise RobotError("Camera 'wrist' is stale")
        return observe(index, **kwargs)

    monkeypatch.setattr(bench.env.arm, "observe", flickers)
    with pytest.raises(RobotError, match="stale"):
        record_by_hand(
            bench.env, bench.operator, Leader(bench), tmp_path / "d", episodes=1, on_lost=lost.append
        )
    assert len(lost) == 4


class Device:
    def __init__(self, action: dict[str, Any] | Exception) -> None:
        self._action = action

    def get_action(self) -> dict[str, Any]:
        if isinstance(self._action, Exception):
            raise self._action
        return self._action


def test_devices_speak_in_joints_or_in_deltas(bench_with: Callable[[dict[int, Button]], Bench]) -> None:
    env = bench_with({}).env
    env.reset(seed=0)
    observation = env.last_observation
    assert observation is not None

    def act(action: dict[str, Any] | Exception) -> Any:
        return HandPolicy(Device(action), env.arm).act(observation)[0]

    np.testing.assert_allclose(
        act({"delta_x": 0.5, "delta_y": 0, "delta_z": -2, "gripper": 2}), [0.5, 0, -1, 1]
    )
    np.testing.assert_allclose(act({"delta_x": 0, "delta_y": 0.1, "delta_z": 0}), [0, 0.1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        act({"delta_x": 0, "delta_y": 0, "delta_z": 1, "gripper": None}), [0, 0, 1, 0], atol=1e-6
    )
    still = env.arm.model.to_features(env.arm.set_point)
    np.testing.assert_allclose(act(still), [0, 0, 0, 0], atol=1e-6)
    open_more = {**still, "gripper.pos": still["gripper.pos"] + 17}
    np.testing.assert_allclose(act(open_more), [0, 0, 0, 0.5], atol=1e-6)
    with pytest.raises(ConfigError, match=r"teleoperator.*elbow.*Allowed.*shoulder_pan\.pos.*delta_x"):
        act({"elbow": 1.0})
    with pytest.raises(RobotError, match=r"does not answer.*unplugged"):
        act(ConnectionError("unplugged"))


class Deaf:
    """A keyboard whose emergency stop is not taken."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __enter__(self) -> Deaf:
        return self

    def __exit__(self, *_: object) -> None: ...

    def poll(self) -> None:
        raise SafetyStop("The emergency stop is not heard")


def test_an_emergency_stop_that_the_recording_does_not_hear_ends_it_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("roborl.loops.by_hand.TerminalKeyboard", Deaf)
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # Processes that test side by side have none.
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), buttons_at_the_terminal():
            time.sleep(10.0)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 5.0  # It does not wait for the end of whatever the command is about.
    assert "The emergency stop is not heard" in caplog.text
