"""Which frames the model looks at: a causal window with an anchor at the start of the episode, and its rewinds."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError

EMPTY = -1
"""Index of a slot that holds no frame."""


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Shape of the causal window."""

    history: int = 4  # frames up to and including the present one
    gap: int = 2  # observations between neighbouring slots

    def __post_init__(self) -> None:
        if self.history < 1 or self.gap < 1:
            raise ConfigError(
                "A window needs at least one frame and a gap of at least one observation",
                seen=f"history {self.history}, gap {self.gap}",
            )

    @property
    def slots(self) -> int:
        """Slots of a window: the anchor and the history."""
        return self.history + 1

    @property
    def reach(self) -> int:
        """How many observations back the window looks, the anchor aside."""
        return (self.history - 1) * self.gap


@dataclass(frozen=True, kw_only=True)
class WindowAugmentation:
    """How training windows differ from the ones met in use."""

    rewind: float = 0.3  # probability that the last slots run backwards
    freeze: float = 0.2  # probability that the last slots repeat one frame
    # Probability of each earlier slot to be empty, so that no clock can be read off the filled ones.
    drop: float = 0.2
    drop_anchor: float = 0.3  # the same for the anchor
    # Probability that the anchor is any frame: the video begins elsewhere than the task.
    move_anchor: float = 0.3

    def __post_init__(self) -> None:
        if not all(0.0 <= chance <= 1.0 for chance in astuple(self)):
            raise ConfigError(
                "Training windows differ by chance", seen=self, allowed="probabilities in [0, 1]"
            )


def causal_window(config: WindowConfig, present: int) -> NDArray[np.int64]:
    """Return the frames to look at for observation ``present``: anchor, then history, oldest first; int64 (slots,).

    Nothing later than ``present`` is ever in it; slots before the start of the episode are EMPTY.

    Example:
        >>> causal_window(WindowConfig(history=3, gap=2), 3).tolist()
        [0, -1, 1, 3]
    """
    back = np.arange(config.history - 1, -1, -1) * config.gap
    history = present - back
    history[history < 0] = EMPTY
    return np.concatenate([[0], history])


def training_window(
    config: WindowConfig,
    augmentation: WindowAugmentation,
    frames: int,
    rng: np.random.Generator,
    *,
    present: int | None = None,
) -> NDArray[np.int64]:
    """Draw one training window from an episode of ``frames`` observations; int64 (slots,).

    It ends at ``present``, or anywhere where that is None.

    The path may run forwards, turn round (a rewind) or stand still; every slot is labelled by the very index that
    fetches its picture, so frames and labels cannot disagree. All coins are thrown per window.
    """
    present = int(rng.integers(frames)) if present is None else present
    moves = np.full(config.history - 1, config.gap)
    if len(moves):
        coin = rng.random()
        tail = int(rng.integers(1, len(moves) + 1))
        if coin < augmentation.rewind:
            moves[-tail:] = -config.gap
        elif coin < augmentation.rewind + augmentation.freeze:
            moves[-tail:] = 0
    offsets = np.concatenate([[0], np.cumsum(moves)])
    path = present - offsets[-1] + offsets
    path[(path < 0) | (path >= frames)] = EMPTY
    path[:-1][rng.random(config.history - 1) < augmentation.drop] = EMPTY
    anchor, coin = 0, rng.random()
    if coin < augmentation.drop_anchor:
        anchor = EMPTY
    elif coin < augmentation.drop_anchor + augmentation.move_anchor:
        # Half of the time the present frame itself, as at the start of a video.
        anchor = present if rng.random() < 0.5 else int(rng.integers(frames))
    return np.concatenate([[anchor], path])
