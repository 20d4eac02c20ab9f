"""The files that a command line names, each on top of those before it: what they hold, and what stands in which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from draccus.cfgparsing import load_config
from draccus.utils import ParsingError

from roborl.errors import ConfigError
from roborl.paths import with_home


def words_behind(args: Sequence[str], option: str) -> list[str]:
    """Return what stands behind each ``--option``."""
    words = [
        word.partition("=")[2] if "=" in word else "".join(args[place + 1 : place + 2])
        for place, word in enumerate(args)
        if word.partition("=")[0] == f"--{option}"
    ]
    return [word for word in words if word]


def read_files(args: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return what each file that ``--config_path`` names holds, the one on top first.

    A section without a line is an empty one where arguments name fields of it.

    Raises:
        ConfigError: If one cannot be read, or holds no mapping.
    """
    paths = map(with_home, reversed(words_behind(args, "config_path")))
    return {path: _begun(_mapping(path), args) for path in paths}


def layered(contents: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mappings as one, the first of them on top; lists are replaced as a whole."""
    whole: dict[str, Any] = {}
    for content in contents:
        for name, value in content.items():
            if isinstance(value, Mapping) and isinstance(whole.get(name), Mapping):
                whole[name] = layered([whole[name], value])
            else:
                whole.setdefault(name, value)
    return whole


def dotted_values(sections: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what sections hold, each value by the dotted path of its field."""
    for name, value in sections.items():
        if isinstance(value, Mapping):
            yield from dotted_values(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def place_in(path: Sequence[str], args: Sequence[str], read: Mapping[str, Mapping[str, Any]]) -> str:
    """Return " in FILE" where a field's value stands in a file and no argument replaces it."""
    if any(word.partition("=")[0] == "--" + ".".join(path) for word in args):
        return ""
    for file, content in read.items():
        inner: Any = content
        for name in path:
            if isinstance(inner, list) and name.isdecimal() and int(name) < len(inner):
                inner = inner[int(name)]
            elif isinstance(inner, Mapping) and name in map(str, inner):
                inner = next(value for key, value in inner.items() if str(key) == name)
            else:
                break
        else:
            return f" in {file}"
    return ""


def _mapping(path: str) -> dict[str, Any]:
    """Return what a configuration file holds.

    Raises:
        ConfigError: If it cannot be read, or holds no mapping.
    """
    allowed = "a file in YAML with lines such as field: value"
    try:
        with Path(path).open(encoding="utf-8") as file:
            content: Any = load_config(file, file=path)
            file.seek(0)
            twice = _first_twice(file.read())
    except OSError as error:
        raise ConfigError(
            "A configuration file cannot be opened",
            seen=f"{path}: {error.strerror or error}",
            allowed=allowed,
            remedy="Correct its path or its permissions",
        ) from error
    except ParsingError as error:
        raise ConfigError(
            "A configuration file cannot be read",
            seen=f"{path}: {error.__cause__ or error}",
            allowed=allowed,
            remedy="Correct it at the place that is named",
        ) from error
    if twice is not None:
        raise ConfigError(
            "A field stands twice in a configuration file",
            seen=f"{twice} of {path}",
            allowed="each field once",
            remedy="Delete one of the two; of a section that stands twice, write its fields into one",
        )
    if not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        kind = "nothing" if content is None else f"{kind}, {_short(content)},"
        raise ConfigError(
            "A configuration file holds no fields",
            seen=f"{kind} in {path}",
            allowed=allowed,
            remedy="Write fields into it, or give another file",
        )
    return content


def _first_twice(text: str) -> str | None:
    """Return the first field that stands twice; None where there is none, or another form than YAML, such as JSON with tabs."""
    try:
        return next(_twice(yaml.compose(text, yaml.SafeLoader)), None)
    except yaml.YAMLError:
        return None


def _twice(node: yaml.Node | None, before: str = "") -> Iterator[str]:
    """Yield the fields that stand twice in a mapping, with their lines: of such the parser takes the last and says nothing."""
    if isinstance(node, yaml.SequenceNode):
        for place, value in enumerate(node.value):
            yield from _twice(value, f"{before}{place}.")
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{before}{key.value}", key.start_mark.line + 1
            if name in lines:
                yield f"{name} in lines {lines[name]} and {line}"
            lines[name] = line
            yield from _twice(value, f"{name}.")


def _begun(sections: Mapping[str, Any], args: Sequence[str], before: str = "--") -> dict[str, Any]:
    return {
        name: _begun(value or {}, args, f"{before}{name}.")
        if isinstance(value, Mapping)
        or (value is None and any(word.startswith(f"{before}{name}.") for word in args))
        else value
        for name, value in sections.items()
    }


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
