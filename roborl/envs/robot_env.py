"""A bench as a Gymnasium environment: the same arm, limits and verdicts as the asynchronous actor, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from roborl.clock import NS, Clock, FakeClock, MonotonicClock, Rate
from roborl.envs.arm import Arm
from roborl.envs.bench import Bench, load_bench, make_robot
from roborl.envs.homing import go_home
from roborl.errors import ConfigError, RobotError
from roborl.roles import Operator
from roborl.types import Observation

if TYPE_CHECKING:
    from roborl.envs.scene import Scene


class RobotEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """One bench, one episode at a time. A simulated bench never sleeps; a physical one keeps its control rate.

    Observations are ``{"pixels": {camera: uint8 (h, w, 3)}, "agent_pos": float32 (s,)}``, without "pixels" if
    ``images`` is off. The reward is 1 on success, else 0. ``info`` holds "is_success" and, after a step, "executed": the
    action really taken.

    Args:
        bench: A bench, or the name or path of its file.
        operator: Makes the scene ready and judges; needed on a physical bench. On a simulated one the simulator does both,
            and with an operator, who says when to begin and judges, still draws the scene.
        images: False never reads a camera.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  (Gymnasium's own class attribute)

    def __init__(
        self,
        bench: Bench | str = "so101_sim",
        *,
        operator: Operator | None = None,
        images: bool = True,
        render_mode: str | None = None,
    ) -> None:
        self.bench = load_bench(bench) if isinstance(bench, str) else bench
        self.metadata = {**self.metadata, "render_fps": self.bench.policy_hz}
        self.render_mode = render_mode
        self.task = self.task_description = self.bench.task
        self._max_episode_steps = self.bench.max_steps
        self._images = images
        robot = make_robot(self.bench)
        if self.bench.simulated:
            from roborl.envs.sim_robot import (  # MuJoCo is for these benches alone.
                PersonInSimulation,
                SimOperator,
            )

            operator = SimOperator(robot) if operator is None else PersonInSimulation(operator, robot)
        if operator is None:
            raise ConfigError(
                "A physical bench needs somebody who resets the scene and judges",
                seen="no operator",
                allowed="an object with reset and verdict",
                remedy="Pass operator=",
            )
        self._operator = operator
        self._clock: Clock = FakeClock() if self.bench.simulated else MonotonicClock()
        self.arm = Arm(self.bench, robot, self._clock)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.arm.action_dim,), np.float32)
        spaces: dict[str, gymnasium.Space[Any]] = {
            "agent_pos": gymnasium.spaces.Box(-np.inf, np.inf, (self.arm.state_dim,), np.float32)
        }
        if images:
            spaces["pixels"] = gymnasium.spaces.Dict(
                {
                    name: gymnasium.spaces.Box(0, 255, shape, np.uint8)
                    for name, shape in self.arm.cameras.items()
                }
            )
        self.observation_space = gymnasium.spaces.Dict(spaces)
        self._rate: Rate | None = None
        self._index = 0
        self._shown_ns = 0
        self.last_observation: Observation | None = None

    @property
    def scene(self) -> Scene:
        """The simulator's truth behind a simulated bench: for experts, benchmarks and tests.

        Raises:
            ConfigError: On a physical bench.
        """
        if not self.bench.simulated:
            raise ConfigError(
                "Only a simulated bench has a scene", seen=self.arm.robot.name, allowed="so101_sim"
            )
        scene: Scene = self.arm.robot.scene
        return scene

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Have the scene made ready and return the first observation.

        A physical arm moves home once its operator has said that the scene is ready, and not before.

        Raises:
            RobotError: If the robot does not answer, or cannot get home.
        """
        super().reset(seed=seed)
        self._rate = None
        if not self.arm.robot.is_connected:
            self.arm.connect()
        self._operator.reset(int(self.np_random.integers(2**31)) if seed is None else seed)
        self.arm.begin_episode()
        if not self.bench.simulated:
            go_home(self.arm, Rate(self.bench.control_hz, self._clock), self._stopped)
        self._index = 0
        seen = self._observe()
        self._rate = Rate(self.bench.control_hz, self._clock)
        return seen, {"is_success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Act for one policy period, and observe at the end of the last set-point's control period, as the actor does.

        Raises:
            RobotError: If no reset came to its end before, the robot does not answer or a camera fails. Or if robot or machine
                stood still for longer than ``watchdog.tick_deadline_s``, or the action came later after the step before than
                ``watchdog.action_deadline_s``: this is no policy period any more. For the first action there is no haste.
        """
        rate = self._rate
        if rate is None:
            raise RobotError(
                "There is no episode to act in",
                seen="step",
                allowed="a reset that came to its end, then steps",
                remedy="Call reset first",
            )
        self._action_in_time()
        executed = self.arm.begin_step(np.asarray(action, dtype=np.float32))
        if rate.remaining_ns() <= 0:
            rate.wait()  # A look or a policy that took long sets the pace anew, rather than two set-points at once.
        rate.wait_apart()  # the step before may have begun later in its period than this one would
        rate.begin_now(self.arm.ticks_per_step)  # set-points are planned a period apart, and go out so
        for _ in range(self.arm.ticks_per_step):
            self.arm.tick()
            self._tick_in_time(rate.wait())
        self._index += 1
        seen = self._observe()
        self._tick_in_time(-rate.remaining_ns())
        verdict = self._operator.verdict()
        self._shown_ns = self._clock.now_ns()
        terminated = verdict is not None
        truncated = not terminated and self._index >= self.bench.max_steps
        success = verdict is True
        return seen, float(success), terminated, truncated, {"is_success": success, "executed": executed}

    def render(self) -> NDArray[np.uint8] | None:
        """Return a handsome picture of a simulated bench, uint8 (480, 640, 3); None without a render mode."""
        return (
            self.scene.render("front", 480, 640, handsome=True) if self.render_mode == "rgb_array" else None
        )

    def close(self) -> None:
        """Disconnect the robot."""
        self.arm.disconnect()

    def _stopped(self) -> bool:
        """Let the operator stop the arm between two episodes, which is raised; there is no verdict then."""
        self._operator.verdict()
        return False

    def _action_in_time(self) -> None:
        waited_ns = self._clock.now_ns() - self._shown_ns
        deadline_s = self.bench.watchdog.action_deadline_s
        if self._index and waited_ns > deadline_s * NS:
            raise RobotError(
                "An action came late: the policy, or whoever calls step, took too long",
                seen=f"{waited_ns / NS:.2f} s",
                allowed=f"watchdog.action_deadline_s, {deadline_s:g} s",
                remedy="Use a faster policy, or raise watchdog.action_deadline_s in the bench file; then call reset",
            )

    def _tick_in_time(self, late_ns: int) -> None:
        deadline_s = self.bench.watchdog.tick_deadline_s
        if 0 < deadline_s * NS < late_ns:
            raise RobotError(
                "A control tick or the look after it came late: robot or machine stood still",
                seen=f"{late_ns / NS:.2f} s",
                allowed=f"watchdog.tick_deadline_s, {deadline_s:g} s",
                remedy="Check the robot's cable and what else the machine is busy with, or raise watchdog.tick_deadline_s in the"
                " bench file",
            )

    def _observe(self) -> dict[str, Any]:
        self.last_observation = observation = self.arm.observe(self._index, images=self._images)
        seen: dict[str, Any] = {"agent_pos": observation.state}
        if self._images:
            seen["pixels"] = observation.images
        return seen
