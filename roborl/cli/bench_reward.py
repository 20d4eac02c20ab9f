"""``roborl bench-reward``: what reward models are worth on episodes with known outcomes; bars set the exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from roborl.config_fields import gathered
from roborl.loops.benchmarks.reward_config import RESULT, BenchRewardConfig

Config = BenchRewardConfig


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let ``--model A --model B`` stand for ``--model '["A", "B"]'``; the same for datasets, graded videos and bars.

    Raises:
        ConfigError: If a list is torn.
    """
    return gathered(args, ("--model", "--dataset", "--graded", "--require"))


def main(config: BenchRewardConfig) -> dict[str, Any]:
    """Measure, print the table to stderr, return each model's figures, with ``exit`` 1 where a bar is missed."""
    from roborl.loops.benchmarks.reward import bench_reward

    def show(model: str, done: int, of: int) -> None:
        print(f"{model}: video {done}/{of}", file=sys.stderr, flush=True)

    result = bench_reward(config, on_video=show)
    print(result.summary, file=sys.stderr)
    print(result.table, file=sys.stderr)
    for name in result.places:
        for reason, count in result.measured[name].reasons.items():
            print(f"{name}: {count} scores could not be read: {reason!r}", file=sys.stderr)
        if result.require and result.learnt(name) and not result.learnt_too:
            print(f"{name}: no bar is met on what it learnt from, unless --learnt_too true", file=sys.stderr)
        for text in result.require:
            said = "not met" if text in result.missed(name) else "met"
            print(f"{name}: {text}: {said}", file=sys.stderr)
    written = result.as_dict(config)
    figures = {name: entry["figures"] for name, entry in written["models"].items()}
    report: dict[str, Any] = {"result": str(config.out / RESULT), "models": figures}
    return report | ({"met": result.met, "exit": 0 if result.met else 1} if result.require else {})
