"""What the actor's processes are told, and where they meet."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from roborl.envs.ranges import check_number
from roborl.errors import ConfigError
from roborl.hil.supervisor import InterventionConfig
from roborl.loops.actor.live_config import LiveConfig
from roborl.loops.seeds import scene_seed
from roborl.policies.exploration import ExplorationConfig
from roborl.serving.security import SecurityConfig
from roborl.whole_files import write_whole

# Under names of their own, since the help of a field is found beside a plain name alone.
WhoOperates = Literal["auto", "sim", "keyboard", "none"]
Priority = Literal["normal", "nice", "fifo"]
Mode = Literal["train", "evaluate"]

_MEMORY_DISK = Path("/dev/shm")
_MEMORY = "roborl-"
_WHOSE = "run.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_LIMITS = {"action_deadline_s", "safety"}
"""What of a card may change while the actor runs: no number in a record or of a policy has another meaning then."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ActSettings:
    """How an actor runs its arm, whoever starts it."""

    # After how many steps of an action chunk the next one is asked for.
    replan_steps: int = 1
    # Who makes the scene ready and judges: sim, keyboard, none (nobody: a task that ends by time alone), or auto: the
    # simulation where there is one, else the keyboard.
    operator: WhoOperates = "auto"
    # YAML file with LeRobot's configuration of a device to take over with, such as "type: gamepad"; empty for none.
    teleop: str = ""
    # When the person at that device commands.
    intervention: InterventionConfig = field(default_factory=InterventionConfig)
    # How a reward model watches the arm while it moves.
    live: LiveConfig = field(default_factory=LiveConfig)
    # Simulation only: the world stands still while no action is there, so that load does not change an episode.
    world_waits: bool = True
    # Memory for steps that the learner does not have yet, in MB; two episodes always fit. 256 hold a minute of two cameras of
    # 320 x 240 at 10 Hz; while the learner is away for longer, the arm waits between episodes.
    ring_mb: int = 256
    # How long to wait at the end until the learner has every step, in seconds.
    drain_s: float = 60.0
    # Threads of the policy's network. More than one take cores that control and trainer share.
    threads: int = 1
    # Scheduling of the control process: normal, nice, or fifo (real time); as far as the system allows. A
    # simulated bench that runs faster than life keeps to normal, since it takes all the time it can get.
    priority: Priority = "fifo"

    def __post_init__(self) -> None:
        for name, least in (("replan_steps", 1), ("ring_mb", 1), ("drain_s", 0), ("threads", 1)):
            remedy = f"Set --{name}, which is --act.{name} in roborl train"
            check_number(name, getattr(self, name), at_least=least, finite=name != "drain_s", remedy=remedy)

    def by_simulator(self, *, simulated: bool) -> bool:
        """Return whether it is the simulator that makes scenes ready and judges.

        Args:
            simulated: Whether the bench is.

        Raises:
            ConfigError: If it shall, and the bench is a physical one.
        """
        if self.operator == "sim" and not simulated:
            raise ConfigError(
                "No simulator makes the scene of this bench ready",
                seen="operator sim, and a physical bench",
                allowed="keyboard, none, auto",
                remedy="Set --operator, which is --act.operator in roborl train, or name a simulated bench",
            )
        return simulated and self.operator in ("auto", "sim")


@dataclass(frozen=True, kw_only=True)
class ActConfig(ActSettings):
    """What ``roborl act`` is told."""

    # Name or path of the bench file.
    bench: str = "so101_sim"
    # Dotted overrides of the bench file, such as --bench_overrides '[--robot.scene=Reach]'.
    bench_overrides: list[str] = field(default_factory=list)
    # Python modules to import first: they register robots, cameras or teleoperators of your own with LeRobot.
    plugins: list[str] = field(default_factory=list)
    # Folder of the run.
    run: Path = Path("outputs/act")
    # Name of this actor, part of every episode's key: no two actors of a learner share one.
    actor: str = "arm"
    # Address where the learner's store takes steps. Empty: tcp://127.0.0.1:5550, or nowhere where the mode is evaluate and no
    # weights are taken; such an evaluation needs no learner, keeps no steps, and begins anew each time.
    steps: str = ""
    # Address where the trainer publishes weights; empty keeps those of the policy folder. Where it is given, no episode begins
    # before the learner has been met and has sent them; then they go on without it.
    weights: str = ""
    # Keys for links that leave this machine.
    security: SecurityConfig = field(default_factory=SecurityConfig)
    # Folder of the policy to start from: one of ours, as LeRobot saves it, or a run's, for what it has learnt. To take weights,
    # a LeRobot policy has to be the one in the learner's run folder, or a copy of it.
    policy: Path = Path("outputs/policy")
    # module:function that makes the policy out of (folder, task=, explore=, seed=): the instruction in words, and how it
    # explores, None for not at all.
    policy_factory: str = "roborl.loops.learnt:policy_of"
    # Whether the policy explores where its episodes are for training. A LeRobot policy does in a run alone, and a kind that draws
    # its actions by itself explores by nothing else.
    explore: bool = True
    # And how.
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    # What the episodes are for: train or evaluate; it goes with their records.
    mode: Mode = "train"
    # Episodes in all, over restarts too, but not over those of the machine: an actor without its learner's run folder
    # counts in memory alone. Where the mode is evaluate, those that were cut short are run again. 0 for no end.
    episodes: int = 0
    # Seed of the scenes and of exploration; a start that goes on draws other noise than the one before it.
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("episodes", self.episodes, at_least=0, remedy="Set --episodes, 0 for no end")
        scene_seed("online", self.seed, 0)
        if not _NAME.fullmatch(self.actor):
            raise ConfigError(
                "The actor's name cannot be used",
                seen=self.actor,
                allowed="up to 40 letters, digits, dots, dashes and underscores, a letter or digit first",
                remedy="Set --actor",
            )
        if self.live.use == "always" and not self.live.server:
            raise ConfigError(
                "There is no reward server to watch the arm",
                seen="live.use always, live.server empty",
                allowed="the address of a reward server, or use auto",
                remedy="Name it with --live.server",
            )

    @property
    def alone(self) -> bool:
        """Whether this is an evaluation that no learner has a part in: nobody keeps its steps."""
        return self.mode == "evaluate" and not self.steps and not self.weights

    @property
    def store(self) -> str:
        """Address where steps go, unless they go nowhere."""
        return self.steps or "tcp://127.0.0.1:5550"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the control process tells the others about its robot, in ``actor.json`` of the shared folder.

    Attributes:
        actor: Name of the actor.
        bench: Name of the bench.
        cameras: Picture shapes (h, w, 3) by camera name, at recording resolution.
        state_dim: Size of the state.
        action_dim: Size of an action.
        real_time: Whether the bench keeps the time of the clock on the wall.
        task: The instruction in words.
        simulated: Whether the robot is.
        policy_hz: Steps per second; None where nobody says.
        control_hz: Set-points per second; None where nobody says.
        max_steps: Time limit of an episode in policy steps; None where nobody says.
        image_px: Side of the square picture a policy sees; None where nobody says.
        outcome: Who says how an episode came out, as :class:`roborl.envs.bench.Bench` names it.
        action_deadline_s: Wall seconds that it waits for an action.
        scales: What the numbers of states and actions stand for, as :class:`roborl.data.scales.Scales` names it.
        safety: The bounds on what reaches the motors, as :class:`roborl.envs.safety.SafetyConfig` names them.
    """

    actor: str
    bench: str
    cameras: dict[str, tuple[int, int, int]]
    state_dim: int
    action_dim: int
    real_time: bool
    task: str = ""
    simulated: bool = False
    policy_hz: float | None = None
    control_hz: float | None = None
    max_steps: int | None = None
    image_px: int | None = None
    outcome: str = ""
    action_deadline_s: float = math.inf
    scales: dict[str, str | tuple[float, ...]] | None = None
    safety: dict[str, float | tuple[float, ...]] = field(default_factory=dict)

    def check_restart(self, folder: Path) -> None:
        """See whether a process that starts again may go on with a bench file that was edited meanwhile, and say what is new.

        Args:
            folder: The actor's shared folder, with the card of the start before where there was one.

        Raises:
            ConfigError: If more than limits changed: the numbers of one run would have two meanings, and the actor's other
                processes know the first alone.
        """
        before = Card.read(folder)
        if before is None:
            return
        changes = _changes(asdict(before), asdict(self))
        if not {name.partition(".")[0] for name in changes} <= _LIMITS:
            raise ConfigError(
                "The bench file was edited while the arm is in use, and its numbers would mean something else from here on",
                seen=", ".join(f"{name} {now}" for name, (_, now) in changes.items()),
                allowed=", ".join(f"{name} {was}" for name, (was, _) in changes.items()),
                remedy=f"Set {self.bench} back and go on with the run, or begin another one with it as it is",
            )
        for name, (was, now) in changes.items():
            log.warning("The bench file was edited: %s is %s now, after %s", name, now, was)

    def write(self, folder: Path) -> None:
        """Leave the card in ``folder``, whole or not at all."""
        write_whole(folder / "actor.json", json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Card | None:
        """Return the card in ``folder``, None while there is none."""
        try:
            fields = json.loads((folder / "actor.json").read_text())
        except FileNotFoundError:
            return None
        fields["cameras"] = {name: tuple(shape) for name, shape in fields["cameras"].items()}
        scales = fields.get("scales") or {}
        fields["scales"] = {n: _as_held(v) for n, v in scales.items()} or None
        fields["safety"] = {n: _as_held(v) for n, v in fields.get("safety", {}).items()}
        return cls(**fields)


def _as_held(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what differs in two cards, by dotted name: as it was and as it is now."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*before, *now]):
        was, new = before.get(name), now.get(name)
        if isinstance(was, Mapping) and isinstance(new, Mapping):
            found |= {f"{name}.{inner}": change for inner, change in _changes(was, new).items()}
        elif was != new:
            found[name] = (was, new)
    return found


def shared_folder(run: Path, actor: str) -> Path:
    """Return, and make, the folder that the processes of one actor share.

    It lies in memory where the system has a memory disk: there a slow or busy disk cannot hold a page that the control
    process writes to. It outlives the processes, not the machine: after a restart of that, ``roborl train`` recalls the
    actors' counts from its store, and ``roborl act`` begins again with the first episode and the first scene.
    """
    if not os.access(_MEMORY_DISK, os.W_OK):
        folder = run / "shared" / actor
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder
    run.mkdir(parents=True, exist_ok=True)  # Before its memory: what has no run is given back.
    folder = _MEMORY_DISK / f"{_MEMORY}{actor}-{zlib.crc32(str(run.resolve()).encode()):08x}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if not (folder / _WHOSE).exists():
        whose = {"run": str(run.resolve()), "device": run.stat().st_dev}
        write_whole(folder / _WHOSE, json.dumps(whose))
    return folder


def give_back_memory(of: Path | None = None) -> int:
    """Remove the shared folders in memory whose run folder is gone, and return how many.

    A run that was killed leaves its steps in memory for the start that goes on with it. Without its run folder there will be
    no such start, and its ring would stay until the machine is switched off. A run folder on a disk that is not there
    now is not gone.

    Args:
        of: Folder whose runs give their memory back too, gone or not.
    """
    given = 0
    for path in _MEMORY_DISK.glob(f"{_MEMORY}*/{_WHOSE}"):
        try:
            whose = json.loads(path.read_text())
        except OSError:
            continue  # Another user's, or just removed by another start.
        run = Path(whose["run"])
        if _gone(run, whose["device"]) or (of is not None and run.is_relative_to(of.resolve())):
            shutil.rmtree(path.parent, ignore_errors=True)
            given += 1
    return given


def _gone(run: Path, device: int) -> bool:
    """Tell whether the folder does not exist, and the disk that it was on is there."""
    above = next(folder for folder in (run, *run.parents) if folder.exists())
    return above != run and above.stat().st_dev == device
