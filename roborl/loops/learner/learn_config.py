"""What the learner's processes are told, and where a run keeps what it makes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from roborl.data.arena import ArenaLayout
from roborl.data.scales import Scales
from roborl.envs.ranges import check_number
from roborl.errors import ConfigError
from roborl.learning.clone import CloneConfig
from roborl.learning.rlpd import RlpdConfig
from roborl.learning.weighted import WeightedConfig
from roborl.loops.demonstrations import DemosConfig
from roborl.loops.learner.episode_labels import LabelConfig
from roborl.loops.learner.replay import MixConfig
from roborl.loops.learner.train import TrainerConfig
from roborl.loops.references import ReferencesConfig
from roborl.paths import same_place
from roborl.serving.security import SecurityConfig

Form = Literal["potential", "progress", "difference", "positive"]


@dataclass(frozen=True)
class RunFolder:
    """The layout of a run's folder."""

    root: Path

    @property
    def store(self) -> Path:
        """Root of the store."""
        return self.root / "store"

    @property
    def policy(self) -> Path:
        """The policy that training started from; actors load it and swap in published weights."""
        return self.root / "policy"

    @property
    def pretrained(self) -> Path:
        """A LeRobot policy with the newest weights, as LeRobot saves one; written when learning ends."""
        return self.root / "pretrained_model"

    @property
    def versions(self) -> Path:
        """Published actor weights."""
        return self.root / "versions"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of the algorithm."""
        return self.root / "checkpoints"

    @property
    def metrics(self) -> Path:
        """Figures over time, JSONL."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Starts, deaths, recoveries and degraded modes, JSONL."""
        return self.root / "events.jsonl"

    @property
    def rollback(self) -> Path:
        """Holds the version to go back to; the trainer takes it away."""
        return self.root / "rollback"

    @property
    def imports(self) -> Path:
        """Names the recorded episodes that have come in whole."""
        return self.root / "demos.json"

    @property
    def learner(self) -> Path:
        """The resolved configuration of the learner."""
        return self.settings("learn")

    @property
    def lock(self) -> Path:
        """Held by the learner at work; the first file of a run."""
        return self.root / ".learner.lock"

    @property
    def begun(self) -> bool:
        """Whether a run began here, however early it ended; a copy may lack the lock."""
        return self.lock.exists() or self.learner.exists()

    def settings(self, verb: str) -> Path:
        """The resolved configuration of ``roborl train`` or ``roborl learn``; a run that goes on begins with it."""
        return self.root / f"{verb}.yaml"

    def status(self, process: str) -> Path:
        """The newest counters of a process, JSON."""
        return self.root / "status" / f"{process}.json"


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """The store process."""

    # bytes of the replay memory; once it is full the oldest online episodes go, and are no longer learnt from
    capacity_bytes: int = 1 << 30
    # flush each record, and the labels of an episode, to the disk itself, so that they survive the loss of power and
    # not only the death of a process
    sync: bool = False


@dataclass(frozen=True, kw_only=True)
class ShapingConfig:
    """How progress becomes reward."""

    # potential leaves the best policy alone; progress, difference and positive do not, and the run says so
    form: Form = "potential"
    # reward that full progress is worth, where the task's is 1; a part is kept for the task, so that a judge that takes
    # nearly done for done does not end the search; 0 trains on the task's reward alone
    scale: float = 0.5
    # spread of a score at which it counts half; .inf lets every score count fully
    doubt: float = math.inf
    # a control: shuffle the scores of each episode in time
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.scale < math.inf and self.doubt > 0):
            raise ConfigError(
                "Shaping cannot use these settings",
                seen=f"scale={self.scale:g} doubt={self.doubt:g}",
                allowed="finite scale >= 0, doubt > 0",
                remedy="To train on the task's reward alone: --shaping.scale 0; to count every score fully: --shaping.doubt .inf",
            )


@dataclass(frozen=True, kw_only=True)
class LearnSettings:
    """What learning needs to know wherever its parts run."""

    # folder of the run; made if missing
    run: Path = Path("outputs/run")
    # name or path of the bench file
    bench: str = "so101_sim"
    # dotted overrides of the bench file, such as --bench_overrides '[--robot.scene=Reach]'
    bench_overrides: list[str] = field(default_factory=list)
    # Python modules to import first: they register robots, cameras or teleoperators of your own with LeRobot
    plugins: list[str] = field(default_factory=list)
    # folder of the policy to start from, roborl's small one or LeRobot's, trained on what roborl record wrote; empty for a small
    # one that is cloned from the demonstrations, or has random weights where there are none. A LeRobot policy learns from the
    # pictures that replay memory keeps, squares of the bench's image_px, and is shown no finer ones during the run
    policy: str = ""
    # demonstrations for the replay memory
    demos: DemosConfig = field(default_factory=DemosConfig)
    # how that policy is cloned
    clone: CloneConfig = field(default_factory=CloneConfig)
    # the demonstration that the reward model is shown, for one that compares with it
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # how progress becomes reward
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    # the share of demonstrations in a batch
    mix: MixConfig = field(default_factory=MixConfig)
    # which algorithm learns: auto for rlpd where the policy is the small one, and weighted where it is LeRobot's; or
    # module:function that makes one (roborl.learning.algorithm.Algorithm) out of this configuration, the policy and the replay
    # memory; its batches bring pictures where its `images` is true
    algorithm: str = "auto"
    # settings of rlpd; one of your own reads batch_size, demo_fraction, discount and n_step of them, and has to form the reward
    # as shaping says
    rlpd: RlpdConfig = field(default_factory=RlpdConfig)
    # settings of weighted
    weighted: WeightedConfig = field(default_factory=WeightedConfig)
    # the trainer
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    # the labeller
    labels: LabelConfig = field(default_factory=LabelConfig)
    # the store
    store: StoreConfig = field(default_factory=StoreConfig)
    # of network initialisation and every draw
    seed: int = 0
    # go on with the run that is in the folder, with its own settings but for those that are named anew
    resume: bool = False
    # publish this older version again and go on from it, with the run's settings too; 0 for no. All of the newest versions
    # are kept, and ever fewer of the older ones
    rollback: int = 0

    def __post_init__(self) -> None:
        check_number("seed", self.seed, at_least=0, remedy="Set --seed")
        if self.trainer.budget.head_start and not self.demos.path:
            raise ConfigError(
                "There is nothing to make a head start on",
                seen=f"trainer.budget.head_start={self.trainer.budget.head_start} and no demonstrations",
                allowed="a head start on recorded episodes",
                remedy="Name a dataset with --demos.path, or set --trainer.budget.head_start 0",
            )

    @property
    def demonstration(self) -> ReferencesConfig:
        """What the reward model is shown: of the recording that is learnt from, no episode that is named there as failed."""
        shown, demos = self.references, self.demos
        same = same_place(shown.path, demos.path)
        return replace(shown, failed=demos.failed) if same and demos.failed and not shown.failed else shown


@dataclass(frozen=True, kw_only=True)
class LearnConfig(LearnSettings):
    """What ``roborl learn`` is told."""

    # address of the reward server; empty trains on the task's reward alone
    reward: str = ""
    # name of the model at the reward server; empty for its only one
    reward_model: str = ""
    # address where the store takes steps
    steps: str = "tcp://127.0.0.1:5550"
    # address where the trainer publishes weights
    weights: str = "tcp://127.0.0.1:5551"
    # keys for links that leave this machine
    security: SecurityConfig = field(default_factory=SecurityConfig)

    @property
    def shaped(self) -> bool:
        """Whether progress becomes reward at all."""
        return bool(self.reward) and self.shaping.scale > 0


@dataclass(frozen=True, kw_only=True)
class BenchForm:
    """What the learner has to know of a bench.

    Attributes:
        task: The instruction in words.
        cameras: Height and width at recording resolution by camera name, px.
        image_px: Side of the square picture a policy sees.
        state_dim: Length of the state.
        action_dim: Length of an action.
        max_steps: Longest episode, steps.
        policy_hz: Steps per second.
        scales: What the numbers of states and actions stand for; None where nobody says.
    """

    task: str
    cameras: dict[str, tuple[int, int]]
    image_px: int
    state_dim: int
    action_dim: int
    max_steps: int
    policy_hz: float
    scales: Scales | None = None

    def arena(self, store: StoreConfig) -> ArenaLayout:
        """Return the form of the replay memory.

        Raises:
            ConfigError: If not even two episodes fit into it.
        """
        return ArenaLayout.fitting(
            cameras=tuple(self.cameras),
            image_px=self.image_px,
            state_dim=self.state_dim,
            action_dim=self.action_dim,
            capacity_bytes=store.capacity_bytes,
            max_steps=self.max_steps,
        )

    def identity(self, algorithm: str) -> dict[str, Any]:
        """Return what a checkpoint of ``algorithm`` on this bench was made for."""
        return {
            "algorithm": algorithm,
            "cameras": sorted(self.cameras),
            "image_px": self.image_px,
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            **(asdict(self.scales) if self.scales else {}),
        }
