"""How a bench is wired: robot, cameras, rates, actions, limits, in one YAML file."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot

from roborl.config import parse
from roborl.envs import config_sim_robot
from roborl.envs.actions import ActionConfig
from roborl.envs.kinematics import Kinematics
from roborl.envs.ranges import check_number
from roborl.envs.robot_model import load_robot_model
from roborl.envs.safety import SafetyConfig, check_workspace
from roborl.errors import ConfigError, RoborlError, spelt_out
from roborl.paths import bench_file

SimRobotConfig = config_sim_robot.SimRobotConfig

_LEROBOT_TYPES = (
    "lerobot.robots.so_follower",
    "lerobot.robots.koch_follower",
    "lerobot.robots.omx_follower",
    "lerobot.cameras.opencv",
    "lerobot.cameras.zmq",
)
"""LeRobot's serial arms and cameras; importing a package is what registers its type name. Others come by plug-in."""
_LONGEST_S = 60.0
"""A watchdog that waits longer watches nothing: the number is a slip, or counted in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class CameraUse:
    """The resolution at which a camera is recorded.

    Attributes:
        height_px: Height of the recorded frame.
        width_px: Width of the recorded frame.
    """

    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            check_number(f"{name} of a camera", getattr(self, name), at_least=1)


@dataclass(frozen=True, kw_only=True)
class WatchdogConfig:
    """When silence stops the arm.

    Attributes:
        stale_s: Greatest age of a camera frame.
        frozen_frames: How many identical frames in a row are taken for a frozen camera while the arm moves; 0: any.
        action_deadline_s: Longest wait for an action before the episode is ended, and for the next chunk before the arm holds.
            Where the policy still has an earlier observation to answer, as when a person gives back, its wait for this one
            begins with that answer: the arm holds for at most twice as long. On a physical bench at most a minute.
        tick_deadline_s: Greatest lateness of a control tick, as where a call of the robot blocks, before the episode is
            ended; 0: any. Not asked of a simulated world that waits for the arm.
        operator_silence_s: Longest silence of a device that sends signs of life, as the terminal's keyboard does four
            times a second, before the episode is ended; 0: any. Nothing is asked of a device that sends presses alone.
    """

    stale_s: float = 0.5
    frozen_frames: int = 5
    action_deadline_s: float = 2.0
    tick_deadline_s: float = 0.25
    operator_silence_s: float = 2.0

    def __post_init__(self) -> None:
        check_number("watchdog.stale_s", self.stale_s, above=0.0, at_most=_LONGEST_S)
        check_number("watchdog.action_deadline_s", self.action_deadline_s, above=0.0)
        for name in ("tick_deadline_s", "operator_silence_s"):
            check_number(f"watchdog.{name}", getattr(self, name), at_least=0.0, at_most=_LONGEST_S)
        check_number("watchdog.frozen_frames", self.frozen_frames, at_least=0)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One robot, wired up.

    Attributes:
        robot: LeRobot's own configuration of the robot and its cameras.
        model: Folder under ``robots/``: joints, limits, chain.
        task: The instruction in words; empty on a simulated bench for the simulated task's own.
        cameras: Recording resolution by camera name; a robot's camera that is left out is not used. Empty on a simulated
            bench for all of them at ``image_px``.
        image_px: Side of the square picture a policy sees.
        control_hz: Rate at which set-points are sent.
        policy_hz: Rate at which the policy acts; divides ``control_hz``.
        max_steps: Time limit of an episode in policy steps; 0 on a simulated bench for the simulated task's own.
        time_scale: How much faster than life a simulated bench runs; 1 on a physical one.
        action: What an action means.
        safety: Bounds on what reaches the motors.
        watchdog: When silence stops the arm.
        outcome: Who says how an episode of training came out. "auto": the simulation or the person at the bench, while it
            runs. "judge": the learner's reward model, once it has seen the frames; a simulation then keeps silent,
            and an episode ends by its time limit, or once a reward model that watches live calls it done; a person may still
            press a button, which outvotes the judge.
        if_control_dies: What the arm does when nobody sends set-points any more, in words for the operator; a physical bench
            must say it.
    """

    robot: RobotConfig
    model: str
    cameras: dict[str, CameraUse] = field(default_factory=dict)
    task: str = ""
    image_px: int = 64
    control_hz: float = 50.0
    policy_hz: float = 10.0
    max_steps: int = 0
    time_scale: float = 1.0
    action: ActionConfig = field(default_factory=ActionConfig)
    safety: SafetyConfig = field(default_factory=SafetyConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)
    outcome: Literal["auto", "judge"] = "auto"
    if_control_dies: str = ""

    def __post_init__(self) -> None:
        for name in ("control_hz", "policy_hz", "time_scale"):
            check_number(name, getattr(self, name), above=0.0)
        if not self.simulated:  # A large policy on a processor may take minutes, and no simulated arm minds.
            deadline_s = self.watchdog.action_deadline_s
            check_number("watchdog.action_deadline_s", deadline_s, above=0.0, at_most=_LONGEST_S)
        check_number("image_px", self.image_px, at_least=1)
        check_number("max_steps", self.max_steps, at_least=0)
        ticks = self.control_hz / self.policy_hz
        if ticks < 1 or abs(ticks - round(ticks)) > 1e-9:
            raise ConfigError(
                "policy_hz does not divide control_hz",
                seen=f"{self.policy_hz:g} and {self.control_hz:g}",
                allowed="a whole number of control periods per policy step",
                remedy="Change one of the two rates",
            )
        if not self.simulated and self.time_scale != 1.0:
            raise ConfigError(
                "A physical arm cannot run faster than life",
                seen=f"time_scale={self.time_scale:g}",
                allowed="1",
                remedy="Remove time_scale from the bench file",
            )
        if getattr(self.robot, "use_degrees", True) is False:
            raise ConfigError(
                "The robot gives its joints in other units than degrees",
                seen="robot.use_degrees=false",
                allowed="true: limits, workspace and inverse kinematics count in degrees",
                remedy="Set use_degrees: true in the bench file; the calibration stays",
            )
        if getattr(self.robot, "max_relative_target", None) is not None:
            raise ConfigError(
                "The robot would cut set-points short by itself, and actions would be stored that were not executed",
                seen=f"robot.max_relative_target={self.robot.max_relative_target}",
                allowed="null",
                remedy="Leave it out, and bound the arm with safety.velocity_scale and safety.acceleration_scale",
            )
        missing = sorted(set(self.cameras) - set(getattr(self.robot, "cameras", {})))
        if missing:
            raise ConfigError(
                "The robot has no such camera",
                seen=missing,
                allowed=sorted(getattr(self.robot, "cameras", {})),
                remedy="Add it under robot.cameras, or remove it under cameras",
            )

    @property
    def simulated(self) -> bool:
        """Whether time may run at another pace than the clock on the wall."""
        return isinstance(self.robot, SimRobotConfig)

    @property
    def ticks_per_step(self) -> int:
        """Control periods per policy step."""
        return round(self.control_hz / self.policy_hz)


def load_bench(name_or_path: str, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> Bench:
    """Read a bench file and fill in what a simulated task says itself.

    Args:
        name_or_path: A path, or a name in ``hardware_configs/``.
        overrides: Dotted overrides as on a command line, such as ``--robot.scene=Reach``.
        plugins: Modules to import first, which register robots, cameras or teleoperators with LeRobot.

    Raises:
        ConfigError: If the file is missing or a field does not fit, or there is no such plug-in.
    """
    import_plugins(plugins)
    register_robot_types()
    path = bench_file(name_or_path)
    return resolve(parse(Bench, ["--config_path", str(path), *overrides], prog=str(path)))


def import_plugins(plugins: Sequence[str]) -> None:
    """Import modules that register robots, cameras or teleoperators with LeRobot.

    Raises:
        ConfigError: If there is no such module.
    """
    for plugin in plugins:
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise ConfigError(
                "A plug-in cannot be imported",
                seen=f"{plugin}: {error}",
                allowed="a module that Python finds",
                remedy="Install it, or correct plugins",
            ) from error


def resolve(bench: Bench) -> Bench:
    """Return ``bench`` with what it leaves open taken from the simulated task, and the cameras that it uses, simulated ones at recording size.

    Raises:
        ConfigError: If a physical bench leaves them open or does not state what it does when control dies, or the simulated
            task does not exist, or has no usual places for its objects to start near. Or if the workspace leaves out the home
            pose, or no arm of this model reaches so far.
    """
    check_workspace(bench.safety, Kinematics(load_robot_model(bench.model)))
    if isinstance(bench.robot, SimRobotConfig):
        tasks = importlib.import_module("roborl.envs.tasks.registry")
        task = tasks.make_task(bench.robot.scene, bench.robot.spread_m)
        whole = CameraUse(height_px=bench.image_px, width_px=bench.image_px)
        uses = bench.cameras or dict.fromkeys(bench.robot.cameras, whole)
        drawn = {
            name: replace(bench.robot.cameras[name], height=use.height_px, width=use.width_px)
            for name, use in uses.items()
        }
        return replace(
            bench,
            task=bench.task or task.instruction,
            max_steps=bench.max_steps or task.max_steps,
            cameras=uses,
            robot=replace(bench.robot, control_hz=bench.control_hz, cameras=drawn),
        )
    if not bench.task or bench.max_steps < 1 or not bench.cameras:
        raise ConfigError(
            "A physical bench must state its task, its time limit and its cameras",
            seen=f"task={bench.task!r}, max_steps={bench.max_steps}, cameras={sorted(bench.cameras)}",
            allowed="an instruction in words, at least 1 step, and a recording resolution per camera",
            remedy="Set task, max_steps and cameras in the bench file",
        )
    if not bench.if_control_dies.strip():
        raise ConfigError(
            "A physical bench must state what its arm does when nobody sends set-points any more",
            seen=f"if_control_dies={bench.if_control_dies!r}",
            allowed="a sentence for whoever stands beside it",
            remedy="Find it out and set it in the bench file, for example: "
            "if_control_dies: the servos hold their last goal position under torque until the power is cut",
        )
    # LeRobot's robots read all of their cameras: one that nobody needs would stop the arm where it is late.
    used = {name: camera for name, camera in bench.robot.cameras.items() if name in bench.cameras}
    return replace(bench, robot=replace(bench.robot, cameras=used))


def device_type(config: Any) -> str:
    """Return the type of a robot's or teleoperator's configuration; where LeRobot has several names for one, the newest.

    Example:
        >>> device_type(load_bench("so101_desk").robot)  # an SO-100's driver, which has both names
        'so101_follower'
    """
    names = [name for name, kind in type(config).get_known_choices().items() if kind is type(config)]
    return str(names[-1])


def register_robot_types() -> None:
    """Make LeRobot's own robots and cameras, and those of installed ``lerobot_*`` plug-ins, known by name."""
    for module in _LEROBOT_TYPES:
        importlib.import_module(module)
    importlib.import_module("lerobot.utils.import_utils").register_third_party_plugins()


def make_robot(bench: Bench) -> Robot:
    """Return the bench's robot, not yet connected.

    Raises:
        ConfigError: If its settings do not fit or its driver is not installed.
    """
    try:
        return importlib.import_module("lerobot.robots.utils").make_robot_from_config(bench.robot)
    except RoborlError:
        raise
    except (
        Exception
    ) as error:  # a driver is foreign code, and a calibration file that is cut off raises what it likes
        if isinstance(error.__cause__, RoborlError):
            raise error.__cause__ from error
        raise ConfigError(
            "The robot of this bench cannot be made",
            seen=f"{device_type(bench.robot)}: {spelt_out(error)}",
            allowed="a robot whose driver is installed, and whose calibration file is whole where it has one",
            remedy="Install what the message names, for an SO-101: pip install 'roborl[so101]'; or calibrate again under"
            f" id {bench.robot.id}",
        ) from error
