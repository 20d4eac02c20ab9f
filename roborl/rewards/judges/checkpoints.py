"""Where a checkpoint's files are on this computer, and what can be told from them without loading any weights."""

from __future__ import annotations

import json
from pathlib import Path

import xxhash

from roborl.errors import ConfigError, ModelLoadError

_PLACES, _PIECE = 8, 1 << 16  # of each file of weights, bytes
_ALLOWED = "a folder with config.json and *.safetensors, or a name in the hub's cache"


def find_checkpoint(checkpoint: str) -> Path:
    """Return the folder of a checkpoint: itself, or where the hub's cache keeps it. Never downloads.

    Raises:
        ConfigError: If none is named.
        ModelLoadError: If there is none.
    """
    if not checkpoint:  # As a path it would be the present folder.
        raise ConfigError(
            "No checkpoint is named",
            seen="nothing",
            allowed=_ALLOWED,
            remedy="Set checkpoint in the model's settings, in roborl train-reward with --model.checkpoint",
        )
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(checkpoint, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelLoadError(
            "There is no such checkpoint on this computer",
            seen=checkpoint,
            allowed=_ALLOWED,
            remedy=f"Download it once with: hf download {checkpoint}",
        ) from error


def copy_here(checkpoint: str) -> Path | None:
    """Return the folder of a checkpoint that need not be here; None where it is not, or where none is named."""
    try:
        return find_checkpoint(checkpoint) if checkpoint else None
    except ModelLoadError:
        return None


def checkpoint_key(checkpoint: str) -> str:
    """Return what tells a checkpoint from others, wherever it lies.

    Args:
        checkpoint: A folder, or a name on the hub.

    Returns:
        The name; of a folder a hash of its description and of a little of each file of weights. Other weights of the
        same description have another one.
    """
    folder = Path(checkpoint)
    if not checkpoint or not folder.is_dir():
        return checkpoint
    digest = xxhash.xxh3_128()
    for path in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        if path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with path.open("rb") as file:
                for place in range(_PLACES):
                    file.seek(place * size // _PLACES)
                    digest.update(file.read(_PIECE))
    return digest.hexdigest()


def cell_px_of(folder: Path | None) -> int:
    """Return the side of the cells that a checkpoint's network sees pictures in, px; 0 where that is not known."""
    if folder is None:
        return 0
    try:
        vision = json.loads((folder / "config.json").read_text())["vision_config"]
        return int(vision["patch_size"]) * int(vision["spatial_merge_size"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0
