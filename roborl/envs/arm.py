"""One connected robot behind one bench: observations in, bounded set-points out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Never

import numpy as np
from lerobot.robots.robot import Robot

from roborl.clock import Clock
from roborl.envs.bench import Bench, device_type
from roborl.envs.bench_maps import action_map, state_map
from roborl.envs.cameras import Freshness, age_ns, close_after_reading, frame_age_s, let_be_old
from roborl.envs.kinematics import Kinematics
from roborl.envs.robot_model import Joints, load_robot_model
from roborl.envs.safety import SafetyFilter, SetPoint
from roborl.envs.servos import (
    DEVICE_FAULTS,
    OVERLOAD,
    READ_RETRIES,
    close_port,
    connect_holding,
    diagnosis,
    goals,
    open_a_little,
    steady,
    weak_servos,
)
from roborl.envs.way_home import WayHome
from roborl.errors import ConfigError, RobotError, ShapeError, spelt_out
from roborl.images import resized
from roborl.types import Frame, Observation, Vector

# Degrees, or parts of the gripper's 100: where the way home may end.
_AT_HOME = 2.0
_SAG = 0.5
"""Share of its leash by which a joint may miss its home under the arm's own weight."""
_SAME_ACTION = 0.01
"""A stored action this near to the one asked for is it: the rest is the inverse kinematics' rounding."""


class Arm:
    """Drives a robot in policy steps made of control ticks. Numpy only; waits for nothing but the robot itself.

    The order of calls is ``connect``, then per episode ``begin_episode``, ``observe(0)``, and per step ``begin_step``,
    ``ticks_per_step`` times ``tick``, ``observe``.

    Args:
        bench: Wiring and limits.
        robot: The bench's robot.
        clock: Stamps observations.

    Attributes:
        cameras: Shape (h, w, 3) of each recorded camera.
        state_dim: Length of the proprioceptive state: joint positions, then end effector x, y, z.
        action_dim: Length of an action.
        ticks_per_step: Control ticks per policy step.
        limits_hit: How often the safety filter changed a set-point, by limit, since the start of the episode.
    """

    def __init__(self, bench: Bench, robot: Robot, clock: Clock) -> None:
        self.bench, self.robot = bench, robot
        steady(robot)
        close_after_reading(getattr(robot, "cameras", {}))
        let_be_old(getattr(robot, "cameras", {}), bench.watchdog.stale_s)
        self._clock = clock
        self.model = load_robot_model(bench.model)
        self.kinematics = Kinematics(self.model)
        self._actions = action_map(bench)
        self._filter = SafetyFilter(self.kinematics, bench.safety, 1.0 / bench.control_hz)
        self._way_home = WayHome(self.kinematics, self._filter, 1.0 / bench.control_hz)
        self._freshness = Freshness(bench.watchdog.stale_s, bench.watchdog.frozen_frames)
        self._states = state_map(bench)
        self.cameras = {name: (use.height_px, use.width_px, 3) for name, use in bench.cameras.items()}
        self.state_dim = self._states.size
        self.action_dim = self._actions.size
        self.ticks_per_step = bench.ticks_per_step
        self.limits_hit: Counter[str] = Counter()
        self._measured = self.model.home.copy()
        self._plan: list[SetPoint] = []
        self._rest_at(self.model.home)

    def connect(self) -> None:
        """Connect the robot and its cameras. Blocks as long as the robot takes. Servos that hold a place go on holding it.

        Raises:
            RobotError: If it does not answer, or reports a joint that is not finite.
            ConfigError: If it is not calibrated, or reports other joints than the model's.
        """
        try:
            connect_holding(self.robot, self.model.gripper)
            calibrated = self.robot.is_calibrated
            told = goals(getattr(self.robot, "bus", None)) if calibrated else {}
        except DEVICE_FAULTS as error:
            why = diagnosis(self.robot)
            close_port(self.robot)
            raise self._fault("The robot cannot be connected", error, why) from error
        if not calibrated:
            raise ConfigError(
                "The robot is not calibrated, or its motors hold another calibration than its file",
                seen=f"{device_type(self.bench.robot)} with id {self.robot.id!r}, file {self.robot.calibration_fpath}",
                allowed="motors that are calibrated as the file says",
                remedy=f"Run lerobot-calibrate --robot.type={device_type(self.bench.robot)} --robot.id={self.robot.id} and its port",
            )
        # Where servos do not say what they were told it is no number, and so nothing that the arm is near to.
        self._rest_at(self.model.from_features(told) if told else np.full(len(self.model.home), np.nan))
        self.begin_episode()

    def disconnect(self) -> None:
        """Disconnect the robot if it is connected.

        Raises:
            RobotError: If it does not answer.
        """
        if not self.robot.is_connected:
            return
        try:
            self.robot.disconnect()
        except DEVICE_FAULTS as error:
            close_port(self.robot)
            raise self._fault("The robot cannot be disconnected", error) from error

    def begin_episode(self) -> None:
        """Come to rest at the set-point and forget the last episode's frames.

        An arm hangs a little below its set-point and would sink as far again, were the measured pose to take its place. It
        does so only for a joint beyond its leash, and in simulation, where making the scene ready moves the arm.

        A gripper that has given up, for it squeezed for too long, is opened a little first. That takes a tenth of a second.

        Raises:
            RobotError: If the robot does not answer, a joint is not finite, or a servo cannot hold its joint.
        """
        self._measured = self._read_joints()
        self._require_hold()
        follows = np.abs(self._sent.joints - self._measured) <= self._actions.leash
        self._rest_at(np.where(follows & (not self.bench.simulated), self._sent.joints, self._measured))
        self._plan = []
        self._freshness.reset()
        self.limits_hit.clear()

    def observe(self, index: int, *, images: bool = True) -> Observation:
        """Return what the robot perceives now.

        Args:
            index: Index of the observation in its episode.
            images: False leaves the cameras alone, for state-only work.

        Returns:
            Frames at recording resolution with their capture stamps, and the state: joint positions scaled to [-1, 1] over
            their limits, end effector scaled to [-1, 1] over the workspace box.

        Raises:
            RobotError: If the robot does not answer, a joint is not finite, or a camera is late, frozen or dead.
        """
        if not images:
            self._measured = self._read_joints()
            return Observation(frames={}, state=self._state(), stamp_ns=self._clock.now_ns())
        try:
            seen = self.robot.get_observation()
        except DEVICE_FAULTS as error:
            raise self._fault("The robot gives no observation", error) from error
        self._measured = self._pose(seen)
        now_ns = self._clock.now_ns()
        frames = {}
        for name in self.cameras:
            if name not in seen:
                raise RobotError(
                    f"The robot reports no picture of camera {name!r}",
                    seen=sorted(seen),
                    allowed=sorted(self.cameras),
                )
            age_s = frame_age_s(self.robot.cameras, name)
            self._freshness.check(name, seen[name], age_s, self._measured)
            frames[name] = Frame(
                rgb=resized(seen[name], self.cameras[name][:2]),
                camera=name,
                stamp_ns=now_ns - age_ns(age_s),
                id=index,
            )
        return Observation(frames=frames, state=self._state(), stamp_ns=now_ns)

    def begin_step(self, action: Vector) -> Vector:
        """Plan the set-points of the coming policy step.

        Args:
            action: In [-1, 1], float32 (a,); values outside are clipped, a value that is not finite means no move.

        Returns:
            The action that the planned set-points amount to after limits and safety, float32 (a,): what is stored.

        Raises:
            ShapeError: If the action has another length.
        """
        if action.shape != (self.action_dim,):
            raise ShapeError(
                "An action has the wrong shape",
                seen=action.shape,
                allowed=(self.action_dim,),
                remedy="Use a policy that was trained for this bench's action.kind",
            )
        if not np.all(np.isfinite(action)):
            self.limits_hit["not_finite"] += 1
            action = np.zeros_like(action)
        start = self._sent
        target = self._actions.target(action, start.joints, self._measured)
        planned, before = [], start
        for tick in range(1, self.ticks_per_step + 1):
            wanted = start.joints + (target - start.joints) * (tick / self.ticks_per_step)
            before, hit = self._filter(wanted, before)
            self.limits_hit.update(hit)
            planned.append(before)
        self._plan = planned[::-1]
        executed = self._actions.executed(start.joints, before.joints)
        asked = np.clip(action, -1.0, 1.0)
        return asked if np.abs(executed - asked).max() < _SAME_ACTION else executed

    def begin_return(self) -> bool:
        """Plan the set-points of the coming policy step on the way to the home pose.

        Returns:
            False where none is left: the set-point is there, or no way within the limits leads there.
        """
        planned, hit = self._way_home.plan(self._sent, self.ticks_per_step)
        self.limits_hit.update(hit)
        self._plan = planned[::-1]
        return bool(planned)

    def follows(self) -> bool:
        """Read the joints, and return whether each of them is within its leash of the set-point.

        Raises:
            RobotError: If the robot does not answer, or a joint is not finite.
        """
        self._measured = self._read_joints()
        return bool(np.all(np.abs(self._sent.joints - self._measured) <= self._actions.leash))

    def give_way(self) -> Never:
        """Hold the arm where it was last measured, so that it pushes no more.

        Raises:
            RobotError: Always: with the joints that were held up.
        """
        told, leash = self._sent.joints, self._actions.leash
        self._rest_at(self._measured)
        self.hold()
        held_up = np.abs(told - self._measured) > _SAG * leash
        raise RobotError(
            "Something is in the arm's way home",
            seen=", ".join(
                f"{key} {self._measured[i]:.0f}, told {told[i]:.0f}"
                for i, key in enumerate(self.model.position_keys)
                if held_up[i]
            ),
            allowed=f"on the way within {self.bench.action.leash_deg:g} degrees of where it is told to be, the gripper within"
            f" {self.bench.action.gripper_leash:g}; at home within half of that",
            remedy="Clear its way, and look for a stiff joint or a caught cable; or correct action.leash_deg and gripper_leash",
        )

    def check_home(self) -> None:
        """See whether the way home ended there, and whether the arm is where it was told to be.

        Raises:
            RobotError: If it did not: from there, neither the joints' straight way nor the tip's leads home within the
                limits. Or if the arm is held up; it holds where it is then. Or if it does not answer.
        """
        if np.abs(self._sent.joints - self.model.home).max() > _AT_HOME:
            raise RobotError(
                "The arm cannot get to its home pose by itself",
                seen=self._spelt(self._sent.joints),
                allowed=self._spelt(self.model.home),
                remedy="Move it by hand, power off, to where its fingers point down above the middle of the workspace; or"
                " correct safety.workspace_low_m and workspace_high_m",
            )
        self._measured = self._read_joints()
        if np.any(np.abs(self._measured - self.model.home) > _SAG * self._actions.leash):
            self.give_way()

    def _spelt(self, joints: Joints) -> str:
        return ", ".join(f"{name} {value:.0f}" for name, value in self.model.to_features(joints).items())

    @property
    def set_point(self) -> Joints:
        """Where the arm was last told to be, (n,)."""
        return self._sent.joints.copy()

    def tick(self) -> None:
        """Send the next planned set-point; past the end of the plan, hold.

        Raises:
            RobotError: If the robot does not answer.
        """
        if not self._plan:
            self.hold()
            return
        self._send(self._plan.pop())

    def hold(self) -> None:
        """Send the last set-point again and drop what was planned.

        Raises:
            RobotError: If the robot does not answer.
        """
        self._plan = []
        self._send(SetPoint(joints=self._sent.joints, velocity=np.zeros(len(self._sent.joints))))

    def _rest_at(self, joints: Joints) -> None:
        self._sent = SetPoint(joints=joints.copy(), velocity=np.zeros(len(joints)))

    def _send(self, point: SetPoint) -> None:
        try:
            self.robot.send_action(self.model.to_features(point.joints))
        except DEVICE_FAULTS as error:
            raise self._fault("The robot takes no set-point", error) from error
        self._sent = point

    def _read_joints(self) -> Joints:
        try:
            bus = getattr(self.robot, "bus", None)
            if bus is None:
                return self._pose(self.robot.get_observation())
            positions = bus.sync_read("Present_Position", num_retry=READ_RETRIES)
        except DEVICE_FAULTS as error:
            raise self._fault("The robot does not report its joints", error) from error
        return self._pose({f"{name}.pos": value for name, value in positions.items()})

    def _require_hold(self) -> None:
        bus: Any = getattr(self.robot, "bus", None)
        try:
            weak = weak_servos(bus)
            if weak == {self.model.gripper: OVERLOAD}:
                open_a_little(self.robot, self.model.gripper)
                self._measured = self._read_joints()
                opened = np.arange(len(self._measured)) == self.model.gripper_index
                self._rest_at(np.where(opened, self._measured, self._sent.joints))
                weak = weak_servos(bus)
        except DEVICE_FAULTS as error:
            raise self._fault("The robot does not report its servos' state", error) from error
        if weak:
            raise RobotError(
                "Servos cannot hold their joints",
                seen=", ".join(f"{name}: {why}" for name, why in weak.items()),
                allowed="torque on, and no fault",
                remedy="Relieve the joint, let its servo cool down and switch the arm's power off and on; support the arm",
            )

    def _pose(self, seen: Mapping[str, Any]) -> Joints:
        """Return the joints that the robot reports; one that is no finite number is a joint that it does not know."""
        joints = self.model.from_features(seen)
        if not np.isfinite(joints).all():
            raise RobotError(
                "The robot reports a joint that is not a finite number",
                seen={
                    name: value
                    for name, value in self.model.to_features(joints).items()
                    if not np.isfinite(value)
                },
                allowed="a finite position of every joint",
                remedy=f"Check calibration and cables of {self.robot.name}, and the plug-in that reads it",
            )
        return joints

    def _state(self) -> Vector:
        return self._states(self._measured)

    def _fault(self, problem: str, error: Exception, why: str = "") -> RobotError:
        return RobotError(
            problem,
            seen=why or spelt_out(error),
            allowed="an answer",
            remedy=f"Check power, cables and ports of {self.robot.name}",
        )
