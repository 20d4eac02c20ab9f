"""Configuration machinery: YAML file plus dotted overrides into a frozen dataclass. No settings live here."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import draccus
import yaml
from draccus.utils import DecodingError, ParsingError

from roborl.errors import ConfigError

# As the word it is: draccus leaves it to YAML, which writes a Python object that nothing may read back.
draccus.encode.register(StrEnum, lambda word, declared=None: str(word), include_subclasses=True)


class HelpShown(Exception):
    """The command line asked for help or for the resolved configuration, and got it."""


def parse[C](config_class: type[C], args: Sequence[str], *, prog: str) -> C:
    """Read ``--config_path FILE`` and dotted overrides into ``config_class``.

    ``--print_config`` writes the resolved YAML to stdout instead of returning.

    Raises:
        ConfigError: With the dotted path of the field that is wrong.
        HelpShown: After ``--help`` or ``--print_config``.
    """
    rest = [arg for arg in args if arg != "--print_config"]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            config = draccus.parse(config_class, args=rest, prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise HelpShown from None
        lines = [line for line in complaint.getvalue().splitlines() if line.strip()]
        raise _config_error(lines[-1] if lines else "unreadable arguments", prog) from stop
    except (DecodingError, ParsingError, ConfigError, yaml.YAMLError, OSError) as error:
        raise _plainest(error, prog) from error
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


def _plainest(error: BaseException, prog: str) -> ConfigError:
    """Return our own complaint where one lies beneath the parser's, else the parser's with the dotted path."""
    beneath: BaseException | None = error
    while beneath is not None:
        if isinstance(beneath, ConfigError):
            return beneath
        beneath = beneath.__cause__ or beneath.__context__
    cause = error if isinstance(error, DecodingError) else error.__cause__ or error
    return _config_error(" ".join(str(cause).split()), prog)


def _config_error(problem: str, prog: str) -> ConfigError:
    return ConfigError(
        f"The configuration cannot be used: {problem.strip()}",
        remedy=f"See the fields with: {prog} --help" if prog.startswith("roborl") else "",
    )
