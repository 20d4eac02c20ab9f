"""Which algorithm learns, with which settings, and how its batches are drawn."""

from __future__ import annotations

import importlib
import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError
from roborl.learning.algorithm import Algorithm
from roborl.learning.clone import CloneConfig
from roborl.learning.mixing import Share
from roborl.learning.rlpd import Rlpd, RlpdConfig
from roborl.learning.sampling import SamplingConfig
from roborl.learning.weighted import Weighted, WeightedConfig
from roborl.loops.learner.learn_config import LearnConfig, RunFolder
from roborl.loops.learner.replay import recorded
from roborl.loops.run_settings import of_earlier_runs
from roborl.policies.lerobot_files import is_lerobot_policy
from roborl.rewards.forms import RewardForm

log = logging.getLogger(__name__)


def chosen(config: LearnConfig) -> str:
    """Return the name of the algorithm; of auto, what the policy asks for that the run has, or is to begin with.

    Raises:
        ConfigError: If the algorithm cannot learn that policy.
    """
    begun = RunFolder(config.run).policy
    lerobot = is_lerobot_policy(begun if begun.exists() or not config.policy else Path(config.policy))
    fitting = "weighted" if lerobot else "rlpd"
    if config.algorithm == "auto":
        return fitting
    if config.algorithm in ("rlpd", "weighted") and config.algorithm != fitting:
        raise ConfigError(
            "The algorithm cannot learn this policy",
            seen=f"{config.algorithm}, and {'a LeRobot policy' if lerobot else 'the small policy of roborl'}",
            allowed=f"auto, {fitting}, or module:function",
            remedy=f"Leave --algorithm out: then it is {fitting}",
        )
    return config.algorithm


def settings_of(config: LearnConfig) -> RlpdConfig | WeightedConfig:
    """Return the settings of the algorithm; one of the user's own has those of rlpd."""
    return config.weighted if chosen(config) == "weighted" else config.rlpd


def say_unused(config: LearnConfig) -> None:
    """Warn of settings that were given and change nothing in this run."""
    algorithm = chosen(config)
    name, idle = ("rlpd", config.rlpd) if algorithm == "weighted" else ("weighted", config.weighted)
    earlier = of_earlier_runs().get(name, {})  # which nobody gave
    unused = [
        f"--{name}.{setting} (of {algorithm}, which learns, are other settings)"
        for setting in _set(idle)
        if (setting, getattr(idle, setting)) not in earlier.items()
    ]
    if config.policy:
        cloning = [f"clone.{setting}" for setting in _set(config.clone)]
        cloning += ["demos.weights"] if config.demos.weights else []
        unused += [f"--{setting} (with --policy none is cloned)" for setting in cloning]
    if unused:
        log.warning("Settings that change nothing: %s", ", ".join(unused))


def _set(settings: RlpdConfig | WeightedConfig | CloneConfig) -> list[str]:
    """Return the names of settings that are not at their defaults."""
    plain = type(settings)()
    return [
        each.name for each in fields(settings) if getattr(settings, each.name) != getattr(plain, each.name)
    ]


def mix_of(config: LearnConfig) -> dict[str, Share]:
    """Return the share of each index set in a batch.

    Raises:
        ConfigError: If the shares leave nothing for online experience, or nothing for the head start to be made on.
    """
    settings, head_start = settings_of(config), config.trainer.budget.head_start
    mix = config.mix.shares(settings.demo_fraction, failures=config.demos.failures)
    if head_start and not any(share.at(0, natural=1.0) for share in recorded(mix).values()):
        raise ConfigError(
            "A head start would never end, for no recorded episode has a share in a batch",
            seen=f"trainer.budget.head_start={head_start}, demo_fraction={settings.demo_fraction:g}",
            allowed="a share for demonstrations from the first update on, or for recorded failures",
            remedy="Raise demo_fraction, or set --trainer.budget.head_start 0",
        )
    return mix


def sampling_of(config: LearnConfig, policy: Any) -> SamplingConfig:
    """Return how transitions are made for the algorithm."""
    settings = settings_of(config)
    chunked = isinstance(settings, WeightedConfig)
    return SamplingConfig(
        n_step=_chunk_steps(config.weighted, policy) if chunked else settings.n_step,
        chunked=chunked,
        discount=settings.discount,
        potential_scale=config.shaping.scale if config.shaped else 0.0,
        potential_doubt=config.shaping.doubt,
        every_potential=_form(config).along_the_way,
        shuffled=config.shaping.shuffled,
        need_labels=config.shaped,
        label_deadline_s=config.labels.deadline_s,
        reuse_arrays=True,
    )


def make_algorithm(config: LearnConfig, policy: Any, arena: Any) -> Algorithm[Any]:
    """Build the configured algorithm around a policy.

    Raises:
        ConfigError: If there is no such algorithm.
    """
    form = _form(config)
    name = chosen(config)
    if name == "rlpd":
        return Rlpd(config.rlpd, policy, arena, form=form, seed=config.seed)
    if name == "weighted":
        return Weighted(config.weighted, policy, arena, form=form, seed=config.seed)
    module, _, function = name.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            "There is no such algorithm",
            seen=name,
            allowed="auto, rlpd, weighted, or module:function",
            remedy="Check the spelling, and that the module can be imported",
        ) from error
    algorithm: Algorithm[Any] = make(config, policy, arena)
    return algorithm


def _form(config: LearnConfig) -> RewardForm:
    return RewardForm(config.shaping.form) if config.shaped else RewardForm.SPARSE


def _chunk_steps(settings: WeightedConfig, policy: Any) -> int:
    longest = int(policy.parts.config.chunk_size)
    if settings.n_step > longest:
        raise ConfigError(
            "The policy does not predict chunks of this length",
            seen=f"weighted.n_step {settings.n_step}",
            allowed=f"up to its chunk_size, {longest}",
            remedy="Lower --weighted.n_step, or leave it at 0",
        )
    return settings.n_step or int(policy.chunk_steps)
