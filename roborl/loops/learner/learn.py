"""The learner: store, labeller and trainer as one supervised group on one run folder."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roborl.data.arena import retire
from roborl.envs.bench import load_bench
from roborl.envs.bench_maps import action_map, state_map
from roborl.errors import ConfigError
from roborl.learning.publish import VersionShelf
from roborl.loops.bench_scales import scales
from roborl.loops.demonstrations import recorded_observations, warn_of_another_task
from roborl.loops.learner import learn_processes
from roborl.loops.learner.algorithms import chosen, mix_of, say_unused, settings_of
from roborl.loops.learner.learn_config import (
    BenchForm,
    LearnConfig,
    LearnSettings,
    RunFolder,
)
from roborl.loops.learner.start_policy import place_policy
from roborl.loops.learner.store import imported
from roborl.loops.run_files import JsonLines, read_status, versions_here
from roborl.loops.run_settings import SettingsKeeper, keep_settings, say_changes
from roborl.loops.supervise import LOAD_S, ChildSpec, ProcessGroup
from roborl.paths import refuse_dataset
from roborl.policies.lerobot_files import is_lerobot_policy
from roborl.pretrained import read_description
from roborl.rewards.forms import the_form

log = logging.getLogger(__name__)

# Loaded once by the fork server, so that a process that died is back without importing them again.
PRELOAD = (
    "numpy",
    "torch",
    "torch._dynamo",  # which the first optimiser would import, 800 modules of it
    "zmq",
    "zarr",
    "roborl.loops.learner.learn_processes",
    "roborl.data.store",
    "roborl.learning.weighted",
    "roborl.learning.rlpd",
    "roborl.loops.learner.label_store",
    "roborl.loops.score_line",
)
_HANG_S = 30.0
_POLL_S = 0.1
_SHOWN_RUNS = 3
_VERSIONS = ("roborl", "torch", "lerobot", "numpy", "mujoco", "pyzmq", "zarr")


def preload(config: LearnSettings) -> tuple[str, ...]:
    """Return what the fork server loads for the processes of a run: for a LeRobot policy its classes too, which take longest.

    The policy is the run's, or the one that it will begin with.

    Raises:
        ModelLoadError: If the description of a LeRobot policy cannot be read.
    """
    own = RunFolder(config.run).policy
    policy = own if own.exists() else Path(config.policy)
    if not (own.exists() or config.policy) or not is_lerobot_policy(policy):
        return PRELOAD
    kind = read_description(policy)["type"]
    return (*PRELOAD, "roborl.policies.lerobot_policy", f"lerobot.policies.{kind}.modeling_{kind}")


def require_run(config: LearnSettings) -> None:
    """Refuse to go on with a run or a version that is not there, or to begin one in the place of something else.

    Comes before anything is made there.

    Raises:
        ConfigError: If the run is to be resumed or rolled back, and none began in the folder: it holds neither the
            learner's lock, a run's first file, nor ``learn.yaml``. Or if one is to begin where there is one, or a dataset.
        ModelLoadError: If it is to be rolled back to a version that it does not keep.
    """
    run = RunFolder(config.run)
    if not (config.resume or config.rollback):
        refuse_dataset(run.root, "--run")
        if run.learner.exists():
            raise ConfigError(
                "The run folder holds a run already",
                seen=run.root,
                allowed="an empty folder",
                remedy="Go on with it: --resume true. Or name another folder: --run",
            )
        return
    if run.begun:
        if config.rollback:
            VersionShelf(run.versions).get(config.rollback)
        return
    beside = [
        RunFolder(path) for path in run.root.parent.glob("*") if path.is_dir() and os.access(path, os.X_OK)
    ]
    found = sorted((r.root for r in beside if r.begun), key=lambda path: path.stat().st_mtime, reverse=True)
    newest = ", ".join(map(str, found[:_SHOWN_RUNS]))
    raise ConfigError(
        "There is no run to go on with",
        seen=run.root,
        allowed="the folder of a run; " + (f"newest beside it: {newest}" if newest else "beside it is none"),
        remedy="Name its folder with --run. To begin a new run, leave out --resume and --rollback",
    )


def prepare(
    config: LearnConfig, stopping: Callable[[], bool] = lambda: False, *, episodes: int = 0
) -> BenchForm:
    """Make the run folder ready: its policy, its resolved configuration, the versions it ran with.

    A run that goes on keeps the configuration that it has until its processes work with this one.

    Args:
        config: The configuration.
        stopping: Whether the run is to be stopped.
        episodes: Online episodes that the run is to have, 0 where nobody knows: what the replay memory is compared with.

    Raises:
        ConfigError: If the folder holds a run that is not to be resumed, or bench, policy, algorithm and run do not fit
            together.
        ModelLoadError: If the policy folder cannot be used.
        DatasetError: If the demonstrations cannot be read, or a policy is to be cloned and they do not fit the bench.
        KeyboardInterrupt: If ``stopping`` says so meanwhile.
    """
    require_run(config)
    run = RunFolder(config.run)
    run.root.mkdir(parents=True, exist_ok=True)
    form = form_of(config)
    if config.demos.path and not imported(config.demos.path, run.imports):
        bench = load_bench(config.bench, config.bench_overrides, config.plugins)
        warn_of_another_task(config.demos, bench)
    if not run.learner.exists():
        tell_of_memory(config, form, episodes)
    algorithm = chosen(config)
    mix_of(config)  # What cannot be mixed is refused before a policy is made.
    say_unused(config)
    place_policy(config, form, run, stopping)
    if not run.learner.exists():
        keep_settings(run.learner, config)
    # A monotonic stamp of an earlier start says nothing: the machine may have been started again since.
    shutil.rmtree(run.status("trainer").parent, ignore_errors=True)
    retire(run.store, form.arena(config.store))
    JsonLines(run.events)({"event": "versions", "at_ns": time.monotonic_ns(), **versions_here(_VERSIONS)})
    form_of_reward, says = reward_form(config)
    told = {"algorithm": algorithm, "reward_form": form_of_reward, "says": says, "seed": config.seed}
    JsonLines(run.metrics)({"kind": "run", **told})
    log.info("Algorithm: %s. Reward: %s, %s", algorithm, form_of_reward, says)
    return form


def tell_of_memory(config: LearnConfig, form: BenchForm, episodes: int) -> None:
    """Say how much the replay memory holds, as a warning where that is less than a run may need.

    Args:
        config: The configuration.
        form: The bench.
        episodes: Online episodes of the run, 0 where nobody knows.

    Raises:
        ConfigError: If not even two episodes fit into it.
        DatasetError: If the demonstrations cannot be read.
    """
    recorded = recorded_observations(config.demos, form.task, form.policy_hz) if config.demos.path else 0
    rows, longest = form.arena(config.store).rows, form.max_steps + 1
    need = recorded + episodes * longest
    if not episodes:
        log.info(
            "The replay memory holds %d online episodes of up to %d observations beside the %d of the demonstrations. Of more "
            "the oldest are no longer learnt from; --store.capacity_bytes makes room",
            max(0, rows - recorded) // longest,
            longest,
            recorded,
        )
    elif need > rows:
        log.warning(
            "The replay memory holds %d observations, and this run may have %d: %d of demonstrations, which stay, and %d "
            "episodes of up to %d. The oldest of these will no longer be learnt from, a person's corrections among them. "
            "All fit with --store.capacity_bytes %d",
            rows,
            need,
            recorded,
            episodes,
            longest,
            math.ceil(need * config.store.capacity_bytes / rows),
        )


def reward_form(config: LearnConfig) -> tuple[str, str]:
    """Return how the reward is formed, and whether that leaves the optimal policy alone."""
    named, settings = [config.shaping.form] if config.shaped else [], settings_of(config)
    form, says = the_form(
        named,
        critic_sees_potential=settings.critic_sees_potential,
        lookahead=settings.lookahead,
        lookahead_grows=settings.lookahead_grows,
    )
    return str(form), says


def form_of(config: LearnConfig) -> BenchForm:
    """Return what the learner has to know of the configured bench.

    Raises:
        ConfigError: If the bench file cannot be used, or leaves outcomes to a reward model and there is none.
    """
    bench = load_bench(config.bench, config.bench_overrides, config.plugins)
    if bench.outcome == "judge" and not config.reward:
        raise ConfigError(
            "The outcome of an episode is left to a reward model, and there is none",
            seen=f"outcome judge in {config.bench}, reward empty",
            allowed="a reward model, or outcome auto",
            remedy="Name one with --reward",
        )
    return BenchForm(
        task=bench.task,
        cameras={name: (use.height_px, use.width_px) for name, use in bench.cameras.items()},
        image_px=bench.image_px,
        state_dim=state_map(bench).size,
        action_dim=action_map(bench).size,
        max_steps=bench.max_steps,
        policy_hz=bench.policy_hz,
        scales=scales(bench),
    )


def learner_specs(config: LearnConfig, form: BenchForm) -> list[ChildSpec]:
    """Return the learner's processes, in the order in which they are started and ended: what makes data last."""
    parts: list[tuple[str, Callable[..., None]]] = [("trainer", learn_processes.trainer_main)]
    if config.reward:
        parts.append(("labeller", learn_processes.labeller_main))
    parts.append(("store", learn_processes.store_main))
    return [
        ChildSpec(
            name=name,
            target=target,
            args=(config, form),
            hang_s=_HANG_S,
            start_s=LOAD_S if name == "trainer" else ChildSpec.start_s,
            lasting=True,
        )
        for name, target in parts
    ]


def run_learner(config: LearnConfig, stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Run the learner until it is stopped and return where it stands.

    With ``rollback`` set and another learner at work on the folder, that one is told, and nothing is started.

    Raises:
        ConfigError: As :func:`prepare` and :func:`require_run`; also if another learner works on the folder.
        RoborlError: If a process cannot do its work.
    """
    run = RunFolder(config.run)
    require_run(config)
    with hold(run) as held:
        if not held:
            if config.rollback:
                ask_rollback(run, config.rollback)
                return {"run": str(run.root), "rollback": config.rollback, "told": "the learner at work"}
            raise ConfigError("Another learner works on this run", seen=run.root, remedy="Stop it first")
        say_changes(run.learner, config)
        specs = learner_specs(config, prepare(config, stopping))
        if config.rollback:
            ask_rollback(run, config.rollback)
        keeper = SettingsKeeper(JsonLines(run.events), specs, {run.learner: config})
        group = ProcessGroup(specs, preload=preload(config), on_event=keeper)
        try:
            group.start()
            while not stopping():
                group.poll(_POLL_S)
        finally:
            group.stop(grace_s=30.0)
        return result(run, group)


def result(run: RunFolder, group: ProcessGroup) -> dict[str, Any]:
    """Return where a run stands and how its processes fared."""
    trainer, labeller, store = (read_status(run.status(name)) for name in ("trainer", "labeller", "store"))
    return {
        "run": str(run.root),
        "trainer": trainer,
        "labeller": labeller,
        "store": store,
        "restarts": dict(group.restarts),
        "recoveries_s": dict(group.recoveries_s),
    }


def ask_rollback(run: RunFolder, version: int) -> None:
    """Ask the trainer of a run, now or at its next start, to put an older version in force again."""
    fresh = run.rollback.with_name(f".rollback.{os.getpid()}")
    fresh.write_text(str(version))
    fresh.replace(run.rollback)


@contextmanager
def hold(run: RunFolder) -> Iterator[bool]:
    """Hold the run folder's lock while the learner works; yields whether it was free."""
    run.root.mkdir(parents=True, exist_ok=True)
    with run.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
