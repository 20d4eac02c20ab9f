"""Which episodes a reward model learnt from, in a file beside it: whoever measures the model is to leave them out."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from roborl.errors import ConfigError, ModelLoadError
from roborl.rewards.measured import FITTED_ON, calibration_of, read_measured
from roborl.rewards.settings import SETTINGS
from roborl.whole_files import as_json, write_whole

log = logging.getLogger(__name__)

FILE = "learnt_from.json"
_FORMAT = "roborl-learnt-from-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """By what a recorded episode is known again, wherever its dataset is moved or copied to.

    Attributes:
        content: Digest of what was recorded; empty where nothing in it tells episodes apart.
        dataset: Fingerprint of its dataset; empty where it has none.
        index: Its number there.
    """

    content: str = ""
    dataset: str = ""
    index: int = -1


@dataclass(frozen=True, kw_only=True)
class LearntFrom:
    """The episodes that a model learnt from.

    Attributes:
        origins: What is known of them.
        unnamed: How many more there were of which nothing is known, such as practice that was never recorded.
    """

    origins: frozenset[Origin] = frozenset()
    unnamed: int = 0

    def holds(self, origin: Origin | None) -> bool:
        """Return whether an episode is among them: in the same dataset by its number, elsewhere by what was recorded."""
        if origin is None:
            return False
        if numbers := self._numbers.get(origin.dataset):
            return origin.index in numbers
        return origin.content in self._contents

    @functools.cached_property
    def _numbers(self) -> Mapping[str, set[int]]:
        found: dict[str, set[int]] = {}
        for origin in self.origins:
            if origin.dataset:
                found.setdefault(origin.dataset, set()).add(origin.index)
        return found

    @functools.cached_property
    def _contents(self) -> set[str]:
        return {origin.content for origin in self.origins if origin.content}


def learnt(origins: Iterable[Origin | None], *before: LearntFrom | None) -> LearntFrom:
    """Return what a model learnt from: these episodes, and what the models that it went on from had."""
    named = list(origins)
    earlier = [each for each in before if each is not None]
    known = frozenset(origin for origin in named if origin is not None)
    return LearntFrom(
        origins=known.union(*(each.origins for each in earlier)),
        unnamed=sum(origin is None for origin in named) + sum(each.unnamed for each in earlier),
    )


def write_learnt(folder: Path, known: LearntFrom) -> None:
    """Write beside a model what it learnt from, making its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"format": _FORMAT, "episodes": origin_rows(known.origins), "unnamed": known.unnamed}
    write_whole(folder / FILE, as_json(stated, indent=2) + "\n")


def origin_rows(origins: Iterable[Origin]) -> list[dict[str, Any]]:
    """Return episodes as files name them."""
    return sorted(map(asdict, origins), key=lambda row: (row["dataset"], row["index"], row["content"]))


def read_learnt(place: str) -> LearntFrom | None:
    """Return what the model of a place learnt from, None where it does not say; no model is read.

    A calibrated one learnt from what its calibration was fitted on as well.

    Args:
        place: As :func:`~roborl.rewards.registry.find_loader` takes it.

    Raises:
        ModelLoadError: If what it says cannot be read.
    """
    if calibrated := calibration_of(place):
        result, model = calibrated
        said = [_fitted_on(result), read_learnt(model)]
        return learnt([], *said) if any(each is not None for each in said) else None
    found = [_read(folder / FILE) for folder in _folders(place) if (folder / FILE).is_file()]
    return learnt([], *found) if found else None


def _folders(place: str) -> list[Path]:
    """Return the folders that a place's weights may lie in."""
    _, colon, checkpoint = place.partition(":")
    path = Path(checkpoint if colon and not Path(place).exists() else place)
    if path.suffix not in (".yaml", ".yml"):
        return [path]
    try:
        settings = yaml.safe_load(path.read_text())
        judge = settings.get("judge") or {}
        named = [settings.get("checkpoint"), judge.get("adapter")]
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        # Whoever opens the model says what is wrong with its settings.
        return []
    beside = [path.parent] if path.name == SETTINGS else []
    return beside + [Path(str(folder)) for folder in named if folder]


def _fitted_on(result: Path) -> LearntFrom | None:
    """Return the episodes that a benchmark fitted calibrations on, None where it does not say."""
    try:
        measured = read_measured(result)
    except ConfigError:
        # Whoever opens the model says what is wrong with it.
        return None
    if FITTED_ON not in measured:
        log.warning(
            "%s does not say which episodes its calibrations were fitted on, as those of earlier releases do not: whether"
            " the calibrated model is measured on some of them is not known",
            result,
        )
        return None
    try:
        return LearntFrom(origins=_origins(measured[FITTED_ON]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            "What a calibration was fitted on cannot be read",
            seen=f"{result}: {type(error).__name__}: {error}",
            allowed="the bench_reward.json of roborl bench-reward, as it wrote it",
            remedy="Run roborl bench-reward on the model again, and name it with that result",
        ) from error


def _origins(rows: Iterable[Mapping[str, Any]]) -> frozenset[Origin]:
    return frozenset(
        Origin(content=str(row["content"]), dataset=str(row["dataset"]), index=int(row["index"]))
        for row in rows
    )


def _read(path: Path) -> LearntFrom:
    try:
        stated: dict[str, Any] = json.loads(path.read_text())
        if stated["format"] != _FORMAT:
            raise ValueError(f"format {stated['format']}")
        return LearntFrom(origins=_origins(stated["episodes"]), unnamed=int(stated["unnamed"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(
            "What a reward model learnt from cannot be read",
            seen=f"{path}: {type(error).__name__}: {error}",
            allowed=f"{_FORMAT}, as roborl train-reward wrote it",
            remedy="Copy the model's whole folder again, or train it again",
        ) from error
