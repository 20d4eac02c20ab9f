"""Words that instructions for robot arms are made of beside the names of objects."""

from __future__ import annotations

import re
from collections.abc import Iterable

from roborl.rewards.instructions import EMPTY_WORDS, stem, words_of

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
    if word in _RELATIONS or word in EMPTY_WORDS or word.endswith("ly"):
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
