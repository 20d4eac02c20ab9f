"""``roborl bench-reward``: what reward models are worth on episodes with known outcomes; bars set the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml

from roborl.errors import ConfigError
from roborl.loops.benchmarks.reward import bench_reward
from roborl.loops.benchmarks.reward_config import RESULT, BenchRewardConfig

Config = BenchRewardConfig

_REPEATED = ("--model", "--dataset", "--graded", "--require")


def positional(args: Sequence[str]) -> list[str]:
    """Let ``--model A --model B`` stand for ``--model '["A", "B"]'``; the same for datasets, graded videos and bars.

    Example:
        >>> positional(["--model", "a", "--lag", "4", "--model=b"])
        ['--lag', '4', '--model', '["a", "b"]']

    Raises:
        ConfigError: If a list is torn.
    """
    return gather(args, _REPEATED)


def gather(args: Sequence[str], repeated: Sequence[str]) -> list[str]:
    """Make one list of an option that is given several times.

    Args:
        args: The command line.
        repeated: The options.

    Raises:
        ConfigError: If a list is torn.
    """
    rest: list[str] = []
    found: dict[str, list[str]] = {}
    words = iter(args)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in repeated:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        found.setdefault(name, []).extend(_listed(name, value) if value.startswith("[") else [value])
    return [*rest, *(part for name, values in found.items() for part in (name, json.dumps(values)))]


def _listed(name: str, value: str) -> list[str]:
    """Return a list that is written as YAML writes it."""
    try:
        return list(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{name} cannot be read as a list",
            seen=value,
            allowed="a word, or a list such as '[a, b]'",
            remedy=f"Close its brackets and quotes, or give {name} once for each word",
        ) from error


def main(config: BenchRewardConfig) -> dict[str, Any]:
    """Measure, print the table to stderr, return each model's figures, with ``exit`` 1 where a bar is missed."""

    def show(model: str, done: int, of: int) -> None:
        print(f"{model}: video {done}/{of}", file=sys.stderr, flush=True)

    result = bench_reward(config, on_video=show)
    print(result.summary, file=sys.stderr)
    print(result.table, file=sys.stderr)
    for name in result.places:
        for reason, count in result.measured[name].reasons.items():
            print(f"{name}: {count} scores could not be read: {reason!r}", file=sys.stderr)
        for text in result.require:
            said = "not met" if text in result.missed(name) else "met"
            print(f"{name}: {text}: {said}", file=sys.stderr)
    written = result.as_dict(config)
    figures = {name: entry["figures"] for name, entry in written["models"].items()}
    report: dict[str, Any] = {"result": str(config.out / RESULT), "models": figures}
    return report | ({"met": result.met, "exit": 0 if result.met else 1} if result.require else {})
