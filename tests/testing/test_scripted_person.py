"""The person of a simulated desk leads a leader arm, makes scenes ready and presses keys."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from lerobot.motors.feetech.tables import STS_SMS_SERIES_CONTROL_TABLE

from roborl.clock import NS, FakeClock
from roborl.envs.actions import ActionConfig
from roborl.errors import RoborlError
from roborl.hil.operator import ASKS
from roborl.testing.own_hands import OwnHands
from roborl.testing.scripted_person import ScriptedPerson
from roborl.testing.servo_chain import Instruction
from roborl.testing.simulated_arms import SimulatedArms
from roborl.testing.terminal import Terminal

ACTION = ActionConfig(step_m=0.012, gripper_step=25.0)
TICK_S = 0.02
GOAL = STS_SMS_SERIES_CONTROL_TABLE["Goal_Position"][0]


class Keys:
    """What the person was told, and what it typed."""

    def __init__(self) -> None:
        self.said, self.typed = "", ""

    def read(self) -> str:
        said, self.said = self.said, ""
        return said

    def type(self, key: str) -> None:
        self.typed += key


class Desk:
    """A person at a simulated desk whose follower goes where the leader is, a tenth of a second later."""

    def __init__(self, folder: Path, scene: str) -> None:
        self.clock = FakeClock()

        def now_s() -> float:
            return self.clock.now_ns() / NS

        self.keys = Keys()
        self.watched = folder / "watched.jsonl"
        self.arms = SimulatedArms(folder, scene, now_s=now_s)
        self.arms.follower.let_hold()
        self.person = ScriptedPerson(
            self.arms, self.keys, action=ACTION, leads=True, watched=self.watched, now_s=now_s
        )
        self.leads: list[float] = []

    def drive(self, seconds: float, *, follow: bool = True) -> None:
        """Let time pass, until success is pressed."""
        arms = self.arms
        for tick in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            if follow and tick % 5 == 0:
                for name, servo in arms.follower.chain.servos.items():
                    goal = arms.leader.chain.servos[name]["Present_Position"]
                    servo.write(GOAL, int(goal).to_bytes(2, "little"))
                arms.follower.chain.asked[Instruction.SYNC_WRITE] += 1
            arms.advance()
            self.person.look()
            solve = arms.scene.kinematics.position
            ahead = solve(arms.leader.joints()) - solve(arms.scene.commanded())
            self.leads.append(float(np.abs(ahead).max()))
            if "s" in self.keys.typed:
                return


@pytest.mark.parametrize("scene", ["Reach", "PickCube"])
def test_the_leader_leads_as_the_expert_would_and_success_is_pressed_once_it_is_so(
    tmp_path: Path, scene: str
) -> None:
    desk = Desk(tmp_path, scene)
    with desk.arms:
        desk.keys.said = f"1/4 person   {ASKS[:20]}"
        desk.drive(0.1)
        assert desk.keys.typed == "", "it was not asked yet"
        desk.keys.said = f"{ASKS[20:]} Ctrl-C"
        desk.drive(20.0)
        assert desk.keys.typed == "rs"
        assert desk.arms.scene.succeeded
        assert desk.person.rates_hz == [pytest.approx(10.0, rel=0.1)]
        assert max(desk.leads) < 3 * ACTION.step_m
        stages = [json.loads(line)["stage"] for line in desk.watched.read_text().splitlines()]
        assert stages[0] == 0
        assert stages[-1] == len(desk.arms.scene.task.stages) - 1


def test_it_judges_nothing_before_the_arm_was_home_and_types_again_what_was_not_heard(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "Reach")
    with desk.arms:
        away = desk.arms.scene.robot.home + np.array([30.0, 0, 0, 0, 0, 0])
        for name, steps in desk.arms.follower.steps(away).items():
            desk.arms.follower.chain.servos[name].write(GOAL, steps.to_bytes(2, "little"))
        desk.drive(0.5, follow=False)
        desk.keys.said = ASKS
        desk.drive(7.0, follow=False)
        assert desk.keys.typed == "rr"
        np.testing.assert_allclose(desk.arms.leader.joints(), desk.arms.scene.robot.home, atol=0.2)


def test_who_sits_there_asks_for_a_scene_with_enter_and_is_told_the_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs, ours = os.pipe()
    said: list[str] = []
    with os.fdopen(theirs) as stdin, os.fdopen(ours, "w") as fingers:
        monkeypatch.setattr(sys, "stdin", stdin)
        hands = OwnHands(said.append)
        assert hands.read() == ""
        print(file=fingers, flush=True)
        assert hands.read() == ASKS
        assert hands.read() == ""
    hands.type("s")
    assert said[-1] == "Press s at the command's terminal."


def test_a_command_at_a_terminal_that_fails_says_so_with_its_last_words(tmp_path: Path) -> None:
    with (
        Terminal(["fly"], tmp_path / "fly.log") as terminal,
        pytest.raises(RoborlError, match=r"fly failed with exit code 2.*no verb 'fly'.*fly\.log"),
    ):
        terminal.result()
