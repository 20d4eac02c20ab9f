"""Vectors of frozen encoders on disk: every frame of a dataset is encoded once, however often a model is trained."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from roborl.rewards.training.encoders import FrameEncoder
from roborl.whole_files import whole_file

_BATCH = 32


def frame_vectors(
    encoder: FrameEncoder, frames: NDArray[np.uint8], folder: Path | None
) -> NDArray[np.float32]:
    """Return the vector of each picture, float32 (n, d), through a file per episode and camera where one is given.

    The file's name is the hash of encoder and pixels, so that it can never be the wrong one. Vectors are kept as
    float16 and are used as such even when fresh, so a second run sees the same numbers.

    Args:
        encoder: A frozen encoder.
        frames: uint8 (n, px, px, 3).
        folder: Where the files are; None for no cache.
    """
    assert encoder.frozen, "the vectors of a trained encoder change with every step"
    path = None
    if folder is not None:
        digest = hashlib.sha256(encoder.identity.encode())
        digest.update(repr(frames.shape).encode())
        digest.update(np.ascontiguousarray(frames).tobytes())
        path = folder / f"{digest.hexdigest()[:32]}.npy"
        # One that a loss of power has torn is made again.
        with suppress(FileNotFoundError, ValueError, EOFError):
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float32)
    with torch.inference_mode():
        parts = [encoder(torch.from_numpy(frames[at : at + _BATCH])) for at in range(0, len(frames), _BATCH)]
    vectors = torch.cat(parts).to(torch.float16).numpy()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as draft, draft.open("wb") as file:
            np.save(file, vectors, allow_pickle=False)
    return vectors.astype(np.float32)
