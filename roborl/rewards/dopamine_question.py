"""The question for a hop: eight pictures in their order, with nine segments of words around them.

The pictures are how the task starts and how it ends, seen by the front camera; the moment before, seen by the front, left
wrist and right wrist camera; and the moment after, likewise. The instruction stands in the first segment and in the last.
"""

from __future__ import annotations

from collections.abc import Sequence

from roborl.rewards.hop_replies import CLOSING
from roborl.rewards.judges.queries import Part, VlmQuery
from roborl.rewards.prompts import PromptContract
from roborl.types import Image

type Views = tuple[Image, Image, Image]
"""One moment: front, left wrist, right wrist."""

_ALTERNATIVES = 10  # the ten digits

_OWN = (
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

CONTRACT = PromptContract(
    name="dopamine",
    own="<image>".join(_OWN),
    pictures=8,
    slots=2,
    words=("<score>", "before", "after"),
    known=(
        "6baabeeecf35c731aa1d058147f741f064a1391956bd8aa39448fe9bacad1b94",  # the authors' inference code
        "38e9ca57e14af89f77f2d1fbbb88b5c361994986a4097bc0f6b99cb911afe9a9",  # the authors' training data
    ),
)
"""What a wording must contain, our own, and the hashes of the published ones: that of inference, which is to be asked, first."""


def ask_hop(
    words: Sequence[str],
    references: tuple[Image, Image],
    before: Views,
    after: Views,
    *,
    max_tokens: int = 24,
    probabilities: bool = False,
    constant: int = 0,
) -> VlmQuery:
    """Return the question, the same in watching as in training.

    Args:
        words: The nine segments, with the task in them.
        references: How the task starts and how it ends, seen by the front camera.
        before: The moment before.
        after: The moment after.
        max_tokens: Most tokens of the reply.
        probabilities: Whether the judge is to say what else it might have written.
        constant: How many of the eight pictures, from the first, stay the same over an episode.
    """
    parts: list[Part] = [words[0]]
    for picture, then in zip((*references, *before, *after), words[1:], strict=True):
        parts += [picture, then]
    return VlmQuery(
        parts=tuple(parts),
        prefix=2 * constant + 1 if constant else 0,
        max_tokens=max_tokens,
        stop=(CLOSING,),
        alternatives=_ALTERNATIVES if probabilities else 0,
    )
