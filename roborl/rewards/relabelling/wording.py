"""The words of every stage, each of them the project's own, and what may stand in their slots.

A reply is asked for as one JSON object, which :mod:`.replies` reads. What stands in a slot is words and never a slot
again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from roborl.rewards.prompts import digest_of

MOST_WORDS = 24
"""Most words of an instruction that is written."""

_RUBRIC = """\
1: nothing that was asked for has come about.
2: a little has come about, far too little.
3: much is as asked, but the wrong thing was moved, it ended in the wrong relation to the others, or several smaller things are wrong.
4: the right thing is in the right place, and one smaller thing is missing, such as which way it points or whether it was let go.
5: everything is as asked."""

_SLOT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Wording:
    """What one stage asks.

    Attributes:
        template: The words, with slots in braces.
    """

    template: str

    @property
    def sha256(self) -> str:
        """Hash of the template."""
        return digest_of(self.template)

    @property
    def opening(self) -> str:
        """Its first words, by which it is told from the others."""
        return _SLOT.split(self.template)[0].splitlines()[0]

    def fill(self, **slots: str) -> str:
        """Return the words with every slot filled.

        Example:
            >>> Wording("Do {task}.").fill(task="{this}")
            'Do {this}.'
        """
        return _SLOT.sub(lambda slot: slots[slot[1]], self.template)


CLEAN = Wording("""\
Put right the spelling, grammar and capital letters of an instruction that a robot was given:
{task}
Its meaning, its objects and the order of its actions stay as they are. Nothing is added and nothing left out.
{again}Reply with one JSON object and nothing else:
 "task": the instruction put right.""")

ANALYSE = Wording("""\
Describe a video of a robot arm at work from these moments of it, which are in time order. The last one is how it ended.
The arm had been told: {task}
Say only what can be seen. What is hidden, or only mentioned in the instruction, is not there.
{again}Reply with one JSON object and nothing else:
 "scene": the place and the angle of view, in one sentence,
 "objects": a list with every object in view except the robot, each by a short name such as "red cup",
 "actions": a list of what the arm does, in its order,
 "final_state": where the objects and the gripper are in the last moment.""")

PLAN = Wording(f"""\
Plan how a video of a robot arm could fall short of other instructions than its own. Its own was: {{task}}
What the video shows:
{{analysis}}
The video stays as it is. Instructions will be written for it that it fulfils only in part, to these degrees:
{_RUBRIC}
For each of the scores 1, 2, 3 and 4 think of one thing that could have been wanted instead, with the objects listed above,
and say in what way the end of the video falls short of it. What is wanted for a higher score is always nearer to what
happened than what is wanted for a lower one, and none of them is a mere part of the robot's own instruction.
{{again}}Reply with one JSON object and nothing else:
 "main_object": the thing that the robot's own instruction is about, by its name in the list of objects,
 "failures": a list of four objects, for the scores 1, 2, 3, 4 in this order, each with
  "score": the score,
  "failure": in one sentence what is wanted and in what way the video falls short of it.""")

WRITE = Wording(f"""\
Write an instruction for a robot arm of which a given video is a failure of a given degree.
What the video shows:
{{analysis}}
The instruction that the robot really had: {{task}}
The degrees:
{_RUBRIC}
Wanted is an instruction under which the end of the video earns a {{level}}. The plan for it: {{failure}}
Instructions already written for lower scores, from which this one must differ:
{{earlier}}
It is one command in the style of the real instruction, of about {{words}} words and at most {MOST_WORDS}, in plain ASCII, and begins with a verb. It
names only objects and places in view. It does not speak of scores, of failing or of another instruction. What it asks for was not
the case when the video began, and is not a mere part of the real instruction.{{main}}
{{again}}Reply with one JSON object and nothing else:
 "command": the instruction.""")

KEEP_MAIN = " It is about the {main_object}, as the real one is."

PARAPHRASE = Wording(f"""\
Say an instruction for a robot arm in other words, so that it asks for exactly the same: {{task}}
What a video of the robot doing it shows:
{{analysis}}
Ways of saying it that there are already, from which this one must differ:
{{earlier}}
It is one command of {{words}} words, give or take two and at most {MOST_WORDS}, in plain ASCII, and begins with a verb. It names the {{main_object}},
and only objects and places in view. It asks for nothing more and nothing less.
{{again}}Reply with one JSON object and nothing else:
 "command": the instruction in other words.""")

_VERIFY = f"""\
{{opening}} The moments are in time order, and the last one is how it ended.
The instruction: {{{{task}}}}
Only the end counts, not how long it took. The scores:
{_RUBRIC}
Of 3 and 4: it is a 3 where the main object or its main relation to the others is wrong, a 4 where one side condition is. Left and right are
those of the robot if it can be seen which way it faces, else those of the picture. Objects that play no part do not matter.
The instruction cannot be judged if it names nothing, names something that is not in view, makes no sense, or the pictures do not
show enough.
{{{{again}}}}Reply with one JSON object and nothing else:
 "reason": one sentence,
{{reply}}"""

VERIFY_BLIND = Wording(
    _VERIFY.format(
        opening="Judge from these moments how far a robot arm has done what it was told.",
        reply=""" "judged": true, or false if the instruction cannot be judged,
 "score": the score from 1 to 5, or null if it cannot be judged.""",
    )
)

VERIFY_SHOWN = Wording(
    _VERIFY.format(
        opening="Check from these moments whether a robot arm has done what it was told to the degree {level}.",
        reply=""" "correct": true if the instruction can be judged and the score is {level}, else false.""",
    )
)

_AGAIN = "What was replied before cannot be used:\n{rejected}\n"

WORDINGS: Mapping[str, Wording] = {
    "clean": CLEAN,
    "analyse": ANALYSE,
    "plan": PLAN,
    "write": WRITE,
    "paraphrase": PARAPHRASE,
    "verify_blind": VERIFY_BLIND,
    "verify_shown": VERIFY_SHOWN,
}
"""All of them by name."""


def again(rejected: list[str]) -> str:
    """Return what is said about earlier replies and why they were rejected; nothing where there was none."""
    return _AGAIN.format(rejected=listed(rejected)) if rejected else ""


def listed(lines: list[str]) -> str:
    """Return words as a list, a line each.

    Example:
        >>> listed([]), listed(["lift it"])
        ('- none', '- lift it')
    """
    return "\n".join(f"- {line}" for line in lines or ["none"])
