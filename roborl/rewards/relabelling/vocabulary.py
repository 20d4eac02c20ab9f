"""Words that instructions for robot arms are made of beside the names of objects, and how words are compared."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

_ACTIONS = """
add adjust aim align apply arrange attach balance bend bounce bring brush bump carry catch change
check clean clear clip close collect combine connect cover crush cut deliver detach dip direct
disconnect drag drape draw drop dump empty erase exchange extend extract face fasten feed fetch fill
find fit flatten flick flip fold follow gather get give glide grab grasp grip group guide hand hang
hit hold hook hover insert invert join keep lay lead lean leave let level lift line load lock loosen
lower make match mix move nestle nudge open operate organize orient pack pass peel pick pile pinch
pivot place plug point poke pop position pour press pry pull push put raise reach rearrange release
relocate remove reorient replace reposition rest retrieve return reverse rinse roll rotate scatter
scoop screw scrub separate serve set shake shift shut sit slide snap sort spill spin split spray
spread sprinkle squeeze stack stand start stick stir stop store straighten stretch suspend swap
sweep swing switch take tap tear throw tidy tie tighten tilt tip toss touch tow trace transfer
transport tuck turn twist unfold unhook unload unlock unplug unscrew unstack untie unwrap upend use
wait wash wave weigh wind wipe wrap write zip
"""
VERBS = frozenset(_ACTIONS.split())
"""Verbs that a command may begin with."""

_LINKS = """
a about above across after again against air all alone along also amid among an and another
anticlockwise any apart are area arm arms around as at atop away back backward backwards base be
before behind being below beneath beside besides between both bottom but by carefully center
centimeters centimetres centre clockwise close closed closer cm completely corner corners
counterclockwise degree degrees diagonally direction down downward downwards each east edge edges
eight empty end ends entirely evenly every facing far farther farthest finally finger fingers firmly
first five flat forward forwards four from front full fully gently grasp grip gripper ground half
halfway hand height here horizontal horizontally if in inch inches inside instead into inward
inwards is it it's its itself just last left left-hand leftmost leftward leftwards lightly line
location lying middle mm near nearer nearest neatly next nine no nor north not of off on once one
only onto open opened or other others out outside outward outwards over part partially partly past
pile place position quickly rather rear region right right-hand rightmost rightward rightwards rim
robot row same second seven shut side sides sideways six slightly slowly so some south spot stack
standing still straight surface ten than that the their them then there these they third this those
three through till tip to together too top toward towards twice two under underneath until up upon
upper upright upside upward upwardly upwards using vertical vertically way west when where which
while who whose with within without
"""
_RELATIONS = frozenset(_LINKS.split())
"""Words that name no object: they relate, count, point and describe."""

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
_EMPTY = frozenset(_PADDING.split())
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
    said = [_SAME.get(word, word) for word in words_of(text) if word not in _EMPTY]
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


def named_things(text: str) -> list[str]:
    """Return the words by which a command names things: the last of every run of words that only things are named by.

    Example:
        >>> named_things("Put the small red cup into the drying rack, then close the drawer")
        ['cup', 'rack', 'drawer']
        >>> named_things("turn the cup gently so that it faces the plate, touching nothing")
        ['cup', 'plate', 'nothing']
    """
    found: list[str] = []
    run = ""
    for clause in re.split(r"[,;.:]", text.lower()):
        for word in words_of(clause):
            if _names_nothing(word):
                found += [run] if run else []
                run = ""
            else:
                run = word
        found += [run] if run else []
        run = ""
    return found


def _names_nothing(word: str) -> bool:
    """Whether a word relates, describes or says what is done."""
    if word in _RELATIONS or word in _EMPTY or word.endswith("ly"):
        return True
    bases = {word}
    for ending in ("s", "es", "d", "ed", "ing"):
        if word.endswith(ending):
            base = word[: -len(ending)]
            # As in "placing" and "putting".
            bases |= {base, base + "e", base[:-1] if base[-1:] == base[-2:-1] else base}
    return bool(bases & VERBS)


def vocabulary(texts: Iterable[str]) -> set[str]:
    """Return the stems of all words of some texts."""
    return {stem(word) for text in texts for word in words_of(text)}
