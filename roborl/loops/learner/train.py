"""The trainer: spends the replay budget on updates, publishes what passes the gate, keeps checkpoints and figures."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from roborl.clock import NS, Clock, Every, MonotonicClock
from roborl.errors import ConfigError, ModelLoadError, TrainingError
from roborl.learning.algorithm import Algorithm, LooksAhead
from roborl.learning.budget import BudgetConfig, ReplayBudget
from roborl.learning.checkpoint import Checkpoint, check_shapes, checkpoints, load_checkpoint, save_checkpoint
from roborl.learning.publish import PolicyPublisher, ProbeActions
from roborl.loops.beating import beating
from roborl.loops.learner.experience import BatchSource, Experience
from roborl.loops.run_files import written

log = logging.getLogger(__name__)

_LONGEST_BURST_S = 0.25
# An update or a probe that takes longer hangs.
_HANGS_S = 600.0
# After a checkpoint passes at least this many times what writing it took.
_SAVING_REST = 9


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How the trainer goes about it."""

    budget: BudgetConfig = field(default_factory=BudgetConfig)
    # updates between two published versions
    publish_every: int = 100
    # seconds between two checkpoints, longer where they take more than a tenth of the time; .inf for one at the end alone
    checkpoint_every_s: float = 20.0
    # checkpoints kept
    keep_checkpoints: int = 3
    # bytes that the published versions may take on the disk. Of the older ones fewer are kept then; the first and the four newest
    # always are
    versions_bytes: int = 8 << 30
    # seconds between two looks at the store
    refresh_every_s: float = 0.2
    # seconds between two lines of metrics
    metrics_every_s: float = 5.0
    # most updates between two looks at everything else
    burst: int = 16
    # remembered observations that new weights are tried on before they go out
    probes: int = 16
    # threads of the tensor library
    threads: int = 1

    def __post_init__(self) -> None:
        counts = (
            self.publish_every,
            self.keep_checkpoints,
            self.versions_bytes,
            self.burst,
            self.probes,
            self.threads,
        )
        pauses_s = (self.checkpoint_every_s, self.refresh_every_s, self.metrics_every_s)
        if (
            min(counts) < 1
            or not all(pause_s >= 0 for pause_s in pauses_s)
            or math.isinf(self.refresh_every_s)
        ):
            raise ConfigError(
                "The trainer cannot run with these settings",
                seen=f"publish_every={self.publish_every} keep_checkpoints={self.keep_checkpoints} "
                f"versions_bytes={self.versions_bytes} burst={self.burst} probes={self.probes} threads={self.threads} "
                f"checkpoint_every_s={self.checkpoint_every_s:g} refresh_every_s={self.refresh_every_s:g} "
                f"metrics_every_s={self.metrics_every_s:g}",
                allowed="1 or more each, 0 or more seconds, refresh_every_s finite",
                remedy="Correct it with --trainer.FIELD",
            )


class Trainer[B]:
    """One turn: look at the store, make the updates that are due, publish, save.

    Args:
        algorithm: What learns.
        source: Where batches come from.
        publisher: Where weights go.
        config: Pace and counts.
        folder: Where checkpoints stand.
        identity: What the model is made for; checkpoints of anything else are refused.
        metrics: Takes one line of figures at a time.
        probe: Returns the gate's probe once there are observations to try weights on.
        history: Online episodes that this run has reported before.
        beat: Shows a sign of life; called from another thread, too, while a checkpoint is written.
        clock: The clock.
    """

    def __init__(
        self,
        *,
        algorithm: Algorithm[B],
        source: BatchSource[B],
        publisher: PolicyPublisher,
        config: TrainerConfig,
        folder: Path,
        identity: Mapping[str, Any],
        metrics: Callable[[dict[str, Any]], None],
        probe: Callable[[], ProbeActions | None] = lambda: None,
        history: int = 0,
        beat: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._algorithm, self._source, self._publisher = algorithm, source, publisher
        self._config, self._folder, self._identity = config, folder, identity
        self._metrics, self._probe, self._beat = metrics, probe, beat
        self._clock: Clock = clock or MonotonicClock()
        self.budget = ReplayBudget(config.budget)
        self._seen = self._committed = 0
        self._episodes = history
        self._experience: Experience | None = None
        self._sums: dict[str, list[float]] = {}
        self._unpublished = self._unsaved = 0
        self._nothing_to_draw = False
        now = self._clock.now_ns()
        self._heard_ns = self._reported_ns = now
        self._refreshing = Every(config.refresh_every_s, self._clock)
        self._save_ns = now + config.checkpoint_every_s * NS
        self._reported_updates = 0

    def start(self, *, resume: bool, rollback: int = 0) -> None:
        """Go on from the newest checkpoint where asked to, and see to it that actors have a policy.

        Args:
            resume: Whether to look for a checkpoint.
            rollback: Version to go back to before anything is sent; 0 for none.

        Raises:
            ModelLoadError: If the checkpoint cannot be read, is of another model, or none of the run's can be used; or if
                that version is not kept.
        """
        found = checkpoints(self._folder) if resume else []
        if found:
            self._load(found[-1])
        if not (rollback and self.roll_back(rollback)):
            self._send_first()
        self._reported_updates = self.budget.updates

    def turn(self) -> int:
        """Do what is due; return how many updates were made, 0 where the caller may rest."""
        now = self._clock.now_ns()
        if self._refreshing.due():
            self._refresh(now)
        due = min(self.budget.allowance(actor_alive=self.actor_alive), self._config.burst)
        made = 0
        # One update of a large policy may take a minute on a CPU.
        with beating(self._beat, at_most_s=_HANGS_S) if due else nullcontext():
            while made < due and self._update():
                made += 1
                if self._clock.now_ns() - now > _LONGEST_BURST_S * NS:
                    break  # On a busy machine the rest of the loop must have its turn too.
            if self._unpublished >= self._config.publish_every:
                self._publish({})
        now = self._clock.now_ns()
        if self._unsaved and now >= self._save_ns:
            self.save()
        if now - self._reported_ns >= self._config.metrics_every_s * NS:
            self._report(now)
        return made

    def roll_back(self, version: int) -> int:
        """Publish an older version under a new number, train on from it, and save that.

        Returns:
            The new number; 0 where the disk does not take it, and then everything stays as it was.

        Raises:
            ModelLoadError: If that version is not kept.
        """
        weights = self._publisher.weights(version)
        try:
            new = self._publisher.roll_back(version)
        except OSError as error:
            log.error(
                "Version %d is not put in force again, for the disk does not take it: %s. Make room, and ask again",
                version,
                error,
            )
            return 0
        self._algorithm.load_actor_weights(weights)
        self._metrics({"kind": "rollback", "version": new, "rolled_back_to": version})
        log.warning("Version %d is in force again, as version %d", version, new)
        self._unpublished = 0
        self._unsaved += 1
        self.save()
        return new

    def finish(self) -> None:
        """Publish what was learned since the last version, save, and report."""
        if self._unpublished:
            self._publish({"from": "finish"})
        self.save()
        self._report(self._clock.now_ns())

    def save(self) -> None:
        """Write a checkpoint, unless nothing was learned since the last one.

        Where the disk takes none, the last one stays and the next is due in its time.
        """
        began = self._clock.now_ns()
        if self._unsaved or not checkpoints(self._folder):
            with beating(self._beat):
                self._write()
        now = self._clock.now_ns()
        self._save_ns = now + max(self._config.checkpoint_every_s * NS, _SAVING_REST * (now - began))

    def _write(self) -> None:
        parts = {
            "algorithm": self._algorithm.state_dict(),
            "budget": self.budget.state_dict(),
            "source": self._source.state_dict(),
            "trainer": {"seen": self._seen, "version": self._publisher.version},
        }
        checkpoint = Checkpoint(step=self.budget.updates, identity=self._identity, parts=parts)
        if written(
            self._folder,
            lambda: save_checkpoint(self._folder, checkpoint, keep=self._config.keep_checkpoints),
        ):
            self._unsaved = 0

    @property
    def actor_alive(self) -> bool:
        """True while experience has come in within the last ``silence_s``."""
        return self._clock.now_ns() - self._heard_ns < self._config.budget.silence_s * NS

    def _send_first(self) -> None:
        """Send the last version for actors that join now; where it is torn, as by a loss of power, send what was loaded."""
        if self._publisher.version == 0:
            self._publish({"from": "start"})
            return
        try:
            self._publisher.republish()
        except ModelLoadError as error:
            log.error("The last version of the policy cannot be read; what was saved goes out: %s", error)
            self._publish({"from": "checkpoint"})

    def _load(self, path: Path) -> None:
        parts = load_checkpoint(path, self._identity).parts
        check_shapes(path, parts["algorithm"], self._algorithm.state_dict(), "algorithm")
        try:
            self._algorithm.load_state_dict(parts["algorithm"])
            self._source.load_state_dict(parts["source"])
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelLoadError(
                f"The checkpoint {path} does not fit the algorithm",
                seen=f"{type(error).__name__}: {error}",
                allowed="a state that this algorithm wrote with these settings",
                remedy="Use the settings it was trained with, or start a new run folder",
            ) from error
        self.budget.load_state_dict(parts["budget"])
        self._seen = int(parts["trainer"]["seen"])
        log.info("Training goes on from %s", path)

    def _refresh(self, now: int) -> None:
        experience = self._experience = self._source.refresh()
        if experience.committed != self._committed:
            self._committed, self._heard_ns = experience.committed, now
        if experience.recorded:
            self.budget.recorded()
        if experience.sampleable > self._seen:
            self.budget.arrived(experience.sampleable - self._seen)
        self._seen = experience.sampleable
        for episode in experience.finished:
            self._episodes += 1
            self._metrics(
                {
                    "kind": "episode",
                    "number": self._episodes,
                    "key": episode.key,
                    "steps": episode.steps,
                    "person": episode.person,
                    "return": episode.reward,
                    "success": episode.success,
                    "end": episode.end,
                    "policy_version": episode.policy_version,
                }
            )
        self._tell_of_practice()

    def _tell_of_practice(self) -> None:
        if self._experience is not None and isinstance(self._algorithm, LooksAhead):
            self._algorithm.practised(self._experience.unaided, self.budget.before_practice)

    def _update(self) -> bool:
        """Make one update; return False where there is nothing to draw."""
        batch = self._source.sample()
        if batch is None:
            if not self._nothing_to_draw:
                log.warning("No transition can be drawn: updates wait for labels or for experience")
            self._nothing_to_draw = True
            return False
        self._nothing_to_draw = False
        for name, value in self._algorithm.update(batch).items():
            if not math.isfinite(value):
                raise TrainingError(
                    "Training has diverged",
                    seen=f"{name} {value} at update {self.budget.updates}",
                    allowed="finite figures",
                    remedy="It goes on from the last checkpoint; if that repeats, lower the learning rate",
                )
            self._sums.setdefault(name, []).append(value)
        ahead = self.budget.ahead
        self.budget.spend(1)
        if ahead:
            self._tell_of_practice()
        self._unpublished += 1
        self._unsaved += 1
        return True

    def _publish(self, note: dict[str, Any]) -> None:
        self._unpublished = 0
        weights = self._algorithm.actor_weights()
        note = {"updates": self.budget.updates, "episodes": self._episodes} | note
        try:
            published = self._publisher.offer(weights, note, self._probe())
        except OSError as error:
            if self._publisher.version == 0:
                raise  # No actor can begin without one.
            self._metrics(
                {"kind": "refused", "reason": f"the disk does not take them: {error.strerror}"} | note
            )
            log.error("New weights are not published, for the disk does not take them: %s", error)
            return
        if published:
            self._metrics({"kind": "version", "version": self._publisher.version} | note)
            return
        reason = self._publisher.last_refusal
        self._metrics({"kind": "refused", "reason": reason} | note)
        log.error("New weights are refused: %s. Version %d stays in force", reason, self._publisher.version)
        if self._publisher.version == 0:
            raise ModelLoadError(
                "The policy to start from must not drive an arm",
                seen=reason,
                allowed="finite weights, actions that are not all at the limits, -1 and 1, or beyond",
                remedy="Start from another policy folder",
            )

    def report(self) -> dict[str, Any]:
        """Return where training stands."""
        line: dict[str, Any] = {
            **self.budget.report(),
            "version": self._publisher.version,
            "refused_versions": self._publisher.refused,
            "episodes": self._episodes,
            "actor_alive": self.actor_alive,
            # Updates that wait for experience must not keep it from coming.
            "holds_actors": self.budget.holds_actors and not self._nothing_to_draw,
            "nothing_to_draw": self._nothing_to_draw,
        }
        if isinstance(self._algorithm, LooksAhead):
            line["lookahead"] = self._algorithm.lookahead
        experience = self._experience
        if experience is not None:
            lag = self._publisher.version - experience.policy_version if experience.policy_version else 0
            line |= {
                "successes": experience.successes,
                "online_transitions": experience.sampleable,
                "policy_version_lag": lag,
                "held_transitions": experience.held,
                "held_draws": experience.held_draws,
                "label_version": experience.label_version,
            }
        return line

    def _report(self, now: int) -> None:
        seconds = (now - self._reported_ns) / NS
        means = {name: math.fsum(values) / len(values) for name, values in self._sums.items()}
        speed = (self.budget.updates - self._reported_updates) / max(seconds, 1e-9)
        self._metrics({"kind": "train", "updates_per_s": speed, **self.report(), **means})
        self._sums.clear()
        self._reported_ns, self._reported_updates = now, self.budget.updates
