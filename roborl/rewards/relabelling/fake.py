"""A network that makes up its replies in the form that each stage asks for: to try relabelling where there is none.

It sees nothing. What it writes keeps the rules, and as a verifier it gives whole instructions the score that it wrote them
for, which it knows from their verbs, and videos that are cut a score drawn from what is shown of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from roborl.rewards.instructions import words_of
from roborl.rewards.judges.queries import Cells, VlmQuery, VlmReply, picture_key
from roborl.rewards.model import Judge
from roborl.rewards.relabelling.vocabulary import VERBS, named_things
from roborl.rewards.relabelling.wording import WORDINGS

_VERBS = ("shake", "lift", "turn", "nudge")
_FILLING = ("now", "then", "carefully", "gently", "slowly")
_TASK = re.compile(r"(?:was given|been told|own was|really had|exactly the same|instruction):\s(.*)")


class FakeRelabeller(Judge[VlmQuery, VlmReply | None]):
    """Plays every role; see the module."""

    @property
    def identity(self) -> str:
        """Name of what it says."""
        return "fake-relabeller"

    def answer(self, queries: Sequence[VlmQuery]) -> list[VlmReply | None]:
        """Return one reply per query."""
        return [VlmReply(text=made_up(*_parted(query))) for query in queries]

    def cells(self, query: VlmQuery) -> tuple[Cells, ...] | None:
        """Return nothing: it sees no pictures."""
        return None


def stage_of(words: str) -> str:
    """Return the name of the wording that a question begins with."""
    found = [name for name, wording in WORDINGS.items() if words.startswith(wording.opening[:40])]
    return found[0] if found else ""


def made_up(words: str, seen: bytes = b"") -> str:
    """Return a reply that its stage can use.

    Args:
        words: The question.
        seen: Digest of what is shown with it, two bytes or more.
    """
    stage, task = stage_of(words), _TASK.search(words)
    said = task[1] if task else ""
    things = list(dict.fromkeys(named_things(said))) or ["block"]
    match stage:
        case "clean":
            made: dict[str, object] = {"task": said[:1].upper() + said[1:]}
        case "analyse":
            made = {
                "scene": "a table seen from the front",
                "objects": [*things, "table"],
                "actions": ["reaches", "moves"],
                "final_state": f"the {things[0]} has been moved",
            }
        case "plan":
            wanted = (
                f"the {things[0]} should have been treated otherwise, degree {level}" for level in "1234"
            )
            failures = [{"score": level, "failure": said} for level, said in enumerate(wanted, start=1)]
            made = {"main_object": things[0], "failures": failures}
        case "write":
            level = int(re.findall(r"earns a ([1-4])\.", words)[0])
            made = {"command": f"{_VERBS[level - 1].capitalize()} the {things[0]} on the table"}
        case "paraphrase":
            (count,) = re.findall(r"one command of (\d+) words", words)
            made = {"command": _lengthened(said, int(count), words.count("\n- "))}
        case "verify_shown":
            made = {"reason": "made up", "correct": not seen or bool(seen[0] % 2)}
        case _:
            made = {"reason": "made up", "judged": True, "score": _score(said, seen)}
    return json.dumps(made)


def _score(task: str, seen: bytes) -> int:
    first = words_of(task)[:1]
    if first and first[0] in _VERBS:
        return _VERBS.index(first[0]) + 1
    return 1 + seen[1] % 4 if seen and seen[0] % 2 else 5


def _lengthened(task: str, count: int, turn: int) -> str:
    said = task.rstrip(".").split()
    if not said or said[0].lower() not in VERBS:
        said = ["Move", *said]
    more = max(1, count - len(said))
    return " ".join([*said, *(_FILLING[(turn + number) % len(_FILLING)] for number in range(more))])


def _parted(query: VlmQuery) -> tuple[str, bytes]:
    words = "".join(part for part in query.parts if isinstance(part, str))
    return words, picture_key(*query.pictures) if query.pictures else b""
