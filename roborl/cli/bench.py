"""``roborl bench WHAT``: measures a part or a whole run, beside its peers or its bars, and says which bars are missed."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roborl.errors import ConfigError
from roborl.loops.bars import Bar, Read, bar_row, figure, lined_up, number
from roborl.signals import ended_as_by_ctrl_c
from roborl.whole_files import as_json, require_writable, write_whole


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure; the first word after ``roborl bench`` stands for --what."""

    # transport, replay, weights, sim, control, faults, two-computers, judging, seeds, judges, rabc, or all of them
    # but the last three, which take hours
    what: str = ""
    # folder for one JSON file per benchmark, named by it
    out: Path = Path("outputs/bench")
    # a tenth of the work: the figures mean little, the exit code follows them all the same
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One word of ``roborl bench``, which names the module below :mod:`roborl.loops.benchmarks` whose ``run`` it is.

    Attributes:
        bars: What it must reach.
        quick: Arguments of ``run`` for a tenth of the work.
    """

    bars: tuple[Bar, ...] = ()
    quick: Mapping[str, Any]


def _ratio(name: str) -> Read:
    return lambda result: float(result["ratios"][name])


# What an account of steps must not show, in words.
_FAULTS = {
    "lost": "steps lost",
    "doubled": "steps stored twice",
    "foreign": "steps that nobody committed",
    "misplaced": "steps out of order",
    "altered": "steps with other pictures, state or action",
    "ends_differ": "episodes with another end",
    "overtaken": "steps that the witness missed",
    "not_durable": "records left behind",
}


def _nothing_lost(*path: str, when: str = "") -> tuple[Bar, ...]:
    return tuple(
        Bar(name=words + when, read=figure(*path, fault), most=0) for fault, words in _FAULTS.items()
    )


def _seeds_at(arm: str, share: float) -> Read:
    return lambda result: sum(success >= share for success in result["table"][arm]["by_seed"].values())


def _above(difference: str) -> Read:
    """Read the lower end of a difference's interval by Student's t, for resampling so few seeds covers too little.

    Not a number where too few seeds have both arms.
    """
    return lambda result: float(
        result["differences"].get(difference, {"interval by t": [math.nan]})["interval by t"][0]
    )


def _prefixes_kept() -> Iterator[Bar]:
    for model in ("Dopamine forward", "Dopamine backward", "VLAC one-shot"):
        yield Bar(
            name=f"{model}: ms per score, no prefix kept / kept",
            read=_ratio(f"{model}: no prefix kept / kept"),
            least=1.1,
        )
        yield Bar(
            name=f"{model}: replies with other words where it is kept",
            read=figure("prefixes", model, "replies with other words"),
            most=0,
        )
        yield Bar(
            name=f"{model}: most that a probability differs",
            read=figure("prefixes", model, "most that a probability differs"),
            most=1e-4,
        )
        yield Bar(
            name=f"{model}: prefixes kept at most / their bound",
            read=_ratio(f"{model}: prefixes kept at most / their bound"),
            most=1,
        )


BENCHMARKS = {
    "transport": Benchmark(
        quick={"rounds": 2, "messages": 100},
        bars=(
            Bar(
                name="ours / grpc client stream",
                read=_ratio("ours, ack per transition / grpc client stream, one answer at the end"),
                least=1.5,
            ),
            Bar(
                name="ours / pickle+lz4",
                read=_ratio("ours, ack per transition / pickle+lz4 request/reply"),
                least=3,
            ),
        ),
    ),
    "replay": Benchmark(
        quick={"transitions": 600, "rounds": 3},
        bars=(
            Bar(name="time of a draw, ours / numpy.take", read=_ratio("ours / numpy.take"), most=1.5),
            Bar(name="time of a draw, LeRobot's / ours", read=_ratio("lerobot / ours"), least=10),
            Bar(name="time of a draw, TorchRL's / ours", read=_ratio("torchrl / ours"), least=4),
            Bar(name="insertion, ring, us", read=figure("insert_us", "ring"), most=60),
            Bar(name="insertion, replay memory, us", read=figure("insert_us", "replay memory"), most=60),
        ),
    ),
    "weights": Benchmark(
        quick={"rounds": 3},
        bars=(
            Bar(
                name="published to applied / (3 flat copies + 10 ms), one machine",
                read=lambda result: result["ms"]["ours, one machine (ipc), applied"] / result["bar_ms"],
                most=1,
            ),
            Bar(
                name="published to applied / (3 flat copies + 10 ms), tcp",
                read=lambda result: result["ms"]["ours, tcp, applied"] / result["bar_ms"],
                most=1,
            ),
        ),
    ),
    "sim": Benchmark(
        quick={"rounds": 1, "steps": 50, "peer_steps": 1},
        bars=(
            Bar(
                name="steps/s, two cameras, 96 px",
                read=figure("steps_per_s", "roborl/PickCube-v0"),
                least=100,
            ),
        ),
    ),
    "control": Benchmark(
        quick={"ticks": 1000},
        bars=(
            Bar(name="p99 lateness over a bare loop's, ms", read=figure("p99_over_bare_ms"), most=2),
            Bar(name="maximum lateness over a bare loop's, ms", read=figure("max_over_bare_ms"), most=2),
        ),
    ),
    "faults": Benchmark(
        quick={"kills": 7, "server_away_s": 5.0, "learner_away_s": 10.0},
        bars=(
            *_nothing_lost("account"),
            Bar(
                name="control ticks that survivors missed, beyond a bare loop's share",
                read=figure("missed_ticks", "beyond the bare loop's share"),
                most=0,
            ),
            Bar(name="slowest detection, s", read=figure("detection_s", "max"), most=1),
            Bar(name="slowest return beyond imports, s", read=figure("back_s", "max"), most=3),
            Bar(name="labels unlike those of an undisturbed scoring", read=figure("labels", "wrong"), most=0),
            Bar(name="labels that were taken back", read=figure("labels", "taken_back"), most=0),
            Bar(
                name="rate of steps without reward server / with it",
                read=figure("server_away", "rate_ratio"),
                least=0.9,
            ),
            Bar(name="frames without a label in the end", read=figure("server_away", "missing"), most=0),
            *_nothing_lost("learner_away", "account", when=", learner away"),
        ),
    ),
    "two-computers": Benchmark(
        quick={"cut_s": 5.0, "before_s": 5.0, "after_s": 5.0},
        bars=(
            *_nothing_lost("account"),
            Bar(name="clients without the right keys that got in", read=figure("strangers_in"), most=0),
            Bar(name="clients with them that got in", read=figure("friends_in"), least=1),
        ),
    ),
    "judging": Benchmark(
        quick={"rounds": 2, "observations": 2, "episodes": 4, "frames": 40, "load_s": 2.0},
        bars=(
            Bar(
                name="RoboReward, two small frames: eight sessions / one by one",
                read=_ratio("RoboReward, two small frames: eight sessions / one by one"),
                least=3,
            ),
            *(
                Bar(
                    name=f"{model}: gain of a batch / 3, or what the network alone gains if less",
                    read=_ratio(f"{model}: gain of a batch / 3, or what the network alone gains if less"),
                    least=1,
                )
                for model in ("Dopamine forward", "VLAC one-shot")
            ),
            *_prefixes_kept(),
            Bar(
                name="the server beyond the model, ms", read=figure("server", "beyond the model, ms"), most=1
            ),
            Bar(name="load / sustainable", read=figure("overload", "load / sustainable"), least=2.9),
            Bar(name="live lane, age at most, s", read=figure("overload", "live: age at most, s"), most=0.5),
            Bar(name="labels missing", read=figure("overload", "label: missing in the end"), most=0),
            Bar(
                name="labels out of order or unlike an undisturbed scoring",
                read=figure("overload", "label: out of order or unlike an undisturbed scoring"),
                most=0,
            ),
        ),
    ),
    "seeds": Benchmark(
        quick={"seeds": 1},
        bars=(
            Bar(
                name="PickPlace: seeds whose shaped run ends at 90 %",
                read=_seeds_at("PickPlace shaped", 0.9),
                least=4,
            ),
            *(
                Bar(
                    name=f"PickPlace: shaped - {other}, lower end of the interval",
                    read=_above(f"PickPlace: shaped - {other}"),
                    least=0.001,
                )
                for other in ("sparse", "clone of all demonstrations", "shuffled", "blind")
            ),
        ),
    ),
    "rabc": Benchmark(
        quick={
            "seeds": 1,
            "settings": {
                "demonstrations": 4,
                "failures": 5,
                "judged": 3,
                "reward_steps": 30,
                "evaluation": 6,
                "encoder_updates": 60,
                "actor_updates": 60,
            },
        },
        bars=(
            Bar(
                name="weighted, without what ends below a half - everything, lower end of the interval",
                read=_above("weighted, without what ends below a half - everything"),
                least=0.001,
            ),
        ),
    ),
    "judges": Benchmark(
        quick={"most_seeds": 1, "recorded": 3, "steps": 150, "adapting_steps": 60}
        | {"episodes": 15, "evaluation": 10},
        bars=(
            Bar(
                name="PickPlace fused: success",
                read=figure("table", "PickPlace fused", "success"),
                least=0.95,
            ),
        ),
    ),
}
ALL = tuple(name for name in BENCHMARKS if name not in ("seeds", "judges", "rabc"))


def prepare_args(args: Sequence[str]) -> list[str]:
    """Let the first word name the benchmark."""
    if args and not args[0].startswith("-"):
        return ["--what", args[0], *args[1:]]
    return list(args)


def main(config: Config) -> dict[str, Any]:
    """Run the benchmarks; ``exit`` is 1 where a bar is missed.

    Ctrl-C, SIGTERM and a closed terminal end what they started; a grid goes on from there when it is called again.

    Raises:
        ConfigError: If there is no such benchmark.
    """
    names = ALL if config.what == "all" else (config.what,)
    if not set(names) <= set(BENCHMARKS):
        raise ConfigError(
            "There is no such benchmark",
            seen=config.what or "nothing",
            allowed=[*BENCHMARKS, "all"],
            remedy="Name one: roborl bench transport",
        )
    with ended_as_by_ctrl_c():
        results = {name: _measure(name, config) for name in names}
    missed = [
        f"{name}: {bar['name']}"
        for name, result in results.items()
        for bar in result["bars"]
        if not bar["met"]
    ]
    report = results.get(config.what, results)
    return {**report, "missed": missed, "exit": int(bool(missed))}


def _measure(name: str, config: Config) -> dict[str, Any]:
    benchmark = BENCHMARKS[name]
    require_writable(config.out / f"{name}.json")
    run = importlib.import_module(f"roborl.loops.benchmarks.{name.replace('-', '_')}").run
    result: dict[str, Any] = run(**(benchmark.quick if config.quick else {}))
    result["bars"] = [bar.check(result) for bar in benchmark.bars]
    write_whole(config.out / f"{name}.json", as_json(result, indent=2) + "\n")
    print(table(name, result), file=sys.stderr)
    return result


def table(name: str, result: Mapping[str, Any]) -> str:
    """Return a benchmark's result for people: figures first, then the bars."""
    rows = _rows({key: value for key, value in result.items() if key != "bars"})
    return "\n".join([name, *lined_up([*rows, *map(bar_row, result["bars"])])])


def _rows(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, entry in value.items():
        label = f"{prefix}{key}"
        if isinstance(entry, Mapping):
            rows += _rows(entry, f"{label}: ")
        else:
            rows.append((label, number(entry)))
    return rows
