"""What a written instruction must keep to before anybody is paid to verify it, checked without any network."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from roborl.rewards.instructions import much_alike, stem, words_of
from roborl.rewards.relabelling.replies import Analysis
from roborl.rewards.relabelling.vocabulary import VERBS, named_things, vocabulary
from roborl.rewards.relabelling.wording import MOST_WORDS

_LEAST_WORDS = 2
_SPOKEN_OF = re.compile(
    r"\b(scor\w*|rating|rated|grad(?:e|es|ed|ing)|rubric|reward\w*|points?\s+out\s+of|out\s+of\s+(?:5|five)|level\s+[0-9]|original\w*|"
    r"instruct\w*|command\w*|tasks?|counterfactual\w*|fail\w*|unsuccessful\w*|incorrect\w*|wrongly|attempt\w*|previous\w*|instead\s+of)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleBreach:
    """A rule that a command breaks.

    Attributes:
        rule: Short name of the rule, by which faults are counted.
        detail: What about the command breaks it.
    """

    rule: str
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What a command is written from.

    Attributes:
        analysis: What the video shows.
        known: Instructions whose words it may use for things, beside the objects in view.
        unlike: Instructions from which it must differ in meaning.
        apart_from: Instructions from which it must differ in words.
        main_object: What it must be about; empty where it may be about another thing.
        length: Words that it shall have, give or take :attr:`slack`; None where any number will do.
        slack: See there.
    """

    analysis: Analysis
    known: Sequence[str]
    unlike: Sequence[str]
    apart_from: Sequence[str] = ()
    main_object: str = ""
    length: int | None = None
    slack: int = 2


def first_fault(command: str, brief: Brief) -> RuleBreach | None:
    """Return the first rule that a command breaks; None where it keeps them all."""
    words = words_of(command)
    if not command.isascii() or not command.isprintable():
        return RuleBreach(rule="characters", detail="only plain ASCII is allowed")
    count = len(command.split())
    if not _LEAST_WORDS <= count <= MOST_WORDS or not words:
        return RuleBreach(rule="length", detail=f"{count} words, {_LEAST_WORDS} to {MOST_WORDS} are allowed")
    if brief.length is not None and abs(count - brief.length) > brief.slack:
        return RuleBreach(rule="length", detail=f"{count} words, about {brief.length} are wanted")
    if words[0] not in VERBS or not command[0].isalpha():
        return RuleBreach(
            rule="verb", detail=f"it begins with {command.split()[0]!r}, not with a verb that commands"
        )
    if re.search(r"[.!?]\s+\S", command):
        return RuleBreach(rule="one sentence", detail="it is more than one sentence")
    if match := _SPOKEN_OF.search(command):
        return RuleBreach(rule="speaks of the scale", detail=f"it says {match[0]!r}")
    return _repeats(command, brief) or _names(command, brief)


def cleaning_fault(cleaned: str, recorded: str) -> RuleBreach | None:
    """Return why an instruction put right is not the one that was recorded; None where it may be."""
    if not cleaned.isprintable():
        return RuleBreach(rule="characters", detail="it has characters that cannot be printed")
    alike = difflib.SequenceMatcher(None, cleaned.lower(), recorded.lower(), autojunk=False).ratio()
    if alike < 0.6:
        return RuleBreach(rule="meaning", detail="it is another instruction than the one recorded")
    return None


def _repeats(command: str, brief: Brief) -> RuleBreach | None:
    for said in brief.unlike:
        if much_alike(command, said):
            return RuleBreach(rule="copy", detail=f"it says the same as {said!r}")
    for said in brief.apart_from:
        if words_of(command) == words_of(said):
            return RuleBreach(rule="copy", detail=f"it is {said!r} word for word")
    return None


def _names(command: str, brief: Brief) -> RuleBreach | None:
    known = vocabulary([*brief.analysis.objects, *brief.known])
    for thing in named_things(command):
        if stem(thing) not in known:
            return RuleBreach(rule="objects", detail=f"{thing!r} is not among the objects in view")
    if brief.main_object:
        said, main = vocabulary([command]), stem(words_of(brief.main_object)[-1])
        if main not in said:
            return RuleBreach(rule="main object", detail=f"it is not about the {brief.main_object}")
    return None
