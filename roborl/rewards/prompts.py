"""Where the words of a model's question come from: the user's own copy of what was published, else our own wording.

A checkpoint answers well only to the words it was trained on, and those words are their authors'. They are read when
a model is loaded, from the card or the code that came with the checkpoint, and never copied into this project. Code is
read by its string constants and never run. What was used is part of the version of every score.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from roborl.errors import ConfigError

log = logging.getLogger(__name__)

_FENCE = re.compile(
    r"^[ \t]*(```+|~~~+)[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL
)
_BRACES = re.compile(r"\{[A-Za-z_][A-Za-z0-9_.\[\]'\"]*\}")
_PLACEHOLDER = re.compile(r"<(?:insert|your)\b[^<>\n]*>|\[(?:insert|your)\b[^\[\]\n]*\]", re.IGNORECASE)
_LARGEST = 4 << 20  # bytes; a card or a source file of words is far smaller


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Where the words of the question come from."""

    # A text, card (.md) or Python source (.py) with the published wording; empty looks at the checkpoint's own card, and
    # at sources beside it for words that are known.
    file: str = ""
    # SHA-256 that the wording must have; empty for the known ones, or any where none is known.
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class PromptContract:
    """What a wording must contain to be of use to a model.

    Attributes:
        name: Name of the model.
        own: The project's wording of the same contract, with ``{task}`` for each slot.
        pictures: Number of picture marks.
        mark: The picture mark.
        slots: How often the instruction stands in it; 0 for at least once.
        words: Texts that tell it from other strings in a card or source, in any case.
        known: SHA-256 of the published wordings, where some are published; first of the one that the authors ask with.
        published_states: What the published wording states beside the instruction, so that it cannot be used; empty where it can.
    """

    name: str
    own: str
    pictures: int = 0
    mark: str = "<image>"
    slots: int = 0
    words: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    published_states: str = ""

    def slot(self, text: str) -> str | None:
        """Return what stands where the instruction goes; None where the text does not keep the contract.

        That is a name in braces, or where there is none a placeholder for people, such as ``<INSERT TASK HERE>``.
        """
        slots = set(_BRACES.findall(text)) or set(_PLACEHOLDER.findall(text))
        if len(slots) != 1 or text.count(self.mark) != self.pictures:
            return None
        (slot,) = slots
        lower = text.lower()
        fits = all(word.lower() in lower for word in self.words)
        return slot if fits and text.count(slot) in (self.slots or text.count(slot),) else None


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A wording in use.

    Attributes:
        template: The words, with slots and picture marks.
        slot: What stands where the instruction goes.
        mark: The picture mark.
        origin: ``known`` where its SHA-256 is a published one, ``own`` for the project's own, also where it was read
            from a file, ``found`` for any other of the user's.
        place: Where it was read; empty where it was in no file.
    """

    template: str
    slot: str
    mark: str
    origin: str
    place: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the template."""
        return digest_of(self.template)

    def fill(self, task: str) -> tuple[str, ...]:
        """Return the words with the instruction in its slots, cut at the picture marks.

        The instruction is put in last, so that a mark in it stays words.
        """
        return tuple(part.replace(self.slot, task) for part in self.template.split(self.mark))


def load_prompt(contract: PromptContract, config: PromptConfig, folder: Path | None = None) -> Prompt:
    """Find the wording for a model.

    Args:
        contract: What it must contain.
        config: Where to look, and what hash to insist on.
        folder: The checkpoint's folder, whose card and sources are looked at where no file is named; None where there is
            none. Of its sources only words count whose hash is known or insisted on.

    Returns:
        The published wording where the user has it; else, with a warning, the project's own.

    Raises:
        ConfigError: If the named file has no such wording or several, or none has the hash insisted on.
    """
    place = Path(config.file) if config.file else _card(folder)
    wanted = (config.sha256,) if config.sha256 else contract.known
    candidates = dict.fromkeys(texts_of(place), place) if place is not None else {}
    if not config.file:
        candidates |= {text: path for text, path in _beside(folder) if digest_of(text) in wanted}
    fitting = {text: slot for text in candidates if (slot := contract.slot(text)) is not None}
    known = dict([(t, fitting[t]) for d in wanted for t in fitting if digest_of(t) == d][:1])
    if config.sha256 and not known:
        raise ConfigError(
            f"The wording for {contract.name} does not have the hash that is insisted on",
            seen=sorted(digest_of(text) for text in fitting) or f"no wording in {place}",
            allowed=config.sha256,
            remedy="Name the file that has it as prompt.file in the model's settings",
        )
    # A file's last line end is no part of its words, unless the published hash says so.
    bare = {t: slot for t, slot in fitting.items() if t.rstrip("\n") == t or t.rstrip("\n") not in fitting}
    found = known or bare
    if config.file and len(found) != 1:
        raise ConfigError(
            f"The file named has not one wording for {contract.name}",
            seen=f"{len(found)} in {config.file}",
            allowed=f"one text with a {{task}} slot, {contract.pictures} marks {contract.mark},"
            f" and {list(contract.words)}",
            remedy="Put the wording alone into a text file, with {task} where the instruction stands",
        )
    if len(found) == 1:
        ((text, slot),) = found.items()
        place, digest = candidates[text], digest_of(text)
        if contract.known and digest != (config.sha256 or contract.known[0]):
            log.warning(
                "the wording for %s in %s is not the published one%s (sha256 %s): expect other scores",
                contract.name,
                place,
                " that its authors ask with" if known else "",
                digest[:12],
            )
        origin = "known" if digest in contract.known else "own" if text == contract.own else "found"
        return Prompt(template=text, slot=slot, mark=contract.mark, origin=origin, place=str(place))
    reason = f"{len(found)} possible wordings in {place}" if place else "neither card nor code is beside it"
    advice = "Name a copy of its card or code as prompt.file in the model's settings"
    if contract.published_states:
        reason = f"those also state {contract.published_states}, which this question cannot"
        advice = "A wording of yours may be named as prompt.file in the model's settings"
    log.warning(
        "%s is asked in roborl's own words, to which it answers less well than to those it was trained on: %s. %s",
        contract.name,
        reason,
        advice,
    )
    return own_prompt(contract)


def own_prompt(contract: PromptContract) -> Prompt:
    """Return the project's own wording."""
    slot = contract.slot(contract.own)
    assert slot is not None, "the project's own wording keeps its contract"
    return Prompt(template=contract.own, slot=slot, mark=contract.mark, origin="own")


def digest_of(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, as hex.

    Example:
        >>> digest_of("")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(text.encode()).hexdigest()


def texts_of(path: Path) -> Iterator[str]:
    """Yield every text in a file that may be a wording: the whole, fenced blocks of a card, constants of a source.

    Raises:
        ConfigError: If the file cannot be read, or is no text.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST} bytes")
        text = path.read_bytes().decode()
    except (OSError, ValueError) as error:
        raise ConfigError("A file of words cannot be read", seen=f"{path}: {error}") from error
    if path.suffix == ".py":
        yield from constants_of(text)
    elif path.suffix in (".md", ".markdown"):
        for _, language, block in _FENCE.findall(text):
            if language.lower() in ("python", "py", "python3"):
                yield from constants_of(block)
            else:
                yield block
                yield block.rstrip("\n")
    else:
        yield text
        yield text.rstrip("\n")


def constants_of(source: str) -> Iterator[str]:
    """Yield the strings of a Python source without running it; names within them stand as ``{name}``.

    Adjacent strings, sums of strings and formatted strings come as one. A source with an error has none.

    Example:
        >>> list(constants_of('ask = f"Do {task}" + " now"'))
        ['Do {task} now']
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        text = _text(node)
        if text is not None:
            yield text
        else:
            waiting += list(ast.iter_child_nodes(node))[::-1]


def _text(node: ast.AST) -> str | None:
    """Return the string that an expression is, names in it as slots; None where it is none."""
    match node:
        case ast.Constant(value=str() as value):
            return value
        case ast.JoinedStr(values=values):
            parts = [_inner(value) for value in values]
            return None if None in parts else "".join(part for part in parts if part is not None)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            one, other = _inner(left), _inner(right)
            if one is None or other is None or not (_text(left) or _text(right)):
                return None
            return one + other
    return None


def _inner(node: ast.AST) -> str | None:
    """Return a part of a string: itself, or the slot that a name stands for."""
    match node:
        case ast.FormattedValue(value=value):
            return _inner(value)
        case ast.Name(id=name):
            return "{" + name + "}"
        case ast.Attribute() | ast.Subscript():
            return "{" + ast.unparse(node) + "}"
    return _text(node)


def _card(folder: Path | None) -> Path | None:
    card = None if folder is None else folder / "README.md"
    return card if card is not None and card.is_file() else None


def _beside(folder: Path | None) -> Iterator[tuple[str, Path]]:
    """Yield the strings of the sources in a checkpoint's folder, each with its place; one that cannot be read has none."""
    for path in sorted(folder.glob("*.py")) if folder is not None else ():
        with contextlib.suppress(ConfigError):
            yield from ((text, path) for text in texts_of(path))
