"""How a reward model of ours stands in a folder, ``config.json`` and ``model.safetensors``: written, known again, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from draccus.utils import DecodingError, ParsingError
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from roborl.errors import ModelLoadError, RoborlError
from roborl.pretrained import CONFIG, WEIGHTS, disk_faults
from roborl.whole_files import whole_file


def save_model_folder(folder: Path, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a model, making the folder; the weights appear last and at once, so a torn save does not load.

    A model that is there is replaced only once the new one is on the disk.

    Args:
        folder: Where to.
        described: Everything but the weights, as JSON has it.
        arrays: The weights by name, contiguous.

    Raises:
        OSError: If the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / WEIGHTS) as weights, disk_faults():
        save_file(dict(arrays), weights)
        with whole_file(folder / CONFIG) as config:
            config.write_text(json.dumps(described, indent=2) + "\n")
            (folder / WEIGHTS).unlink(missing_ok=True)


def content_hash(arrays: Mapping[str, ArrayLike], described: Mapping[str, Any] | None = None) -> str:
    """Return the hash by which a model is known again: 16 hex digits over its description, and names and bytes of its arrays.

    Args:
        arrays: Weights or statistics by name, as numpy has them or as tensors without gradient on the processor.
        described: What else bears on a score, as JSON has it.
    """
    digest = hashlib.sha256()
    if described is not None:
        digest.update(json.dumps(described, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def reading(folder: Path, what: str, train: str) -> Iterator[None]:
    """Turn whatever goes wrong while a folder is read into one error that says how to get a good one.

    Args:
        folder: What is read.
        what: Kind of model, for people.
        train: Command that makes one.

    Raises:
        ModelLoadError: For anything that the block raises about files, formats and sizes.
    """
    try:
        yield
    except ModelLoadError:
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        SafetensorError,
        DecodingError,
        ParsingError,
        RoborlError,
    ) as error:
        raise ModelLoadError(
            f"{what} cannot be read",
            seen=f"{folder}: {type(error).__name__}: {error}",
            allowed="a folder that roborl train-reward wrote",
            remedy=f"Train one with: {train}",
        ) from error
