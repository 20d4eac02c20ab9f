"""What each of the learner's processes is made of: the store, the labeller, the trainer."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from roborl.clock import NS, Every
from roborl.errors import DatasetError, ModelLoadError
from roborl.learning.algorithm import Algorithm, LooksUp
from roborl.learning.publish import VersionShelf
from roborl.loops.architecture import architecture, folder_architecture
from roborl.loops.beating import beating
from roborl.loops.learner.algorithms import chosen, make_algorithm, mix_of, sampling_of, settings_of
from roborl.loops.learner.labeller import Labeller
from roborl.loops.learner.learn_config import (
    BenchForm,
    LearnConfig,
    RunFolder,
)
from roborl.loops.learner.probe import WeightsProbe
from roborl.loops.learner.store import DemoImport, StoreLoop, WithVerdicts, imported
from roborl.loops.learner.train import Trainer
from roborl.loops.run_files import JsonLines, read_status, write_status
from roborl.loops.supervise import Child

log = logging.getLogger(__name__)

_STATUS_EVERY_S = 0.5
_READS_S = 600.0
"""Longest that one recorded episode may take to be read: minutes of it are decoded at the rate they were filmed at."""
_STORE_TELL_S = 60.0
_SILENT_S = 5.0
_WARN_EVERY_S = 600.0
_LITTLE_GB = 5.0


class _Room:
    """Warns, at most every ten minutes, while the disk that a run is recorded on has little room left."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._warning = folder, Every(_WARN_EVERY_S)

    def look(self) -> float:
        """Return what is free, GB."""
        free_gb = shutil.disk_usage(self._folder).free / 1e9
        if free_gb < _LITTLE_GB and self._warning.due():
            log.warning(
                "The disk of %s has %.1f GB left. Once it is full, steps wait in the actor's memory and nothing more is learnt:"
                " make room, the recording stays as it is",
                self._folder,
                free_gb,
            )
        return free_gb


def store_main(child: Child, config: LearnConfig, form: BenchForm) -> None:
    """Run the store process until it is stopped; actors wait until all demonstrations are in.

    Raises:
        ConfigError: If a demonstration cannot be used.
    """
    began = time.monotonic()
    from roborl.data.lerobot_io import read_episodes
    from roborl.data.store import Store, StoreSpec
    from roborl.data.verdict_log import VerdictReader
    from roborl.envs.bench import load_bench
    from roborl.loops.demonstrations import bench_demos
    from roborl.serving.handshake import Handshake
    from roborl.serving.steps_receiver import StepsReceiver

    import_s = time.monotonic() - began
    run = RunFolder(config.run)
    spec = StoreSpec(
        cameras=form.cameras,
        image_px=form.image_px,
        state_dim=form.state_dim,
        action_dim=form.action_dim,
        max_steps=form.max_steps,
        capacity_bytes=config.store.capacity_bytes,
        scales=form.scales,
    )
    store = Store(run.store, spec, sync=config.store.sync, alive=child.beat)
    receiver = StepsReceiver(
        config.steps,
        handshake=Handshake(
            cameras=form.cameras,
            state_dim=form.state_dim,
            action_dim=form.action_dim,
            policy_hz=form.policy_hz,
            scales=asdict(form.scales) if form.scales else None,
        ),
        last_sequence=store.last_sequence,
        keys=config.security.load(),
    )
    demos = DemoImport(
        config.demos.path,
        lambda: bench_demos(config.demos, load_bench(config.bench, config.bench_overrides, config.plugins)),
        store,
        run.imports,
        lambda: [episode.content for episode in read_episodes(config.demos.path, with_images=False)],
    )
    loop = StoreLoop(WithVerdicts(receiver, VerdictReader(run.store, store.last_sequence)), store)
    # No arm moves on demonstrations of which the next one may turn out not to be this bench's, nor before a trainer that has to
    # learn from what is recorded has said that it has.
    spoken_ns = time.monotonic_ns() if config.trainer.budget.head_start else 0
    holding = not demos.complete or bool(spoken_ns)
    if holding:
        receiver.set_control({"mode": "pause"})
    child.ready(import_s)
    status_again, room = Every(_STATUS_EVERY_S), _Room(run.store)
    while not child.stopping:
        # One demonstration per turn, so that actors are answered while a large dataset comes in.
        taken = False
        if not demos.complete:
            with beating(child.beat, at_most_s=_READS_S):
                taken = demos.turn()
        loop.turn(0.0 if taken else 0.05)
        child.beat()
        if status_again.due():
            if (not demos.complete or _actors_should_wait(run, spoken_ns)) != holding:
                holding = not holding
                receiver.set_control({"mode": "pause"} if holding else {})
            rings = {
                ring: {
                    "actor": state.actor,
                    "alive": state.alive,
                    "durable": state.durable,
                    "duplicates": state.duplicates,
                    "gaps": state.gaps,
                }
                for ring, state in receiver.rings.items()
            }
            status = {
                "holding": holding,
                "importing": not demos.complete,
                "imported": demos.imported,
                "records": loop.records,
                "waiting": loop.waiting,
                "faults": loop.faults,
            }
            write_status(
                run.status("store"),
                status | {"rings": rings, "free_gb": room.look(), **store.health()},
            )
    receiver.close()
    store.close()


def _actors_should_wait(run: RunFolder, spoken_ns: int) -> bool:
    """Return what the trainer wants; one that falls silent wants nothing, unless it has yet to speak since ``spoken_ns``."""
    trainer = read_status(run.status("trainer"))
    at_ns = trainer.get("at_ns", 0)
    if at_ns < spoken_ns:
        return True
    return bool(trainer.get("holds_actors")) and time.monotonic_ns() - at_ns < _SILENT_S * NS


def labeller_main(child: Child, config: LearnConfig, form: BenchForm) -> None:
    """Run the labeller until it is stopped."""
    began = time.monotonic()
    from roborl.data.verdict_log import VerdictLog
    from roborl.loops.learner.judging import Verdicts
    from roborl.loops.learner.label_store import StoredEpisodes
    from roborl.loops.references import read_demonstration
    from roborl.loops.score_line import ScoreLine

    import_s = time.monotonic() - began
    run = RunFolder(config.run)
    references = read_demonstration(config.demonstration, tuple(form.cameras), form.task)
    store = _await_store(child, lambda: StoredEpisodes(run.store, sync=config.store.sync, alive=child.beat))
    if store is None:
        return
    line = ScoreLine(
        config.reward,
        tuple(form.cameras),
        model=config.reward_model,
        references=references,
        task=form.task,
        rate_hz=form.policy_hz,
        keys=config.security.load(),
    )
    events = JsonLines(run.events, child="labeller")
    verdicts = VerdictLog(run.store)
    labeller = Labeller(
        store,
        line,
        config.labels,
        events=lambda event: events({"at_ns": time.monotonic_ns(), **event}),
        verdicts=Verdicts(verdicts, config.labels.verdict),
    )
    child.ready(import_s)
    status_again = Every(_STATUS_EVERY_S)
    while not child.stopping:
        labeller.turn()
        child.beat()
        if status_again.due():
            write_status(run.status("labeller"), labeller.report() | {"faults": store.faults})
    verdicts.close()
    line.leave()


def trainer_main(child: Child, config: LearnConfig, form: BenchForm) -> None:
    """Run the trainer until it is stopped."""
    began = time.monotonic()
    import torch

    from roborl.data.arena import ArenaReader
    from roborl.data.reader import StoreReader
    from roborl.learning.publish import PolicyPublisher
    from roborl.learning.sampling import Sampler
    from roborl.loops.learner.replay import ReplaySource
    from roborl.loops.reporting.run_results import read_run, succeeded
    from roborl.policies import load_policy
    from roborl.serving.handshake import Handshake
    from roborl.serving.weights_publisher import WeightsPublisher

    import_s = time.monotonic() - began
    torch.set_num_threads(config.trainer.threads)
    run = RunFolder(config.run)
    arena = _await_store(child, lambda: ArenaReader(run.store))
    if arena is None:
        return
    policy = load_policy(run.policy, task=form.task, seed=config.seed)
    sampler = Sampler(arena, sampling_of(config, policy), config.seed)
    algorithm: Algorithm[Any] = make_algorithm(config, policy, arena)
    recording = StoreReader(run.store, leave_out_torn=True)
    told = {line["key"]: succeeded(line) for line in read_run(run).episodes}
    metrics = JsonLines(run.metrics)
    weights = algorithm.actor_weights()
    shelf = VersionShelf(run.versions, most_bytes=config.trainer.versions_bytes)
    tell_of_versions(shelf, sum(array.nbytes for array in weights.values()))
    publisher = WeightsPublisher(
        config.weights,
        handshake=Handshake(
            action_dim=form.action_dim,
            policy_hz=form.policy_hz,
            scales=asdict(form.scales) if form.scales else None,
            version=folder_architecture(run.policy) or architecture(policy, weights),
        ),
        keys=config.security.load(),
    )
    del weights  # Hundreds of megabytes, of a large policy.
    trainer = Trainer(
        algorithm=algorithm,
        source=ReplaySource(
            sampler,
            mix_of(config),
            settings_of(config).batch_size,
            images=algorithm.images,
            look_up=algorithm.look_up if isinstance(algorithm, LooksUp) else None,
            info=recording.info,
            reported=told,
            updates=lambda: trainer.budget.in_practice,
            imported=lambda: imported(config.demos.path, run.imports),
            ahead=lambda: trainer.budget.ahead,
        ),
        publisher=PolicyPublisher(publisher, shelf),
        config=config.trainer,
        folder=run.checkpoints,
        identity=form.identity(chosen(config)),
        metrics=lambda line: metrics({"at_ns": time.monotonic_ns(), **line}),
        probe=WeightsProbe(policy, recording, config.trainer.probes),
        history=len(told),
        beat=child.beat,
    )
    with _asked_version(run) as version:
        trainer.start(resume=True, rollback=version)
    child.ready(import_s)
    status_again = Every(_STATUS_EVERY_S)
    while not child.stopping:
        updates = trainer.turn()
        child.beat()
        if status_again.due():
            _roll_back_if_asked(run, trainer)
            write_status(
                run.status("trainer"),
                {**trainer.report(), "counts": sampler.counts(), "subscribers": publisher.subscribers()},
            )
        if not updates:
            time.sleep(0.02)
    trainer.finish()
    publisher.close()


def tell_of_versions(shelf: VersionShelf, version_bytes: int) -> None:
    """Say how much room the published versions may come to take, as a warning where the disk does not have it.

    Args:
        shelf: Where they are kept.
        version_bytes: Size of each, bytes.
    """
    may, free = shelf.may_hold_bytes(version_bytes), shutil.disk_usage(shelf.folder).free
    short = may - shelf.held_bytes() > free
    log.log(
        logging.WARNING if short else logging.INFO,
        "Published versions, %.1f MB each, may come to take %.1f GB, and the disk of %s has %.1f GB free%s",
        *(version_bytes / 1e6, may / 1e9, shelf.folder, free / 1e9),
        ". Make room, or lower --trainer.versions_bytes" if short else "",
    )


@contextmanager
def _asked_version(run: RunFolder) -> Iterator[int]:
    """Yield the version to go back to, 0 for none. The request stays until it was met, or could not be: a kill loses none."""
    try:
        wanted = run.rollback.read_text()
    except FileNotFoundError:
        yield 0
        return
    try:
        yield int(wanted)
    except (ModelLoadError, ValueError):
        run.rollback.unlink()
        raise
    run.rollback.unlink()


def _roll_back_if_asked(run: RunFolder, trainer: Trainer[Any]) -> None:
    try:
        with _asked_version(run) as version:
            if version:
                trainer.roll_back(version)
    except (ModelLoadError, ValueError) as error:
        log.error("No older version is put in force: %s", error)


def _await_store[T](child: Child, open_it: Callable[[], T]) -> T | None:
    """Wait for the store process to have made its folder and filled its memory; None where the child is to stop meanwhile.

    That may take minutes. A store that cannot do it ends the learner, and this wait with it.
    """
    telling = Every(_STORE_TELL_S, at_once=False)
    while not child.stopping:
        try:
            return open_it()
        except DatasetError as error:
            if telling.due():
                log.warning("The %s still waits for the store: %s", child.name, error)
            child.beat()
            time.sleep(0.05)
    return None
