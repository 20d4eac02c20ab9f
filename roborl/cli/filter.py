"""``roborl filter``: RA-BC weights for a labelled dataset, the episodes that are left out, and the command to train with."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from roborl.config_fields import gathered
from roborl.loops.rabc.filter_config import FilterConfig

Config = FilterConfig


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let ``--drop A --drop B`` stand for ``--drop '["A", "B"]'``.

    Example:
        >>> prepare_args(["--drop", "progress<0.5", "--chunk", "8"])
        ['--chunk', '8', '--drop', '["progress<0.5"]']
    """
    return gathered(args, ("--drop",))


def main(config: FilterConfig) -> dict[str, Any]:
    """Weigh and filter, write the report, print what came of it to stderr, return the figures."""
    from roborl.loops.rabc.filter_dataset import filter_dataset
    from roborl.loops.rabc.filter_page import write_filter_page

    filtered = filter_dataset(config)
    page = write_filter_page(config, filtered)
    for episode in filtered.episodes:
        told = episode.figures
        print(
            f"episode {episode.index}: progress {told['progress']:.2f}, gain {told['gain']:.2f},"
            f" weight {told['weight']:.2f}: {episode.verdict}",
            file=sys.stderr,
        )
    print(f"Go on with:\n{filtered.command}", file=sys.stderr)
    return filtered.figures() | {"report": str(page)}
