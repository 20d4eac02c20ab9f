"""The critic as a folder: a ``config.json`` that names checkpoint, judge and settings, and perhaps a file of wording."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import draccus
from draccus.utils import DecodingError, ParsingError

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.judges.config import JudgeConfig, JudgeKind, open_judge
from roborl.rewards.vlac.config import VlacConfig
from roborl.rewards.vlac.model import VlacModel
from roborl.rewards.vlac.wording import OUR_WORDING, read_wording

FORMAT = "roborl-vlac-1"
_CONFIG, _CONVERTED = "config.json", "native"

log = logging.getLogger(__name__)


def write_reward_model(
    folder: Path,
    *,
    checkpoint: str,
    config: VlacConfig | None = None,
    judge: JudgeConfig | None = None,
    wording: str = "",
) -> None:
    """Write down how a critic is put together; no weights are copied.

    Args:
        folder: Where; made if need be.
        checkpoint: Folder of the network, in the published or the native layout, or its name in the hub's cache.
        config: What it is shown and how its replies are used.
        judge: How the network is run.
        wording: JSON file with the texts that the checkpoint was trained on; empty for our own wording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "checkpoint": checkpoint,
        "wording": wording,
        "judge": draccus.encode(judge or JudgeConfig()),
        "model": draccus.encode(config or VlacConfig()),
    }
    partial = folder / f"{_CONFIG}.part"
    partial.write_text(json.dumps(described, indent=2) + "\n")
    os.replace(partial, folder / _CONFIG)


def load_reward_model(folder: Path | str) -> VlacModel:
    """Put a critic together. Files that its ``config.json`` names are looked for in its folder first.

    A checkpoint in the published layout is converted once, into ``native`` beside ``config.json``; remove that folder
    to have it converted again.

    Raises:
        ModelLoadError: If the folder is foreign, or the checkpoint cannot be used or sees pictures of another size.
        ConfigError: If a setting or the wording cannot be used.
        JudgeDown: If an endpoint that is to answer does not.
    """
    folder = Path(folder)
    try:
        described = json.loads((folder / _CONFIG).read_text())
        if described["format"] != FORMAT:
            raise ModelLoadError("This is another kind of model", seen=described["format"], allowed=FORMAT)
        config = draccus.decode(VlacConfig, described["model"])
        judge = draccus.decode(JudgeConfig, described["judge"])
        checkpoint, texts = str(described["checkpoint"]), str(described["wording"])
    except (ModelLoadError, ConfigError):
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        DecodingError,
        ParsingError,
    ) as error:
        raise ModelLoadError(
            "The config.json of a critic cannot be read",
            seen=f"{folder}: {type(error).__name__}: {error}",
            allowed="a folder that roborl.rewards.vlac.folder.write_reward_model wrote",
        ) from error
    wording = OUR_WORDING
    if texts:
        wording = read_wording(_place(folder, texts))
    else:
        log.warning(
            "the critic is asked in our own words; a published checkpoint answers well only to those of its training"
        )
    if judge.kind is JudgeKind.TRANSFORMERS:
        checkpoint = _native(folder, checkpoint, config)
    return VlacModel(judge=open_judge(judge, checkpoint), config=config, wording=wording)


def _place(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).exists() else Path(name)


def _native(folder: Path, checkpoint: str, config: VlacConfig) -> str:
    """Return the native folder of a checkpoint, converted if need be; only what reads the network loads torch."""
    from roborl.rewards.judges.weights import find_checkpoint
    from roborl.rewards.vlac.conversion import convert_checkpoint, is_published

    found = find_checkpoint(str(_place(folder, checkpoint)))
    if is_published(found):
        target = folder / _CONVERTED
        if not (target / "model.safetensors").is_file():
            log.info("converting %s into %s", found, target)
            convert_checkpoint(found, target)
        found = target
    side = _image_px(found)
    if side != config.image_px:
        raise ModelLoadError(
            "The checkpoint sees pictures of another size than the critic's settings say",
            seen=f"{side} px",
            allowed=f"image_px {config.image_px}",
            remedy=f"Set image_px to {side}",
        )
    return str(found)


def _image_px(checkpoint: Path) -> int:
    try:
        described: Any = json.loads((checkpoint / "config.json").read_text())
        side = described["vision_config"]["image_size"]
        return int(side[0] if isinstance(side, list) else side)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ModelLoadError(
            "The checkpoint of a critic is no InternVL network", seen=f"{checkpoint}: {type(error).__name__}"
        ) from error
