"""Which code reads which reward model: by the format that its folder names, or by a name in front; from closed lists."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from roborl.errors import ModelLoadError
from roborl.rewards.calibrated import calibrated
from roborl.rewards.measured import CALIBRATED, calibration_of
from roborl.rewards.model import RewardModel

# Code comes from this list alone: a folder names a format, never a class or a module.
_FORMATS = {
    "roborl-pairs-1": "roborl.rewards.pairs.model:load_pair_model",
    "roborl-perceptual-1": "roborl.rewards.perceptual.checkpoint:load_perceptual",
    "roborl-sarm-1": "roborl.rewards.sarm.checkpoint:load_sarm",
}
_NAMES = {"brightness": "roborl.rewards.fake:BrightnessModel"}
# A published checkpoint says what network it is and not what it was trained for, so that is said by whoever names it.
_PUBLISHED = {
    "clip": "roborl.rewards.clip:load_clip",
    "dopamine": "roborl.rewards.dopamine:load_dopamine",
    "lerobot": "roborl.rewards.lerobot_rewards:load_lerobot",
    "roboreward": "roborl.rewards.roboreward:load_roboreward",
    "sarm": "roborl.rewards.sarm.published_checkpoint:load_published_sarm",
    "sole-r1": "roborl.rewards.sole:load_sole",
    "vlac": "roborl.rewards.vlac.checkpoint:load_vlac",
}
# What is to be looked at in a model that is used as it was published.
_WARNINGS = {"dopamine": "roborl.rewards.dopamine:warn_of_threshold"}


def find_loader(place: str) -> Callable[[], RewardModel[Any, Any]]:
    """Import what reads a reward model, and return a function that reads it.

    Args:
        place: A folder with a ``config.json`` that names its format, the name of a model without weights, or the name
            of a published model, a colon, and its checkpoint or its YAML file of settings: ``roboreward:PATH``. Or
            ``calibrated:RESULT:MODEL``: any of these behind the calibration that ``roborl bench-reward`` fitted to it
            and wrote into RESULT, its ``bench_reward.json``. Reading it raises ConfigError where RESULT has none for
            the model's version.

    Raises:
        ModelLoadError: If there is no such model, or it is of a format that nothing here reads.
    """
    name, colon, _ = place.partition(":")
    # Without a colon it names a folder, which may be called like a published model and hold another.
    load, warning = _loader(place), _WARNINGS.get(name) if colon else None
    return load if warning is None else _warning(load, _imported(warning))


def _loader(place: str) -> Callable[[], RewardModel[Any, Any]]:
    if place.startswith(CALIBRATED):
        named = calibration_of(place)
        if named is None:
            raise ModelLoadError(
                "A calibrated reward model is not named",
                seen=place,
                allowed="calibrated:RESULT.json:MODEL",
                remedy="For example: calibrated:outputs/bench-reward/bench_reward.json:outputs/reach-reward",
            )
        result, model = named
        load_measured = _loader(model)
        return lambda: calibrated(load_measured(), result)
    if place in _NAMES:
        return _imported(_NAMES[place])
    name, colon, checkpoint = place.partition(":")
    if colon and name in _PUBLISHED:
        load_published = _imported(_PUBLISHED[name])
        return lambda: load_published(checkpoint)
    folder = Path(place)
    try:
        described = json.loads((folder / "config.json").read_text())
        known = described["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            "This is no reward model",
            seen=f"{place} ({type(error).__name__})",
            allowed=f"a folder whose config.json names its format, one of {sorted(_NAMES)}, NAME:CHECKPOINT with one"
            f" of {sorted(_PUBLISHED)}, or calibrated:RESULT.json: before any of these",
            remedy="Train one with: roborl train-reward --dataset PATH --out FOLDER",
        ) from error
    if known not in _FORMATS:
        raise ModelLoadError(
            "This reward model is of a format that this release does not read",
            seen=known,
            allowed=sorted(_FORMATS),
        )
    load = _imported(_FORMATS[known])
    return lambda: load(folder)


def load_reward_model(place: str) -> RewardModel[Any, Any]:
    """Read a reward model, whatever its kind.

    Raises:
        ModelLoadError: If it cannot be used.
        ConfigError: If its settings cannot be used, or the calibration named with it was fitted to another.

    Example:
        >>> load_reward_model("brightness").info.version
        'brightness-all'
    """
    return find_loader(place)()


def _warning(
    load: Callable[[], RewardModel[Any, Any]], warn: Callable[[RewardModel[Any, Any]], None]
) -> Callable[[], RewardModel[Any, Any]]:
    """Return a loader that says what is to be looked at in the model."""

    def load_and_warn() -> RewardModel[Any, Any]:
        model = load()
        warn(model)
        return model

    return load_and_warn


def _imported(place: str) -> Callable[..., Any]:
    module, name = place.split(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found
