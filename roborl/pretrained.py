"""What any folder that LeRobot saved a model in has, and how its loading is kept from doing more than that."""

from __future__ import annotations

import errno
import importlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from roborl.errors import ModelLoadError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def read_description(folder: Path) -> dict[str, Any]:
    """Return the contents of a LeRobot ``config.json``, whose ``type`` names the kind of model.

    Raises:
        ModelLoadError: If there is none, or it names no kind.
    """
    try:
        described = json.loads((folder / CONFIG).read_text())
        if not isinstance(described["type"], str):
            raise TypeError("type is no word")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelLoadError(
            "This is no model as LeRobot saves it",
            seen=f"{folder}: {type(error).__name__}: {error}",
            allowed=f'a folder with {WEIGHTS} and a {CONFIG} that names its "type"',
            remedy="Name the folder pretrained_model of a LeRobot checkpoint",
        ) from error
    found: dict[str, Any] = described
    return found


@contextmanager
def disk_faults() -> Iterator[None]:
    """Turn what safetensors raises where the disk takes no more, which is none of Python's errors, into one.

    Raises:
        OSError: In its place.
    """
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


@contextmanager
def standing_in(place: str, value: object) -> Iterator[None]:
    """Put a value in the place of what a module calls by that name, such as ``package.module.name``."""
    path, _, name = place.rpartition(".")
    module = importlib.import_module(path)
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
