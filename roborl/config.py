"""Configuration machinery: YAML file plus dotted overrides into a frozen dataclass. No settings live here."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import draccus
import yaml
from draccus.argparsing import ArgumentParser
from draccus.parsers.decoding import decode_from_init
from draccus.utils import DecodingError, ParsingError, is_enum

from roborl.config_fields import (
    as_declared,
    check_fits,
    choices_with,
    field_names,
    held_by_default,
    is_needed,
    kinds_at,
    no_list,
)
from roborl.config_files import dotted_values, layered, place_in, read_files, words_behind
from roborl.errors import ConfigError
from roborl.paths import with_home

# As the word it is: draccus leaves it to YAML, which writes a Python object that nothing may read back.
draccus.encode.register(StrEnum, lambda word, declared=None: str(word), include_subclasses=True)


def _at_home(kind: type[Any], raw: Any, path: Sequence[str]) -> Any:
    """Decode text or a path; a shell reads ``~`` in ``--out ~/data``, and in neither ``--out=~/data`` nor a file."""
    return decode_from_init(kind, with_home(raw) if isinstance(raw, str) else raw, path)


for _kind in (str, Path):
    draccus.decode.register(_kind, partial(_at_home, _kind))


class HelpShown(Exception):
    """The command line asked for help or for the resolved configuration, and got it."""


def parse[C](config_class: type[C], args: Sequence[str], *, prog: str) -> C:
    """Read ``--config_path FILE`` and dotted overrides into ``config_class``.

    Of several files each stands on top of those before it, and the overrides on top of all.

    ``--print_config`` writes the resolved YAML to stdout instead of returning. A single word stands for a list of one, and
    text and paths are taken as they are typed, but for ``~/``, the home folder.

    Raises:
        ConfigError: With the dotted path of the field that is wrong, and the file where it stands.
        HelpShown: After ``--help`` or ``--print_config``.
    """
    rest = [arg for arg in args if arg != "--print_config"]
    read = {} if {"-h", "--help"} & set(rest) else read_files(rest)
    complaint = io.StringIO()
    try:
        _check_values(kinds_at(config_class, ()), layered(read.values()), rest, read)
        held = held_by_default(config_class)
        with contextlib.redirect_stderr(complaint), _one_file(rest, read, held) as words:
            config = _parser(config_class, prog).parse_args(as_declared(config_class, words))
    except SystemExit as stop:
        if not stop.code:
            raise HelpShown from None
        lines = [line for line in complaint.getvalue().splitlines() if line.strip()]
        said = lines[-1] if lines else "unreadable arguments"
        raise _option_error(said, config_class, rest, read, prog) or _config_error(said, prog) from stop
    except DecodingError as error:
        raise _own_complaint(error) or _field_error(error, config_class, rest, read, prog) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            "A value on the command line cannot be read as YAML",
            seen=error,
            allowed="a word, a number, '[a, b]' for a list, '{a: 1}' for a mapping",
            remedy="Close its brackets and quotes, and put quotes of the shell around it",
        ) from error
    except (ParsingError, ConfigError, OSError) as error:
        problem = " ".join(str(error.__cause__ or error).split())
        sources = [*read, *(["the command line"] if len(rest) > 2 * len(read) else [])] if read else []
        raise _own_complaint(error) or _config_error(problem, prog, seen=" and ".join(sources)) from error
    if len(rest) != len(args):
        print(dump(config), end="")  # noqa: T201  (this is the output that was asked for)
        raise HelpShown
    return config


def load[C](config_class: type[C], path: Path) -> C:
    """Read one YAML file into ``config_class``.

    Raises:
        ConfigError: If the file is missing or does not fit.
    """
    return parse(config_class, ["--config_path", str(path)], prog=str(path))


def dump(config: Any) -> str:
    """Return ``config`` as YAML that :func:`load` reads back equal."""
    return str(draccus.dump(config))


def named(args: Sequence[str], field: str) -> Any:
    """Return what the command line, or else the files that it names, say of a field at the top; None for nothing.

    Args:
        args: The arguments.
        field: Its name.

    Returns:
        A word of the command line as it stands there, or the value that a file holds.

    Raises:
        ConfigError: If a file cannot be read.
    """
    words = words_behind(args, field)
    return words[-1] if words else layered(read_files(args).values()).get(field)


def _parser[C](config_class: type[C], prog: str) -> ArgumentParser[C]:
    """Return the parser, whose help leaves out the option of a section as a whole: it takes no file, and is there twice."""
    made = ArgumentParser(config_class, prog=prog)
    held = dict(dotted_values(held_by_default(config_class)))
    for action in (action for group in made.parser._action_groups for action in group._group_actions):
        # For the help alone: the parser's own are those of a section's class.
        action.default = held.get(action.dest, action.default)
        if (action.help or "").startswith("Config file for "):
            action.help = argparse.SUPPRESS
    return made


@contextlib.contextmanager
def _one_file(
    args: Sequence[str], read: Mapping[str, Mapping[str, Any]], held: Mapping[str, Any]
) -> Iterator[list[str]]:
    """Yield the arguments with one file in place of several, which draccus would take the last of, and of what is held."""
    if len(read) < 2 and not held:
        yield list(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layered.yaml"
        path.write_text(
            yaml.safe_dump(layered([*read.values(), held]), allow_unicode=True, sort_keys=False),
            encoding="utf-8",
        )
        yield [*args, "--config_path", str(path)]


def _own_complaint(error: BaseException) -> ConfigError | None:
    """Return our own complaint where one lies beneath the parser's."""
    beneath: BaseException | None = error
    while beneath is not None:
        if isinstance(beneath, ConfigError):
            return beneath
        beneath = beneath.__cause__ or beneath.__context__
    return None


def _field_error(
    error: DecodingError,
    config_class: type[Any],
    args: Sequence[str],
    read: Mapping[str, Mapping[str, Any]],
    prog: str,
) -> ConfigError:
    """Return what is wrong with one field, in our words where the parser's are about its own inside."""
    path, said = [str(name) for name in error.key_path], " ".join(error.message.split())
    dotted = ".".join(path)
    kinds = kinds_at(config_class, path)
    if unknown := re.search(r"The fields (.*?) are not valid for (\w+)", said):
        names = re.findall(r"`([^`]*)`", unknown[1])
        fitting = [kind for kind in kinds if getattr(kind, "__name__", "") == unknown[2]] or kinds
        return ConfigError(
            f"There is no such field of {dotted or unknown[2]}",
            seen=", ".join(names) + place_in([*path, names[0]], args, read),
            allowed=field_names(fitting),
            remedy="Correct its name, or remove it",
        )
    if unknown := re.search(r"Couldn't find a choice class for '(.*?)' in", said):
        return ConfigError(
            f"There is no such type of {dotted}" if dotted else "There is no such type",
            seen=unknown[1] + place_in([*path, "type"], args, read),
            allowed=sorted({name for kind in kinds for name in choices_with(kind)}),
            remedy="Correct its name; that of a plug-in is known once its module is named with --plugins",
        )
    place = place_in(path, args, read)
    value = re.search(r"value='(.*)' into field", said)
    written = value[1] if value and value[1] != "None" else ""
    found = written or "nothing"
    if "not of a valid input for a list type" in said:
        return no_list(dotted, written, place)
    words = [str(word.value) for kind in kinds if is_enum(kind) for word in kind]
    if words and written:
        return ConfigError(
            f"{dotted} takes one of a few words",
            seen=found + place,
            allowed=words,
            remedy="Choose one of these",
        )
    sections = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    if sections and "has no attribute 'copy'" in said:
        return ConfigError(
            f"{dotted} holds fields of its own",
            seen=found + place,
            allowed=field_names(sections),
            remedy=f"Write them as {{field: value}}, or as --{dotted}.FIELD on a command line",
        )
    return _config_error(" ".join(str(error).split()), prog, seen=place.removeprefix(" in "))


def _option_error(
    said: str,
    config_class: type[Any],
    args: Sequence[str],
    read: Mapping[str, Mapping[str, Any]],
    prog: str,
) -> ConfigError | None:
    """Return what is wrong with an option that the parser does not know, None where it says something else."""
    if chosen := re.search(r"argument --(\S+): invalid choice: '(.*)' \(choose from (.*)\)$", said):
        return ConfigError(
            f"{chosen[1]} takes one of a few words",
            seen=chosen[2],
            allowed=chosen[3].replace("'", "").split(", "),
            remedy="Choose one of these",
        )
    typed = said.partition("unrecognized arguments: ")[2]
    option = typed.partition(" ")[0].partition("=")[0]
    if not typed:
        return None
    command = prog.startswith("roborl")
    seen = typed if command else f"{typed} on top of {prog}"
    remedy = "Correct it, or leave it out" + (f"; all fields: {prog} --help" if command else "")
    if not option.startswith("--"):
        return ConfigError(
            "A word belongs to no option", seen=seen, allowed="--FIELD VALUE, or --FIELD=VALUE", remedy=remedy
        )
    path = option[2:].split(".")
    for count, name in enumerate(path):
        dotted = ".".join(path[:count])
        kinds = _chosen(kinds_at(config_class, path[:count]), path[:count], args, read)
        if not any(dataclasses.is_dataclass(kind) for kind in kinds):
            return ConfigError(
                f"{dotted} is given as a whole", seen=seen, allowed=f"--{dotted} VALUE", remedy=remedy
            )
        if name not in (names := field_names(kinds)).split(", "):
            what = f"field of {dotted}" if dotted else "option"
            return ConfigError(f"There is no such {what}", seen=seen, allowed=names, remedy=remedy)
    return None


def _chosen(
    kinds: Sequence[Any], path: Sequence[str], args: Sequence[str], read: Mapping[str, Mapping[str, Any]]
) -> Sequence[Any]:
    """Return the one of several types that a command line, or else the files, choose; all where they choose none."""
    inner: Any = layered(read.values())
    for name in path:
        inner = inner.get(name) if isinstance(inner, Mapping) else None
    words = words_behind(args, ".".join([*path, "type"]))
    word = words[-1] if words else inner.get("type") if isinstance(inner, Mapping) else None
    return [kind for kind in kinds if choices_with(kind).get(str(word)) is kind] or kinds


def _check_values(
    kinds: Sequence[Any],
    value: Any,
    args: Sequence[str],
    read: Mapping[str, Mapping[str, Any]],
    path: tuple[str, ...] = (),
    *,
    needed: bool = False,
) -> None:
    """See that what files hold fits its field, where no argument replaces it: :func:`~roborl.config_fields.check_fits`.

    Raises:
        ConfigError: If it does not.
    """
    if not (place := place_in(path, args, read)):
        return
    written = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    check_fits(".".join(path), value, kinds, written=written, place=place, needed=needed)
    pairs = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    chosen = _chosen(kinds, path, args, read) if pairs else ()
    for name, inner in pairs:
        held = [found for kind in chosen for found in kinds_at(kind, [str(name)])]
        _check_values(held, inner, args, read, (*path, str(name)), needed=is_needed(chosen, str(name)))


def _config_error(problem: str, prog: str, *, seen: str = "") -> ConfigError:
    return ConfigError(
        f"The configuration cannot be used: {problem.strip()}",
        seen=seen or None,
        remedy=f"See the fields with: {prog} --help" if prog.startswith("roborl") else "",
    )
