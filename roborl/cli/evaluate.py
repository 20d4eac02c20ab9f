"""``roborl evaluate``: the success rate of a policy on scenes that nothing else uses; its bar sets the exit code."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from roborl.errors import ConfigError
from roborl.loops.references_config import ReferencesConfig
from roborl.loops.seeds import scene_seed

ScenePurpose = Literal["evaluation", "tuning"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which policy, on which scenes, against which bar."""

    # folder of a policy, ours or as LeRobot saves it, or of a run (its last published weights), or "scripted" for the
    # simulated expert
    policy: str
    bench: str = "so101_sim"  # bench file: a path, or a name in hardware_configs/
    scene: str = ""  # simulated task, if another than the bench file's: Reach, PickCube, PickPlace, ...
    # further overrides of the bench file, such as --bench_overrides '[--max_steps=80]'
    bench_overrides: list[str] = field(default_factory=list)
    # Python modules to import first: they register robots, cameras or teleoperators of your own with LeRobot
    plugins: list[str] = field(default_factory=list)
    episodes: int = 50  # how many scenes
    seed: int = 0  # which set of scenes, 0 to 39,999
    purpose: ScenePurpose = "evaluation"  # tuning: scenes to choose settings on, never reported
    require: str = ""  # bar that sets the exit code, like "success>=0.8"
    replan_steps: int = 0  # ask the policy again after so many actions of a chunk; 0: after all of them
    threads: int = 1  # threads of the policy's network
    table: Path | None = None  # JSONL file with one line per episode
    video: Path | None = None  # MP4 file
    video_episodes: int = 4  # how many episodes it shows
    # reward model that watches, named as for roborl serve; its progress is drawn on the video
    reward: str = ""
    # the demonstration that it is shown
    references: ReferencesConfig = field(default_factory=ReferencesConfig)

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("replan_steps", 0), ("threads", 1), ("video_episodes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"{name} is too small",
                    seen=getattr(self, name),
                    allowed=f"{least} or more",
                    remedy=f"Set --{name}",
                )


def main(config: Config) -> dict[str, Any]:
    """Evaluate; return the figures, with ``exit`` 1 where the bar is missed."""
    from roborl.envs.bench import load_bench
    from roborl.envs.robot_env import RobotEnv
    from roborl.loops.evaluate import FIGURES, EvaluatedEpisode, evaluate
    from roborl.loops.references import read_demonstration
    from roborl.loops.requirements import Requirement

    requirement = Requirement.parse(config.require, FIGURES) if config.require else None
    bench = load_bench(config.bench, overrides_of(config.scene, config.bench_overrides), config.plugins)
    if not bench.simulated:
        raise ConfigError(
            "A physical bench needs its operator to evaluate on",
            seen=config.bench,
            allowed="a simulated bench",
            remedy=f"On the robot's computer: roborl act --mode evaluate --bench {config.bench} --policy {config.policy} "
            f"--episodes {config.episodes}",
        )

    def show(outcome: EvaluatedEpisode, done: int) -> None:
        result = "success" if outcome.success else outcome.end
        print(f"episode {done}/{config.episodes}: {result} after {outcome.steps} steps", file=sys.stderr)

    result = evaluate(
        _policy(config, bench),
        lambda: RobotEnv(bench),
        [scene_seed(config.purpose, config.seed, index) for index in range(config.episodes)],
        replan_steps=config.replan_steps or None,
        reward_model=_reward_model(config.reward),
        references=read_demonstration(config.references, sorted(bench.cameras), bench.task),
        table=config.table,
        video=config.video,
        video_episodes=config.video_episodes,
        on_episode=show,
    )
    print(result.sentence(), file=sys.stderr)
    figures = result.figures()
    # JSON knows no NaN: a figure that is not there is null.
    stated = {name: None if math.isnan(value) else value for name, value in figures.items()}
    report: dict[str, Any] = {"policy": config.policy, "bench": config.bench, "task": bench.task, **stated}
    if requirement is not None:
        met = requirement.holds(figures)
        print(f"{config.require}: {'met' if met else 'not met'}", file=sys.stderr)
        report |= {"require": config.require, "met": met, "exit": 0 if met else 1}
    return report


def overrides_of(scene: str, further: list[str]) -> list[str]:
    """Return the overrides of a bench file for a simulated task."""
    return [*([f"--robot.scene={scene}"] if scene else []), *further]


def _policy(config: Config, bench: Any) -> Callable[[Any], Any]:
    if config.policy == "scripted":
        from roborl.envs.experts import make_expert

        return lambda env: make_expert(env.scene, action=env.bench.action)
    import torch

    from roborl.loops.bench_scales import scales
    from roborl.loops.learnt import policy_of, warn_of_start
    from roborl.loops.policy_scales import check_scales

    torch.set_num_threads(config.threads)
    warn_of_start(Path(config.policy))
    check_scales(Path(config.policy), scales(bench))
    policy = policy_of(Path(config.policy), task=bench.task)
    return lambda env: policy


def _reward_model(place: str) -> Any:
    if not place:
        return None
    from roborl.rewards.registry import load_reward_model

    return load_reward_model(place)
