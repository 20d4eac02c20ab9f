"""``roborl serve [FOLDER ...]``: judge camera streams for any number of clients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roborl.config_fields import as_word
from roborl.errors import ConfigError
from roborl.loops.serve import ServeConfig, serve
from roborl.loops.supervise import Child

Config = ServeConfig


def prepare_args(args: Sequence[str]) -> list[str]:
    """Turn folders named without an option into models, each by its folder's name.

    Raises:
        ConfigError: If two have the same name.
    """
    count = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    if not count:
        return list(args)
    models = {Path(folder).name: folder for folder in args[:count]}
    if len(models) < count:
        raise ConfigError(
            "Clients could not tell these reward models apart by name",
            seen=list(args[:count]),
            allowed="folders of different names",
            remedy="Name them yourself, such as: roborl serve --models '{a: A/reward, b: B/reward}'",
        )
    return ["--models", as_word(models), *args[count:]]


def main(config: ServeConfig) -> dict[str, Any]:
    """Serve until Ctrl-C or SIGTERM; return the statistics."""
    return serve(Child.alone("serve"), config)
