"""The settings of a published model: from a YAML file, from a folder that training wrote, or the plain ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import draccus

from roborl import config as configs

SETTINGS = "reward.yaml"
"""Name of the file with the settings in a folder that training wrote."""
ADAPTER = "adapter_config.json"
"""Name of the file by which a folder of LoRA weights is known."""
RECORD = "training.json"
"""Name of the file with the record of the training, in a folder that training wrote."""

PLACES = ("checkpoint", "judge", "prompt")
"""Settings that say where a part lies or how it runs: no part of a version, in which what the part is stands itself."""


def described(kind: str, config: Any, *, places: Sequence[str] = PLACES, **parts: Any) -> dict[str, Any]:
    """Return everything that bears on a model's scores, as plain values: what its version is the hash of.

    Args:
        kind: What the version begins with.
        config: The dataclass of settings.
        places: Those that say where something lies.
        parts: What is found there, as hashes or identities: that of the words under ``prompt``, that of the network and
            its processor under ``judge``.
    """
    asked = {name: value for name, value in draccus.encode(config).items() if name not in places}
    return {"kind": kind, **parts, "asked": asked}


def version_of(about: Mapping[str, Any]) -> str:
    """Return the version of a model: its kind and the hash of everything else that bears on a score."""
    rest = {name: value for name, value in about.items() if name != "kind"}
    return f"{about['kind']}-{hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]}"


def settings_at(config_class: Any, place: str) -> Any:
    """Return the settings in a YAML file; for any other place, the plain ones with it as the checkpoint.

    Args:
        config_class: The dataclass of settings; it has ``checkpoint``.
        place: A YAML file, a folder with weights, or the name of a checkpoint in the hub's cache.

    Raises:
        ConfigError: If the settings cannot be used.
    """
    path = Path(place)
    if path.suffix in (".yaml", ".yml"):
        return configs.load(config_class, path)
    return config_class(checkpoint=place)


def read_settings(config_class: Any, place: str) -> Any:
    """Return the settings that a place names, which may be a folder that training wrote.

    Files named in a folder's own settings lie in that folder unless their path is absolute, and the network does where
    none is named, so that the folder can be moved.

    Args:
        config_class: The dataclass of settings; it has ``checkpoint``, ``judge`` and ``prompt``.
        place: A YAML file, a folder with weights, the name of a checkpoint in the hub's cache, or a folder that
            ``roborl train-reward`` wrote, or its :data:`SETTINGS`: weights or an adapter, with those beside them.

    Raises:
        ConfigError: If the settings cannot be used.
    """
    path = Path(place)
    if path.name == SETTINGS and (path.parent / RECORD).is_file():
        path = path.parent
    if not (path / SETTINGS).is_file():
        return settings_at(config_class, place)
    config = configs.load(config_class, path / SETTINGS)
    folder = path.absolute()
    changes: dict[str, Any] = {}
    if not config.checkpoint:
        changes["checkpoint"] = str(folder)
    if config.prompt.file:
        changes["prompt"] = replace(config.prompt, file=str(folder / config.prompt.file))
    if (folder / ADAPTER).is_file():
        changes["judge"] = replace(config.judge, adapter=str(folder))
    if getattr(config, "references", None):
        changes["references"] = {name: str(folder / file) for name, file in config.references.items()}
    return replace(config, **changes)


def is_adapted(config: Any) -> bool:
    """Return whether ``roborl train-reward`` adapted the network that these settings name, as its folder then says."""
    folders = (config.checkpoint, config.judge.adapter)
    return any(folder and (Path(folder) / RECORD).is_file() for folder in folders)
