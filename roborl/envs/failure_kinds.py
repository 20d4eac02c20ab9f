"""The ways in which a script fails a task, by name: for those who record them without a simulator at hand."""

from __future__ import annotations

from enum import StrEnum


class Failure(StrEnum):
    """How a script fails.

    MISS closes the fingers beside the object and carries on with nothing in them. DROP loses it on the way.
    WRONG_OBJECT does the task with the other object. STALL stops somewhere in the middle. UNDO comes close to
    the end and takes everything back. NEAR_MISS is a MISS by a finger's breadth. WANDER goes from place to place
    with the fingers anyhow, as an untrained policy does.
    """

    MISS = "miss"
    DROP = "drop"
    WRONG_OBJECT = "wrong_object"
    STALL = "stall"
    UNDO = "undo"
    NEAR_MISS = "near_miss"
    WANDER = "wander"
