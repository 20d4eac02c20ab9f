"""A person records with a leader arm, both arms emulated, through ``roborl record``'s own parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.teleoperators.so_leader import SOLeaderTeleopConfig

from roborl.clock import MonotonicClock
from roborl.data.lerobot_io import read_episodes
from roborl.envs.bench import load_bench
from roborl.envs.robot_env import RobotEnv
from roborl.errors import ConfigError, RobotError
from roborl.hil.presses import Button, Presses, PressSender
from roborl.loops.actor.teleoperators import (
    connect_teleoperator,
    disconnect_teleoperator,
    make_teleoperator,
)
from roborl.loops.by_hand import HandOperator, record_by_hand
from roborl.testing.desk import DeskArm
from roborl.testing.servo_chain import ServoChain
from roborl.types import EndCause, Observation, Source

STEPS = 6


@pytest.fixture
def leader(tmp_path: Path, patient_driver: list[ServoChain]) -> Iterator[DeskArm]:
    with DeskArm(tmp_path, "leader") as arm:
        patient_driver.append(arm.chain)
        yield arm


def config(leader: DeskArm, **changes: Any) -> SOLeaderTeleopConfig:
    own = {"port": str(leader.chain.port), "id": leader.id, "calibration_dir": leader.calibration.parent}
    return SOLeaderTeleopConfig(**own | changes)


class Hand:
    """Leads the leader sideways, a little at a time, while it is read."""

    def __init__(self, leader: DeskArm, teleoperator: Any) -> None:
        self._leader, self._read, self._at = leader, teleoperator.get_action, 0
        teleoperator.get_action = self

    def __call__(self) -> Any:
        self._at += 1
        self._leader.place(self._leader.model.home + self._at * np.array([-2.0, 0, 0, 0, 0, -5.0]))
        return self._read()


def test_the_follower_goes_where_the_leader_is_led_and_the_episode_is_kept(
    desk: DeskArm, leader: DeskArm, tmp_path: Path
) -> None:
    desk.let_hold()
    teleoperator = make_teleoperator(config(leader))
    connect_teleoperator(teleoperator)
    assert leader.holds == [False] * 6, "it can be led"
    Hand(leader, teleoperator)
    keys = PressSender(tmp_path, "test")

    class Person(HandOperator):
        seen = 0

        def watch(self, observation: Observation) -> None:
            super().watch(observation)
            self.seen += 1
            if self.seen == STEPS:  # Before the last step, after which the verdict is looked for.
                keys.press(Button.SUCCESS)

    operator = Person(Presses(tmp_path), say=lambda line: keys.press(Button.READY), clock=MonotonicClock())
    env = RobotEnv(load_bench(str(desk.bench()), [f"--max_steps={STEPS + 5}"]), operator=operator)
    record_by_hand(env, operator, teleoperator, tmp_path / "demos", episodes=1)
    np.testing.assert_allclose(desk.joints()[[0, 5]], leader.joints()[[0, 5]], atol=8.0)
    assert desk.joints()[0] < -5
    disconnect_teleoperator(teleoperator)
    env.close()
    (episode,) = read_episodes(tmp_path / "demos")
    assert (episode.steps, episode.end) == (STEPS, EndCause.SUCCESS)
    assert episode.provenance is not None
    assert set(episode.provenance.source) == {Source.PERSON}
    assert np.all(episode.action[1:, 1] > 0.1), "to the side, along y"
    assert np.all(episode.action[1:, 3] < -0.1), "the gripper closes"
    assert all(desk.holds)


def test_a_leader_that_is_pulled_out_ends_the_recording_in_words(leader: DeskArm) -> None:
    teleoperator = make_teleoperator(config(leader))
    connect_teleoperator(teleoperator)
    leader.chain.unplug()
    disconnect_teleoperator(teleoperator)
    assert not teleoperator.is_connected
    with pytest.raises(RobotError, match=r"does not answer.*No such file.*tty-leader"):
        connect_teleoperator(make_teleoperator(config(leader)))


def test_the_two_arms_of_a_desk_are_told_apart(desk: DeskArm, leader: DeskArm) -> None:
    env = RobotEnv(load_bench(str(desk.bench())), operator=object.__new__(HandOperator))
    env.arm.connect()
    with pytest.raises(RobotError, match="somebody has this port open"):
        connect_teleoperator(make_teleoperator(config(leader, port=str(desk.chain.port))))
    env.close()
    leader.chain.servos["shoulder_pan"].keep("Homing_Offset", 99)
    with pytest.raises(ConfigError, match=r"another calibration.*--teleop\.type=so10\d_leader"):
        connect_teleoperator(make_teleoperator(config(leader)))


def test_a_leader_whose_units_are_not_the_followers_is_refused(leader: DeskArm) -> None:
    with pytest.raises(ConfigError, match="other units than degrees"):
        make_teleoperator(config(leader, use_degrees=False))
    leader.calibration.write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be made.*calibrate again under id leader"):
        make_teleoperator(config(leader))
