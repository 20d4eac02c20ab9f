"""The gate of a run: its reward model is loaded, looked at and asked once, before any arm has a process."""

from __future__ import annotations

from collections.abc import Callable

from roborl.envs.bench import load_bench
from roborl.loops.actor import act
from roborl.loops.learner import learn
from roborl.loops.learner.judging import require_rule
from roborl.loops.references import ReferencesConfig, read_demonstration
from roborl.loops.reward_gate import require_question
from roborl.loops.score_line import require_cameras
from roborl.loops.supervise import LOAD_S, Child, ChildSpec, ProcessGroup
from roborl.loops.train_config import TrainConfig
from roborl.rewards.observation_rate import check_rate, warn_of_rate
from roborl.rewards.references import digest, of_cameras
from roborl.rewards.registry import find_loader

_POLL_S = 0.05


def heed(stopping: Callable[[], bool]) -> None:
    """Raise KeyboardInterrupt if the run is to be stopped."""
    if stopping():
        raise KeyboardInterrupt


def preload(config: TrainConfig) -> tuple[str, ...]:
    """Return what the fork server loads for all processes of a run.

    Raises:
        ModelLoadError: If the description of a LeRobot policy cannot be read.
    """
    return (*act.PRELOAD, *learn.preload(config))


def gate_main(child: Child, config: TrainConfig, shown: bool = True) -> None:
    """Load the reward model, see whether it passes, and have it ask a first question with what sessions will bring.

    Where nothing can be ``shown`` yet, what does not hang on that is looked at alone.
    """
    bench = load_bench(config.bench, config.bench_overrides, config.plugins)
    demonstration = config.demonstration if shown else ReferencesConfig()
    references = read_demonstration(demonstration, tuple(bench.cameras), bench.task)
    model = find_loader(config.reward)()
    require_cameras(model.info.cameras, tuple(bench.cameras))
    check_rate(model.info.observation_hz, bench.policy_hz, "bench")
    warn_of_rate(model.info.trained_hz, bench.policy_hz, "bench")
    if bench.outcome == "judge":
        require_rule(model.info.version, config.labels.verdict, says_done=model.info.says_done)
    if not shown:
        return
    brought = of_cameras(references, model.info.cameras or tuple(bench.cameras))
    config.reward_gate.check(model.info.version, digest(brought))
    require_question(model, model.start(bench.task, brought), bench)


def pass_gate(
    config: TrainConfig, stopping: Callable[[], bool] = lambda: False, *, shown: bool = True
) -> None:
    """Return once the reward model has passed its gate and asked a question. No arm has a process before that.

    The model is loaded in a process of its own, whose end gives the memory back.

    Args:
        config: Of the run.
        stopping: Whether to stop meanwhile.
        shown: Whether the demonstration is there that the model is to be shown; else it is loaded, and asked nothing yet.

    Raises:
        KeyboardInterrupt: If ``stopping`` says so meanwhile.
        ConfigError: If it does not pass, wants cameras that the bench does not have, lacks a reference, or is to judge by a
            word that it never says.
        RoborlError: If it or the demonstration cannot be read, or it cannot ask about what the bench records.
    """
    if not config.reward:
        return
    spec = ChildSpec(name="gate", target=gate_main, args=(config, shown), start_s=LOAD_S)
    # The fork server starts once, with what its first group names.
    group = ProcessGroup([spec], preload=preload(config))
    try:
        group.start()
        while not group.finished("gate"):
            heed(stopping)
            group.poll(_POLL_S)
    finally:
        group.stop()
