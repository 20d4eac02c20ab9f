"""What ``roborl demo`` is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from roborl.envs.ranges import check_number
from roborl.learning.budget import BudgetConfig
from roborl.learning.clone import CloneConfig
from roborl.learning.rlpd import RlpdConfig
from roborl.loops.learner.episode_labels import LabelConfig
from roborl.loops.learner.learn_config import ShapingConfig, StoreConfig
from roborl.loops.learner.train import TrainerConfig
from roborl.loops.references_config import ReferencesConfig
from roborl.loops.seeds import scene_seed

_OUT = Path("outputs/demo")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of the demonstration run; the defaults are what the README reports."""

    # folder of everything that the run makes; by default a quick one has another
    out: Path = _OUT
    # simulated bench
    bench: str = "so101_sim"
    # simulated task
    scene: str = "PickPlace"
    # m: how far from its usual place each object that matters may start, along either axis; 0: anywhere in reach
    spread_m: float = 0.05
    # of demonstrations, networks, online scenes
    seed: int = 2053
    # scripted demonstrations recorded
    demonstrations: int = 18
    # scripted failures recorded, of each kind
    failures: int = 20
    # demonstrations that the first policy is cloned from
    clone_from: int = 1
    # whether those demonstrations stand in the replay memory too
    replay_demonstrations: bool = True
    # online episodes
    episodes: int = 150
    # scenes of each evaluation
    evaluation: int = 50
    # episodes of each evaluation that are filmed
    filmed: int = 4
    # times faster than life that the simulated arm runs while learning
    time_scale: float = 2.0
    # seconds that the reward model may take for its steps, which two idle cores do in two thirds of it
    reward_budget_s: float = 240.0
    # threads of the preparation, before actor and learner share the processor
    threads: int = 1
    # cloning; the actor goes by the ways that remain alone, so that practice in one place helps it in another
    clone: CloneConfig = field(default_factory=lambda: CloneConfig(ways_alone=True))
    # reward model to practise with in place of one trained here, such as dopamine:outputs/judge
    judge: str = ""
    # the demonstration that it is shown, for one that compares with it
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    # how progress becomes reward; scale 0 learns from the operator's button alone
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    # the store process
    store: StoreConfig = field(default_factory=StoreConfig)
    # the labeller; every fourth observation is scored, as by a judge that takes its time
    labels: LabelConfig = field(default_factory=lambda: LabelConfig(stride=4))
    # the algorithm
    rlpd: RlpdConfig = field(default_factory=RlpdConfig)
    # the trainer
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            budget=BudgetConfig(ratio=16.0, head_start=20_000, start_at=0, hold_actors_at=2_000.0),
            publish_every=200,
        )
    )
    # all the way in about a minute and a half, to see that everything works; the result means nothing
    quick: bool = False

    def __post_init__(self) -> None:
        for name in ("demonstrations", "clone_from", "episodes", "evaluation", "threads"):
            self._check(name, at_least=1)
        for name in ("failures", "filmed", "spread_m"):
            self._check(name, at_least=0)
        self._check("time_scale", above=0.0)
        self._check("reward_budget_s", above=0.0, finite=False)
        self._check("clone_from", at_most=self.demonstrations)
        scene_seed("evaluation", self.seed, self.evaluation - 1)

    def _check(self, name: str, **bounds: Any) -> None:
        check_number(name, getattr(self, name), remedy=f"Correct --{name}", **bounds)

    def quickened(self) -> DemoConfig:
        """Return the same with little of everything."""
        return replace(
            self,
            out=_OUT.with_name("demo-quick") if self.out == _OUT else self.out,
            demonstrations=4,
            clone_from=min(self.clone_from, 4),
            failures=1,
            episodes=6,
            evaluation=4,
            filmed=2,
            time_scale=4.0,
            reward_budget_s=15.0,
            clone=replace(self.clone, encoder_updates=60, actor_updates=200),
            trainer=replace(self.trainer, budget=BudgetConfig(ratio=1.0, head_start=60, start_at=60)),
        )
