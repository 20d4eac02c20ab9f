"""The whole idea in one run: demonstrations, a reward model from them, a weak clone, learning online, the difference."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from roborl import config as configuration
from roborl.data.lerobot_io import read_episodes
from roborl.envs.bench import Bench, load_bench
from roborl.envs.robot_env import RobotEnv
from roborl.loops.bench_scales import scales
from roborl.loops.demo_bars import held_to_bars
from roborl.loops.demo_config import DemoConfig
from roborl.loops.demonstrations import DemosConfig
from roborl.loops.evaluate import Evaluation, evaluate
from roborl.loops.first_policy import first_policy
from roborl.loops.launch import run_training
from roborl.loops.learnt import learnt_policy
from roborl.loops.policy_scales import keep_scales
from roborl.loops.record import record_scripted
from roborl.loops.references import read_demonstration
from roborl.loops.reporting.report import write_report
from roborl.loops.reporting.results import FIGURES, SETTINGS, read_results
from roborl.loops.reward_training.train_reward import TrainRewardConfig, train_reward
from roborl.loops.scripts import failure_kinds, script_maker
from roborl.loops.seeds import scene_seed
from roborl.loops.stages import Stages, check_claim, claim
from roborl.loops.train_config import TrainConfig
from roborl.loops.train_gate import pass_gate
from roborl.policies.small import SmallPolicy
from roborl.rewards.registry import find_loader, load_reward_model
from roborl.rewards.sarm.config import SarmTraining
from roborl.rewards.training.run import step_line
from roborl.roles import Policy
from roborl.whole_files import as_json, write_whole

log = logging.getLogger(__name__)

_RECORD = "record demonstrations"
_TRAIN_REWARD = "train the reward model"


@dataclass(frozen=True, kw_only=True)
class Folders:
    """Where a demonstration run keeps its parts.

    Attributes:
        root: Folder of the run.
        prepared: Folder of the run whose demonstrations, reward model and clone this one uses; its own where None.
    """

    root: Path
    prepared: Path | None = None

    @property
    def dataset(self) -> Path:
        """Demonstrations and failures, a LeRobotDataset."""
        return (self.prepared or self.root) / "demonstrations"

    @property
    def reward(self) -> Path:
        """The reward model."""
        return (self.prepared or self.root) / "reward_model"

    @property
    def policy(self) -> Path:
        """The cloned policy."""
        return (self.prepared or self.root) / "clone"

    @property
    def run(self) -> Path:
        """The online run."""
        return self.root / "run"


def prepare(config: DemoConfig) -> dict[str, Any]:
    """Record, train the reward model, clone and measure the clone, where ``config.out`` does not have them yet.

    Returns:
        The clone's figures.

    Raises:
        RoborlError: If a stage cannot do its work; what was done before stays.
    """
    folders, stages, bench = _prepare_clone(config)
    if not config.judge:
        stages.run(_TRAIN_REWARD, lambda: _train_reward(config, folders))
    return stages.run(
        "measure the clone",
        lambda: _measure(config, bench, folders, SmallPolicy.load(folders.policy), "before"),
    )


def try_clone(config: DemoConfig) -> float:
    """Record and clone where ``config.out`` has not, and return the clone's success on the evaluation scenes.

    Asks for no reward model, so that a start that a gate turns away costs none.

    Raises:
        RoborlError: If a stage cannot do its work; what was done before stays.
    """
    folders, stages, bench = _prepare_clone(config)
    result = stages.run(
        "try the clone", lambda: _evaluate(config, bench, SmallPolicy.load(folders.policy)).figures()
    )
    return float(result["success"])


def learn_and_measure(
    config: DemoConfig, *, prepared: Path | None = None, stopping: Callable[[], bool] = lambda: False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Learn online from what was prepared, here or in another folder, and measure the last published policy.

    Returns:
        How the run went, and the figures of what was learnt.

    Raises:
        RoborlError: If a stage cannot do its work; what was done before stays.
    """
    folders, stages, bench = Folders(root=config.out, prepared=prepared), Stages(config.out), _bench(config)
    online = stages.run("learn online", lambda: _learn(config, folders, stopping))
    after = stages.run(
        "measure what was learnt",
        lambda: _measure(config, bench, folders, learnt_policy(folders.run), "after"),
    )
    return online, after


def clone_all_and_measure(config: DemoConfig, *, prepared: Path) -> dict[str, Any]:
    """Clone every demonstration that was prepared in another folder, without learning online, and measure that.

    Returns:
        Its figures.

    Raises:
        RoborlError: If a stage cannot do its work; what was done before stays.
    """
    folders, stages, bench = Folders(root=config.out, prepared=prepared), Stages(config.out), _bench(config)
    everything, into = replace(config, clone_from=config.demonstrations), config.out / "clone"
    stages.run("clone all demonstrations", lambda: _clone(everything, bench, folders, into))
    return stages.run(
        "measure the clone", lambda: _measure(config, bench, folders, SmallPolicy.load(into), "after")
    )


def run_demo(config: DemoConfig, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run every stage that has not been run in ``config.out``.

    Returns:
        The figures, and as ``bars`` those that have one beside it, unless the run is a quick one.

    Raises:
        ConfigError: If bench, scene and spread do not fit, the folder holds a run with other settings, or the judge that
            is named cannot ask about what the bench shows.
        KeyboardInterrupt: If ``stopping`` says so while the judge is looked at.
        RoborlError: If a stage cannot do its work; what was done before stays.
    """
    config = config.quickened() if config.quick else config
    _bench(config)  # What can be refused at once is, before the folder is this run's.
    folders, settings = Folders(root=config.out), configuration.dump(config)
    check_claim(config.out / SETTINGS, settings)
    if config.judge and not folders.run.exists():
        find_loader(config.judge)
        own = Path(config.references.path).resolve() == folders.dataset.resolve()
        # A demonstration that is yet to be recorded here is shown at the gate of the online run.
        shown = not own or _RECORD in Stages(config.out).done
        pass_gate(_training(config, folders), stopping, shown=shown)
    claim(config.out / SETTINGS, settings)
    before = prepare(config)
    online, after = learn_and_measure(config, stopping=stopping)
    stages = Stages(config.out)
    figures = {
        "scene": config.scene,
        "seed": config.seed,
        "before": before,
        "after": after,
        "online": online,
        "lookahead": read_results(config.out).online.lookahead,
        "stages_s": {name: result["wall_s"] for name, result in stages.done.items()},
    }
    figures["bars"] = [] if config.quick else held_to_bars(figures, stages.done.get(_TRAIN_REWARD))
    write_whole(config.out / FIGURES, as_json(figures, indent=1))
    page = write_report(config.out)
    log.info("The report is at %s", page)
    return figures | {"report": str(page)}


def _prepare_clone(config: DemoConfig) -> tuple[Folders, Stages, Bench]:
    torch.set_num_threads(config.threads)
    folders, stages, bench = Folders(root=config.out), Stages(config.out), _bench(config)
    stages.run(_RECORD, lambda: _record(config, bench, folders))
    stages.run("clone a first policy", lambda: _clone(config, bench, folders, folders.policy))
    return folders, stages, bench


def _bench(config: DemoConfig) -> Bench:
    return load_bench(config.bench, _overrides(config))


def _overrides(config: DemoConfig) -> list[str]:
    return [f"--robot.scene={config.scene}", f"--robot.spread_m={config.spread_m}"]


def _record(config: DemoConfig, bench: Bench, folders: Folders) -> dict[str, Any]:
    env = RobotEnv(bench)
    try:
        recorded = record_scripted(
            env,
            folders.dataset,
            script_maker(noise=0.15, detours=0.3),
            demonstrations=config.demonstrations,
            failures=config.failures,
            failure_kinds=failure_kinds(env),
            benchmark_progress=True,
            seed=config.seed,
        )
    finally:
        env.close()
    return {"episodes": recorded.written}


def _train_reward(config: DemoConfig, folders: Folders) -> dict[str, Any]:
    result = train_reward(
        TrainRewardConfig(
            dataset=str(folders.dataset),
            out=folders.reward,
            training=SarmTraining(budget_s=config.reward_budget_s, threads=config.threads, seed=config.seed),
        ),
        log=lambda figures: log.info(step_line(figures)),
    )
    log.info("\n%s", result.table)
    return result.as_dict()


def _clone(config: DemoConfig, bench: Bench, folders: Folders, into: Path) -> dict[str, Any]:
    episodes = list(read_episodes(str(folders.dataset)))
    policy = first_policy(
        config.clone,
        episodes,
        bench,
        actor_episodes=config.clone_from,
        seed=config.seed,
    )
    policy.save(into)
    keep_scales(into, scales(bench))
    return {"demonstrations": sum(bool(e.success) for e in episodes), "cloned": config.clone_from}


def _measure(config: DemoConfig, bench: Bench, folders: Folders, policy: Policy, when: str) -> dict[str, Any]:
    result = _evaluate(
        config,
        bench,
        policy,
        reward_model=load_reward_model(_reward(config, folders)),
        references=read_demonstration(config.references, tuple(bench.cameras), bench.task),
        table=config.out / f"{when}.jsonl",
        video=config.out / f"{when}.mp4" if config.filmed else None,
        video_episodes=config.filmed,
    )
    log.info("%s: %s", when, result.sentence())
    return result.figures() | {"version": policy.version}


def _reward(config: DemoConfig, folders: Folders) -> str:
    return config.judge or str(folders.reward)


def _evaluate(config: DemoConfig, bench: Bench, policy: Policy, **options: Any) -> Evaluation:
    torch.set_num_threads(1)
    result = evaluate(
        lambda env: policy,
        lambda: RobotEnv(bench),
        [scene_seed("evaluation", config.seed, index) for index in range(config.evaluation)],
        **options,
    )
    torch.set_num_threads(config.threads)
    return result


def _learn(config: DemoConfig, folders: Folders, stopping: Callable[[], bool]) -> dict[str, Any]:
    return run_training(_training(config, folders), stopping)


def _training(config: DemoConfig, folders: Folders) -> TrainConfig:
    trainer = config.trainer
    if (
        not config.replay_demonstrations
    ):  # Then there are no recorded failures either, and nothing to start on.
        trainer = replace(trainer, budget=replace(trainer.budget, head_start=0))
    return TrainConfig(
        run=folders.run,
        bench=config.bench,
        bench_overrides=[*_overrides(config), f"--time_scale={config.time_scale}"],
        reward=_reward(config, folders),
        references=config.references,
        policy=str(folders.policy),
        demos=DemosConfig(
            path=str(folders.dataset) if config.replay_demonstrations else "",
            limit=config.clone_from,
            failures=True,
        ),
        shaping=config.shaping,
        store=config.store,
        labels=config.labels,
        rlpd=config.rlpd,
        trainer=trainer,
        episodes=config.episodes,
        seed=config.seed,
        resume=(folders.run / "learn.yaml").is_file(),
    )
