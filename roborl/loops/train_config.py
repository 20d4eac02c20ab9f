"""What ``roborl train`` is told, and the part of it that each process is given."""

from __future__ import annotations

import os
import tempfile
import zlib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from roborl.envs.bench import load_bench
from roborl.envs.ranges import check_number
from roborl.errors import ConfigError
from roborl.loops.actor.act_config import ActConfig, ActSettings, shared_folder
from roborl.loops.actor.live_config import LiveConfig
from roborl.loops.learner.learn_config import LearnConfig, LearnSettings, RunFolder
from roborl.loops.reward_gate import RewardGate
from roborl.loops.seeds import scene_seed
from roborl.policies.exploration import ExplorationConfig

# A socket's path has about this many bytes at most.
_LONGEST_SOCKET = 100


@dataclass(frozen=True, kw_only=True)
class TrainConfig(LearnSettings):
    """What ``roborl train`` is told."""

    # reward model, named as for roborl serve: a folder that train-reward left, NAME:CHECKPOINT of a published one, or
    # "brightness" for a dry run; empty trains on the task's reward alone
    reward: str = ""
    # what it must have shown in roborl bench-reward before anything moves
    reward_gate: RewardGate = field(default_factory=RewardGate)
    # online episodes in all, with those of a run that goes on
    episodes: int = 150
    # actors that share them, the same number whenever a run goes on; more than one in simulation only
    actors: int = 1
    # whether the policy explores
    explore: bool = True
    # and how
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    # how each actor runs its arm
    act: ActSettings = field(default_factory=ActSettings)
    # threads of the reward server's tensor library
    serve_threads: int = 1
    # seconds the learner may take after the last episode, to label and to make the updates it still owes
    finish_s: float = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("serve_threads", self.serve_threads, at_least=1, remedy="Set --serve_threads")
        check_number("finish_s", self.finish_s, at_least=0.0, finite=False, remedy="Set --finish_s")
        if self.episodes < 1 or not 1 <= self.actors <= self.episodes:
            raise ConfigError(
                "There is nothing to do for every actor",
                seen=f"episodes={self.episodes} actors={self.actors}",
                allowed="1 <= actors <= episodes",
                remedy="Raise --episodes, or lower --actors",
            )
        for seed in (self.seed, self.seed + 1000 * (self.actors - 1)):
            scene_seed("online", seed, 0)
        if self.act.teleop and self.actors > 1:
            raise ConfigError(
                "Only one arm can be taken over with one device",
                seen=f"act.teleop={self.act.teleop} actors={self.actors}",
                allowed="1 actor",
                remedy="Set actors to 1, or leave act.teleop out",
            )
        if self.reward_gate.result and not self.reward:
            raise ConfigError(
                "A reward gate needs a reward model to let through",
                seen=f"reward_gate.result {self.reward_gate.result}, reward empty",
                allowed="both or neither",
                remedy="Set reward to the model, or leave the gate out",
            )


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts of one run find each other, on one machine."""

    steps: str
    weights: str
    scores: str


def addresses(run: Path) -> Addresses:
    """Return addresses that belong to this run alone, and stay the same when a process starts again."""
    folder = shared_folder(run, "learner")
    if len(os.fsencode(folder / "weights.sock")) > _LONGEST_SOCKET:
        folder = Path(tempfile.gettempdir()) / f"roborl-{zlib.crc32(str(run.resolve()).encode()):08x}"
        folder.mkdir(mode=0o700, exist_ok=True)
    return Addresses(**{name: f"ipc://{folder / name}.sock" for name in ("steps", "weights", "scores")})


def learn_config(config: TrainConfig, where: Addresses) -> LearnConfig:
    """Return the learner's part of the configuration."""
    shared = {field.name: getattr(config, field.name) for field in fields(LearnSettings)}
    return LearnConfig(
        **shared, steps=where.steps, weights=where.weights, reward=where.scores if config.reward else ""
    )


def live_config(config: TrainConfig, where: Addresses) -> LiveConfig:
    """Return how the arms are watched live: by the run's own reward model, where its word done is the verdict."""
    live = config.act.live
    if config.labels.verdict != "done":
        # The last score of an episode grades all of it, so its length is not for a score before that to choose.
        live = replace(live, stops=False)
    if live.server or not config.reward or live.use == "never":
        return live
    if live.use == "auto" and not (live.stops and _outcome(config) == "judge"):
        return live
    return replace(live, server=where.scores, references=config.demonstration)


def _outcome(config: TrainConfig) -> str:
    return load_bench(config.bench, config.bench_overrides, config.plugins).outcome


def act_configs(config: TrainConfig, where: Addresses) -> list[ActConfig]:
    """Return each actor's part of the configuration; the episodes are dealt out evenly.

    Raises:
        ConfigError: If the bench file cannot be used, or a live watch is asked for and there is no reward model.
    """
    share, rest = divmod(config.episodes, config.actors)
    settings = {field.name: getattr(config.act, field.name) for field in fields(ActSettings)}
    settings["live"] = live_config(config, where)
    return [
        ActConfig(
            **settings,
            bench=config.bench,
            bench_overrides=config.bench_overrides,
            plugins=config.plugins,
            run=config.run,
            actor="arm" if config.actors == 1 else f"arm{number}",
            steps=where.steps,
            weights=where.weights,
            policy=RunFolder(config.run).policy,
            explore=config.explore,
            exploration=config.exploration,
            episodes=share + (number < rest),
            seed=config.seed + 1000 * number,
        )
        for number in range(config.actors)
    ]
