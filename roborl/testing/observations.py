"""What an observation holds, to see whether somebody who was shown it has written into it."""

from __future__ import annotations

from roborl.types import Observation


def contents(observation: Observation) -> dict[str, bytes]:
    """Return the bytes of the state, under an empty name, and of each picture by its camera."""
    return {"": observation.state.tobytes()} | {
        name: frame.rgb.tobytes() for name, frame in observation.frames.items()
    }
