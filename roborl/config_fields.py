"""What a configuration class says of its fields: which kinds they are, what they are called, which of them take lists or text."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import draccus
import yaml
from draccus.utils import is_choice_type, is_enum, is_list, is_tuple, is_union

from roborl.errors import ConfigError
from roborl.paths import with_home

_LIST = "[a, b], as YAML writes it"
_TAG = "tag:yaml.org,2002:"
_PLAIN = {"bool": True, "null": None}
"""What the parser takes for numbers where a field wants one: true for 1, and nothing for anything."""


def as_declared(config_class: type[Any], args: Sequence[str]) -> list[str]:
    """Return the arguments as YAML that means what was typed, by the types of the fields.

    Text and paths stay as they are, also within lists and mappings; a single word is a list of one where a field takes a
    list of words or numbers; ``null`` is nothing where a field may be without a value.

    Raises:
        ConfigError: If a truth value stands for a number, nothing for either, fields for text, or a text begins with a word
            that has another meaning.
        yaml.YAMLError: If brackets or quotes are torn.
    """
    rest: list[str] = []
    option = ""
    for word in args:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            if equals:
                word, option = f"{option}={_declared_word(config_class, option[2:], value)}", ""
        elif option and word != "-h":
            word, option = _declared_word(config_class, option[2:], word), ""
        rest.append(word)
    return rest


def as_word(value: str | list[str] | dict[str, str]) -> str:
    """Return text, or a list or mapping of texts, as one word of YAML that reads back equal, whatever the text holds.

    Example:
        >>> as_word(["01", "pick: the cube"])
        '["01", "pick: the cube"]'
    """
    return yaml.safe_dump(value, default_style='"', default_flow_style=True, width=math.inf).strip()


def gathered(args: Sequence[str], repeated: Collection[str]) -> list[str]:
    """Return the arguments with the values of each of some options as one list.

    Args:
        args: As typed.
        repeated: Options that take lists.

    Raises:
        ConfigError: If a list is torn.

    Example:
        >>> gathered(["--model", "a", "--lag", "4", "--model=b"], ["--model"])
        ['--lag', '4', '--model', '["a", "b"]']
    """
    rest: list[str] = []
    found: dict[str, list[str]] = {}
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in repeated:
            rest.append(word)
            continue
        found.setdefault(name, []).extend(listed_words(name, value if equals else next(words, "")))
    return [*rest, *(part for name, values in found.items() for part in (name, as_word(values)))]


def spelled_out(args: Sequence[str], section: str, field: str) -> list[str]:
    """Return the arguments with what stands behind the option of a section as that of one field, unless it is a mapping.

    Example:
        >>> spelled_out(["--demos=a", "--demos", "{path: b}", "--demos", "c"], "--demos", "path")
        ['--demos.path=a', '--demos', '{path: b}', '--demos.path', 'c']
    """
    rest: list[str] = []
    for word, following in zip_longest(args, args[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        plain = name == section and not (value if equals else following).lstrip().startswith("{")
        rest.append(f"{section}.{field}{equals}{value}" if plain else word)
    return rest


def kinds_at(declared: Any, names: Sequence[str]) -> list[Any]:
    """Return the types that a dotted path of a configuration may hold; none where there is no such field."""
    found = [declared]
    for name in names:
        found = [inner for outer in found for inner in _inner(outer, name)]
    return [kind for each in found for kind in _kinds(each)]


def held_by_default(config_class: type[Any]) -> dict[str, Any]:
    """Return what sections of a configuration hold by default that their own classes would not give them, ready for YAML.

    The parser makes a section anew from its class as soon as one of its fields is named.
    """
    return {
        each.name: held
        for each in dataclasses.fields(config_class)
        if _is_section(section := _default(each)) and (held := _own_values(section))
    }


def field_names(kinds: Sequence[Any]) -> str:
    """Return the names of the fields that dataclasses among these types have, joined by commas."""
    named = [
        field.name for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)
    ]
    return ", ".join(dict.fromkeys(named))


def check_fits(
    name: str, value: Any, kinds: Sequence[Any], *, written: str, place: str = "", needed: bool = False
) -> None:
    """See that a field which takes a value has one, one that takes a number no truth value, and only one that takes a list a list.

    Args:
        name: Its dotted name.
        value: Its value, as YAML reads it.
        kinds: What it may hold; none where there is no such field.
        written: The value as it was written, empty for nothing.
        place: " in FILE" where it stands in a file, empty for a command line.
        needed: Whether the field cannot be left out.

    Raises:
        ConfigError: If it does not.
    """
    if not kinds or Any in kinds:
        return
    held = [kind for kind in kinds if kind is not NoneType]
    if not isinstance(value, list) and value is not None and held and all(map(_is_listed, held)):
        raise no_list(name, written, place)
    if (value is None and NoneType not in kinds) or (value == "" and set(kinds) == {Path}):
        problem = "has no value"
    elif isinstance(value, bool) and set(held) <= {int, float}:
        problem = "takes a number"
    elif isinstance(value, list) and not any(map(_is_listed, held)):
        problem = "takes no list"
    else:
        return
    remedy = f"Give {name} one" if place else f"Correct --{name}"
    raise ConfigError(
        f"{name} {problem}",
        seen=(written or "nothing") + place,
        allowed=_described(kinds),
        remedy=remedy if needed else f"{remedy}, or leave it out",
    )


def no_list(name: str, written: str, place: str) -> ConfigError:
    """Return the error of a field that takes a list and has something else; arguments as of :func:`check_fits`."""
    return ConfigError(
        f"{name} takes a list",
        seen=(written or "nothing") + place,
        allowed=_LIST,
        remedy=f"Write {name}: [{written}]" if place else f"Write --{name} '[{written}]'",
    )


def is_needed(kinds: Sequence[Any], name: str) -> bool:
    """Return whether what is of one of these types cannot be without a field of its own."""
    return any(
        each.name == name and each.default is dataclasses.MISSING is each.default_factory
        for kind in kinds
        if dataclasses.is_dataclass(kind)
        for each in dataclasses.fields(kind)
    )


def choices_with(kind: Any) -> dict[str, Any]:
    """Return the types, by name, of the choice that a type is one of; none where it is of no choice."""
    return dict(kind.get_known_choices()) if hasattr(kind, "get_known_choices") else {}


def listed_words(name: str, value: str) -> list[str]:
    """Return the words of a list that is written as YAML writes it, each as typed; anything else is one word.

    Args:
        name: The option, for the message.
        value: What stands behind it.

    Raises:
        ConfigError: If the list is torn, or holds more than words.
    """
    if not value.startswith("["):
        return [value]
    try:
        words = list(yaml.load(value, yaml.BaseLoader))
    except yaml.YAMLError:
        words = [None]
    if all(isinstance(word, str) for word in words):
        return words
    raise ConfigError(
        f"{name} cannot be read as a list",
        seen=value,
        allowed="a word, or a list such as '[a, b]'",
        remedy=f"Close its brackets and quotes, or give {name} once for each word",
    )


def _described(kinds: Sequence[Any]) -> str:
    """Return in words what a field of these types takes."""
    words = [
        str(word) for kind in kinds if typing.get_origin(kind) is Literal for word in typing.get_args(kind)
    ]
    words += [str(word.value) for kind in kinds if is_enum(kind) for word in kind]
    known = {
        bool: "true, false",
        int: "a number, such as 1",
        float: "a number, such as 1",
        str: "text",
        Path: "a path",
    }
    listed = _LIST if any(map(_is_listed, kinds)) else ""
    plain = dict.fromkeys(known[kind] for kind in kinds if kind in known)
    return field_names(kinds) or ", ".join(words) or listed or " or ".join(plain) or "{name: value}"


def _own_values(section: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in dataclasses.fields(section):
        value, plain = getattr(section, each.name), _default(each)
        if _is_section(value) and type(value) is type(plain):
            found |= {each.name: held} if (held := _own_values(value)) else {}
        elif value != plain:
            found[each.name] = draccus.encode(value)
    return found


def _is_section(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and not is_choice_type(type(value))


def _default(declared: dataclasses.Field[Any]) -> Any:
    made = declared.default_factory
    return declared.default if made is dataclasses.MISSING else made()


def _declared_word(config_class: type[Any], name: str, value: str) -> str:
    path = name.split(".")
    kinds = kinds_at(config_class, path)
    if name == "config_path":  # The parser's own option for a file is no field, and is not decoded as one.
        kinds, value = [Path], with_home(value)
    needed = is_needed(kinds_at(config_class, path[:-1]), path[-1])
    if not value and set(kinds) == {Path}:
        check_fits(name, None, kinds, written="", needed=needed)
    if not kinds or not value or (value == "null" and NoneType in kinds):
        return value
    if _is_text(kinds):
        if value.startswith("include"):
            raise ConfigError(
                f"The value of {name} begins with a word that has another meaning on a command line",
                seen=value,
                allowed="text that does not begin with include",
                remedy="Put ./ before a path; write other text into a file, and name that with --config_path",
            )
        return as_word(value)
    value = _list_of_one(value) if _takes_words(kinds) else value
    node = yaml.compose(value, yaml.SafeLoader)
    if node is None:
        return value
    _declare(node, kinds, name, needed=needed)
    return value if isinstance(node, yaml.ScalarNode) else _serialised(node)


def _declare(node: yaml.Node, kinds: Sequence[Any], name: str, *, needed: bool = False) -> None:
    """Make text of what is declared as text in a tree of YAML, whatever it looks like.

    Raises:
        ConfigError: If a truth value stands for a number, nothing for either, a word or fields for a list, or fields or a
            list for what takes none.
    """
    if isinstance(node, yaml.ScalarNode):
        if _is_text(kinds) and not (node.tag == f"{_TAG}null" and NoneType in kinds):
            node.tag = f"{_TAG}str"
        else:
            value = _PLAIN.get(node.tag.removeprefix(_TAG), node.value)
            check_fits(name, value, kinds, written=node.value, needed=needed)
    elif _is_text(kinds):
        raise ConfigError(
            f"{name} takes text",
            seen=_serialised(node),
            allowed="a word, or text in quotes where it holds a colon, braces or brackets",
            remedy="Put quotes around it, within those of the shell",
        )
    elif isinstance(node, yaml.SequenceNode):
        check_fits(name, [], kinds, written=_serialised(node), needed=needed)
        held = [typing.get_args(kind)[0] for kind in kinds if _is_list(kind)]
        for place, inner in enumerate(node.value):
            _declare(inner, [kind for each in held for kind in _kinds(each)], f"{name}.{place}")
    else:
        check_fits(name, {}, kinds, written=_serialised(node))
        for key, inner in node.value:
            key.tag = f"{_TAG}str" if _named_by_text(kinds) else key.tag
            held = [each for kind in kinds for each in _inner(kind, key.value)]
            _declare(
                inner,
                [kind for each in held for kind in _kinds(each)],
                f"{name}.{key.value}",
                needed=is_needed(kinds, key.value),
            )


def _serialised(node: yaml.Node) -> str:
    return str(yaml.serialize(node, width=math.inf)).strip()


def _list_of_one(value: str) -> str:
    # With a comma it is more than one word, and brackets forgotten.
    return (
        value if value.startswith("[") or ("," in value and not value.startswith("--")) else as_word([value])
    )


def _takes_words(kinds: Sequence[Any]) -> bool:
    held = [typing.get_args(kind) for kind in kinds if _is_list(kind)]
    return any(args and args[0] in (str, int, float, Path) for args in held)


def _named_by_text(kinds: Sequence[Any]) -> bool:
    return any(
        dataclasses.is_dataclass(kind)
        or (typing.get_origin(kind) is dict and _is_text(typing.get_args(kind)[:1]))
        for kind in kinds
    )


def _is_text(kinds: Sequence[Any]) -> bool:
    """Return whether all of the types are texts and paths, or none; what has choices is no free text."""
    held = [kind for kind in kinds if kind is not NoneType]
    return bool(held) and all(kind in (str, Path) for kind in held)


def _is_listed(kind: Any) -> bool:
    return bool(is_tuple(kind) or is_list(kind))


def _is_list(kind: Any) -> bool:
    origin = typing.get_origin(kind)
    return origin is list or (origin is tuple and typing.get_args(kind)[-1] is Ellipsis)


def _kinds(declared: Any) -> list[Any]:
    """Return the members of a union, the classes that a choice knows, or else the type itself."""
    if is_union(declared):
        return [kind for member in typing.get_args(declared) for kind in _kinds(member)]
    if is_choice_type(declared):
        known = list(declared.get_known_choices().values())
        return [declared] if declared in known else known
    return [declared]


def _inner(declared: Any, name: str) -> Iterator[Any]:
    for kind in _kinds(declared):
        if dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            if name in hints:
                yield hints[name]
        elif args := typing.get_args(kind):
            yield args[1] if typing.get_origin(kind) is dict else args[0]
