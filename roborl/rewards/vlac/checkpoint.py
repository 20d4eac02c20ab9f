"""From a published checkpoint to a critic that watches: conversion, words and judge put together."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from roborl.errors import ModelLoadError
from roborl.paths import cache_folder
from roborl.rewards.judges.checkpoints import copy_here, find_checkpoint
from roborl.rewards.judges.config import JudgeKind
from roborl.rewards.judges.opening import checkpoint_folder, open_judge
from roborl.rewards.settings import read_settings
from roborl.rewards.vlac.config import VlacConfig
from roborl.rewards.vlac.model import VlacModel
from roborl.rewards.vlac.wording import load_wording

log = logging.getLogger(__name__)


def load_vlac(place: str) -> VlacModel:
    """Load a VLAC checkpoint with its settings.

    Args:
        place: Folder of a checkpoint or of what ``roborl train-reward`` made of one, its name in the hub's cache, or a
            YAML file of
            :class:`~roborl.rewards.vlac.config.VlacConfig`.

    Raises:
        ModelLoadError: If the checkpoint cannot be used.
        ConfigError: If the settings, or the words named in them, cannot be used.
    """
    return open_vlac(read_settings(VlacConfig, place))


def open_vlac(config: VlacConfig) -> VlacModel:
    """Load or connect the critic that the settings name.

    A checkpoint in the published layout is converted first, once, into the user's cache. Endpoints have to serve a
    converted one: by the chat template that is published vLLM puts all pictures of a question before its words.

    Raises:
        ModelLoadError: If the checkpoint cannot be used, or sees pictures of another size than the settings say.
        ConfigError: If the words cannot be used.
        JudgeDown: If none of the endpoints that are to answer does.
    """
    wording = load_wording(config.prompt, checkpoint_folder(config.judge, config.checkpoint))
    checkpoint = config.checkpoint
    if config.judge.kind is JudgeKind.TRANSFORMERS:
        folder = native_checkpoint(checkpoint)
        side = _image_px(folder)
        if side != config.image_px:
            raise ModelLoadError(
                "The checkpoint sees pictures of another size than the critic's settings say",
                seen=f"{side} px",
                allowed=f"image_px {config.image_px}",
                remedy=f"Set image_px to {side}",
            )
        checkpoint = str(folder)
    elif config.judge.kind is JudgeKind.OPENAI:
        _say_what_to_serve(checkpoint)
    return VlacModel(judge=open_judge(config.judge, checkpoint), config=config, wording=wording)


def native_checkpoint(checkpoint: str) -> Path:
    """Return the folder of a checkpoint that transformers loads natively, converted if it is in the published layout.

    Args:
        checkpoint: A folder, or a name in the hub's cache.

    Raises:
        ModelLoadError: If there is none, or it cannot be converted.
    """
    from roborl.rewards.vlac.conversion import convert_checkpoint, is_published

    found = find_checkpoint(checkpoint)
    if not is_published(found):
        return found
    target = _converted(found)
    if not _is_whole(target):
        log.warning("converting the checkpoint in %s into %s, once", found, target)
        convert_checkpoint(found, target)
    return target


def _say_what_to_serve(checkpoint: str) -> None:
    """Tell people which folder endpoints have to serve, and how it is made where it is not here."""
    from roborl.rewards.vlac.conversion import is_published

    folder = copy_here(checkpoint)
    if folder is not None and is_published(folder):
        target = _converted(folder)
        folder = target if _is_whole(target) else None
    make = f"from {__name__} import native_checkpoint; print(native_checkpoint({checkpoint or 'NAME'!r}))"
    log.warning(
        "vlac's endpoints have to serve a converted checkpoint, whose chat template leaves each picture at its place"
        " among the words, not the published one: vllm serve %s",
        folder or f'$(python -c "{make}")',
    )


def _converted(published: Path) -> Path:
    """Return where the native copy of a published checkpoint lies, or will."""
    return cache_folder("converted") / f"vlac-{_fingerprint(published)}"


def _is_whole(converted: Path) -> bool:
    return (converted / "model.safetensors").is_file()


def _fingerprint(folder: Path) -> str:
    """Return a hash by which a changed checkpoint is noticed without reading gigabytes."""
    files = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.suffix in (".json", ".model", ".safetensors")
    ]
    return hashlib.sha256(json.dumps([str(folder.resolve()), files]).encode()).hexdigest()[:16]


def _image_px(checkpoint: Path) -> int:
    try:
        described: Any = json.loads((checkpoint / "config.json").read_text())
        side = described["vision_config"]["image_size"]
        return int(side[0] if isinstance(side, list) else side)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelLoadError(
            "The checkpoint of a critic is no InternVL network", seen=f"{checkpoint}: {type(error).__name__}"
        ) from error
