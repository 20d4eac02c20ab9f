"""What an instruction says: its words, whatever their script, and which instructions say the same."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

_SAME = {
    "into": "in",
    "inside": "in",
    "onto": "on",
    "upon": "on",
    "atop": "on",
    "towards": "toward",
    "place": "put",
    "position": "put",
    "set": "put",
    "grab": "pick",
    "grasp": "pick",
    "shut": "close",
    "centre": "center",
    "underneath": "under",
    "beneath": "under",
    "below": "under",
    "beside": "near",
}
_PADDING = "a an and carefully firmly gently it its just lightly neatly now of please quickly slowly that the then this top up"
EMPTY_WORDS = frozenset(_PADDING.split())
"""Words that change nothing of what an instruction says."""

_SLIP = 5  # Letters that a word has at least in which a slip of the pen is told.
_MARKS = "".join(c for c in map(chr, range(0x300, 0x3000)) if unicodedata.category(c)[0] == "M")
# Thai, Lao, Burmese, Khmer, kana and Chinese are written without spaces: each letter is taken for a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = rf"[^\W_{_UNSPACED}](?:[^\W_{_UNSPACED}]|[{_MARKS}])*"
_WORD = re.compile(rf"[^\W_](?<=[{_UNSPACED}])[{_MARKS}]*|{_RUN}(?:[-']{_RUN})*")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; where a script has no spaces, its letters.

    Example:
        >>> words_of("Put the left-hand cup down.")
        ['put', 'the', 'left-hand', 'cup', 'down']
    """
    return _WORD.findall(unicodedata.normalize("NFC", text.lower()))


def stem(word: str) -> str:
    """Return a word without the ending of a plural.

    Example:
        >>> [stem(word) for word in ("cups", "boxes", "glass", "berries", "dishes")]
        ['cup', 'box', 'glass', 'berry', 'dish']
    """
    if len(word) > 3 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("xes", "shes", "ches", "sses", "zes")):
        return word[:-2]
    return (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
    )


def gist(text: str) -> tuple[str, ...]:
    """Return what makes an instruction another one: its words without such as change nothing, in their order.

    Example:
        >>> gist("Place the cup into the sink") == gist("put cup in sink.")
        True
        >>> gist("put the cup left of the sink") == gist("put the cup right of the sink")
        False
    """
    said = [_SAME.get(word, word) for word in words_of(text) if word not in EMPTY_WORDS]
    return tuple(stem(word) for word in said)


def much_alike(one: str, other: str) -> bool:
    """Whether two instructions say the same but for words that change nothing, or for a slip of the pen.

    Example:
        >>> much_alike("Put the cup in the sink", "please place cup into sink")
        True
        >>> much_alike("Put the red cup in the sink", "Put the blue cup in the sink")
        False
    """
    first, second = gist(one), gist(other)
    if not first and not second:
        return one.strip() == other.strip()
    return _words_alike(first, second)


def _words_alike(first: Sequence[str], second: Sequence[str]) -> bool:
    if len(first) != len(second):
        return False
    return all(a == b or _slipped(a, b) for a, b in zip(first, second, strict=True))


@lru_cache(maxsize=1 << 16)
def _slipped(a: str, b: str) -> bool:
    """Whether two words differ by so little that they are one with a slip of the pen; a number says which thing is meant."""
    return (
        min(len(a), len(b)) >= _SLIP
        and not any(letter.isdigit() for letter in a + b)
        and difflib.SequenceMatcher(None, a, b, autojunk=False).ratio() > 0.85
    )


def one_spelling(tasks: Iterable[str]) -> dict[str, str]:
    """Return for each instruction the first one among them that says the same: by that a task goes, however it is spelled.

    Example:
        >>> one_spelling(["Fold the towel.", "open the drawer", "fold the towel"])
        {'Fold the towel.': 'Fold the towel.', 'open the drawer': 'open the drawer', 'fold the towel': 'Fold the towel.'}
    """
    found: dict[str, str] = {}
    same: dict[tuple[str, ...], str] = {}
    # Short words must be the same, so that few pairs are left to compare where each episode has a sentence of its own.
    firsts: dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]] = {}
    for task in dict.fromkeys(tasks):
        said = gist(task) or (task.strip(),)
        if said not in same:
            known = firsts.setdefault(tuple(word if len(word) < _SLIP else "" for word in said), [])
            same[said] = next((first for words, first in known if _words_alike(words, said)), task)
            if same[said] == task:
                known.append((said, task))
        found[task] = same[said]
    return found


def draw_unlike(tasks: Sequence[str], others: Iterable[str], rng: np.random.Generator) -> str | None:
    """Draw one of some instructions that says something else than all of ``tasks``; None where there is none."""
    left = sorted(set(others) - set(tasks))
    while left:
        drawn = left[int(rng.integers(len(left)))]
        if not any(much_alike(drawn, task) for task in tasks):
            return drawn
        left.remove(drawn)
    return None
