"""``roborl import``: an RLDS dataset, as those of Open X-Embodiment are, into a LeRobotDataset that all else reads."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from roborl.clock import Every
from roborl.errors import ConfigError
from roborl.signals import ended_as_by_ctrl_c

log = logging.getLogger(__name__)

_TELL_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which dataset, and where it goes."""

    dataset: Path  # folder of an RLDS dataset with dataset_info.json and features.json, or of its versions
    out: Path  # LeRobotDataset v3 to write; one that an import began is gone on with
    split: str = ""  # empty: the only one, or train
    images: list[str] = field(default_factory=list)  # pictures to take; empty: those that are known, or all
    instruction: str = ""  # feature that holds the task, where datasets/oxe.yaml does not know
    rate_hz: float | None = None  # observations per second, where datasets/oxe.yaml does not know
    episodes: int | None = None  # how many at most, from the first; all by default
    video: bool = False  # store MP4 (small, lossy) rather than exact pictures
    strict: bool = False  # end at anything damaged; otherwise it is left out, counted and told


def main(config: Config) -> dict[str, Any]:
    """Write the episodes; safe to repeat after a kill. Ctrl-C, SIGTERM and a closed terminal keep those that are whole."""
    from roborl.data.rlds.importing import import_rlds

    if config.episodes is not None and config.episodes < 1:
        raise ConfigError(
            "There is nothing to import", seen=f"episodes {config.episodes}", allowed="1 or more"
        )
    progress = Every(_TELL_EVERY_S, at_once=False)

    def tell(done: int, of: int) -> None:
        if progress.due():
            log.info("%d of %d episodes", done, of)

    with ended_as_by_ctrl_c():
        imported = import_rlds(
            config.dataset,
            config.out,
            split=config.split,
            images=config.images,
            instruction=config.instruction,
            rate_hz=config.rate_hz,
            limit=config.episodes,
            video=config.video,
            strict=config.strict,
            on_episode=tell,
        )
    return {"dataset": str(config.out), **asdict(imported)}
