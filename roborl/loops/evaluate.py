"""How often a policy succeeds, on scenes that nothing else uses, with an interval."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.envs.robot_env import RobotEnv
from roborl.envs.sim_robot import SimRobot
from roborl.errors import ConfigError
from roborl.loops.rollout import Rollout, run_episode
from roborl.loops.video import beside, curve_frames, with_cameras, write_video
from roborl.rewards.metrics import wilson_interval
from roborl.rewards.model import References, RewardModel, progress_of, score_episode
from roborl.roles import Policy
from roborl.types import Image, Observation
from roborl.whole_files import require_writable

log = logging.getLogger(__name__)

LINGER_FRAMES = 5
_VIEW_PX = (288, 384)
FIGURES = ("success", "success_low", "success_high", "mean_steps", "mean_steps_of_successes", "episodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedEpisode:
    """One evaluation episode.

    Attributes:
        seed: Of its scene.
        success: Whether the task was done.
        end: Why it ended.
        steps: How many steps it took.
        policy_version: The weights that ran it.
        wall_s: Seconds it took here.
        final_progress: The reward model's last score, None where none watched.
    """

    seed: int
    success: bool
    end: str
    steps: int
    policy_version: int
    wall_s: float
    final_progress: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a policy achieved.

    Attributes:
        outcomes: One per scene, in order.
    """

    outcomes: tuple[EvaluatedEpisode, ...]

    @property
    def successes(self) -> int:
        """How many scenes were solved."""
        return sum(outcome.success for outcome in self.outcomes)

    def figures(self) -> dict[str, float]:
        """Return success rate, its 95 % Wilson interval, mean steps (NaN without a success) and count."""
        n = len(self.outcomes)
        low, high = wilson_interval(self.successes, n)
        won = [outcome.steps for outcome in self.outcomes if outcome.success]
        return {
            "success": self.successes / n,
            "success_low": low,
            "success_high": high,
            "mean_steps": float(np.mean([outcome.steps for outcome in self.outcomes])),
            "mean_steps_of_successes": float(np.mean(won)) if won else float("nan"),
            "episodes": float(n),
        }

    def sentence(self) -> str:
        """Return the result for people."""
        f = self.figures()
        return (
            f"{self.successes}/{len(self.outcomes)} succeeded: {100 * f['success']:.0f} % "
            f"(95 % interval {100 * f['success_low']:.0f} to {100 * f['success_high']:.0f} %), "
            f"{f['mean_steps']:.1f} steps on average"
        )


def evaluate(
    make_policy: Callable[[RobotEnv], Policy],
    env_factory: Callable[[], RobotEnv],
    seeds: Sequence[int],
    *,
    replan_steps: int | None = None,
    reward_model: RewardModel[Any, Any] | None = None,
    references: References | None = None,
    table: Path | None = None,
    video: Path | None = None,
    video_episodes: int = 4,
    on_episode: Callable[[EvaluatedEpisode, int], None] = lambda outcome, done: None,
) -> Evaluation:
    """Run a policy once on each scene, without sleeping.

    Args:
        make_policy: Makes the policy for the environment; a scripted expert needs its scene, others ignore it.
        env_factory: Makes the environment; it is closed here.
        seeds: One scene each, see :mod:`roborl.loops.seeds`.
        replan_steps: Ask the policy again after so many actions of a chunk; by default after all.
        reward_model: Watches every episode; its progress is drawn on the video and noted in the table.
        references: The demonstration that it is shown.
        table: JSONL file that gets one line per episode as soon as it is over.
        video: MP4 file that gets the first ``video_episodes`` episodes.
        video_episodes: How many.
        on_episode: Told each outcome and how many are done.

    Raises:
        ConfigError: If there is no scene, the policy's actions do not fit or are not finite, or the reward model lacks a
            reference; that last is seen before the first episode.
        OSError: If table or video cannot be written; that is seen before the first episode.
    """
    if not seeds:
        raise ConfigError("An evaluation needs scenes", seen=0, allowed="1 or more", remedy="Set --episodes")
    for place in filter(None, (table, video)):
        require_writable(place)
    outcomes: list[EvaluatedEpisode] = []
    shown: list[Image] = []
    env = env_factory()
    try:
        if reward_model is not None:
            reward_model.start(env.task, references or {})
        policy = make_policy(env)
        if table is not None:
            table.write_text("")
        for seed in seeds:
            filmed = video is not None and len(outcomes) < video_episodes
            views: list[Image] = []
            start = time.monotonic()
            rollout = run_episode(
                env,
                policy,
                seed=seed,
                keep=filmed or reward_model is not None,
                replan_steps=replan_steps,
                watch=_spectator(env, views) if filmed else lambda _: None,
            )
            wall_s = time.monotonic() - start
            progress = None if reward_model is None else watched(reward_model, env.task, rollout, references)
            outcome = EvaluatedEpisode(
                seed=seed,
                success=rollout.success,
                end=rollout.end.value,
                steps=rollout.steps,
                policy_version=rollout.policy_version,
                wall_s=round(wall_s, 3),
                final_progress=None if progress is None else round(float(progress[-1]), 4),
            )
            outcomes.append(outcome)
            if table is not None:
                with table.open("a") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
            if filmed:
                shown += film(rollout, progress, views=views)
            on_episode(outcome, len(outcomes))
    finally:
        env.close()
    if video is not None:
        write_video(video, shown, fps=env.bench.policy_hz)
    return Evaluation(outcomes=tuple(outcomes))


def watched(
    model: RewardModel[Any, Any], task: str, rollout: Rollout, references: References | None = None
) -> NDArray[np.float32]:
    """Return a reward model's progress along an episode, an unreadable score holding the last one, float32 (T + 1,)."""
    return progress_of(score_episode(model, task, rollout.observations, references=references))


def film(
    rollout: Rollout,
    progress: NDArray[np.float32] | None,
    *,
    views: Sequence[Image] = (),
) -> list[Image]:
    """Return an episode's pictures with progress drawn below and how it ended; the last one lingers for ``LINGER_FRAMES`` more.

    Args:
        rollout: The episode, with its observations kept.
        progress: float32 (T + 1,), or None.
        views: A spectator's pictures, T + 1 of them, that the cameras' stand beside; none shows the cameras alone.
    """
    said = f"scene {rollout.seed}   {rollout.end.value} after {rollout.steps} steps"
    cameras = [observation.images for observation in rollout.observations]
    pictures = (
        [with_cameras(view, images) for view, images in zip(views, cameras, strict=True)]
        if views
        else [beside(images) for images in cameras]
    )
    frames = curve_frames(pictures, progress, caption=said, success=rollout.success)
    return [*frames, *[frames[-1]] * LINGER_FRAMES]


def _spectator(env: RobotEnv, views: list[Image]) -> Callable[[Observation], None]:
    """Return what draws the scene for people at each observation; on a physical bench nobody does."""
    if not isinstance(env.arm.robot, SimRobot):
        return lambda _: None
    scene = env.arm.robot.scene
    return lambda _: views.append(scene.render("audience", *_VIEW_PX, handsome=True))
