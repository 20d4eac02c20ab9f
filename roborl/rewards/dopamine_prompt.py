"""The words around the eight pictures: our own wording of what the judge of hops must be told, and the way to others.

A checkpoint was trained on one literal text and answers best to that one, which is read from the user's copy. Our
wording says the same in other words: for checkpoints trained with it, and for tests.
"""

from __future__ import annotations

import ast
import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from roborl.errors import ConfigError

log = logging.getLogger(__name__)

SLOT = "{task}"
"""Stands for the instruction; once in the first segment and once in the last."""

PUBLISHED = {
    "6baabeeecf35c731aa1d058147f741f064a1391956bd8aa39448fe9bacad1b94": "the authors' inference code",
    "38e9ca57e14af89f77f2d1fbbb88b5c361994986a4097bc0f6b99cb911afe9a9": "the authors' training data",
}
"""SHA-256 of the wordings that the published checkpoints know, and where they stand."""

_MARK, _PICTURES = "<image>", 8
_SLOT = re.compile(r"\{[A-Za-z_]*\}")

OUR_WORDING: tuple[str, ...] = (
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


def read_wording(path: Path) -> tuple[str, ...]:
    """Read the nine segments from a user's copy of the published wording.

    From a Python source they are taken out of its string constants; it is not run. Any other file is taken as a whole.
    A wording that none of the published checkpoints is known to have been trained on is used all the same, with a
    warning.

    Args:
        path: The file. The places of the pictures are marked by ``<image>``, those of the task by a name in braces.

    Raises:
        ConfigError: If it cannot be read, or holds no such wording, or several.
    """
    try:
        text = path.read_text(encoding="utf-8")
        whole = [text] if path.suffix != ".py" else _constants(text)
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(
            "The file with the reward model's wording cannot be read",
            seen=f"{path}: {type(error).__name__}: {error}",
            allowed="a text file, or a Python source that parses",
        ) from error
    found = {_digest(one): one for one in whole if one.count(_MARK) == _PICTURES}
    chosen = [digest for digest in PUBLISHED if digest in found][:1] or list(found)
    if len(chosen) != 1:
        raise ConfigError(
            "The file does not hold one wording of the reward model's question",
            seen=f"{path}, with {len(found)} texts that have {_PICTURES} marks {_MARK}",
            allowed="one",
            remedy="Name the file of the checkpoint's authors that holds the template, or copy the template to a file",
        )
    if chosen[0] not in PUBLISHED:
        log.warning("the wording in %s is none that a published checkpoint is known to have learnt", path)
    return split_wording(found[chosen[0]])


def split_wording(wording: str) -> tuple[str, ...]:
    """Return the nine segments of a wording in one piece.

    Raises:
        ConfigError: If it has not eight marks, or the task has not its two places.

    Example:
        >>> segments = split_wording("<image>".join(["do {task_instruction} ", *"2345678", " and {task_instruction}"]))
        >>> segments[0], segments[-1]
        ('do {task} ', ' and {task}')
    """
    return check_segments([_SLOT.sub(lambda _: SLOT, segment) for segment in wording.split(_MARK)])


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


def _constants(source: str) -> list[str]:
    nodes = ast.walk(ast.parse(source))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
