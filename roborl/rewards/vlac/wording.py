"""The words around the critic's pictures: our own wording of what it must be told, in the order and tags of its training.

A checkpoint was trained on one literal text and answers best to that one. It is read from a file of the user's; this
wording says the same in other words, for checkpoints trained with it and for tests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from roborl.errors import ConfigError
from roborl.rewards.judges.queries import Part
from roborl.types import Image

TASK, PERCENT = "{task}", "{percent}"
"""Slots of the instruction, and of the share of a reference trajectory that a picture of it has behind it."""

_SLOTS = {
    "pair_ask": (TASK,),
    "trajectory_open": (TASK,),
    "trajectory_step": (PERCENT,),
    "done_ask": (TASK,),
    "done_goal_open": (TASK,),
    "done_goal_ask": (TASK,),
}


@dataclass(frozen=True, kw_only=True)
class VlacWording:
    """The texts of all questions, each with its slots.

    Attributes:
        system: Who the network is.
        pair_first: Before the earlier picture of a pair.
        pair_second: Between the two.
        pair_ask: After the later one: what to compare, and how to answer.
        trajectory_open: Before the pictures of a reference trajectory.
        trajectory_step: Before each of them.
        trajectory_end: After the last of them.
        start_first: Before the first picture of the episode.
        start_note: After it: what it is.
        done_ask: After a picture that may show the task done: the question.
        done_goal_open: Before a picture of the goal.
        done_goal_next: Between it and the picture that may show the task done.
        done_goal_ask: After both: the question.
    """

    system: str
    pair_first: str
    pair_second: str
    pair_ask: str
    trajectory_open: str
    trajectory_step: str
    trajectory_end: str
    start_first: str
    start_note: str
    done_ask: str
    done_goal_open: str
    done_goal_next: str
    done_goal_ask: str

    def __post_init__(self) -> None:
        for part in fields(self):
            text = getattr(self, part.name)
            wanted = _SLOTS.get(part.name, ())
            found = tuple(slot for slot in (TASK, PERCENT) if isinstance(text, str) and slot in text)
            if not isinstance(text, str) or found != wanted:
                raise ConfigError(
                    f"The wording of {part.name} is not whole",
                    seen=repr(text)[:80],
                    allowed=f"a text with the slots {list(wanted)} and no others",
                )

    @property
    def digest(self) -> str:
        """Hash of all texts: a single character changes what a network hears."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def context(self, task: str, trajectory: Sequence[Image], start: Image) -> tuple[Part, ...]:
        """Return what stands before the pair in a question with a reference: the same over a whole episode.

        Args:
            task: The instruction.
            trajectory: Pictures of the reference, the first and the last among them.
            start: First picture of the episode that is judged.
        """
        last = max(len(trajectory) - 1, 1)
        parts: list[Part] = []
        words = _fill(self.trajectory_open, task)
        for place, picture in enumerate(trajectory):
            share = 100 * place // last if len(trajectory) > 1 else 100
            parts += [words + self.trajectory_step.replace(PERCENT, str(share)), picture]
            words = ""
        return (*parts, self.trajectory_end + self.start_first, start, self.start_note)

    def pair(self, task: str, earlier: Image, later: Image, context: Sequence[Part] = ()) -> tuple[Part, ...]:
        """Return the question which share of the remaining way was made between two pictures."""
        return (*context, self.pair_first, earlier, self.pair_second, later, _fill(self.pair_ask, task))

    def done(self, task: str, now: Image, goal: Image | None = None) -> tuple[Part, ...]:
        """Return the question whether a picture shows the task done, beside a picture of the goal where there is one."""
        if goal is None:
            return (now, _fill(self.done_ask, task))
        opening = _fill(self.done_goal_open, task)
        return (opening, goal, self.done_goal_next, now, _fill(self.done_goal_ask, task))


OUR_WORDING = VlacWording(
    system="You look at pictures of a robot at work and tell how things lie in space and how far a task has come.",
    pair_first="Image-1: ",
    pair_second="\nImage-2: ",
    pair_ask=(
        "\nBoth pictures show the same task under way. Which of them is nearer to its end? Answer with a sign and a whole "
        "number: + if it is image 2, - if it is image 1. The number is the relative progress in percent, that is how much of "
        "what remained to be done lies between the two. It belongs after <score>. <task> {task} </task> <score>"
    ),
    trajectory_open="<trajectory> <task> {task} </task>:",
    trajectory_step=" {percent}% ",
    trajectory_end="\n</trajectory>\n",
    start_first="0% ",
    start_note="\nThis is how the attempt began from which the next two pictures come.\n",
    done_ask=(
        "Does the picture show the task finished? Write 1 for yes and 0 for no. <task> {task} </task> <done>"
    ),
    done_goal_open="<goal> <task> {task} </task>: ",
    done_goal_next="\n<goal>\n",
    done_goal_ask=(
        "\nMeasured by the goal shown first, is the task finished in the last picture? Write 1 for yes and 0 for no. "
        "<task> {task} </task> <done>"
    ),
)
"""All texts in our own words."""


def read_wording(path: Path) -> VlacWording:
    """Read the texts from a JSON file with one string per field of :class:`VlacWording`.

    Raises:
        ConfigError: If the file cannot be read, a text is missing or surplus, or a slot is not where it belongs.
    """
    names = [part.name for part in fields(VlacWording)]
    try:
        described = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "The file of a wording cannot be read", seen=f"{path}: {type(error).__name__}"
        ) from error
    if not isinstance(described, dict) or sorted(described) != sorted(names):
        raise ConfigError(
            "The file of a wording has other texts",
            seen=sorted(described) if isinstance(described, dict) else type(described).__name__,
            allowed=names,
        )
    return VlacWording(**described)


def _fill(text: str, task: str) -> str:
    return text.replace(TASK, task)
