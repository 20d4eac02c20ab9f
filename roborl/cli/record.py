"""``roborl record``: demonstrations into a LeRobotDataset, by script in simulation."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from roborl.cli.evaluate import bench_overrides
from roborl.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to record, and where to."""

    out: Path  # the dataset; one that is there is continued
    bench: str = "so101_sim"  # bench file: a path, or a name in hardware_configs/
    scene: str = ""  # simulated task, if another than the bench file's: Reach, PickCube, PickPlace, ...
    bench_set: list[str] = field(
        default_factory=list
    )  # further bench overrides, like --robot.randomisation=mild
    scripted: int = 0  # how many demonstrations by the scripted expert
    failures: int = 0  # how many scripted failures of each kind
    failure_kinds: list[str] = field(default_factory=list)  # which kinds; empty: all that the task knows
    noise: float = 0.2  # how far the expert strays: standard deviation in units of the largest step
    detours: float = 0.3  # chance per episode of one detour, 0 to 1
    seed: int = 0  # which set of scenes, 0 to 39,999
    video: bool = False  # store MP4 (smaller, lossy, slow to write) rather than exact pictures


def main(config: Config) -> dict[str, Any]:
    """Record; return how many episodes of each kind were written."""
    from roborl.envs.bench import load_bench
    from roborl.envs.robot_env import RobotEnv
    from roborl.loops.record import record_scripted
    from roborl.loops.scripts import failure_kinds, script_maker

    bench = load_bench(config.bench, bench_overrides(config.scene, config.bench_set))
    if not bench.simulated or not (config.scripted or config.failures):
        raise ConfigError(
            "There is nothing to record",
            seen=f"bench {config.bench}, {config.scripted} scripted, {config.failures} failures",
            allowed="a simulated bench with --scripted or --failures",
            remedy="For example: roborl record --bench so101_sim --scripted 20 --failures 2 --out demos",
        )

    def show(kind: str, done: int, wanted: int) -> None:
        print(f"\r{done}/{wanted} {kind:<14}", end="" if done < wanted else "\n", file=sys.stderr, flush=True)

    env = RobotEnv(bench)
    try:
        result = record_scripted(
            env,
            config.out,
            script_maker(noise=config.noise, detours=config.detours),
            demonstrations=config.scripted,
            failures=config.failures,
            failure_kinds=config.failure_kinds or failure_kinds(env),
            seed=config.seed,
            video=config.video,
            on_episode=show,
        )
    finally:
        env.close()
    return {"out": str(config.out), "task": bench.task, **asdict(result)}
