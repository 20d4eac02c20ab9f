"""``roborl record``: demonstrations into a LeRobotDataset, by script in simulation or by a person's hands."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lerobot.teleoperators.config import TeleoperatorConfig

from roborl import config as configuration
from roborl.cli.evaluate import overrides_of
from roborl.config_fields import listed_words
from roborl.envs.bench import import_plugins
from roborl.errors import ConfigError
from roborl.loops.actor.teleoperators import register_teleoperators
from roborl.signals import ended_as_by_ctrl_c

if TYPE_CHECKING:
    from roborl.envs.bench import Bench
    from roborl.loops.record import Recorded

register_teleoperators()


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to record, and where to."""

    out: Path  # the dataset; one that is there is continued
    bench: str = "so101_sim"  # bench file: a path, or a name in hardware_configs/
    scene: str = ""  # simulated task, if another than the bench file's: Reach, PickCube, PickPlace, ...
    # further overrides of the bench file, such as --bench_overrides '[--robot.randomisation=mild]'
    bench_overrides: list[str] = field(default_factory=list)
    # Python modules to import first: they register robots, cameras or teleoperators of your own with LeRobot
    plugins: list[str] = field(default_factory=list)
    scripted: int = 0  # how many demonstrations by the scripted expert
    failures: int = 0  # how many scripted failures of each kind
    failure_kinds: list[str] = field(default_factory=list)  # which kinds; empty: all that the task knows
    noise: float = 0.2  # how far the expert strays: standard deviation in units of the largest step
    detours: float = 0.3  # chance per episode of one detour, 0 to 1
    seed: int = 0  # which set of scenes, 0 to 39,999
    # also store the simulator's true progress, to measure reward models against
    benchmark_progress: bool = False
    # how many episodes by a person with the teleoperator the dataset shall have in all, successes and failures, besides
    # those that the person discards
    by_hand: int = 0
    teleop: TeleoperatorConfig | None = None  # LeRobot's own configuration, like --teleop.type so101_leader
    video: bool = False  # store MP4 (smaller, lossy, slow to write) rather than exact pictures

    def __post_init__(self) -> None:
        for name in ("scripted", "failures", "by_hand"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} counts episodes",
                    seen=getattr(self, name),
                    allowed="0 or more",
                    remedy=f"Set --{name}",
                )
        if not 0 <= self.noise < math.inf or not 0 <= self.detours <= 1:
            raise ConfigError(
                "The expert cannot stray like this",
                seen=f"noise {self.noise:g}, detours {self.detours:g}",
                allowed="noise >= 0, detours from 0 to 1",
                remedy="Set --noise and --detours",
            )


def prepare_args(args: Sequence[str]) -> list[str]:
    """Import what ``--plugins`` names before ``--teleop.type`` is read, which may be of theirs.

    Raises:
        ConfigError: If one cannot be imported, or their list is torn.
    """
    named = configuration.named(args, "plugins")
    named = listed_words("--plugins", named) if isinstance(named, str) else named
    import_plugins([str(name) for name in named] if isinstance(named, list) else [])
    return list(args)


def main(config: Config) -> dict[str, Any]:
    """Record; return how many episodes of each kind were written. Ctrl-C, SIGTERM and a closed terminal keep those that are whole."""
    from roborl.envs.bench import load_bench

    bench = load_bench(config.bench, overrides_of(config.scene, config.bench_overrides), config.plugins)
    scripted = bool(config.scripted or config.failures)
    if scripted == bool(config.by_hand) or (scripted and not bench.simulated):
        raise ConfigError(
            "It is not clear what to record",
            seen=f"bench {config.bench}, {config.scripted} scripted, {config.failures} failures, "
            f"{config.by_hand} by hand",
            allowed="--scripted and --failures on a simulated bench, or --by_hand with a teleoperator",
            remedy="For example: roborl record --bench so101_sim --scripted 20 --failures 2 --out demos",
        )
    with ended_as_by_ctrl_c():
        result = _by_hand(config, bench) if config.by_hand else _scripted(config, bench)
    return {"out": str(config.out), "task": bench.task, **asdict(result)}


def _show(kind: str, done: int, wanted: int) -> None:
    print(f"\r{done}/{wanted} {kind:<14}", end="" if done < wanted else "\n", file=sys.stderr, flush=True)


def _scripted(config: Config, bench: Bench) -> Recorded:
    from roborl.envs.robot_env import RobotEnv
    from roborl.loops.record import record_scripted
    from roborl.loops.scripts import failure_kinds, script_maker

    env = RobotEnv(bench)
    try:
        return record_scripted(
            env,
            config.out,
            script_maker(noise=config.noise, detours=config.detours),
            demonstrations=config.scripted,
            failures=config.failures,
            failure_kinds=failure_kinds(env, config.failure_kinds),
            seed=config.seed,
            video=config.video,
            benchmark_progress=config.benchmark_progress,
            on_episode=_show,
        )
    finally:
        env.close()


def _by_hand(config: Config, bench: Bench) -> Recorded:
    from roborl.clock import MonotonicClock
    from roborl.envs.devices import require_degrees, require_hold
    from roborl.envs.robot_env import RobotEnv
    from roborl.hil.keyboard import HELP, at_terminal
    from roborl.loops.actor.teleoperators import (
        connect_teleoperator,
        disconnect_teleoperator,
        make_teleoperator,
        teleoperator_types,
    )
    from roborl.loops.by_hand import HandOperator, buttons_at_the_terminal, record_by_hand

    require_hold(bench)
    if config.teleop is None:
        raise ConfigError(
            "A person needs a teleoperator",
            seen="none",
            allowed=teleoperator_types(),
            remedy="For example: --teleop.type so101_leader --teleop.port /dev/serial/by-id/LEADER --teleop.id leader",
        )
    if not at_terminal():
        raise ConfigError(
            "A person needs a keyboard for ready, success, failure, discard and stop",
            seen="standard input is no terminal",
            allowed="a terminal",
            remedy="Run it in one",
        )

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    teleoperator = make_teleoperator(config.teleop)
    with buttons_at_the_terminal() as presses:
        operator = HandOperator(presses, say=say, clock=MonotonicClock())
        env = RobotEnv(bench, operator=operator)
        try:
            require_degrees(bench, env.arm.robot)
            connect_teleoperator(teleoperator)
            say(HELP)
            return record_by_hand(
                env,
                operator,
                teleoperator,
                config.out,
                episodes=config.by_hand,
                video=config.video,
                on_begin=lambda limit_s: say(
                    f"The next episode takes {limit_s:g} s at most: say before that how it went."
                ),
                on_episode=lambda kind, done, wanted: say(f"{done}/{wanted} {kind}"),
                on_lost=lambda error: say(f"This episode is lost, and is to be shown once more. {error}"),
            )
        finally:
            disconnect_teleoperator(teleoperator)
            env.close()
