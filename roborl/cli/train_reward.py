"""``roborl train-reward``: a dataset in, a reward model and its figures on held-out episodes out.

``--model dopamine``, ``roboreward`` or ``vlac`` adapts a published judge; without it, or with ``--model sarm``, a
stage-aware model is trained from scratch; ``--model perceptual`` recognises steps that it finds in a few demonstrations.
``--model pairs`` trains a small judge of hops from scratch on several tasks, and adapts it to one demonstration of another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from roborl.config_fields import gathered
from roborl.errors import ConfigError
from roborl.locks import FolderLock
from roborl.loops.reward_training.required import missed
from roborl.loops.reward_training.train_pairs import FUSED, TrainPairsConfig, train_pairs_on
from roborl.loops.reward_training.train_perceptual import TrainPerceptualConfig, train_perceptual
from roborl.loops.reward_training.train_reward import TrainRewardConfig, train_reward
from roborl.paths import refuse_dataset
from roborl.rewards.training.run import step_line
from roborl.whole_files import as_json, require_writable, write_whole

Config = TrainRewardConfig

_SARM, _ADAPTABLE = "sarm", ("dopamine", "roboreward", "vlac")
_OURS: dict[str, type[Any]] = {
    _SARM: Config,
    "pairs": TrainPairsConfig,
    "perceptual": TrainPerceptualConfig,
}


def choose(args: Sequence[str]) -> tuple[type[Any], list[str]]:
    """Return the settings of the kind of model that the arguments name, and the arguments without that name.

    ``--require A --require B`` stands for ``--require '["A", "B"]'``.

    Raises:
        ConfigError: If there is no such kind, or a list is torn.
    """
    rest = gathered(args, ("--require",))
    name = _SARM
    for place, argument in enumerate(rest):
        if argument == "--model" or argument.startswith("--model="):
            end = place + 1 if "=" in argument else place + 2
            name = argument.partition("=")[2] or "".join(rest[place + 1 : end])
            del rest[place:end]
            break
    if name in _OURS:
        return _OURS[name], rest
    if name not in _ADAPTABLE:
        raise ConfigError(
            "There is no such kind of reward model to train", seen=name, allowed=[*_OURS, *_ADAPTABLE]
        )
    from roborl.loops.reward_training.adapt_reward import ADAPT_CONFIGS

    return ADAPT_CONFIGS[name], rest


def main(config: Any) -> dict[str, Any]:
    """Train, print the figures to stderr, write ``report.json`` and, where there is one, a figure beside the model.

    Returns:
        The figures, with ``exit`` 1 where a bar is missed.
    """
    refuse_dataset(config.out, "--out")
    require_writable(config.out / "report.json")
    with closing(FolderLock(config.out, "Another training writes into this folder")):
        report = _report(config)
        report |= _held_to(getattr(config, "require", []), report)
        write_whole(config.out / "report.json", as_json(report, indent=2) + "\n")
    return report | ({"exit": int(bool(report["missed"]))} if "missed" in report else {})


def _held_to(bars: Sequence[str], report: Mapping[str, Any]) -> dict[str, Any]:
    """Say which bars are met, and return them and those that are missed; nothing where there are none."""
    if not bars:
        return {}
    found = missed(bars, report["held_out"] if "held_out" in report else report["measured"][FUSED], report)
    for text in bars:
        _say(f"{text}: {'not met' if text in found else 'met'}")
    return {"require": list(bars), "missed": found}


def _report(config: Any) -> dict[str, Any]:
    if isinstance(config, TrainRewardConfig):
        return _train(config)
    if isinstance(config, TrainPerceptualConfig):
        return _learn(config)
    if isinstance(config, TrainPairsConfig):
        return _compare(config)
    return _adapt(config)


def _train(config: TrainRewardConfig) -> dict[str, Any]:
    result = train_reward(config, log=_say_step)
    if result.ours.successes:
        from roborl.loops.reporting.plots import LIGHT, png
        from roborl.loops.reward_training.train_reward_plots import held_out_panels

        write_whole(config.out / "held_out.png", png(held_out_panels(result.reports, LIGHT)))
    _say(result.table)
    if result.practice is not None:
        _say(str(result.practice))
    _say(f"change by later frames {result.leak:.1e}   {result.frame_ms:.2f} ms per observation")
    return result.as_dict()


def _learn(config: TrainPerceptualConfig) -> dict[str, Any]:
    result = train_perceptual(config)
    _say(result.table)
    _say(f"change by later frames {result.leak:.1e}   {result.frame_ms:.2f} ms per observation")
    return result.as_dict()


def _compare(config: TrainPairsConfig) -> dict[str, Any]:
    result = train_pairs_on(config, log=_say_step)
    if result.table:
        _say(result.table)
        _say(f"{result.frame_ms:.2f} ms per observation")
    _say(f"Open it with: {config.out}")
    return result.as_dict()


def _adapt(config: Any) -> dict[str, Any]:
    from roborl.loops.reward_training.adapt_reward import adapt_reward

    def log(figures: Mapping[str, float]) -> None:
        line = f"step {figures['step']:5.0f}/{figures['planned']:.0f}  {figures['seconds']:6.1f} s  loss {figures['loss']:.4f}"
        if "held_out_loss" in figures:
            line += (
                f"  held out {figures['held_out_loss']:.4f}, {100 * figures['held_out_right']:.0f} % right"
            )
        _say(line)

    report = adapt_reward(config, log=log)
    held = report["held_out"]
    if "error" in held:
        _say(
            f"held out ({held['of']}): error {held['error']:.3f}, by time only {held['error_time_only']:.3f},"
            f" by the mean {held['error_mean']:.3f}; {held['unreadable']} of {held['questions']} replies unreadable"
        )
    _say(f"Open it with: {report['model']}:{config.out}")
    return report


def _say_step(figures: Mapping[str, float]) -> None:
    _say(step_line(figures))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
