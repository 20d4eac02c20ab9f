"""From the reply of a stage to what it says, or to the reason why it cannot be read: nothing is guessed or filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from roborl.rewards.grades import HIGHEST, LOWEST
from roborl.rewards.instructions import words_of

_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL)
_LONGEST = 2000  # characters of one text
_MOST = 64  # entries of a list


class UnreadableReply(ValueError):
    """A reply that is not of the form asked for; its words say why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What a video shows.

    Attributes:
        scene: Place and angle of view.
        objects: Names of the objects in view, in lower case.
        actions: What the arm does, in order.
        final_state: Where everything is at the end.
    """

    scene: str
    objects: tuple[str, ...]
    actions: tuple[str, ...]
    final_state: str

    def spelt(self) -> str:
        """Return it as words for the later stages."""
        return (
            f"scene: {self.scene}\nobjects: {', '.join(self.objects)}\nactions: {'; '.join(self.actions)}\n"
            f"at the end: {self.final_state}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePlan:
    """Ways in which a video falls short, from the farthest to the nearest.

    Attributes:
        main_object: What the instruction is about, one of the objects in view.
        failures: What is wrong, for the levels 1 to 4.
    """

    main_object: str
    failures: tuple[str, str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierReply:
    """What the verifier says.

    Attributes:
        reason: Why, in its words.
        level: The score it gives; None where it gives none.
        agrees: Whether it confirms the score that it was shown; None where it was shown none.
    """

    reason: str
    level: int | None = None
    agrees: bool | None = None


def read_task(text: str) -> str:
    """Read an instruction put right."""
    return _line(_object(text, "task")["task"], "task")


def read_command(text: str) -> str:
    """Read a command; whether it keeps the rules is for :mod:`.rules`."""
    return _line(_object(text, "command")["command"], "command")


def _english(name: str) -> bool:
    words = words_of(name)
    return bool(words) and all(word.isascii() for word in words)


def read_analysis(text: str) -> Analysis:
    """Read what a video shows."""
    said = _object(text, "scene", "objects", "actions", "final_state")
    objects = tuple(dict.fromkeys(name.lower() for name in _lines(said["objects"], "objects")))
    if not any(map(_english, objects)):
        raise UnreadableReply("no object has a name in English words")
    return Analysis(
        scene=_line(said["scene"], "scene"),
        objects=objects,
        actions=_lines(said["actions"], "actions"),
        final_state=_line(said["final_state"], "final_state"),
    )


def plan_reader(analysis: Analysis) -> Callable[[str], FailurePlan]:
    """Return what reads a plan for a video of which it is known what it shows."""

    def read(text: str) -> FailurePlan:
        said = _object(text, "main_object", "failures")
        main = _line(said["main_object"], "main_object").lower()
        if main not in analysis.objects:
            raise UnreadableReply(f"main_object {main!r} is not in the list of objects")
        if not _english(main):
            raise UnreadableReply(f"main_object {main!r} is no name in English words")
        entries = said["failures"]
        if not isinstance(entries, list) or len(entries) != HIGHEST - LOWEST:
            raise UnreadableReply("failures is no list of four")
        failures = []
        for level, entry in enumerate(entries, start=LOWEST):
            found = _keys(entry, "score", "failure")
            if type(found["score"]) is not int or found["score"] != level:
                raise UnreadableReply("failures are not for the scores 1, 2, 3, 4 in this order")
            failures.append(_line(found["failure"], "failure"))
        if len({" ".join(failure.lower().split()) for failure in failures}) < len(failures):
            raise UnreadableReply("two of the failures are the same")
        one, two, three, four = failures
        return FailurePlan(main_object=main, failures=(one, two, three, four))

    return read


def read_blind(text: str) -> VerifierReply:
    """Read the verdict of a verifier that was shown no score."""
    said = _object(text, "reason", "judged", "score")
    judged, level = said["judged"], said["score"]
    if type(judged) is not bool:
        raise UnreadableReply("judged is neither true nor false")
    if judged and (type(level) is not int or not LOWEST <= level <= HIGHEST):
        raise UnreadableReply("score is no whole number from 1 to 5")
    if not judged and level is not None:
        raise UnreadableReply("a score for what cannot be judged")
    return VerifierReply(reason=_line(said["reason"], "reason"), level=level)


def read_shown(text: str) -> VerifierReply:
    """Read the verdict of a verifier that was shown the proposed score."""
    said = _object(text, "reason", "correct")
    if type(said["correct"]) is not bool:
        raise UnreadableReply("correct is neither true nor false")
    return VerifierReply(reason=_line(said["reason"], "reason"), agrees=said["correct"])


def _object(text: str, *keys: str) -> dict[str, Any]:
    fenced = _FENCED.fullmatch(text)
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_pairs, parse_constant=_constant)
    except UnreadableReply:
        raise
    except (ValueError, RecursionError) as error:
        raise UnreadableReply("no JSON object") from error
    return _keys(found, *keys)


def _keys(found: object, *keys: str) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise UnreadableReply("no JSON object")
    if set(found) != set(keys):
        raise UnreadableReply(f"keys other than {', '.join(keys)}")
    return found


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnreadableReply("a key stands twice")
    return found


def _constant(name: str) -> object:
    raise UnreadableReply(f"{name} is no number")


def _line(value: object, name: str) -> str:
    line = " ".join(value.split()) if isinstance(value, str) else ""
    if not line or len(line) > _LONGEST or not line.isprintable():  # a lone surrogate cannot be written
        raise UnreadableReply(f"{name} is no text, or too long a one")
    return line


def _lines(value: object, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MOST:
        raise UnreadableReply(f"{name} is no list, an empty one, or too long a one")
    return tuple(_line(entry, name) for entry in value)
