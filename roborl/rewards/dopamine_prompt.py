"""The words around the eight pictures: our own wording of what the judge of hops must be told.

A checkpoint was trained on one literal text and answers best to that one, which is read from the user's copy. This
wording says the same in other words: for checkpoints trained with it, and for tests.
"""

from __future__ import annotations

from collections.abc import Sequence

from roborl.errors import ConfigError

SLOT = "{task}"
"""Stands for the instruction; once in the first segment and once in the last."""

OUR_WORDING = (
    "You watch a robot through its cameras and judge how far its work has moved between two moments, called BEFORE and "
    "AFTER.\n\n<Task>\nThe robot was told: `{task}`\nTwo pictures of the front camera mark the ends of a scale: how the "
    "work starts, and how it looks once it is done. They may show another attempt than the one you judge. Read them as "
    "marks on the scale and nothing more.\nThe start: ",
    "\nThe end: ",
    "\n</Task>\n\nBEFORE, front camera: ",
    "\nBEFORE, left wrist camera: ",
    "\nBEFORE, right wrist camera: ",
    "\n\nAFTER, front camera: ",
    "\nAFTER, left wrist camera: ",
    "\nAFTER, right wrist camera: ",
    "\n\nHow much closer to the end is AFTER than BEFORE?\n\n"
    "How to measure it\n"
    "1. Find the places of BEFORE and of AFTER on the scale from start to end.\n"
    "2. The sign tells the direction: + where AFTER lies closer to the end, - where it lies closer to the start.\n"
    "3. The size is a share in percent, 100 at most. Of a step forward, it is the share of the work that was left at "
    "BEFORE. Of a step back, it is the share of the work that had been done at BEFORE and is now undone.\n\n"
    "What counts\n"
    "- What can be seen of `{task}` itself: where objects are, how they lie, what holds or touches what.\n"
    "- Work that is finished counts for more than work that is about to be finished.\n"
    "- The front camera tells how things are laid out, the wrist cameras tell about grasp and contact. Where they "
    "disagree about grasp or contact, believe the wrist.\n"
    "- A failure that any one camera shows clearly is a failure.\n"
    "- Light, shadows, background and the look of the picture do not count. Where it cannot be told, the answer is 0.\n\n"
    "Answer with this line and nothing else, a whole number with its sign in place of N:\n<score>N%</score>",
)
"""The nine segments."""


def check_segments(segments: Sequence[str]) -> tuple[str, ...]:
    """Return the segments of a question if they are whole.

    Raises:
        ConfigError: If there are not nine of them, or the task has not its two places.
    """
    slots = [segment.count(SLOT) for segment in segments]
    if len(segments) != 9 or slots[0] != 1 or slots[-1] != 1 or sum(slots) != 2:
        raise ConfigError(
            "The wording of the reward model's question is not whole",
            seen=f"{len(segments)} segments with {slots} places for the task",
            allowed="nine segments around eight pictures, with the task once in the first and once in the last",
            remedy="Use the file of the checkpoint's authors as it is",
        )
    return tuple(segments)


def fill_slots(segments: Sequence[str], task: str) -> tuple[str, ...]:
    """Return the segments with the task in its places, as it is: braces and percent signs in it mean nothing."""
    return tuple(segment.replace(SLOT, task) for segment in segments)
