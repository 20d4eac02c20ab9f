"""How many two-camera steps per second a simulated bench gives on this machine, beside LeRobot's gym-hil.

Both environments stand in this process, draw both of their cameras at the same size at every step, and take one step of
0.1 s of the robot's time. Short rounds alternate, and medians are taken, so that a busy machine slows both alike.
"""

from __future__ import annotations

import importlib
import os
import statistics
import time
from typing import Any

import gymnasium

import roborl.envs.registration  # noqa: F401  (registers our ids)
from roborl.errors import ConfigError

OURS = "roborl/PickCube-v0"
THEIRS = "gym_hil/PandaPickCubeBase-v0"


def run(*, rounds: int = 5, steps: int = 100, peer_steps: int = 3, side_px: int = 96) -> dict[str, Any]:
    """Measure both.

    Args:
        rounds: How often each is measured; medians count.
        steps: Steps of ours per round, resets included.
        peer_steps: Steps of gym-hil per round; it takes about a second for each without a GPU.
        side_px: Side of both cameras' pictures.

    Returns:
        Steps per second by environment, their ratio, and the same for our simulation without pictures.

    Raises:
        ConfigError: If gym-hil is not installed.
    """
    ours = gymnasium.make(OURS, overrides=(f"--image_px={side_px}",))
    blind = gymnasium.make(OURS, images=False)
    theirs = _gym_hil(side_px)
    rates: dict[str, list[float]] = {OURS: [], "without pictures": [], THEIRS: []}
    try:
        for turn in range(rounds + 1):
            measured = {
                OURS: _rate(ours, steps, [(side_px, side_px, 3)] * 2),
                "without pictures": _rate(blind, steps, []),
                THEIRS: _rate(theirs, peer_steps, [(side_px, side_px, 3)] * 2),
            }
            if turn:  # the first round warms up
                for name, rate in measured.items():
                    rates[name].append(rate)
    finally:
        for env in (ours, blind, theirs):
            env.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "side_px": side_px,
        "renderer": os.environ.get("MUJOCO_GL", ""),
        "steps_per_s": {name: round(value, 2) for name, value in medians.items()},
        "ratios": {f"{OURS} / {THEIRS}": round(medians[OURS] / medians[THEIRS], 1)},
    }


def _gym_hil(side_px: int) -> gymnasium.Env[Any, Any]:
    try:
        importlib.import_module("gym_hil")
        spec = importlib.import_module("gym_hil.mujoco_gym_env").GymRenderingSpec
    except ImportError as error:
        raise ConfigError(
            "There is nothing to measure the simulation beside",
            seen=f"{type(error).__name__}: {error}",
            allowed="gym-hil",
            remedy="Install the benchmark's extra: pip install 'roborl[bench]'",
        ) from error
    env: gymnasium.Env[Any, Any] = gymnasium.make(
        THEIRS, image_obs=True, render_spec=spec(height=side_px, width=side_px)
    )
    return env


def _rate(env: gymnasium.Env[Any, Any], steps: int, pictures: list[tuple[int, int, int]]) -> float:
    """Return steps per second of random actions; each must give pictures of these shapes."""
    env.action_space.seed(0)
    env.reset(seed=0)
    begun_s = time.perf_counter()
    for number in range(steps):
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if [pixels.shape for pixels in observation.get("pixels", {}).values()] != pictures:
            raise AssertionError("an environment does not give the pictures that it is compared by")
        if terminated or truncated:
            env.reset(seed=number)
    return steps / (time.perf_counter() - begun_s)
