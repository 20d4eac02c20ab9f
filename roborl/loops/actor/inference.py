"""The inference process: newest observation to action chunk, with the newest good weights."""

from __future__ import annotations

import importlib
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roborl.data.scales import Scales
from roborl.errors import ConfigError, DeadlineExceeded, ModelLoadError
from roborl.loops.actor.act_config import ActConfig, Card, shared_folder
from roborl.loops.actor.priority import raise_priority
from roborl.loops.actor.shared import Chunk, ChunkSlot, ObservationSlot, Request
from roborl.loops.actor.status import StatusSlot
from roborl.loops.actor.weights_slot import WeightsSlot
from roborl.loops.beating import beating
from roborl.loops.policy_scales import check_scales
from roborl.loops.supervise import Child
from roborl.roles import Planner, Policy
from roborl.serving.weight_layout import WeightSet
from roborl.types import EpisodeKey, Frame, Observation

log = logging.getLogger(__name__)

type Weights = Mapping[str, NDArray[Any]]

_IDLE_S = 0.05
# Of a policy of the user's own. Ours clip; what theirs would do unclipped the learner has looked at before it published them.
_LIMIT = 1.0 + 1e-3
_CARD_S = 120.0
_TRIES = 3
# An action that takes longer hangs.
_HANGS_S = 600.0
# A policy that takes longer shows by itself that it is at work, well before it would count as hanging.
_SLOW_S = 1.0


class LearningPolicy(Policy, Protocol):
    """A policy whose weights can be replaced."""

    def load_actor(self, weights: Weights, version: int) -> None:
        """Replace the weights; raises ModelLoadError and keeps the old ones where they do not fit."""
        ...


class InferenceLoop:
    """Answers observations.

    New weights are taken between two chunks. Those whose first action is not finite or leaves the limits are refused:
    the last good ones come back and choose that action.

    Args:
        make_policy: Makes the policy as it was before any weights were published.
        action_dim: Size of an action.
        observations: Where observations come from.
        chunks: Where chunks go.
        weights: Returns the newest weights, None where there are none.
        received: Returns how many sets of weights have come; cheap. Not their version: another trainer may count anew.
        status: This process's counters.
    """

    def __init__(
        self,
        make_policy: Callable[[], LearningPolicy],
        *,
        action_dim: int,
        observations: ObservationSlot,
        chunks: ChunkSlot,
        weights: Callable[[], WeightSet | None],
        received: Callable[[], int],
        status: StatusSlot,
    ) -> None:
        self._make_policy, self._action_dim = make_policy, action_dim
        self._observations, self._chunks = observations, chunks
        self._weights, self._received = weights, received
        self._status = status
        self._policy = make_policy()
        status["policy_version"] = self._policy.version
        self._key: EpisodeKey | None = None
        self._seen = 0
        self._loaded: WeightSet | None = None
        self._good: WeightSet | None = None
        self._on_trial = False

    def warm_up(
        self, cameras: Mapping[str, tuple[int, int, int]], state_dim: int, *, within_s: float = math.inf
    ) -> float:
        """Choose actions for a blank observation, so that the first real one finds everything loaded, weights that wait too.

        Args:
            cameras: Picture shapes (h, w, 3) by camera name.
            state_dim: Size of the state.
            within_s: How long it may take once all is loaded, s. Where it takes longer it is tried again, for a computer
                that starts everything at once is slow for a moment.

        Returns:
            How long it took at best, s.

        Raises:
            ModelLoadError: If the actions of the policy as it is made cannot be used; weights that choose such are refused.
        """
        self._take_weights()
        frames = {
            name: Frame(rgb=np.zeros(shape, np.uint8), camera=name, stamp_ns=0, id=0)
            for name, shape in cameras.items()
        }
        blank = Observation(frames=frames, state=np.zeros(state_dim, np.float32), stamp_ns=0)
        _, fault = self._try(blank)
        if fault:
            raise ModelLoadError(
                "The policy's actions do not fit this robot",
                seen=fault,
                allowed=f"a chunk of shape (h, {self._action_dim}), float32, from -1 to 1",
                remedy="Give the folder of a policy that was made for this bench; one of your own returns such chunks",
            )
        self._policy.reset()
        took_s, tries = math.inf, 0
        while took_s > within_s and tries < _TRIES:
            began = time.perf_counter()
            self._policy.act(blank)
            took_s, tries = min(took_s, time.perf_counter() - began), tries + 1
            self._policy.reset()
        return took_s

    def turn(self, timeout_s: float = _IDLE_S) -> None:
        """Answer one observation, waiting up to ``timeout_s`` for it, then see to new weights."""
        request = self._observations.wait(timeout_s)
        self._status["heartbeat_ns"] = time.monotonic_ns()
        if request is not None:
            if request.key != self._key:
                self._key = request.key
                self._policy.reset()
            if request.wanted:
                if request.after_person and isinstance(self._policy, Planner):
                    self._policy.forget_plans()
                self._answer(request)
        self._take_weights()

    def _answer(self, request: Request) -> None:
        began_ns = time.perf_counter_ns()
        actions, fault = self._try(request.observation)
        if fault:
            # Nothing is said rather than something wrong: the control loop stops the arm at its deadline.
            self._status.add("bad_chunks")
            log.warning("The policy's answer cannot be used: %s", fault)
            return
        if self._on_trial:
            self._on_trial, self._good = False, self._loaded
        latency_ns = time.perf_counter_ns() - began_ns
        self._chunks.publish(
            Chunk(
                key=request.key,
                first=request.index,
                actions=actions,
                policy_version=self._policy.version,
            )
        )
        self._status.add("chunks")
        self._status.add("latency_sum_ns", latency_ns)
        self._status["latency_max_ns"] = max(latency_ns, self._status["latency_max_ns"])

    def _try(self, observation: Observation) -> tuple[NDArray[np.float32], str]:
        """Return the actions for an observation and what keeps them from being used; weights on trial go where something does."""
        actions = self._policy.act(observation)
        fault = self._fault(actions)
        if fault and self._on_trial:
            self._refuse(f"its first answer is {fault}")
            actions = self._policy.act(observation)
            fault = self._fault(actions)
        return actions, fault

    def _fault(self, actions: NDArray[np.float32]) -> str:
        """Return what keeps a chunk from being used, empty where nothing does."""
        if actions.ndim != 2 or not len(actions) or actions.shape[1] != self._action_dim:
            return f"a chunk of shape {actions.shape}"
        if actions.dtype != np.float32:
            return f"a chunk of {actions.dtype}"
        furthest = float(np.abs(actions).max())
        return "" if furthest <= _LIMIT else f"an action that goes to {furthest:g}"

    def _take_weights(self) -> None:
        """Load the newest weights where some have come since the last look."""
        began_ns, received = time.perf_counter_ns(), self._received()
        newest = self._weights() if received != self._seen else None
        if newest is None:
            return
        self._seen, version = received, newest.version
        try:
            self._load(newest)
        except ModelLoadError as error:
            self._status.add("refused")
            log.warning("Version %d is refused: %s", version, error)
        else:
            self._loaded, self._on_trial = newest, True
            self._status.add("swaps")
            self._status["policy_version"] = version
            self._status["apply_ns"] = time.perf_counter_ns() - began_ns
        self._status["weights_seen"] = received

    def _refuse(self, reason: str) -> None:
        log.warning("Version %d is refused: %s", self._policy.version, reason)
        self._status.add("refused")
        self._on_trial = False
        if self._good is None:
            self._policy = self._make_policy()
        else:
            self._load(self._good)
        self._status["policy_version"] = self._policy.version

    def _load(self, weights: WeightSet) -> None:
        """Load weights; what others have planned is theirs, and goes with them."""
        self._policy.load_actor(weights.arrays(), weights.version)
        if isinstance(self._policy, Planner):
            self._policy.forget_plans()


def policy_maker(config: ActConfig, *counts: int) -> Callable[[str], LearningPolicy]:
    """Return what makes the configured policy for a task, given in words.

    Each policy that is made draws other noise than the one before it: it takes that one's place, and goes on.

    Args:
        config: What the actor is told.
        counts: What tells this start of the process from earlier ones; the same counts give the same noise.

    Raises:
        ConfigError: If the factory cannot be found.
    """
    module, _, name = config.policy_factory.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "The policy factory cannot be found",
            seen=config.policy_factory,
            allowed="module:function",
            remedy="Check the spelling, and that the module can be imported",
        ) from error

    seeds = np.random.SeedSequence([config.seed, *counts])

    def make(task: str) -> LearningPolicy:
        explore = config.exploration if config.explore and config.mode == "train" else None
        seed = int(seeds.spawn(1)[0].generate_state(1)[0])
        policy: LearningPolicy = factory(config.policy, task=task, explore=explore, seed=seed)
        return policy

    return make


def await_card(folder: Path, child: Child) -> Card | None:
    """Wait until the control process has said what its robot is; None where this process must end first.

    Raises:
        DeadlineExceeded: If it does not come in time.
    """
    until = time.monotonic() + _CARD_S
    while not child.stopping:
        card = Card.read(folder)
        if card is not None:
            return card
        if time.monotonic() > until:
            raise DeadlineExceeded(
                "The control process did not say what its robot is", allowed=f"{_CARD_S:g} s"
            )
        time.sleep(0.02)
    return None


def check_speed(took_s: float, card: Card, threads: int) -> None:
    """See whether actions come before the bench stops waiting for them; in simulation that is a warning.

    Args:
        took_s: How long the policy takes to choose actions, s.
        card: What the control process says of the bench.
        threads: Threads of the policy's network.

    Raises:
        ConfigError: If the arm of a physical bench would stop at the first step of every episode.
    """
    if took_s <= card.action_deadline_s:
        return
    error = ConfigError(
        "The policy is slower than the bench waits for an action",
        seen=f"{took_s:.2f} s for each choice of actions, threads={threads}",
        allowed=f"{card.action_deadline_s:g} s",
        remedy="Run it on a GPU; show it fewer pixels; give it more threads, with act --threads or train --act.threads; or raise "
        "watchdog.action_deadline_s of the bench",
    )
    if not card.simulated:
        raise error
    log.warning("Every episode will end at its first step. %s", error)


def main(child: Child, config: ActConfig) -> None:
    """Run the inference process until it is stopped.

    Raises:
        ConfigError: If the policy cannot be made, was made with other scales than the bench's, or is slower than a physical
            bench waits for an action.
        ModelLoadError: If it does not fit the robot.
    """
    folder = shared_folder(config.run, config.actor)
    status, io = StatusSlot(folder, "inference"), StatusSlot(folder, "io")
    status.begin()
    began = time.monotonic()
    # Starts are counted in memory alone; a run that goes on after the machine was restarted knows its episodes still.
    make_policy = policy_maker(config, status["starts"], StatusSlot(folder, "control")["begun"])
    import_s = time.monotonic() - began
    card = await_card(folder, child)
    if card is None:
        return
    scales: Any = card.scales
    if scales:
        check_scales(config.policy, Scales(**scales))
    if card.real_time and config.priority != "normal":
        raise_priority("nice")
    loop = InferenceLoop(
        partial(make_policy, card.task),
        action_dim=card.action_dim,
        observations=ObservationSlot(folder, card.cameras, card.state_dim),
        chunks=ChunkSlot(folder),
        weights=WeightsSlot(folder).read,
        # By what came since this start: what an earlier one of this actor was sent may lie there still.
        received=lambda: io["weights_received"] if config.weights else 0,
        status=status,
    )
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(config.threads)
    try:
        with beating(child.beat, at_most_s=_HANGS_S):
            took_s = loop.warm_up(card.cameras, card.state_dim, within_s=card.action_deadline_s)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ModelLoadError(
            "The policy does not fit this robot",
            seen=f"{type(error).__name__}: {error}",
            allowed=f"cameras {sorted(card.cameras)}, state of {card.state_dim}, action of {card.action_dim}",
            remedy="Give the folder of a policy that was made for this bench",
        ) from error
    check_speed(took_s, card, config.threads)
    status.ready(import_s)
    child.ready(import_s)
    while not child.stopping:
        with beating(child.beat, at_most_s=_HANGS_S) if took_s > _SLOW_S else nullcontext():
            loop.turn()
        child.beat()
