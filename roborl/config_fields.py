"""What a configuration class says of its fields: which kinds they are, what they are called, which of them take lists."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from draccus.utils import is_choice_type, is_union

from roborl.errors import ConfigError


def with_lists(config_class: type[Any], args: Sequence[str]) -> list[str]:
    """Return the arguments with a single word made a list of one, where a field takes a list of words or numbers."""
    rest: list[str] = []
    option = ""
    for word in args:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            if equals and _takes_words(config_class, option):
                word = f"{option}={_list_of_one(value)}"
            option = "" if equals else option
        elif option:
            word = _list_of_one(word) if _takes_words(config_class, option) else word
            option = ""
        rest.append(word)
    return rest


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
        value = value if equals else next(words, "")
        found.setdefault(name, []).extend(_listed_words(name, value) if value.startswith("[") else [value])
    return [*rest, *(part for name, values in found.items() for part in (name, json.dumps(values)))]


def kinds_at(declared: Any, names: Sequence[str]) -> list[Any]:
    """Return the types that a dotted path of a configuration may hold; none where there is no such field."""
    found = [declared]
    for name in names:
        found = [inner for outer in found for inner in _inner(outer, name)]
    return [kind for each in found for kind in _kinds(each)]


def field_names(kinds: Sequence[Any]) -> str:
    """Return the names of the fields that dataclasses among these types have, joined by commas."""
    named = [
        field.name for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)
    ]
    return ", ".join(dict.fromkeys(named))


def _list_of_one(value: str) -> str:
    if not value.startswith("--"):
        if "," in value:
            return value  # more than one word, and brackets forgotten
        try:
            if isinstance(yaml.safe_load(value), list | dict | None):
                return value
        except yaml.YAMLError:
            return value
    return json.dumps([value], ensure_ascii=False)


def _takes_words(config_class: type[Any], option: str) -> bool:
    held = [typing.get_args(kind) for kind in kinds_at(config_class, option[2:].split(".")) if _is_list(kind)]
    return any(args and args[0] in (str, int, float, Path) for args in held)


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


def _listed_words(name: str, value: str) -> list[str]:
    """Return a list that is written as YAML writes it."""
    try:
        return list(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{name} cannot be read as a list",
            seen=value,
            allowed="a word, or a list such as '[a, b]'",
            remedy=f"Close its brackets and quotes, or give {name} once for each word",
        ) from error
