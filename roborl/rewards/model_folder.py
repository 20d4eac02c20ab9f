"""How a reward model of ours is written to a folder: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import save_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model_folder(folder: Path, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a model, making the folder; the weights appear last and at once, so a torn save does not load.

    Args:
        folder: Where to.
        described: Everything but the weights, as JSON has it.
        arrays: The weights by name, contiguous.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n")
    partial = folder / f"{WEIGHTS}.part"
    save_file(dict(arrays), partial)
    os.replace(partial, folder / WEIGHTS)
