"""The files of a LeRobot policy; its processors are looked through before LeRobot's own loader imports any class they name."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

from roborl.errors import ModelLoadError
from roborl.pretrained import CONFIG

PROCESSOR_FILES = ("policy_preprocessor.json", "policy_postprocessor.json")
ONLINE = "online.json"
"""What a run leaves in the folder of its LeRobot policy: see :class:`roborl.policies.lerobot_learning.OnlineForm`."""

_LARGEST_BYTES = 1 << 20
# Modules in which LeRobot itself keeps processor steps.
_MODULE = re.compile(r"lerobot\.processor(\.\w+)*|lerobot\.policies\.\w+\.processor_\w+")


def is_lerobot_policy(folder: Path) -> bool:
    """Return whether a policy's folder was saved by LeRobot and not by roborl; nothing is opened."""
    return (folder / CONFIG).is_file() and not (folder / "policy.json").exists()


def is_runs_policy(folder: Path) -> bool:
    """Return whether a LeRobot policy's folder is that of a run, which says what of it learns; nothing is opened."""
    return (folder / ONLINE).is_file()


def check_processor_files(folder: Path) -> dict[str, list[str]]:
    """Refuse processor files that name anything but LeRobot's own steps; nothing foreign is imported to find out.

    Args:
        folder: A policy as LeRobot saves it. Files that it does not have are not missed.

    Returns:
        The steps by file: registered names and class paths.

    Raises:
        ModelLoadError: If a file cannot be read, names a foreign class, or points out of the folder.
    """
    return {name: _check(folder / name) for name in PROCESSOR_FILES if (folder / name).exists()}


def _check(path: Path) -> list[str]:
    steps = _read(path)
    names = []
    for step in steps:
        name = step.get("registry_name")
        if not isinstance(name, str):
            name = step.get("class")
            _check_class(path, name)
        state = step.get("state_file")
        if state is not None and (not isinstance(state, str) or Path(state).name != state):
            raise ModelLoadError(
                f"A processor step of {path} keeps its state elsewhere",
                seen=state,
                allowed="a file name in the policy's folder",
                remedy="Use a policy from a source that you trust",
            )
        names.append(str(name))
    return names


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ModelLoadError(
                f"The processor file {path} is too large",
                seen=f"{path.stat().st_size} bytes",
                allowed=f"{_LARGEST_BYTES} bytes",
                remedy="Save the policy again with LeRobot",
            )
        content = json.loads(path.read_bytes())
        steps: list[dict[str, Any]] = content["steps"]
        if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
            raise TypeError("steps is not a list of objects")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelLoadError(
            f"The processor file {path} cannot be read",
            seen=f"{type(error).__name__}: {error}",
            allowed='JSON with a list of "steps"',
            remedy="Save the policy again with LeRobot",
        ) from error
    return steps


def _check_class(path: Path, name: object) -> None:
    module, _, attribute = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if not _MODULE.fullmatch(module) or not _is_step(module, attribute):
        raise ModelLoadError(
            f"The processor file {path} names a foreign class, which is not imported",
            seen=name,
            allowed="processor steps of lerobot, by registered name or by class path",
            remedy="If you trust its author, register the class with LeRobot yourself and use its registered name",
        )


def _is_step(module: str, attribute: str) -> bool:
    from lerobot.processor.pipeline import ProcessorStep

    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, ProcessorStep)
