"""The whole way of an SO-101 without one: ``python -m roborl.testing.simulated_desk``.

LeRobot's own, unmodified drivers talk to emulated servos, which turn a simulated arm; its cameras are rendered. A script
stands for the person: it lays out scenes, leads the leader arm and presses the keys at each command's own terminal.
``--stay true`` leaves all of it plugged in for commands of your own.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roborl.config import HelpShown, parse
from roborl.envs.bench import load_bench
from roborl.errors import ConfigError, RoborlError
from roborl.loops.learner.learn_config import RunFolder
from roborl.testing.own_hands import OwnHands
from roborl.testing.scripted_person import ScriptedPerson, marks
from roborl.testing.simulated_arms import SimulatedArms
from roborl.testing.terminal import Terminal
from roborl.whole_files import write_whole

_LOOK_S = 0.004
# Threads that answer on the buses must not wait long for one that draws.
_SWITCH_S = 0.001


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to try, and how much of it."""

    # ports, calibrations, the bench file and all that the commands leave; a trial that was cut short goes on
    folder: Path = Path("outputs/simulated-desk")
    # simulated task: Reach, PushCube, PickCube, PickPlace, PegInsert, ClearTable
    scene: str = "Reach"
    demonstrations: int = 5  # recorded by hand
    reward_steps: int = 60  # optimiser steps of the reward model
    clone_updates: int = 60  # updates of the first policy's encoder, and of its actor
    episodes: int = 3  # of practice, and of the evaluation after it
    image_px: int = 96  # side of the cameras' pictures
    camera_hz: float = 15.0  # pictures per second
    seed: int = 0  # of scenes, pictures and the hand
    # run nothing, and leave the desk plugged in for commands at another terminal until Ctrl-C
    stay: bool = False

    def __post_init__(self) -> None:
        for name in ("demonstrations", "reward_steps", "clone_updates", "episodes", "image_px", "camera_hz"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is out of range", seen=getattr(self, name), allowed="above 0")


def commands(config: Config, arms: SimulatedArms, bench: Path) -> dict[str, list[str]]:
    """Return the commands of README's section on an SO-101 of one's own, in their order, with less of everything."""
    leader, at = arms.leader, config.folder
    demos, reward, run, wired = at / "demos", at / "reward", at / "run", str(bench)
    teleop = {
        "type": "so101_leader",
        "port": leader.chain.port,
        "id": leader.id,
        "calibration_dir": leader.calibration.parent,
    }
    told: dict[str, tuple[str, dict[str, object]]] = {
        "check": ("check", {"bench": wired}),
        "record": (
            "record",
            {
                "bench": wired,
                "by_hand": config.demonstrations,
                **{f"teleop.{name}": value for name, value in teleop.items()},
                "out": demos,
            },
        ),
        "page": (
            "annotate",
            {
                "dataset": demos,
                "page": at / "marks.html",
                "stages": f"[{', '.join(arms.scene.task.stages)}]",
            },
        ),
        "marks": ("annotate", {"dataset": demos, "marks": at / "marks.json"}),
        "train-reward": (
            "train-reward",
            {"dataset": demos, "out": reward, "training.steps": config.reward_steps},
        ),
        "train": (
            "train",
            {
                "bench": wired,
                "demos": demos,
                "reward": reward,
                "run": run,
                "episodes": config.episodes,
                "clone.encoder_updates": config.clone_updates,
                "clone.actor_updates": config.clone_updates,
                "trainer.budget.start_at": 20,
                "act.ring_mb": 16,
                **({"resume": "true"} if RunFolder(run).begun else {}),
            },
        ),
        "act": (
            "act",
            {
                "bench": wired,
                "mode": "evaluate",
                "policy": run,
                "episodes": config.episodes,
                "run": at / "act",
                "ring_mb": 16,
            },
        ),
    }
    return {
        step: [verb, *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
        for step, (verb, options) in told.items()
    }


def try_all(config: Config, arms: SimulatedArms) -> dict[str, Any]:
    """Run every command beside the desk, and return what each of them returned and what was measured meanwhile.

    Raises:
        RoborlError: If one of them fails.
    """
    path = arms.bench()
    action = load_bench(str(path)).action
    watched = config.folder / "watched.jsonl"
    results: dict[str, Any] = {}
    rates_hz: list[float] = []
    for step, words in commands(config, arms, path).items():
        if step == "marks":
            _mark(config, arms, watched)
        say(f"\n$ roborl {shlex.join(words)}")
        began = time.monotonic()
        with Terminal(words, config.folder / f"{step}.log") as terminal:
            person = ScriptedPerson(
                arms,
                terminal,
                action=action,
                leads=step == "record",
                seed=config.seed + (0 if step == "record" else 10_000),
                watched=watched if step == "record" else None,
            )
            while terminal.running:
                arms.advance()
                person.look()
                time.sleep(_LOOK_S)
            results[step] = terminal.result()
        rates_hz += person.rates_hz
        spent_s = time.monotonic() - began
        say(
            f"{step}: done in {spent_s:.0f} s; scenes made ready {person.scenes}, success pressed {person.successes}"
        )
    figures = {"control_hz": [round(rate, 1) for rate in rates_hz], "lost_s": round(arms.lost_s, 3)}
    return results | {"figures": {"following": arms.following.figures(), **figures}}


def stay(arms: SimulatedArms, config: Config) -> None:
    """Leave the desk plugged in until Ctrl-C; whoever sits here lays out scenes and has the leader led."""
    path = arms.bench()
    say("Plugged in. At another terminal, for example:")
    for step, words in commands(config, arms, path).items():
        if step in ("check", "record"):
            say(f"$ roborl {shlex.join(words)}")
    hands = OwnHands(say)
    person = ScriptedPerson(arms, hands, action=load_bench(str(path)).action, leads=True, seed=config.seed)
    while True:
        arms.advance()
        person.look()
        time.sleep(_LOOK_S)


def say(line: str) -> None:
    """Tell the person at the terminal."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201  (this is a program)


def _mark(config: Config, arms: SimulatedArms, watched: Path) -> None:
    """Save what somebody would have marked on the page."""
    made = marks(config.folder / "demos", watched, arms.scene.task.stages)
    told = {str(index): [asdict(subtask) for subtask in subtasks] for index, subtasks in made}
    write_whole(config.folder / "marks.json", json.dumps(told, indent=1))


def main(args: list[str] | None = None) -> int:
    """Run the trial; return 0 when done, 1 when a command failed, 2 on misuse."""
    try:
        config = parse(
            Config, sys.argv[1:] if args is None else args, prog="python -m roborl.testing.simulated_desk"
        )
        sys.setswitchinterval(_SWITCH_S)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with SimulatedArms(
            config.folder,
            config.scene,
            seed=config.seed,
            image_px=config.image_px,
            camera_hz=config.camera_hz,
        ) as arms:
            if config.stay:
                stay(arms, config)
            result = try_all(config, arms)
    except HelpShown:
        return 0
    except ConfigError as error:
        say(str(error))
        return 2
    except RoborlError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 1
    write_whole(config.folder / "trial.json", json.dumps(result, indent=1))
    print(json.dumps(result["figures"]))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
