"""A MuJoCo scene: the arm, a task's objects, time, and what is true in it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import mujoco
import numpy as np
from numpy.typing import NDArray

from roborl.envs.kinematics import Kinematics, Point
from roborl.envs.randomisation import Appearance, Strength
from roborl.envs.rendering import Pictures
from roborl.envs.robot_model import Joints, RobotModel
from roborl.envs.tasks.base import Task
from roborl.paths import robot_folder
from roborl.types import Image

SUCCESS_HELD_S = 0.2
"""A task counts as done once its condition has held for this long: two policy steps at 10 Hz."""


_SQUEEZES = 0.7
"""A contact whose normal is this near to the way that a finger closes, as a cosine, is with its inner face."""


class Scene:
    """The arm on its table with the objects of one task.

    Everything here is the simulator's own truth. The policy and the reward model never see it; they see what
    :class:`roborl.envs.sim_robot.SimRobot` reports.

    Args:
        task: The task, whose objects are built into the scene. One task object belongs to one scene.
        robot: The arm; ``robots/<name>/arm.xml`` is its model.
        randomisation: How much light, colours and camera pose vary.
        seed: Seed of the first start.
    """

    def __init__(
        self, task: Task, robot: RobotModel, *, randomisation: Strength = Strength.OFF, seed: int = 0
    ) -> None:
        self.task, self.robot = task, robot
        self.kinematics = Kinematics(robot)
        spec = mujoco.MjSpec.from_file(str(robot_folder(robot.name) / "arm.xml"))
        task.build(spec)
        self.model = spec.compile()
        self._longest_step_s = self.model.opt.timestep
        self.data = mujoco.MjData(self.model)
        self._pictures = Pictures(self.model)
        self._appearance = Appearance(self.model, randomisation)
        self._joint_ids = [self.model.joint(name).id for name in robot.joint_names]
        self._qpos = self.model.jnt_qposadr[self._joint_ids]
        self._actuators = np.array([self.model.actuator(name).id for name in robot.joint_names])
        self._mirror_qpos = self.model.joint("gripper_mirror").qposadr[0]
        self._mirror_actuator = self.model.actuator("gripper_mirror").id
        self._gripper_range = self.model.joint(robot.gripper).range
        self._fingers = tuple(self.model.geom(name).id for name in ("right_finger", "left_finger"))
        self._tool = self.model.site("tool").id
        self._held_s = 0.0
        self.reset(seed)

    def reset(self, seed: int | None, *, arm_stays: bool = False) -> None:
        """Put arm and objects at a random start.

        Args:
            seed: The same seed gives the same start and the same looks; None takes a fresh one.
            arm_stays: Leave the arm where it stands and is told to be, as a person does who lays out the objects.
        """
        rng = np.random.default_rng(seed)
        stood, told = self.joints(), self.commanded()
        mujoco.mj_resetData(self.model, self.data)
        self._appearance.vary(rng)
        start = self.kinematics.position(self.robot.home) + rng.uniform(-1, 1, 3) * (0.015, 0.02, 0.008)
        self._set_joints(self.kinematics.solve(start, self.robot.home, iterations=50))
        if arm_stays:
            self._set_joints(stood)
            self.command(told)
        mujoco.mj_forward(self.model, self.data)
        self.task.place(self, rng)
        mujoco.mj_forward(self.model, self.data)
        self.task.begin(self)
        self._held_s = 0.0

    # Arm ------------------------------------------------------------------------------------------------------

    def joints(self) -> Joints:
        """Return the measured joint vector in LeRobot's units, (n,)."""
        values = self.data.qpos[self._qpos]
        joints: Joints = np.degrees(values)
        half_gap = 0.5 * (values[self.robot.gripper_index] + self.data.qpos[self._mirror_qpos])
        low, high = self._gripper_range
        joints[self.robot.gripper_index] = 100.0 * (half_gap - low) / (high - low)
        return joints

    def command(self, joints: Joints) -> None:
        """Set the servos' targets, LeRobot's units, (n,)."""
        values = self._to_model(joints)
        self.data.ctrl[self._actuators] = values
        self.data.ctrl[self._mirror_actuator] = values[self.robot.gripper_index]

    def commanded(self) -> Joints:
        """Return the servos' targets, LeRobot's units, (n,)."""
        values = self.data.ctrl[self._actuators]
        joints: Joints = np.degrees(values)
        low, high = self._gripper_range
        index = self.robot.gripper_index
        joints[index] = 100.0 * (values[index] - low) / (high - low)
        return joints

    def advance(self, seconds: float) -> None:
        """Let time pass, in equal steps no longer than the model's; the task's condition is checked once at the end of it."""
        steps = max(1, math.ceil(seconds / self._longest_step_s - 1e-9))
        self.model.opt.timestep = seconds / steps
        mujoco.mj_step(self.model, self.data, steps)
        self._held_s = self._held_s + seconds if self.task.satisfied(self) else 0.0

    def _to_model(self, joints: Joints) -> NDArray[np.float64]:
        values = np.radians(joints)
        low, high = self._gripper_range
        index = self.robot.gripper_index
        values[index] = low + (high - low) * joints[index] / 100.0
        return values

    def _set_joints(self, joints: Joints) -> None:
        values = self._to_model(joints)
        self.data.qpos[self._qpos] = values
        self.data.qpos[self._mirror_qpos] = values[self.robot.gripper_index]
        self.command(joints)

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def succeeded(self) -> bool:
        """True while the task's condition has held for two policy steps."""
        return self._held_s > SUCCESS_HELD_S - 1e-6

    def privileged_progress(self) -> float:
        """Return how far the task has come, in [0, 1], from the simulator's truth: benchmarks and tests only."""
        if self.succeeded:
            return 1.0
        stage, within = self.task.measure(self)
        ends = (0.0, *self.task.stage_ends)
        return ends[stage] + (ends[stage + 1] - ends[stage]) * min(1.0, max(0.0, within))

    def privileged_stage(self) -> int:
        """Return the index of the present stage among ``task.stages``: benchmarks, tests and annotation only."""
        return len(self.task.stages) - 1 if self.succeeded else self.task.measure(self)[0]

    def tool(self) -> Point:
        """Return the point between the finger tips, metres, (3,)."""
        return np.array(self.data.site_xpos[self._tool])

    def opening(self) -> float:
        """Return the gripper's opening, 0 to 100."""
        return float(self.joints()[self.robot.gripper_index])

    def position(self, body: str) -> Point:
        """Return a body's position, metres, (3,)."""
        return np.array(self.data.body(body).xpos)

    def rotation(self, body: str) -> NDArray[np.float64]:
        """Return a body's rotation matrix, (3, 3)."""
        return np.array(self.data.body(body).xmat).reshape(3, 3)

    def speed(self, body: str) -> float:
        """Return a free body's speed, m/s."""
        address = self.model.body(body).dofadr[0]
        return float(np.linalg.norm(self.data.qvel[address : address + 3]))

    def place(self, body: str, position: Point, yaw_rad: float = 0.0) -> None:
        """Put a free body, or a fixed one that its task may move, somewhere on the table."""
        quaternion = np.array([np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)])
        body_id = self.model.body(body).id
        if self.model.body_jntnum[body_id] == 0:
            self.model.body_pos[body_id], self.model.body_quat[body_id] = position, quaternion
            return
        address = self.model.jnt_qposadr[self.model.body_jntadr[body_id]]
        self.data.qpos[address : address + 3] = position
        self.data.qpos[address + 3 : address + 7] = quaternion
        dof = self.model.jnt_dofadr[self.model.body_jntadr[body_id]]
        self.data.qvel[dof : dof + 6] = 0.0

    def touching(self, body: str) -> tuple[bool, bool]:
        """Return whether the right and the left finger touch a body."""
        touched = {finger for finger, _ in self._touches(body)}
        right, left = self._fingers
        return right in touched, left in touched

    def grasped(self, body: str) -> bool:
        """Return whether a body is between the fingers: closed ones that press on it from outside do not hold it."""
        held = {finger for finger, squeezes in self._touches(body) if squeezes > _SQUEEZES}
        return len(held) == len(self._fingers)

    def _touches(self, body: str) -> Iterator[tuple[int, float]]:
        """Yield each finger that touches a body, and how far it does so along the way that it closes, [0, 1]."""
        body_id, bodies = self.model.body(body).id, self.model.geom_bodyid
        for pair, frame in zip(self.data.contact.geom.tolist(), self.data.contact.frame, strict=True):
            finger = next((geom for geom in self._fingers if geom in pair), None)
            if finger is not None and body_id in (bodies[pair[0]], bodies[pair[1]]):
                closing = self.data.geom_xmat[finger].reshape(3, 3)[:, 1]
                yield finger, abs(float(closing @ frame[:3]))

    # Pictures -------------------------------------------------------------------------------------------------

    def camera_names(self) -> tuple[str, ...]:
        """Return the names of the scene's cameras."""
        return tuple(self.model.camera(i).name for i in range(self.model.ncam))

    def render(self, camera: str, height_px: int, width_px: int, *, handsome: bool = False) -> Image:
        """Return what a camera sees, uint8 (h, w, 3), owned by the caller. See :meth:`Pictures.draw`."""
        return self._pictures.draw(self.data, camera, height_px, width_px, handsome=handsome)

    def close(self) -> None:
        """Free the renderer. May be called twice."""
        self._pictures.close()
