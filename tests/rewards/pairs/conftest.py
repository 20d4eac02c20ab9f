"""A drawn world for judges of pairs: a red block goes to a green pad, as fast as it likes, or stops on the way."""

from __future__ import annotations

import numpy as np

from roborl.rewards.training.episodes import TrainingEpisode

SIDE = 32
TASK = "bring the red block to the green pad"


def drive(seed: int, *, success: bool = True, side: int = SIDE) -> TrainingEpisode:
    """Draw an episode of 9 to 25 observations: it waits at the start for a while, then goes straight to the pad.

    A failure stays for good after 30 % of the way, for as long as a success takes.
    """
    rng = np.random.default_rng(seed)
    waits, goes = int(rng.integers(1, 9)), int(rng.integers(7, 16))
    way = np.r_[np.zeros(waits), np.interp(np.arange(goes + 1), [0, goes // 2, goes], [0.0, 0.5, 1.0])]
    truth = way if success else np.minimum(way, 0.3)
    begin, pad = rng.uniform(2, side / 2 - 6, 2), rng.uniform(side / 2, side - 8, 2)
    front = np.full((len(truth), side, side, 3), 30, np.uint8)
    front += rng.integers(0, 20, front.shape, np.uint8)
    for picture, share in zip(front, truth, strict=True):
        _block(picture, pad, 7, (20, 200, 40))
        _block(picture, begin + share * (pad - begin), 5, (230, 40, 30))
    # What the wrist sees grows brighter on the way.
    wrist = np.empty((len(truth), side, side, 3), np.uint8)
    wrist[:] = (40 + 180 * truth).astype(np.uint8)[:, None, None, None]
    last, half = len(truth) - 1, waits + goes // 2
    spans = [("near", waits, half), ("bring", half, last)] if success else [("near", waits, last)]
    return TrainingEpisode(
        images={"front": front, "wrist": wrist},
        state=np.zeros((len(truth), 0), np.float32),
        task=TASK,
        success=success,
        subtasks=spans,
        kind="success" if success else "stall",
        benchmark=truth.astype(np.float32),
    )


def _block(picture: np.ndarray, at: np.ndarray, side: int, colour: tuple[int, int, int]) -> None:
    x, y = at.round().astype(int)
    picture[y : y + side, x : x + side] = colour
