"""``roborl train-reward``: a dataset in, a reward model and its figures on held-out episodes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from roborl.loops.train_reward import TrainRewardConfig, train_reward

Config = TrainRewardConfig


def main(config: TrainRewardConfig) -> dict[str, Any]:
    """Train, print the table to stderr, write ``report.json`` beside the model, return the figures."""

    def log(figures: Mapping[str, float]) -> None:
        print(
            f"step {figures['step']:5.0f}  {figures['seconds']:6.1f} s  loss {figures['loss']:.4f}",
            file=sys.stderr,
            flush=True,
        )

    result = train_reward(config, log=log)
    print(result.table, file=sys.stderr)
    print(
        f"change by later frames {result.leak:.1e}   {result.frame_ms:.2f} ms per observation",
        file=sys.stderr,
    )
    report = result.as_dict()
    (config.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report
