"""What a process says of its work: on stderr, one form for all of them."""

from __future__ import annotations

import logging
import os
import sys

from roborl.errors import ConfigError

_VARIABLE = "ROBORL_LOG"
# What they tell at INFO means nothing to whoever runs an arm: an optional speed-up of OpenGL that nothing here uses, and
# the video codec of every recording that is opened.
_CHATTER = ("OpenGL", "lerobot.configs.video")


def log_to_stderr(*, again: bool = False) -> None:
    """Write this process's log to stderr, from the level on that the environment variable ``ROBORL_LOG`` names (INFO).

    Args:
        again: Replace what already takes the log.

    Raises:
        ConfigError: If there is no such level.
    """
    levels = logging.getLevelNamesMapping()
    level = levels.get(os.environ.get(_VARIABLE, "").upper() or "INFO")
    if level is None:
        raise ConfigError(
            f"The environment variable {_VARIABLE} names no level of the log",
            seen=os.environ[_VARIABLE],
            allowed=[*levels],
            remedy=f"Correct it, or: unset {_VARIABLE}",
        )
    logging.basicConfig(
        level=level,
        format="%(asctime)s %(name)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=again,
    )
    if level > logging.DEBUG:
        for name in _CHATTER:
            logging.getLogger(name).setLevel(logging.WARNING)
