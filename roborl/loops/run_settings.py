"""The settings of a run: read back when it goes on, kept once its processes work with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from roborl import config as configuration
from roborl.errors import ConfigError
from roborl.loops.learner.learn_config import LearnSettings, RunFolder
from roborl.loops.run_files import written
from roborl.loops.supervise import ChildSpec, Event
from roborl.whole_files import write_whole

log = logging.getLogger(__name__)

_LONGEST_VALUE = 60
# Names of settings, or their beginnings, by which a run's first policy is made.
_AT_THE_BEGIN = ("policy", "clone.", "demos.weights")
_BEFORE = Path(__file__).with_name("earlier_runs.yaml")
_FROM = "# Relative paths are found from "


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What belongs to one call alone, and is of no later one."""

    run: Path = LearnSettings.run
    resume: bool = False
    rollback: int = 0


def on_top_of_the_runs(args: Sequence[str], verb: str) -> list[str]:
    """Return arguments that stand on top of the run's own settings, where they are to go on with a run that has some.

    Raises:
        ConfigError: If a file cannot be read, the run has been another verb's, or its settings name files by paths that are
            found from another folder than this one.
    """
    if {"-h", "--help"} & set(args):
        return list(args)
    said = {field.name: configuration.named(args, field.name) for field in fields(_Call)}
    words = [f"--{name}={value}" for name, value in said.items() if value is not None]
    call = configuration.parse(_Call, words, prog=f"roborl {verb}")
    run = RunFolder(call.run)
    if not (call.resume or call.rollback) or not run.begun:
        return list(args)
    own = run.settings(verb)
    if own.is_file():
        _refuse_elsewhere(own, args)
        # The run may lie elsewhere by now, and what an earlier call asked for is done.
        this = [f"--{field.name}={getattr(call, field.name)}" for field in fields(call)]
        beneath = ["--config_path", str(_BEFORE)] if _is_earlier(own) else []
        return [*beneath, "--config_path", str(own), *this, *args]
    others = [name for name in ("train", "learn") if run.settings(name).is_file()]
    if others:
        raise ConfigError(
            f"This run has no settings of roborl {verb}",
            seen=f"{run.root}, which roborl {others[0]} made",
            allowed=f"roborl {others[0]}",
            remedy=f"Go on with that, or write what roborl {verb} shall go on with into {own}",
        )
    log.warning(
        "%s was stopped before it kept its settings: it goes on with those of this call alone", run.root
    )
    return list(args)


def of_earlier_runs() -> dict[str, dict[str, Any]]:
    """Return what newer settings are for runs that began before there were any, by section."""
    return dict(yaml.safe_load(_BEFORE.read_text()))


def _is_earlier(own: Path) -> bool:
    """Return whether a run kept a section of its settings before one of the newer ones was there."""
    kept = ["--config_path", str(own)]
    return any(
        isinstance(section := configuration.named(kept, name), Mapping) and newer.keys() - section.keys()
        for name, newer in of_earlier_runs().items()
    )


def _refuse_elsewhere(own: Path, args: Sequence[str]) -> None:
    """Refuse settings that would name other files here than where they were kept, unless they are named anew."""
    first = own.read_text().partition("\n")[0]
    kept_in = Path(first.removeprefix(_FROM))
    if not first.startswith(_FROM) or not kept_in.is_dir() or kept_in.samefile(Path.cwd()):
        return
    leaves = _flat(yaml.safe_load(own.read_text()))
    call = {field.name for field in fields(_Call)}
    found = [
        name
        for name, value in leaves.items()
        if isinstance(value, str) and name not in call and configuration.named(args, name) is None
        # A reward model is also named as KIND:FOLDER.
        if (place := Path(value.rpartition(":")[2])).name
        and not place.is_absolute()
        and (kept_in / place).exists()
    ]
    if found:
        raise ConfigError(
            "This run's settings name files by paths that are found from another folder",
            seen=f"{', '.join(f'{name} {leaves[name]}' for name in found)}; in {Path.cwd()}",
            allowed=kept_in,
            remedy=f"Change to that folder, or name them as they are found from here: --{found[0]}",
        )


def keep_settings(path: Path, config: LearnSettings) -> None:
    """Write a run's settings, whole or not at all, without what belongs to this call alone, and where it was made."""
    here = str(Path.cwd()).replace("\n", "?")
    write_whole(path, f"{_FROM}{here}\n{configuration.dump(replace(config, resume=False, rollback=0))}")


def say_changes(path: Path, config: LearnSettings) -> None:
    """Log in one line which settings of a run that goes on are no longer those that ``path`` keeps of it."""
    if not (config.resume or config.rollback) or not path.is_file():
        return
    before, now = (_flat(yaml.safe_load(text)) for text in (path.read_text(), configuration.dump(config)))
    changes = {
        name: f"{name} {_short(before.get(name))} -> {_short(now.get(name))}"
        for name in sorted(before.keys() | now.keys())
        if name not in {field.name for field in fields(_Call)} and before.get(name) != now.get(name)
    }
    if late := [name for name in changes if name.startswith(_AT_THE_BEGIN)]:
        log.warning(
            "What a run begins with is not made again: these settings change nothing any more: %s. Begin another run for that",
            "; ".join(changes.pop(name) for name in late),
        )
    if "demos.path" not in changes and (ahead := [name for name in changes if name.startswith("demos.")]):
        log.warning(
            "Demonstrations that the run has taken stay as they are: these settings count for further ones alone: %s. Begin"
            " another run to have them count for all",
            "; ".join(changes.pop(name) for name in ahead),
        )
    if changes:
        log.info("Settings that are not those of the run before: %s", "; ".join(changes.values()))


class SettingsKeeper:
    """Passes on the events of a run's processes, and keeps its settings once those of the learner have started with them.

    Settings with which one of them cannot start leave the run's own as they were.

    Args:
        events: Takes the events.
        learner: The processes of the learner.
        settings: What to keep, by file.
    """

    def __init__(
        self,
        events: Callable[[Event], None],
        learner: Sequence[ChildSpec],
        settings: Mapping[Path, LearnSettings],
    ) -> None:
        self._events, self._settings = events, settings
        self._waiting = {spec.name for spec in learner}

    def __call__(self, event: Event) -> None:
        """Pass on one event."""
        self._events(event)
        if event["event"] == "ready" and event["child"] in self._waiting:
            self._waiting.remove(str(event["child"]))
            if not self._waiting:
                for path, config in self._settings.items():
                    written(path, lambda: keep_settings(path, config))  # noqa: B023  (called at once)


def _flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name."""
    if not isinstance(tree, Mapping) or not tree:
        return {name: tree}
    return {
        dotted: leaf
        for key, value in tree.items()
        for dotted, leaf in _flat(value, f"{name}.{key}".strip(".")).items()
    }


def _short(value: Any) -> str:
    text = "none" if value in (None, "") else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
