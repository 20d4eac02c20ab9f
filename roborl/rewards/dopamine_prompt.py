"""What the judge of hops must be told, in our own words, and how the published words are known.

Nine segments of words around eight pictures, with the instruction in the first and in the last.
"""

from __future__ import annotations

from roborl.rewards.prompts import PromptContract

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
"""The wording of a question."""
