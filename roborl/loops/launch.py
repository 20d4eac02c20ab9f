"""The whole system on one machine under one launcher: actors, learner and reward server."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from roborl.clock import NS, Every
from roborl.data.reader import StoreReader
from roborl.envs.bench import Bench, load_bench
from roborl.envs.devices import require_devices, require_hold
from roborl.errors import ConfigError, DatasetError
from roborl.loops.actor.act import ActorProcesses, actor_specs, keyboard_of
from roborl.loops.actor.act_config import shared_folder
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.teleop import require_device
from roborl.loops.learner import learn
from roborl.loops.learner.learn import learner_specs, prepare, result
from roborl.loops.learner.learn_config import RunFolder
from roborl.loops.reporting.run_results import read_run, succeeded
from roborl.loops.run_files import JsonLines, read_status
from roborl.loops.run_settings import SettingsKeeper, keep_settings, say_changes
from roborl.loops.serve import ServeConfig, serve
from roborl.loops.supervise import LOAD_S, Child, ChildSpec, ProcessGroup
from roborl.loops.train_config import Addresses, TrainConfig, act_configs, addresses, learn_config
from roborl.loops.train_gate import heed, pass_gate, preload

log = logging.getLogger(__name__)

_POLL_S = 0.05
_HANG_S = 30.0
_REPORT_S = 20.0
_NICE = -5


def forget_earlier_run(config: TrainConfig, where: Addresses) -> None:
    """Remove what the actors of an earlier run under the same name left in memory: their counts would end this one."""
    for actor in act_configs(config, where):
        shutil.rmtree(shared_folder(config.run, actor.actor))


def recall_earlier_episodes(config: TrainConfig, where: Addresses) -> None:
    """Give actors whose counts are gone those of the store, so that they go on with the next episode and the next scene.

    The counts lie in memory, which does not outlive the machine. An episode that had not reached the store is run again.
    """
    try:
        reader = StoreReader(RunFolder(config.run).store, leave_out_torn=True)
    except DatasetError:
        return  # There is no store before the first start.
    online = [info for info in reader.episodes() if info.kind == "online"]
    actors = act_configs(config, where)
    arms = [(actor, StatusSlot(shared_folder(config.run, actor.actor), "control")) for actor in actors]
    for actor, status in arms:
        if status["begun"] == 0:
            own = [info for info in online if info.key.actor == actor.actor]
            status["begun"] = status["episodes"] = len(own)
            status["steps"] = sum(info.steps for info in own)
            status["successes"] = sum(info.success is True for info in own)
    if all(status["episodes"] >= actor.episodes for actor, status in arms):
        log.warning(
            "The run has all of its %d episodes: for more, name them with --episodes, which counts all",
            config.episodes,
        )


def require_actors(kept: Path, config: TrainConfig) -> None:
    """See whether a run that goes on has as many actors as before: episodes and scenes are counted by an actor's name.

    Args:
        kept: The run's own settings; where they are not there, nothing is known.
        config: Those of this call.

    Raises:
        ConfigError: If it has more or fewer.
    """
    before = yaml.safe_load(kept.read_text()).get("actors") if kept.is_file() else None
    if before not in (None, config.actors):
        raise ConfigError(
            "A run goes on with as many actors as it began with",
            seen=f"actors={config.actors} for {config.run}",
            allowed=before,
            remedy=f"Set --actors {before}, or begin another run",
        )


def serve_main(child: Child, config: ServeConfig) -> None:
    """Serve the reward model until stopped."""
    serve(child, config)


def require_arms(config: TrainConfig, bench: Bench) -> None:
    """See whether every actor has an arm of its own.

    Raises:
        ConfigError: If several would drive the one arm of a physical bench.
    """
    if config.actors > 1 and not bench.simulated:
        raise ConfigError(
            "Several actors cannot drive one physical arm",
            seen=f"actors={config.actors} on {config.bench}",
            allowed="1 actor, or a simulated bench",
            remedy="For more arms start roborl learn, and for each arm roborl act --actor NAME with a bench file of its own",
        )


def train_specs(config: TrainConfig, where: Addresses, learner: list[ChildSpec]) -> list[ChildSpec]:
    """Return all processes in the order in which they are ended: the arms first, what judges last."""
    specs = [
        spec for actor in act_configs(config, where) for spec in actor_specs(actor, suffix=f"-{actor.actor}")
    ]
    specs += learner
    if config.reward:
        serving = ServeConfig(
            models={"reward": config.reward},
            gate=config.reward_gate,
            endpoint=where.scores,
            threads=config.serve_threads,
        )
        specs.append(
            ChildSpec(
                name="serve",
                target=serve_main,
                args=(serving,),
                hang_s=_HANG_S,
                start_s=LOAD_S,
                lasting=True,
            )
        )
    return specs


def run_training(config: TrainConfig, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run actors, learner and reward server until the episodes are done, and return where the run stands.

    Raises:
        KeyboardInterrupt: If ``stopping`` says so before the arm has a process.
        ConfigError: If the configuration cannot be used, the bench has fewer arms than there are actors, lacks a device or would
            drop its arm, the device to take over with cannot be used, there is no run to go on with or it has another number
            of actors, or the reward model does not pass its gate or lacks a reference.
        ModelLoadError: If the run is to be rolled back to a version that it does not keep.
        RoborlError: If a process cannot do its work.
    """
    began = time.monotonic()
    learn.require_run(config)
    bench = load_bench(config.bench, config.bench_overrides, config.plugins)
    require_arms(config, bench)
    require_hold(bench)
    config.act.by_simulator(simulated=bench.simulated)  # Raises where nobody could operate it.
    require_devices(bench)
    require_device(bench, config.act)
    pass_gate(config, stopping)
    run, where = RunFolder(config.run), addresses(config.run)
    learning = learn_config(config, where)
    with ExitStack() as stack:
        if not stack.enter_context(learn.hold(run)):
            raise ConfigError("Another learner works on this run", seen=run.root, remedy="Stop it first")
        sockets = Path(where.steps.removeprefix("ipc://")).parent
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        own = run.settings("train")
        if run.learner.exists():
            require_actors(own, config)
            say_changes(own, config)
        else:
            forget_earlier_run(config, where)
            keep_settings(own, config)  # One that is stopped while its policy is made goes on with them.
        recall_earlier_episodes(config, where)
        learner = learner_specs(learning, prepare(learning, stopping, episodes=config.episodes))
        specs = train_specs(config, where, learner)
        if config.rollback:
            learn.ask_rollback(run, config.rollback)
        keeper = SettingsKeeper(JsonLines(run.events), learner, {own: config, run.learner: learning})
        group = ProcessGroup(specs, preload=preload(config), on_event=keeper)
        actors = [
            ActorProcesses(actor, stopping, group=group, suffix=f"-{actor.actor}")
            for actor in act_configs(config, where)
        ]
        heed(stopping)  # From here on there is an arm to stop.
        # The specs stand in the order in which things must end.
        stack.callback(group.stop, grace_s=30.0)
        group.start()
        # Who restarts the others must not queue behind them. After the start, for children inherit it.
        with suppress(PermissionError):
            os.nice(_NICE)
        _run_episodes(run, group, actors, stopping)
        _finish(run, group, config, stopping)
    episodes = read_run(run).episodes
    return {
        "wall_s": time.monotonic() - began,
        "episodes": len(episodes),
        "successes": sum(map(succeeded, episodes)),
        "actors": [actor.report(time.monotonic() - began) for actor in actors],
        **result(run, group),
    }


def _run_episodes(
    run: RunFolder, group: ProcessGroup, actors: list[ActorProcesses], stopping: Callable[[], bool]
) -> None:
    with keyboard_of(actors) as keyboard:
        report = Every(_REPORT_S, at_once=False)
        while not stopping() and not all(actor.done for actor in actors):
            group.poll(_POLL_S)
            if keyboard is not None:
                keyboard.poll()
            if report.due():
                log.info("%s", _line(run) + _stuck(actors))
    for actor in actors:
        actor.stop_arm()
    for actor in actors:
        actor.finish()


def _finish(run: RunFolder, group: ProcessGroup, config: TrainConfig, stopping: Callable[[], bool]) -> None:
    """Wait until the last episodes are stored, labelled and learned from, as far as ``finish_s`` allows."""
    began = time.monotonic()
    labelled_ns = 0 if config.reward else time.monotonic_ns()
    ended_ns = time.monotonic_ns()
    while not stopping() and time.monotonic() - began < config.finish_s:
        group.poll(_POLL_S)
        trainer, labeller = (read_status(run.status(name)) for name in ("trainer", "labeller"))
        # What a process writes a second later, it writes knowing what came before.
        if not labelled_ns and labeller.get("at_ns", 0) > ended_ns + NS and not labeller["backlog_frames"]:
            labelled_ns = time.monotonic_ns()
        if labelled_ns and trainer.get("at_ns", 0) > labelled_ns + NS and trainer["owed_updates"] < 1:
            return
    log.warning("The learner is stopped before it was done with the last episodes")


def _line(run: RunFolder) -> str:
    trainer, labeller = read_status(run.status("trainer")), read_status(run.status("labeller"))
    return (
        f"{trainer.get('episodes', 0)} episodes, {trainer.get('successes', 0)} successes, "
        f"{trainer.get('updates', 0):.0f} updates at ratio {trainer.get('achieved_ratio', 0.0):.2f}, "
        f"version {trainer.get('version', 0)}, {labeller.get('backlog_frames', 0)} frames unlabelled"
    )


def _stuck(actors: list[ActorProcesses]) -> str:
    count = sum(actor.stuck for actor in actors)
    return f", {count} stuck" if count else ""
