"""What is drawn from replay memory: transitions, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roborl.types import Image

type Floats = NDArray[np.float32]
type Ints = NDArray[np.int64]
type Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Transitions of ``horizon`` steps each, b of them. Image, state and action of a row belong to one instant.

    Attributes:
        images: Camera to uint8 (b, H, W, 3) of the observation acted in, lines not contiguous with each other; empty where
            pictures were not asked for.
        next_images: The same ``horizon`` steps later.
        state: float32 (b, s).
        next_state: float32 (b, s).
        action: The first action executed, float32 (b, a).
        chunk: All actions executed, float32 (b, h, a), 0 from ``horizon`` on; None unless chunked.
        reward: Σγⁱrᵢ over the horizon, the task's reward alone, float32 (b,).
        potential: Φ of the observation acted in, float32 (b,).
        next_potential: Φ of the next observation, float32 (b,). Where terminated its score may not be there yet, and the
            last one is held, unless every potential is asked for: potential shaping does not look at it.
        terminated: The task itself ended within the horizon: nothing is bootstrapped, bool (b,).
        horizon: Steps, int64 (b,).
        person: A person chose the first action, in no episode that is known to have failed, bool (b,). Online not before their
            first and after their last motion, where they stand still: such a step is like one of practice.
        demo: The episode is a demonstration, bool (b,).
        rows: Rows of the replay memory, int64 (b,).
        next_rows: Rows of the next observations, int64 (b,).
        version: Version of the labels behind the potentials, empty for none.
        potentials: Φ of the observation acted in and of each one up to the next, held from there on, float32 (b, n + 1);
            None unless asked for.
    """

    images: Mapping[str, Image]
    next_images: Mapping[str, Image]
    state: Floats
    next_state: Floats
    action: Floats
    chunk: Floats | None
    reward: Floats
    potential: Floats
    next_potential: Floats
    terminated: Bools
    horizon: Ints
    person: Bools
    demo: Bools
    rows: Ints
    next_rows: Ints
    version: str
    potentials: Floats | None = None

    def __len__(self) -> int:
        return self.rows.size
