"""The control loop on a fake clock, with a fake arm and a fake inference process that answers while the loop sleeps."""

from __future__ import annotations

import gc
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.clock import NS, FakeClock
from roborl.codec import encode, split
from roborl.data.arena import ArenaReader
from roborl.data.journal import Journal
from roborl.data.store import Store, StoreSpec
from roborl.envs.arm import Arm as RealArm
from roborl.envs.bench import Bench as Wiring
from roborl.envs.bench import CameraUse, WatchdogConfig
from roborl.errors import FrozenCamera, RobotError
from roborl.hil.operator import PersonOperator
from roborl.hil.presses import Button, Press, Presses, PressSender
from roborl.hil.supervisor import PolicyOnly
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.loops.actor.act import success_of
from roborl.loops.actor.control import ControlLoop
from roborl.loops.actor.control_settings import ControlSettings, WaitReason
from roborl.loops.actor.judge_stop import JudgeStop, LiveScore, LiveSlot
from roborl.loops.actor.orders import Orders
from roborl.loops.actor.shared import Chunk, ChunkSlot, ObservationSlot, Slot
from roborl.loops.actor.status import StatusSlot
from roborl.loops.seeds import scene_seed
from roborl.records import Arrival, Begin, End, Record, Verdict, unpack_record
from roborl.testing.config_stub_robot import StubRobotConfig
from roborl.testing.stub_robot import Fault, StubRobot
from roborl.types import EndCause, EpisodeKey, Frame, Observation, RewardSource, Source

CAMERAS = {"front": (4, 4, 3)}
PERIOD_S = 0.02
BY_HAND = np.float32([-1, -1])


class Arm:
    """Moves nothing; remembers what it was told and when."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.ticks_per_step, self.action_dim = 5, 2
        self.calls: list[str] = []
        self.sent_ns: list[int] = []
        self.actions: list[np.ndarray] = []
        self.limit = 1.0
        self.fault: Callable[[str, int], None] = lambda call, count: None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.fault(call, self.calls.count(call))

    def begin_episode(self) -> None:
        self._note("begin_episode")

    def observe(self, index: int) -> Observation:
        self._note("observe")
        now = self.clock.now_ns()
        rgb = np.full((4, 4, 3), index % 256, np.uint8)
        frame = Frame(rgb=rgb, camera="front", stamp_ns=now, id=index)
        return Observation(frames={"front": frame}, state=np.full(3, index, np.float32), stamp_ns=now)

    def begin_step(self, action: np.ndarray) -> np.ndarray:
        self._note("begin_step")
        executed = np.clip(action, -self.limit, self.limit)
        self.actions.append(executed)
        return executed

    def begin_return(self) -> bool:
        self._note("begin_return")
        return self.calls[-2] != "follows"

    def follows(self) -> bool:
        self._note("follows")
        return True

    def check_home(self) -> None:
        self._note("check_home")

    def tick(self) -> None:
        self._note("tick")
        self.sent_ns.append(self.clock.now_ns())

    def hold(self) -> None:
        self._note("hold")
        self.sent_ns.append(self.clock.now_ns())


class Scripted:
    """A supervisor: the person commands the steps of ``person``, the device is lost at step ``lost_at``."""

    def __init__(self, person: Collection[int], lost_at: int = -1) -> None:
        self.person, self.lost_at, self.released = person, lost_at, 0

    def decide(self, observation: Observation, proposed: np.ndarray) -> tuple[np.ndarray, Source] | None:
        index = int(observation.state[0])
        if index == self.lost_at:
            return None
        return (BY_HAND, Source.PERSON) if index in self.person else (proposed, Source.POLICY)

    def release(self) -> None:
        self.released += 1


class Operator:
    def __init__(self) -> None:
        self.seeds: list[int | None] = []
        self.success_at: int | None = None
        self.asked = 0

    def reset(self, seed: int | None) -> None:
        self.seeds.append(seed)
        self.asked = 0

    def verdict(self) -> bool | None:
        self.asked += 1
        return True if self.asked == self.success_at else None


class Inference:
    """Answers the newest wanted request after ``latency_s``, or none where that is None; one at a time."""

    def __init__(self, folder: Path, cameras: dict[str, tuple[int, int, int]], state_dim: int) -> None:
        self.requests = ObservationSlot(folder, cameras, state_dim)
        self.slot = ChunkSlot(folder)
        self.latency_s: float | None = 0.0
        self.length = 1
        self.asked: list[tuple[EpisodeKey, int]] = []
        self.after_person: list[int] = []
        self.act: Callable[[Observation], np.ndarray] = lambda o: np.full((self.length, 2), 0.5, np.float32)
        self._due: tuple[int, Chunk] | None = None

    def __call__(self, now_ns: int) -> None:
        request = self.requests.unseen() if self._due is None else None
        if request is not None and request.wanted and self.latency_s is not None:
            self.asked.append((request.key, request.index))
            self.after_person += [request.index] * request.after_person
            chunk = Chunk(
                key=request.key,
                first=request.index,
                actions=self.act(request.observation),
                policy_version=7,
            )
            self._due = (now_ns + int(self.latency_s * NS), chunk)
        if self._due is not None and now_ns >= self._due[0]:
            self.slot.publish(self._due[1])
            self._due = None


class Ticking(FakeClock):
    """A fake clock on which others work while somebody sleeps."""

    def __init__(self) -> None:
        super().__init__(NS)
        self.during: list[Callable[[int], None]] = []

    def sleep_until(self, instant_ns: int) -> None:
        for work in self.during:
            work(self.now_ns())
        super().sleep_until(instant_ns)


class Bench:
    """One loop with all its fakes."""

    def __init__(self, folder: Path, **overrides: Any) -> None:
        self.folder = folder
        self.clock = overrides.pop("clock", None) or Ticking()
        self.arm = Arm(self.clock)
        arm = overrides.pop("arm", self.arm)
        cameras, state_dim = overrides.pop("sees", (CAMERAS, 3))
        self.operator = Operator()
        self.others: list[Press] = []
        self.answer: Callable[[], object] = lambda: self.keys.press(Button.READY)
        self.inference = Inference(folder, cameras, state_dim)
        self.clock.during.append(self.inference)
        self.slots = overrides.pop("slots", 64)
        self.journal = Journal(
            folder / "ring.bin", actor="arm", slots=self.slots, slot_bytes=overrides.pop("slot_bytes", 2048)
        )
        self.ring = self.journal.ring
        self.status = StatusSlot(folder, "control")
        self.stop = False
        self.presses = Presses(folder)
        self.keys = PressSender(folder, "test")
        self.orders = Orders(
            self.presses,
            self.clock,
            silence_s=overrides.pop("silence_s", None),
            on_press=self.others.append,
            done=JudgeStop(LiveSlot(folder).unseen, self.clock, stale_s=overrides.pop("stale_s", 1.0)),
        )
        self.live = LiveSlot(folder)
        self.waiting = WaitReason.NOTHING
        operator = self.person() if overrides.pop("by_person", False) else self.operator
        parts: dict[str, Any] = {
            "supervisor": overrides.pop("supervisor", PolicyOnly()),
            "settings": self.settings(**overrides),
        }
        self.loop = ControlLoop(
            arm=arm,
            operator=operator,
            journal=self.journal,
            observations=ObservationSlot(folder, cameras, state_dim),
            chunks=ChunkSlot(folder),
            status=self.status,
            clock=self.clock,
            blocked=lambda: self.waiting,
            orders=self.orders,
            stopping=lambda: self.stop,
            **parts,
        )

    def person(self) -> PersonOperator:
        """A person at the buttons, who says that the scene is ready whenever asked."""
        return PersonOperator(
            self.presses,
            say=lambda line: self.answer(),
            clock=self.clock,
            on_press=self.orders.hear,
        )

    def press_during_observe(self, number: int, button: Button, **named: Any) -> None:
        """Press while the camera is read for the ``number``-th time, from 1."""

        def press(call: str, count: int) -> None:
            if call == "observe" and count == number:
                self.keys.press(button, **named)

        self.arm.fault = press

    @staticmethod
    def settings(**overrides: Any) -> ControlSettings:
        values: dict[str, Any] = {
            "task": "reach",
            "meta": {"mode": "train"},
            "control_hz": 1 / PERIOD_S,
            "max_steps": 6,
            "episodes": 1,
        }
        return ControlSettings(**values | overrides)

    def records(self) -> list[Any]:
        first = max(1, self.ring.head - self.ring.slots + 1)
        return [unpack_record(split(self.ring.read(n))) for n in range(first, self.ring.head + 1)]


@pytest.fixture(autouse=True, scope="module")
def _frozen_heap() -> Iterator[None]:
    """As in the control process: what was loaded is left out of the collection at each episode's start."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def arrivals(bench: Bench) -> list[Arrival]:
    return [record for record in bench.records() if isinstance(record, Arrival)]


def ends(bench: Bench) -> list[End]:
    return [record for record in bench.records() if isinstance(record, End)]


def test_an_episode_has_a_beginning_t_plus_1_arrivals_and_an_end(bench: Bench) -> None:
    bench.loop.run()
    begin, *middle, end = bench.records()
    assert isinstance(begin, Begin)
    assert begin.meta == {"mode": "train", "seed": scene_seed("online", 0, 0)}
    assert [arrival.index for arrival in middle] == list(range(7))
    assert middle[0].command is None
    assert all(arrival.command.policy_version == 7 for arrival in middle[1:])
    assert (end.cause, end.index) == (EndCause.TIME_LIMIT, 6)
    assert bench.status["holds"] == 0
    assert bench.operator.seeds == [begin.meta["seed"]]


def test_scenes_are_of_the_purpose_that_the_loop_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path, purpose="evaluation", episodes=2)
    bench.loop.run()
    assert bench.operator.seeds == [scene_seed("evaluation", 0, 0), scene_seed("evaluation", 0, 1)]


def test_success_is_the_reward_of_the_step_that_reached_it(bench: Bench) -> None:
    bench.operator.success_at = 3
    bench.loop.run()
    assert [a.reward for a in arrivals(bench)] == [0.0, 0.0, 0.0, 1.0]
    assert arrivals(bench)[-1].reward_source is RewardSource.ENV
    assert (ends(bench)[0].cause, ends(bench)[0].index) == (EndCause.SUCCESS, 3)


def test_each_control_period_has_one_set_point_whatever_inference_does(bench: Bench) -> None:
    bench.inference.latency_s = 0.07
    bench.loop.run()
    periods = (np.array(bench.arm.sent_ns) - NS) // int(PERIOD_S * NS)
    np.testing.assert_array_equal(np.diff(periods), 1)
    # Three whole periods pass before an answer is there; then the step starts within its period.
    assert bench.status["holds"] == 3 * 6
    assert bench.arm.calls.count("tick") == 6 * 5


def test_an_answer_within_the_period_costs_no_period(bench: Bench) -> None:
    bench.inference.latency_s = 0.011
    bench.loop.run()
    assert bench.status["holds"] == 0
    assert bench.status["late_max_ns"] == 0


def test_set_points_go_out_a_period_apart_though_their_step_began_late_in_its_period(bench: Bench) -> None:
    """They are planned so: what follows sooner makes the joints faster than their limit."""
    bench.inference.latency_s = 0.011
    bench.loop.run()
    np.testing.assert_allclose(np.diff(bench.arm.sent_ns) / NS, [PERIOD_S] * 29, atol=1e-6)
    assert bench.status["late_max_ns"] == 0


def test_set_points_of_two_steps_are_a_period_apart_too_where_the_second_begins_sooner_in_its_period(
    bench: Bench,
) -> None:
    def jitter(call: str, count: int) -> None:
        if call == "observe":
            bench.inference.latency_s = (0.003, 0.009)[count % 2]

    bench.arm.fault = jitter
    bench.loop.run()
    assert bench.status["holds"] == 0
    assert np.diff(bench.arm.sent_ns).min() >= PERIOD_S * NS
    assert bench.arm.sent_ns[-1] - bench.arm.sent_ns[0] == 29 * PERIOD_S * NS


@pytest.mark.parametrize("look_s", [0.015, 0.02, 0.021, 0.045])
def test_set_points_go_out_a_period_apart_though_the_arm_was_looked_at_for_longer(
    bench: Bench, look_s: float
) -> None:
    bench.inference.length = 50
    bench.arm.fault = lambda call, count: bench.clock.advance(look_s) if call == "observe" else None
    bench.loop.run()
    apart_s = np.diff(np.reshape(bench.arm.sent_ns, (6, 5))) / NS
    np.testing.assert_allclose(apart_s, PERIOD_S, atol=1e-6)
    assert bench.status["late_max_ns"] == pytest.approx(max(0.0, look_s - PERIOD_S) * NS), "it is counted"


def test_a_world_that_waits_is_not_moved_by_holding(tmp_path: Path) -> None:
    bench = Bench(tmp_path, world_waits=True)
    bench.inference.latency_s = 0.07
    bench.loop.run()
    assert bench.status["holds"] == 18
    assert "hold" not in bench.arm.calls


def test_the_stored_action_is_the_one_executed_and_the_proposal_stands_beside_it(bench: Bench) -> None:
    bench.arm.limit = 0.25
    bench.loop.run()
    command = arrivals(bench)[1].command
    assert command is not None
    np.testing.assert_array_equal(command.action, np.float32([0.25, 0.25]))
    np.testing.assert_array_equal(command.proposed, np.float32([0.5, 0.5]))
    assert bench.status["clipped"] == 6


@given(
    length=st.integers(1, 6),
    replan=st.integers(1, 6),
    latency_s=st.sampled_from([0.0, 0.013, 0.05, 0.13]),
    person=st.sets(st.integers(0, 11)),
)
@settings(max_examples=25)
def test_each_action_was_chosen_for_its_own_step(
    tmp_path_factory: pytest.TempPathFactory, length: int, replan: int, latency_s: float, person: set[int]
) -> None:
    """An action names the observation it was chosen at and its place in the chunk, so a wrong pairing shows."""

    bench = Bench(
        tmp_path_factory.mktemp("bench"),
        max_steps=12,
        replan_steps=min(replan, length),
        supervisor=Scripted(person),
    )
    bench.inference.latency_s = latency_s

    def act(observation: Observation) -> np.ndarray:
        first = observation.state[0]
        return np.stack([np.full(length, first), first + np.arange(length)], 1).astype(np.float32) / 64

    bench.inference.act = act
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.TIME_LIMIT
    for before, after in zip(arrivals(bench)[:-1], arrivals(bench)[1:], strict=True):
        command = after.command
        assert command is not None
        chosen_at, meant_for = np.round(command.proposed * 64).astype(int)
        assert before.index == int(before.observation.state[0])
        assert (command.source is Source.PERSON) == (before.index in person)
        if command.policy_version == 0:
            # A person does not wait for the policy to propose something.
            assert command.source is Source.PERSON
            assert not command.proposed.any()
        else:
            assert (command.policy_version, meant_for) == (7, before.index)
        if command.source is Source.PERSON:
            np.testing.assert_array_equal(command.action, BY_HAND)
        else:
            # No action that was chosen before a person's last step drives the arm afterwards.
            assert all(taken >= before.index or chosen_at > taken for taken in person)


def test_silent_inference_stops_the_arm_and_ends_the_episode_as_data(tmp_path: Path) -> None:
    bench = Bench(tmp_path, action_deadline_s=0.3)
    bench.inference.latency_s = None
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.WATCHDOG
    assert not ends(bench)[0].cause.terminated
    assert "tick" not in bench.arm.calls
    assert bench.arm.calls[-1] == "hold"
    assert bench.status["watchdogs"] == 1


def die_at(bench: Bench, index: int) -> None:
    """Let the policy give its last answer at observation ``index``."""

    def fall_silent(now_ns: int) -> None:
        if bench.inference.asked and bench.inference.asked[-1][1] >= index:
            bench.inference.latency_s = None

    bench.clock.during.append(fall_silent)


@pytest.mark.parametrize(("replan_steps", "steps"), [(1, 3 + 1 + 5), (4, 4 + 4 + 5), (50, 50)])
def test_inference_that_dies_stops_the_arm_before_its_last_chunk_is_used_up(
    tmp_path: Path, replan_steps: int, steps: int
) -> None:
    """Once the next chunk was asked for, the arm acts on for the deadline, then holds as long, then stops."""
    bench = Bench(tmp_path, action_deadline_s=0.5, replan_steps=replan_steps, max_steps=100, slots=200)
    bench.inference.length = 50
    die_at(bench, 3 if replan_steps < 50 else 0)
    bench.loop.run()
    (end,) = ends(bench)
    assert (end.cause, end.index) == (EndCause.WATCHDOG, steps)
    assert bench.arm.calls.count("tick") == 5 * steps
    # The deadline, and the stop itself.
    assert 25 <= bench.arm.calls.count("hold") <= 25 + 2 + 10


def test_a_policy_that_is_slow_but_within_its_deadline_is_not_taken_for_silent(tmp_path: Path) -> None:
    bench = Bench(tmp_path, action_deadline_s=0.5, max_steps=40, slots=200)
    bench.inference.length, bench.inference.latency_s = 50, 0.4
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.TIME_LIMIT
    assert bench.status["holds"] <= 21, "before the first answer alone"


@pytest.mark.parametrize(("length", "latency_s"), [(50, 0.2), (1, 0.2), (1, 0.7), (1, None)])
def test_a_person_does_not_wait_for_the_policy(tmp_path: Path, length: int, latency_s: float | None) -> None:
    """Be it slow, slower than its deadline, or dead."""
    bench = Bench(tmp_path, action_deadline_s=0.5, max_steps=30, slots=200, supervisor=Scripted(range(30)))
    bench.inference.length, bench.inference.latency_s = length, latency_s
    bench.loop.run()
    assert [(end.cause, end.index) for end in ends(bench)] == [(EndCause.TIME_LIMIT, 30)]
    assert bench.status["holds"] == 0
    assert bench.arm.sent_ns[-1] - NS <= 30 * 5 * PERIOD_S * NS
    commands = [arrival.command for arrival in arrivals(bench)[1:]]
    if length == 50:
        # All but what was there before the first answer.
        assert [command.policy_version for command in commands] == [0] * 2 + [7] * 28
        np.testing.assert_array_equal(commands[-1].proposed, np.float32([0.5, 0.5]))
    else:
        assert {(command.policy_version, *command.proposed) for command in commands} == {(0, 0.0, 0.0)}


def test_a_proposal_that_comes_within_the_period_stands_beside_what_the_person_did(tmp_path: Path) -> None:
    bench = Bench(tmp_path, supervisor=Scripted(range(6)))
    bench.inference.latency_s = 0.011
    bench.loop.run()
    assert {arrival.command.policy_version for arrival in arrivals(bench)[1:]} == {7}
    assert bench.status["holds"] == 0


def test_once_the_person_lets_go_a_dead_policy_stops_the_arm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, action_deadline_s=0.3, max_steps=30, slots=200, supervisor=Scripted(range(10)))
    bench.inference.latency_s = None
    bench.loop.run()
    assert [(end.cause, end.index) for end in ends(bench)] == [(EndCause.WATCHDOG, 10)]
    assert bench.arm.calls[-1] == "hold"


@pytest.mark.parametrize("length", [50, 1])
@pytest.mark.parametrize("latency_s", [0.3, 0.45])
def test_a_person_gives_back_to_a_policy_that_has_an_earlier_observation_to_answer_first(
    tmp_path: Path, latency_s: float, length: int
) -> None:
    """Each of its answers comes within the deadline, the one that counts at twice the time."""
    for back in range(10, 16):
        folder = tmp_path / str(back)
        folder.mkdir()
        person = Scripted(range(5, back))
        bench = Bench(folder, action_deadline_s=0.5, max_steps=20, slots=200, supervisor=person)
        bench.inference.latency_s, bench.inference.length = latency_s, length
        bench.loop.run()
        assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT]


def test_the_policy_is_told_that_a_person_moved_the_arm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_steps=8, supervisor=Scripted([0, 3, 4]))
    bench.loop.run()
    assert bench.inference.after_person == [1, 4, 5]


def test_a_policy_that_dies_once_it_has_answered_an_earlier_observation_stops_the_arm(tmp_path: Path) -> None:
    """Within twice the deadline, here 0.5 s, and the stop itself."""
    bench = Bench(tmp_path, action_deadline_s=0.5, max_steps=30, slots=200, supervisor=Scripted(range(10)))
    bench.inference.latency_s = 0.45
    die_at(bench, 8)
    bench.loop.run()
    assert [(end.cause, end.index) for end in ends(bench)] == [(EndCause.WATCHDOG, 10)]
    assert 25 < bench.arm.calls.count("hold") <= 50 + 2 + 10


def test_a_world_that_waits_gives_a_person_the_proposal_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path, world_waits=True, supervisor=Scripted(range(6)))
    bench.inference.latency_s = 0.07
    bench.loop.run()
    assert {arrival.command.policy_version for arrival in arrivals(bench)[1:]} == {7}


def test_a_take_over_by_button_ends_with_its_episode_and_the_log_hears_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Scripted((1, 2, 4))
    bench = Bench(tmp_path, episodes=2, supervisor=supervisor)
    bench.loop.run()
    assert supervisor.released == 2
    said = [record.getMessage() for record in caplog.records if "the person had" in record.getMessage()]
    assert said == [f"{end.key}: the person had the arm in steps 1 to 2, 4" for end in ends(bench)]


@pytest.mark.parametrize("call", ["observe", "tick", "begin_step"])
def test_a_robot_that_fails_ends_the_episode_at_its_last_whole_step(bench: Bench, call: str) -> None:
    def fail(name: str, count: int) -> None:
        if name == call and count == 4:
            raise RobotError("broken")

    bench.arm.fault = fail
    bench.loop.run()
    end = ends(bench)[0]
    assert end.cause is EndCause.WATCHDOG
    assert end.index == arrivals(bench)[-1].index
    stopped_then_asked = ["hold", "begin_episode", "observe"]
    assert bench.arm.calls[-3:] == stopped_then_asked, "servos and cameras answer"
    assert bench.status["robot_faults"] == 1


def test_an_episode_that_a_fault_cut_short_is_no_failure_of_the_policy_that_is_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(tmp_path, purpose="evaluation", episodes=3, slots=200)

    def fail(call: str, count: int) -> None:
        if call == "observe" and count == 3:
            raise RobotError("camera late")

    bench.arm.fault = fail
    bench.operator.success_at = 5
    bench.loop.run()
    causes = [end.cause for end in ends(bench)]
    assert causes == [EndCause.WATCHDOG, *[EndCause.SUCCESS] * 3], "another is run in its place"
    rate = success_of(bench.status.values())
    assert rate["success"] == 1.0
    assert rate["success_low"] < 0.5, "of three"
    assert "1 episodes were cut short by a fault" in caplog.text


@pytest.mark.parametrize(("pressed", "rate"), [(None, 1.0), (Button.STOP, 2 / 3), (Button.DISCARD, 1.0)])
def test_an_episode_that_the_end_of_the_run_cuts_short_is_no_failure_of_the_policy_that_is_evaluated(
    tmp_path: Path, pressed: Button | None, rate: float
) -> None:
    """What a person stops is one."""
    bench = Bench(tmp_path, purpose="evaluation", episodes=50)
    bench.operator.success_at = 3

    def end(call: str, count: int) -> None:
        if call == "observe" and count == 2 * 4 + 2:
            bench.stop = True
            if pressed is not None:
                bench.keys.press(pressed)

    bench.arm.fault = end
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [*[EndCause.SUCCESS] * 2, EndCause.OPERATOR_STOP]
    assert success_of(bench.status.values())["success"] == rate


def test_in_practice_the_end_of_the_run_is_no_fault(bench: Bench) -> None:
    def end(call: str, count: int) -> None:
        bench.stop = bench.stop or (call, count) == ("observe", 2)

    bench.arm.fault = end
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.OPERATOR_STOP
    assert (bench.status["episodes"], bench.status["cut_short"]) == (1, 0)


def test_a_verdict_on_an_episode_that_does_not_count_counts_for_nothing(tmp_path: Path) -> None:
    """The operator calls it a success as soon as the robot has failed."""
    bench = Bench(tmp_path, purpose="evaluation", episodes=1, slots=200)

    def fail(call: str, count: int) -> None:
        if call == "observe" and count == 3:
            bench.keys.press(Button.SUCCESS, episode=bench.loop._key, index=1)
            raise RobotError("camera late")

    bench.arm.fault = fail
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.WATCHDOG, EndCause.TIME_LIMIT]
    assert any(isinstance(record, Verdict) for record in bench.records()), "it is stored as ever"
    assert success_of(bench.status.values())["success"] == 0.0


def test_what_a_person_helped_with_is_no_success_of_the_policy_that_is_evaluated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    supervisor = Scripted([2])
    bench = Bench(
        tmp_path, purpose="evaluation", episodes=2, slots=200, supervisor=supervisor, by_person=True
    )

    def press(call: str, count: int) -> None:
        if call == "observe" and count in (5, 10):  # after the fourth step of either episode
            bench.keys.press(Button.SUCCESS)
        if call == "begin_episode" and count == 2:
            supervisor.person = ()

    def again() -> None:
        if bench.status["episodes"] == 1:  # the person says it once more, when it is over
            bench.keys.press(Button.FAILURE, episode=bench.loop._key, index=4)
            bench.keys.press(Button.SUCCESS, episode=bench.loop._key, index=4)
        bench.keys.press(Button.READY)

    bench.arm.fault, bench.answer = press, again
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.SUCCESS] * 2
    assert bench.status["helped"] == 1
    assert success_of(bench.status.values())["success"] == 0.5
    assert "A person had the arm in 1 episodes: they count as failures" in caplog.text


def test_in_practice_what_a_person_helped_with_is_a_success_as_ever(tmp_path: Path) -> None:
    bench = Bench(tmp_path, supervisor=Scripted([2]))
    bench.operator.success_at = 5
    bench.loop.run()
    assert (bench.status["successes"], bench.status["helped"]) == (1, 0)


def test_a_persons_step_counts_once_it_is_committed(tmp_path: Path) -> None:
    """A button that ends the episode cuts its last step short."""
    bench = Bench(tmp_path, supervisor=Scripted(range(6)))

    def press(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == 13:
            bench.keys.press(Button.STOP)

    bench.clock.during.append(press)
    bench.loop.run()
    assert [end.index for end in ends(bench)] == [2]
    assert bench.status["person_steps"] == bench.status["steps"] == 2


def test_an_evaluation_of_a_policy_that_never_answers_comes_to_an_end(tmp_path: Path) -> None:
    bench = Bench(tmp_path, purpose="evaluation", episodes=2, action_deadline_s=0.1, slots=200)
    bench.inference.latency_s = None
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.WATCHDOG] * 7
    assert success_of(bench.status.values()) == {}


@pytest.mark.parametrize("call", ["observe", "tick", "begin_step"])
@pytest.mark.parametrize("count", [4, 6])
@pytest.mark.parametrize("blocked_s", [0.2, 3.0])
def test_a_robot_call_that_blocks_for_longer_than_a_tick_may_be_late_ends_the_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: str, count: int, blocked_s: float
) -> None:
    """Nothing of the step that it was in is an experience: its action did not have its time."""
    bench = Bench(tmp_path, tick_deadline_s=0.25, max_steps=6)

    def block(name: str, number: int) -> None:
        if name == call and number == (count + 1 if call == "observe" else count):
            bench.clock.advance(blocked_s)

    bench.arm.fault = block
    bench.loop.run()
    (end,) = ends(bench)
    spans_s = np.diff([arrival.observation.stamp_ns for arrival in arrivals(bench)]) / NS
    remarks = [line for line in caplog.messages if "tick_deadline_s" in line]
    if blocked_s < 0.25:
        assert (end.cause, end.index) == (EndCause.TIME_LIMIT, 6)
        assert not remarks
        assert spans_s.max() > 0.2
        return
    steps = (count - 1) // bench.arm.ticks_per_step if call == "tick" else count - 1
    assert (end.cause, end.index) == (EndCause.WATCHDOG, steps)
    assert [arrival.index for arrival in arrivals(bench)] == list(range(steps + 1))
    assert (spans_s < 0.15).all()
    assert bench.arm.calls[-1] == "hold"
    assert bench.status["watchdogs"] == 1
    assert len(remarks) == 1
    assert re.search(
        r"came 2\.\d+ s late, watchdog\.tick_deadline_s allows 0\.25 s: the arm stops", remarks[0]
    )


def test_a_late_tick_counts_in_wall_seconds_and_0_allows_any(tmp_path: Path) -> None:
    for deadline_s, cause in (
        (0.25, EndCause.WATCHDOG),
        (0.5, EndCause.TIME_LIMIT),
        (0.0, EndCause.TIME_LIMIT),
    ):
        folder = tmp_path / str(deadline_s)
        folder.mkdir()
        bench = Bench(folder, tick_deadline_s=deadline_s, time_scale=2.0)

        def block(name: str, number: int, clock: FakeClock = bench.clock) -> None:
            if (name, number) == ("tick", 12):
                clock.advance(0.8)

        bench.arm.fault = block
        bench.loop.run()
        assert [end.cause for end in ends(bench)] == [cause]


def stub_bench(folder: Path, fault: Fault | None, *, slow_s: float = 0.001, **overrides: Any) -> Bench:
    """The loop on a real arm before a robot that breaks after 23 set-points, on one clock."""
    clock = Ticking()
    wiring = Wiring(
        robot=StubRobotConfig(fault=fault or "", fault_after=23, slow_s=slow_s),
        model="so101_sim",
        task="wave",
        max_steps=40,
        cameras={name: CameraUse(height_px=64, width_px=64) for name in ("front", "wrist")},
        watchdog=WatchdogConfig(stale_s=0.02, frozen_frames=3),
    )
    robot = StubRobot(wiring.robot, sleep=clock.advance)
    arm = RealArm(wiring, robot, clock)
    arm.connect()
    bench = Bench(
        folder,
        clock=clock,
        arm=arm,
        tick_deadline_s=wiring.watchdog.tick_deadline_s,
        sees=(arm.cameras, arm.state_dim),
        max_steps=40,
        slots=256,
        slot_bytes=32_768,
        **overrides,
    )
    there_and_back = np.float32([0, 1, 0, 0])

    def act(observation: Observation) -> np.ndarray:
        time.sleep(0.001)
        return (there_and_back if observation.frames["front"].id % 16 < 8 else -there_and_back)[None]

    bench.inference.act = act
    return bench


@pytest.mark.parametrize(
    "fault",
    [Fault.SLOW_CAMERA, Fault.FROZEN_CAMERA, Fault.DEAD_CAMERA, Fault.BUS_TIMEOUT, Fault.LOST_JOINT],
)
def test_a_robot_that_breaks_for_good_ends_its_episode_and_then_the_process(
    tmp_path: Path, fault: Fault
) -> None:
    bench = stub_bench(tmp_path, fault, episodes=10)
    with pytest.raises(RobotError):
        bench.loop.run()
    (end,) = ends(bench)[:1]
    assert end.cause is EndCause.WATCHDOG
    first = [arrival for arrival in arrivals(bench) if arrival.key == end.key]
    assert [arrival.index for arrival in first] == list(range(end.index + 1))
    assert end.index >= 4
    assert all(end.cause is EndCause.WATCHDOG for end in ends(bench))


@pytest.mark.parametrize(
    ("fault", "causes"),
    [
        (None, [EndCause.TIME_LIMIT, EndCause.TIME_LIMIT]),
        (Fault.BUS_HICCUP, [EndCause.WATCHDOG, EndCause.TIME_LIMIT]),
    ],
)
def test_a_robot_that_comes_to_itself_goes_on_with_the_next_episode(
    tmp_path: Path, fault: Fault | None, causes: list[EndCause]
) -> None:
    bench = stub_bench(tmp_path, fault, episodes=2)
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == causes


@pytest.mark.parametrize(
    ("slow_s", "late_ms", "cause"),
    [
        (0.005, (0, 0), EndCause.TIME_LIMIT),
        (0.1, (70, 200), EndCause.TIME_LIMIT),
        (1.0, (900, 2000), EndCause.WATCHDOG),
    ],
)
def test_a_slow_bus_makes_ticks_late_and_beyond_their_deadline_ends_the_episode(
    tmp_path: Path, slow_s: float, late_ms: tuple[float, float], cause: EndCause
) -> None:
    bench = stub_bench(tmp_path, Fault.SLOW_BUS, slow_s=slow_s, episodes=2)
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [cause] * 2
    assert late_ms[0] <= bench.status["late_max_ns"] / 1e6 <= late_ms[1]
    if cause is EndCause.WATCHDOG:
        assert [end.index for end in ends(bench)] == [4, 0], "the bus was slow from the fifth step on"


def test_a_dead_camera_is_for_a_fresh_process_before_anybody_is_asked_for_another_scene(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, goes_home=True, episodes=9)

    def unplugged(name: str, count: int) -> None:
        if name == "observe" and count >= 3:
            raise RobotError("no picture")

    bench.arm.fault = unplugged
    with pytest.raises(RobotError, match="no picture"):
        bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.WATCHDOG]
    assert len(bench.operator.seeds) == 1
    assert bench.arm.calls.count("check_home") == 1
    assert bench.status["robot_faults"] == 1


def test_a_frozen_camera_is_for_a_fresh_process_though_it_shows_something_at_rest(tmp_path: Path) -> None:
    bench = stub_bench(tmp_path, Fault.FROZEN_CAMERA, episodes=9)
    with pytest.raises(FrozenCamera):
        bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.WATCHDOG]
    assert bench.status["robot_faults"] == 1


def test_a_camera_that_stalls_for_a_moment_costs_its_episode_and_no_fresh_process(tmp_path: Path) -> None:
    bench = Bench(tmp_path, episodes=2)
    back_ns = 0

    def stalls(name: str, count: int) -> None:
        nonlocal back_ns
        if name == "observe" and count == 3:
            back_ns = bench.clock.now_ns() + int(0.9 * NS)
        if name == "observe" and bench.clock.now_ns() < back_ns:
            raise RobotError("Camera 'wrist' is stale")

    bench.arm.fault = stalls
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.WATCHDOG, EndCause.TIME_LIMIT]
    assert len(bench.operator.seeds) == 2


def test_a_camera_that_fails_again_and_again_is_handed_over_to_a_fresh_process(bench: Bench) -> None:
    def flickers(name: str, count: int) -> None:
        if name == "observe" and count % 2:
            raise RobotError("no picture")

    bench.arm.fault = flickers
    with pytest.raises(RobotError, match="no picture"):
        bench.loop.run()
    assert bench.ring.head == 0
    assert bench.status["robot_faults"] == 5


def test_bad_chunks_are_counted_and_not_used(bench: Bench) -> None:
    answers = iter([np.full((1, 2), np.nan, np.float32)])

    def act(observation: Observation) -> np.ndarray:
        return next(answers, np.zeros((1, 2), np.float32))

    bench.inference.act = act
    bench.loop.run()
    assert bench.status["bad_chunks"] == 1
    assert ends(bench)[0].cause is EndCause.WATCHDOG
    assert bench.arm.actions == []


class Terminal(logging.Handler):
    """Notes how far the loop had come when a line reached the log."""

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.lines: list[tuple[str, str, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        ended = isinstance(self.bench.records()[-1], End) if self.bench.ring.head else False
        self.lines.append((record.getMessage(), self.bench.arm.calls[-1], ended))


@pytest.mark.parametrize(
    ("silent", "said"),
    [
        (True, ["No action within 0.3 s: the arm stops"]),
        (False, ["A chunk is malformed", "No action within"]),
    ],
)
def test_the_log_hears_of_an_episode_when_the_arm_is_at_rest_and_its_end_is_committed(
    tmp_path: Path, silent: bool, said: list[str]
) -> None:
    bench = Bench(tmp_path, action_deadline_s=0.3)
    bench.inference.latency_s = None
    if not silent:
        slot = Slot(tmp_path / "chunk.slot", 1 << 16)

        def write(now_ns: int) -> None:
            slot.write(encode({"key": "x"}))

        bench.clock.during.append(write)
    terminal = Terminal(bench)
    logging.getLogger("roborl.loops").addHandler(terminal)
    try:
        bench.loop.run()
    finally:
        logging.getLogger("roborl.loops").removeHandler(terminal)
    assert [line[: len(start)] for (line, _, _), start in zip(terminal.lines, said, strict=True)] == said
    assert {(call, ended) for _, call, ended in terminal.lines} == {("hold", True)}
    assert bench.status["bad_chunks"] > 1 or silent


def test_no_episode_begins_that_the_ring_may_not_hold(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=20, episodes=3)
    rounds = 0

    def give_room(_: int) -> None:
        nonlocal rounds
        if bench.status["waiting_for"] == WaitReason.RING_FULL:
            rounds += 1
            if rounds > 20:
                bench.ring.acknowledge(bench.ring.head)

    bench.clock.during.append(give_room)
    bench.loop.run()
    assert bench.status["episodes"] == 3
    assert bench.ring.head == 3 * 9
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT] * 3
    assert rounds > 20


def test_a_physical_arm_goes_home_at_the_control_rate_before_each_episode(tmp_path: Path) -> None:
    bench = Bench(tmp_path, goes_home=True, episodes=2)
    bench.loop.run()
    way = ["begin_return", *["tick"] * 5, "follows", "begin_return", *["tick"] * 25, "check_home"]
    assert bench.arm.calls[: len(way) + 2] == ["begin_episode", *way, "observe"]
    assert bench.arm.calls.count("check_home") == 2
    np.testing.assert_allclose(np.diff(bench.arm.sent_ns[:30]) / NS, PERIOD_S)
    assert bench.status["ticks"] == 2 * 6 * 5


def test_an_arm_that_does_not_get_home_begins_no_episode_and_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, goes_home=True, episodes=1)

    def astray(call: str, count: int) -> None:
        if call == "check_home" and count < 3:
            raise RobotError("The arm cannot get to its home pose by itself")

    bench.arm.fault = astray
    bench.loop.run()
    assert bench.arm.calls.count("check_home") == 3
    assert bench.arm.calls.count("observe") == 7 + 2, "one episode, and a look after each failure"
    assert len(bench.operator.seeds) == 3, "each time the operator is asked"


@pytest.mark.parametrize(("button", "episodes"), [(Button.ESTOP, 0), (Button.STOP, 1)])
def test_a_stop_on_the_way_home_holds_the_arm(tmp_path: Path, button: Button, episodes: int) -> None:
    """An emergency stop ends the run; after a stop the scene is made ready again."""
    bench = Bench(tmp_path, goes_home=True)

    def press(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == 3:
            bench.keys.press(button)

    bench.clock.during.append(press)
    bench.loop.run()
    assert bench.arm.calls[2:6] == ["tick", "tick", "tick", "hold"]
    assert bench.status["episodes"] == episodes
    assert len(bench.operator.seeds) == 1 + episodes


def test_a_keyboard_that_dies_on_the_way_home_stops_the_arm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, goes_home=True, by_person=True, silence_s=0.25)

    def answer() -> None:
        if len(bench.arm.calls) == 0:
            bench.keys.press(Button.ALIVE)
            bench.keys.press(Button.READY)
        else:
            bench.keys.press(Button.ESTOP)

    bench.answer = answer
    bench.loop.run()
    assert bench.arm.calls[-1] == "hold"
    assert "observe" not in bench.arm.calls
    assert (bench.arm.sent_ns[0] - NS) / NS < 0.1
    assert 10 <= bench.arm.calls.count("tick") <= 14
    assert (bench.status["operator_lost"], bench.status["episodes"]) == (1, 0)


def test_others_can_keep_episodes_from_beginning(bench: Bench) -> None:
    bench.waiting = WaitReason.LEARNER_PAUSED
    until = bench.clock.now_ns() + NS

    def release(now_ns: int) -> None:
        if now_ns > until:
            bench.waiting = WaitReason.NOTHING

    bench.clock.during.append(release)
    bench.loop.run()
    assert bench.status["episodes"] == 1
    assert bench.arm.calls[0] == "begin_episode"
    assert bench.arm.sent_ns[0] > until


def test_what_came_up_while_the_scene_was_made_ready_keeps_the_arm_at_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The learner asks for a pause while the person is at the scene; once it is over, the scene is made ready again."""
    bench = Bench(tmp_path, by_person=True, goes_home=True)
    asked: list[int] = []

    def answer() -> None:
        asked.append(bench.clock.now_ns())
        if len(asked) == 1:
            bench.waiting = WaitReason.LEARNER_PAUSED
        bench.keys.press(Button.READY)

    def release(now_ns: int) -> None:
        if bench.waiting is WaitReason.LEARNER_PAUSED:
            assert bench.arm.calls == []
            if now_ns > asked[0] + 5 * NS:
                bench.waiting = WaitReason.NOTHING

    bench.answer = answer
    bench.clock.during.append(release)
    bench.loop.run()
    assert len(asked) == 2
    assert bench.arm.sent_ns[0] >= asked[1] > asked[0] + 5 * NS
    assert bench.status["episodes"] == 1
    assert "at rest: learner_paused" in caplog.text


def test_a_signal_stops_the_arm_before_the_process_ends(bench: Bench) -> None:
    def stop(now_ns: int) -> None:
        bench.stop = bench.stop or len(bench.arm.sent_ns) == 13

    bench.clock.during.append(stop)
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.OPERATOR_STOP
    assert ends(bench)[0].index == 2
    assert bench.arm.calls[-1] == "hold"


@pytest.mark.parametrize(
    ("button", "cause", "discarded"),
    [
        (Button.STOP, EndCause.OPERATOR_STOP, False),
        (Button.DISCARD, EndCause.OPERATOR_STOP, True),
        (Button.ESTOP, EndCause.ESTOP, False),
    ],
)
def test_stops_by_button(bench: Bench, button: Button, cause: EndCause, discarded: bool) -> None:
    def press(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == 7:
            bench.keys.press(button)

    bench.clock.during.append(press)
    bench.loop.run()
    assert (ends(bench)[0].cause, ends(bench)[0].discarded) == (cause, discarded)
    assert ends(bench)[0].index == 1
    assert bench.arm.calls[-1] == "hold"


@pytest.mark.parametrize(("shown", "judged"), [(None, 3), (2, 2), (99, 3)])
def test_a_verdict_belongs_to_the_frame_that_was_on_the_screen(
    bench: Bench, shown: int | None, judged: int
) -> None:
    def press(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == 16:
            bench.keys.press(Button.SUCCESS, index=shown)

    bench.clock.during.append(press)
    bench.loop.run()
    verdict, end = bench.records()[-2:]
    assert (end.cause, end.index) == (EndCause.SUCCESS, 3)
    assert verdict == Verdict(key=end.key, index=judged, success=True, source=RewardSource.OPERATOR)


def test_a_success_that_ended_an_episode_is_paid_although_the_actor_dies_at_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    commit = bench.journal.commit

    def commit_until_killed(record: Record) -> int:
        sequence = commit(record)
        if isinstance(record, End | Verdict):
            raise Killed
        return sequence

    monkeypatch.setattr(bench.journal, "commit", commit_until_killed)
    bench.press_during_observe(4, Button.SUCCESS, index=2)
    with pytest.raises(Killed):
        bench.loop.run()
    bench.journal.close()
    ring = Journal(bench.folder / "ring.bin", actor="arm", slots=bench.slots, slot_bytes=2048).ring
    spec = StoreSpec(
        cameras={"front": (4, 4)},
        image_px=4,
        state_dim=3,
        action_dim=2,
        max_steps=6,
        capacity_bytes=1 << 20,
    )
    with Store(bench.folder / "store", spec) as store:
        for sequence in range(1, ring.head + 1):
            store.ingest("ring", sequence, bytes(ring.read(sequence)))
        config = SamplingConfig(need_labels=False, shift_px=0)
        batch = Sampler(ArenaReader(bench.folder / "store"), config, seed=0).sample(100)
    # The verdict ended the task at observation 2, which step 1 reached.
    last = batch.state[:, 0] == 1
    assert last.any()
    np.testing.assert_array_equal(batch.terminated, last)
    np.testing.assert_array_equal(batch.reward, last.astype(np.float32))


@pytest.mark.parametrize("observe", [4, 7])
@pytest.mark.parametrize(
    ("button", "cause"),
    [
        (Button.STOP, EndCause.OPERATOR_STOP),
        (Button.DISCARD, EndCause.OPERATOR_STOP),
        (Button.ESTOP, EndCause.ESTOP),
        (Button.SUCCESS, EndCause.SUCCESS),
        (Button.FAILURE, EndCause.FAILURE),
    ],
)
def test_what_is_pressed_while_the_camera_is_read_ends_the_episode(
    tmp_path: Path, button: Button, cause: EndCause, observe: int
) -> None:
    """The last picture of an episode that is about to end by time is such a moment too."""
    bench = Bench(tmp_path, by_person=True)
    bench.press_during_observe(observe, button, index=2)
    bench.loop.run()
    (end,) = ends(bench)
    assert (end.cause, end.index) == (cause, observe - 1)
    assert end.discarded is (button is Button.DISCARD)
    assert [arrival.index for arrival in arrivals(bench)] == list(range(observe))
    assert bench.arm.calls[-1] == ("observe" if cause.terminated else "hold")
    verdicts = [record for record in bench.records() if isinstance(record, Verdict)]
    judged = Verdict(key=end.key, index=2, success=button is Button.SUCCESS, source=RewardSource.OPERATOR)
    assert verdicts == ([judged] if cause.terminated else [])
    assert [arrival.reward for arrival in arrivals(bench)] == [0.0] * observe


@pytest.mark.parametrize("button", [Button.TAKE_OVER, Button.GIVE_BACK])
def test_a_take_over_while_the_camera_is_read_is_heard(tmp_path: Path, button: Button) -> None:
    bench = Bench(tmp_path, by_person=True)
    bench.press_during_observe(4, button)
    bench.loop.run()
    assert [press.button for press in bench.others] == [button]
    assert ends(bench)[0].cause is EndCause.TIME_LIMIT


def test_a_verdict_without_a_frame_judges_the_picture_that_was_newest(tmp_path: Path) -> None:
    bench = Bench(tmp_path, by_person=True)
    bench.press_during_observe(4, Button.SUCCESS)
    bench.loop.run()
    assert [record.index for record in bench.records() if isinstance(record, Verdict)] == [2]


def test_a_verdict_on_an_earlier_episode_while_the_camera_is_read_leaves_the_present_one_alone(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, by_person=True, episodes=2)
    earlier = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)
    bench.press_during_observe(7 + 3, Button.SUCCESS, episode=earlier, index=5)
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT] * 2
    verdicts = [record for record in bench.records() if isinstance(record, Verdict)]
    assert {(v.key, v.index, v.success) for v in verdicts} == {(earlier, 5, True)}


def test_a_success_of_the_scene_does_not_drown_an_emergency_stop(bench: Bench) -> None:
    bench.operator.success_at = 3
    bench.press_during_observe(4, Button.ESTOP)
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.ESTOP
    assert arrivals(bench)[-1].reward == 1.0
    assert bench.arm.calls[-1] == "hold"


@pytest.mark.parametrize("first", [Button.ESTOP, Button.SUCCESS])
def test_an_emergency_stop_outranks_what_is_pressed_with_it(bench: Bench, first: Button) -> None:
    def press(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == 7:
            bench.keys.press(first)
            bench.keys.press(Button.SUCCESS if first is Button.ESTOP else Button.ESTOP)

    bench.clock.during.append(press)
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.ESTOP
    assert bench.arm.calls[-1] == "hold"


def test_a_verdict_that_comes_before_the_run_is_ended_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, by_person=True, episodes=2)
    judged = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)

    def answer() -> None:
        if bench.status["episodes"]:
            bench.keys.press(Button.SUCCESS, episode=judged, index=6)
            bench.keys.press(Button.ESTOP)
        else:
            bench.keys.press(Button.READY)

    bench.answer = answer
    bench.loop.run()
    last = bench.records()[-1]
    assert isinstance(last, Verdict)
    assert (last.key, last.index, last.success) == (judged, 6, True)


@pytest.mark.parametrize("pressed", [(), (Button.SUCCESS,), (Button.SUCCESS, Button.FAILURE)])
def test_successes_that_are_pressed_after_the_time_limit_count(
    tmp_path: Path, pressed: tuple[Button, ...]
) -> None:
    bench = Bench(tmp_path, by_person=True, episodes=2)
    judged = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)

    def answer() -> None:
        if bench.status["episodes"]:
            for button in pressed:
                bench.keys.press(button, episode=judged, index=6)
        bench.keys.press(Button.READY)

    bench.answer = answer
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT] * 2
    assert bench.status["successes"] == (pressed[-1:] == (Button.SUCCESS,))


def test_a_verdict_between_two_episodes_is_committed_while_the_scene_is_made_ready(tmp_path: Path) -> None:
    """That may take minutes, and the process may be killed meanwhile."""
    bench = Bench(tmp_path, by_person=True, episodes=2)
    judged = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)
    seen: list[tuple[Record, int]] = []

    def answer() -> None:
        if bench.status["episodes"]:
            bench.clock.during.append(judge)
        else:
            bench.keys.press(Button.READY)

    def judge(now_ns: int) -> None:
        bench.keys.press(Button.SUCCESS, episode=judged, index=5)
        bench.clock.during[-1] = look

    def look(now_ns: int) -> None:
        seen.append((bench.records()[-1], bench.status["successes"]))
        bench.keys.press(Button.READY)
        bench.clock.during.pop()

    bench.answer = answer
    bench.loop.run()
    assert seen == [(Verdict(key=judged, index=5, success=True, source=RewardSource.OPERATOR), 1)]


@pytest.mark.parametrize(("slots", "at_once"), [(64, 12), (9 + 19, 8)])
def test_verdicts_on_the_way_home_are_committed_as_far_as_the_coming_episode_leaves_room(
    tmp_path: Path, slots: int, at_once: int
) -> None:
    bench = Bench(tmp_path, goes_home=True, episodes=2, slots=slots)
    judged = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)

    def press(call: str, count: int) -> None:
        if (call, count) == ("follows", 2):
            for _ in range(12):
                bench.keys.press(Button.SUCCESS, episode=judged, index=5)
        if (call, count) == ("check_home", 2):
            assert sum(isinstance(record, Verdict) for record in bench.records()) == at_once

    bench.arm.fault = press
    bench.loop.run()
    assert [end.cause for end in ends(bench)][-1] is EndCause.TIME_LIMIT
    assert bench.status["episodes"] == 2


def test_a_discard_of_the_episode_that_has_just_ended_leaves_the_next_one_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A simulated scene is ready at once, so that the press is heard in the next episode."""
    bench = Bench(tmp_path, episodes=2)
    earlier = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)

    def press(call: str, count: int) -> None:
        if (call, count) == ("begin_episode", 2):
            bench.keys.press(Button.DISCARD, episode=earlier, index=6)

    bench.arm.fault = press
    bench.loop.run()
    assert [(end.cause, end.discarded) for end in ends(bench)] == [(EndCause.TIME_LIMIT, False)] * 2
    assert "was over already: discard has no effect" in caplog.text


def test_a_verdict_on_an_earlier_episode_leaves_the_present_one_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, episodes=2)
    earlier = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)

    def press(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == 40:
            bench.keys.press(Button.FAILURE, episode=earlier, index=5)

    bench.clock.during.append(press)
    bench.loop.run()
    verdicts = [record for record in bench.records() if isinstance(record, Verdict)]
    assert {(v.key, v.index, v.success) for v in verdicts} == {(earlier, 5, False)}
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT] * 2


def test_a_lost_operator_device_stops_the_arm(tmp_path: Path) -> None:
    bench = Bench(tmp_path, silence_s=0.25, max_steps=50, slots=128)

    def beat(now_ns: int) -> None:
        if now_ns < 2 * NS:
            bench.keys.press(Button.ALIVE)

    bench.clock.during.append(beat)
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.WATCHDOG
    assert 0.9 < (bench.arm.sent_ns[-1] - NS) / NS < 1.6
    assert bench.status["operator_lost"] == 1


def test_a_device_that_sends_presses_alone_is_not_missed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, silence_s=0.25, max_steps=50, slots=128)
    bench.keys.press(Button.GIVE_BACK)
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.TIME_LIMIT


def test_a_device_that_was_alive_between_episodes_alone_is_missed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, silence_s=0.25, max_steps=50, slots=128, by_person=True)

    def answer() -> None:
        bench.keys.press(Button.ALIVE)
        bench.keys.press(Button.READY)

    bench.answer = answer
    bench.loop.run()
    assert ends(bench)[0].cause is EndCause.WATCHDOG
    assert bench.status["operator_lost"] == 1


def test_a_take_over_device_that_is_lost_stops_the_arm_as_data(tmp_path: Path) -> None:
    bench = Bench(tmp_path, supervisor=Scripted((1, 2, 4), lost_at=5))
    bench.loop.run()
    assert (ends(bench)[0].cause, ends(bench)[0].index) == (EndCause.WATCHDOG, 5)
    assert bench.arm.calls[-2:] == ["hold", "hold"]
    counts = {
        name: bench.status[name] for name in ("takeovers", "person_steps", "operator_lost", "watchdogs")
    }
    assert counts == {"takeovers": 2, "person_steps": 3, "operator_lost": 1, "watchdogs": 1}


def test_each_episode_has_a_scene_of_its_own_over_restarts(tmp_path: Path) -> None:
    bench = Bench(tmp_path, episodes=3)
    bench.loop.run()
    bench.journal.close()
    again = Bench(tmp_path, episodes=5)
    again.loop.run()
    assert bench.operator.seeds == [0, 1, 2]
    assert again.operator.seeds == [3, 4]
    assert len({record.key for record in again.records()}) == 5


def test_control_loads_no_tensor_library() -> None:
    script = (
        "import sys, roborl.loops.actor.control, roborl.loops.actor.orders, roborl.hil.supervisor, roborl.hil.keyboard;"
        "heavy = {'torch', 'lerobot', 'zmq', 'mujoco', 'transformers'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("process", ["control_process", "teleop"])
def test_what_a_process_of_the_actor_needs_for_its_bench_is_loaded_once_it_runs(process: str) -> None:
    script = (
        f"import sys, roborl.loops.actor.{process};"
        "early = {'torch', 'lerobot', 'mujoco', 'transformers', 'roborl.envs.bench'} & set(sys.modules);"
        "sys.exit(str(early) if early else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Outside(logging.Handler):
    """Notes what leaves the process while it looks: files, sockets, imports, processes and the log."""

    _EVENTS = ("open", "socket.", "import", "subprocess.", "os.", "shutil.", "tempfile.", "mmap.")
    _looking: Outside | None = None
    _hooked = False

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    @classmethod
    def _hook(cls, event: str, arguments: tuple[Any, ...]) -> None:
        if cls._looking is not None and event.startswith(cls._EVENTS):
            cls._looking.seen.append(f"{event} {arguments[:1]}")

    def emit(self, record: logging.LogRecord) -> None:
        if self._looking is self:
            self.seen.append(f"log {record.getMessage()}")

    def watch(self, bench: Bench) -> None:
        """Run the loop, and look while an episode's steps are taken."""
        if not Outside._hooked:  # a hook is for good
            sys.addaudithook(Outside._hook)
            Outside._hooked = True
        root, steps = logging.getLogger(), bench.loop._steps

        def looked_at(first: Observation) -> EndCause:
            Outside._looking = self
            try:
                return steps(first)
            finally:
                Outside._looking = None

        bench.loop._steps = looked_at  # type: ignore[method-assign]
        level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        try:
            bench.loop.run()
        finally:
            root.removeHandler(self)
            root.setLevel(level)


def eventful(folder: Path, **overrides: Any) -> Bench:
    """An episode in which much happens: a slow policy, a person, a press of another, a late verdict, a watcher."""
    bench = Bench(folder, episodes=2, supervisor=Scripted((1, 2)), silence_s=5.0, **overrides)
    bench.inference.latency_s = 0.07
    earlier = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=0)

    def press(now_ns: int) -> None:
        # By others: what they do is none of the loop's.
        looking, Outside._looking = Outside._looking, None
        if len(bench.arm.sent_ns) == 10:
            bench.keys.press(Button.ALIVE)
            bench.live.publish(watched(bench, done=False))
        if bench.status["begun"] == 2:
            bench.keys.press(Button.FAILURE, episode=earlier, index=5)
        Outside._looking = looking

    bench.clock.during.append(press)
    return bench


def test_the_control_path_calls_no_file_no_network_and_no_log(tmp_path: Path) -> None:
    """Law 13. Chunks, observations and records go through memory that was mapped before."""
    bench = eventful(tmp_path)
    outside = Outside()
    outside.watch(bench)
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT] * 2
    assert bench.status["person_steps"] == 4
    assert bench.status["holds"] > 0
    assert any(isinstance(record, Verdict) for record in bench.records())
    assert outside.seen == []


def test_nor_does_a_real_arm_before_a_robot_that_answers_at_once(tmp_path: Path) -> None:
    bench = stub_bench(tmp_path, None)
    outside = Outside()
    outside.watch(bench)
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT]
    assert outside.seen == []


@pytest.mark.parametrize(
    "how", ["no action", "a late tick", "a malformed chunk", "a lost device", "a broken bus"]
)
def test_nor_does_it_where_an_episode_ends_by_a_watchdog(tmp_path: Path, how: str) -> None:
    overrides: dict[str, Any] = {"action_deadline_s": 0.3, "tick_deadline_s": 0.25}
    if how == "a lost device":
        overrides["supervisor"] = Scripted((), lost_at=3)
    bench = Bench(tmp_path, **overrides)
    match how:
        case "no action":
            bench.inference.latency_s = None
        case "a malformed chunk":
            bench.inference.act = lambda observation: np.full((1, 2), np.nan, np.float32)

    def fault(call: str, count: int) -> None:
        if (call, count) == ("tick", 7):
            if how == "a late tick":
                bench.clock.advance(1.0)
            if how == "a broken bus":
                raise RobotError("no answer")

    bench.arm.fault = fault
    outside = Outside()
    outside.watch(bench)
    assert [end.cause for end in ends(bench)] == [EndCause.WATCHDOG]
    assert outside.seen == []


@pytest.mark.parametrize(
    ("wait", "noticed"),
    [
        (lambda folder: (folder / "x").write_text("x"), "open"),
        (os.listdir, "os.listdir"),
        (lambda folder: socket.socket().close(), "socket."),
        (lambda folder: logging.getLogger("roborl.envs").info("a tick"), "log a tick"),
        (lambda folder: subprocess.run(["true"], check=False), "subprocess.Popen"),
        (lambda folder: __import__("nturl2path"), "import"),
    ],
)
def test_what_a_tick_waits_for_outside_would_be_noticed(
    tmp_path: Path, wait: Callable[[Path], object], noticed: str
) -> None:
    bench = Bench(tmp_path)

    def fault(call: str, count: int) -> None:
        if (call, count) == ("tick", 12):
            sys.modules.pop("nturl2path", None)
            wait(tmp_path)

    bench.arm.fault = fault
    outside = Outside()
    outside.watch(bench)
    assert any(event.startswith(noticed) for event in outside.seen), outside.seen


def watched(bench: Bench, episode: int = 0, **said: Any) -> LiveScore:
    """What a reward model says of an observation that was made just now, unless told otherwise."""
    key = EpisodeKey(actor="arm", incarnation=bench.journal.incarnation, episode=episode)
    values = {"index": 2, "progress": 1.0, "done": True, "valid": True, "stamp_ns": bench.clock.now_ns()}
    return LiveScore(key=key, **values | said)


def say_in_third_step(bench: Bench, say: Callable[[], object], *, episode: int = 0) -> None:
    before = episode * (6 * 5) + 13

    def work(now_ns: int) -> None:
        if len(bench.arm.sent_ns) == before and not said:
            said.append(now_ns)
            say()

    said: list[int] = []
    bench.clock.during.append(work)


def test_an_episode_ends_when_whoever_watches_calls_it_done(bench: Bench) -> None:
    say_in_third_step(bench, lambda: bench.live.publish(watched(bench)))
    bench.loop.run()
    _, *middle, end = bench.records()
    assert (end.cause, end.index, end.discarded) == (EndCause.JUDGE_STOP, 2, False)
    assert not end.cause.terminated
    assert [arrival.index for arrival in middle] == [0, 1, 2]
    assert {arrival.reward_source for arrival in middle} == {RewardSource.NONE}
    counts = {name: bench.status[name] for name in ("judge_stops", "successes", "watchdogs", "episodes")}
    assert counts == {"judge_stops": 1, "successes": 0, "watchdogs": 0, "episodes": 1}


@pytest.mark.parametrize(
    "said",
    [
        {"done": False},
        {"valid": False},
        {"age_s": 1.1},
    ],
    ids=["not done", "unreadable", "stale"],
)
def test_a_live_score_that_does_not_say_done_of_what_the_arm_does_now_ends_nothing(
    bench: Bench, said: dict[str, Any]
) -> None:
    stamp = {"stamp_ns": -int(said.pop("age_s") * NS)} if "age_s" in said else {}

    def say() -> None:
        now = {name: bench.clock.now_ns() + ago for name, ago in stamp.items()}
        bench.live.publish(watched(bench, **said | now))

    say_in_third_step(bench, say)
    bench.loop.run()
    assert [(end.cause, end.index) for end in ends(bench)] == [(EndCause.TIME_LIMIT, 6)]
    assert bench.status["judge_stops"] == 0


def test_a_done_of_the_episode_before_leaves_the_present_one_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path, episodes=2, stale_s=100.0)
    say_in_third_step(bench, lambda: bench.live.publish(watched(bench, 0)), episode=1)
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT] * 2


def test_what_is_no_score_ends_nothing(bench: Bench) -> None:
    said = Slot(bench.folder / "live.slot", 1024)
    say_in_third_step(bench, lambda: said.write(encode({"key": 3, "done": True})))
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [EndCause.TIME_LIMIT]


@pytest.mark.parametrize(
    ("button", "cause"),
    [
        (Button.STOP, EndCause.OPERATOR_STOP),
        (Button.ESTOP, EndCause.ESTOP),
        (Button.SUCCESS, EndCause.SUCCESS),
        (Button.FAILURE, EndCause.FAILURE),
    ],
)
def test_a_person_goes_before_whoever_watches(bench: Bench, button: Button, cause: EndCause) -> None:
    def both() -> None:
        bench.live.publish(watched(bench))
        bench.keys.press(button)

    say_in_third_step(bench, both)
    bench.loop.run()
    assert [end.cause for end in ends(bench)] == [cause]
    assert bench.status["judge_stops"] == 0
