"""The nouns of the project: frozen, keyword-only, shape-checked where they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ShapeError

type Image = NDArray[np.uint8]
type Vector = NDArray[np.float32]


class Source(StrEnum):
    """Who chose the executed action."""

    POLICY = "policy"
    PERSON = "person"
    SCRIPT = "script"


class RewardSource(StrEnum):
    """Who gave the task reward."""

    NONE = "none"
    ENV = "env"
    OPERATOR = "operator"
    JUDGE = "judge"


class EndCause(StrEnum):
    """Why an episode ended. Only the first two are terminations of the task.

    A learner that is away ends none: an episode begins only where all of it fits into the ring, and the actor rests.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    TIME_LIMIT = "time_limit"
    OPERATOR_STOP = "operator_stop"
    ESTOP = "estop"
    WATCHDOG = "watchdog"
    ACTOR_LOST = "actor_lost"
    JUDGE_STOP = "judge_stop"
    """A reward model that watched called the task done. Whether it was is for the verdict to say."""

    @property
    def terminated(self) -> bool:
        """True where the task itself ended, so nothing is bootstrapped from the last observation."""
        return self in (EndCause.SUCCESS, EndCause.FAILURE)


class Lane(StrEnum):
    """What the scores of a watched episode are for."""

    LIVE = "live"
    """For done, stuck and help at once: newest frame first, older ones may be skipped; never stored."""
    LABEL = "label"
    """For the progress column: every frame in order, nothing dropped."""


def _check_vector(name: str, value: object, *, size: int | None = None) -> None:
    if not isinstance(value, np.ndarray) or value.dtype != np.float32 or value.ndim != 1:
        seen = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ShapeError(f"{name} has the wrong form", seen=seen, allowed="float32 (d,)")
    if size is not None and value.size != size:
        raise ShapeError(f"{name} has the wrong size", seen=value.size, allowed=size)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frame:
    """One picture of one camera.

    Attributes:
        rgb: Pixels, RGB, uint8 (h, w, 3).
        camera: Name of the camera on its bench.
        stamp_ns: Capture instant on the monotonic clock of the machine that took it.
        id: Index of the observation in its episode that shows this picture.
    """

    rgb: Image
    camera: str
    stamp_ns: int
    id: int

    def __post_init__(self) -> None:
        if self.rgb.dtype != np.uint8 or self.rgb.ndim != 3 or self.rgb.shape[2] != 3:
            raise ShapeError(
                f"A frame of camera {self.camera!r} has the wrong form",
                seen=f"{self.rgb.dtype} {self.rgb.shape}",
                allowed="uint8 (h, w, 3)",
            )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Observation:
    """What the robot perceives at one instant.

    Attributes:
        frames: The newest frame of each camera, by camera name.
        state: Proprioception in the robot's own units, float32 (d,).
        stamp_ns: The instant the state was read, monotonic on that machine.
    """

    frames: Mapping[str, Frame]
    state: Vector
    stamp_ns: int

    def __post_init__(self) -> None:
        _check_vector("The state of an observation", self.state)

    @property
    def images(self) -> dict[str, Image]:
        """Pixels by camera name, uint8 (h, w, 3) each."""
        return {name: frame.rgb for name, frame in self.frames.items()}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class EpisodeKey:
    """Identity of an episode across the whole system.

    Attributes:
        actor: Name of the actor that ran it.
        incarnation: Number of the start of that actor's control process, given by its ring; 1 and up where it was
            recorded without one.
        episode: Count of episodes within the incarnation, from 0.
    """

    actor: str
    incarnation: int
    episode: int

    def __str__(self) -> str:
        return f"{self.actor}-{self.incarnation:04d}-{self.episode:06d}"

    @classmethod
    def parse(cls, text: str) -> EpisodeKey:
        """Read the form that ``str`` writes.

        Example:
            >>> EpisodeKey.parse("left-arm-0002-000017").episode
            17
        """
        actor, incarnation, episode = text.rsplit("-", 2)
        return cls(actor=actor, incarnation=int(incarnation), episode=int(episode))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Command:
    """What was sent to the robot between two observations.

    Attributes:
        action: The action executed, after person and safety, in [-1, 1], float32 (a,).
        proposed: What the policy had proposed, float32 (a,); no move where it had proposed nothing while a person acted.
        source: Who chose the executed action.
        policy_version: Version of the weights behind the proposal; 0 for none.
    """

    action: Vector
    proposed: Vector
    source: Source
    policy_version: int = 0

    def __post_init__(self) -> None:
        _check_vector("An action", self.action)
        _check_vector("A proposed action", self.proposed, size=self.action.size)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Step:
    """One observation, what was done in it, and the task reward that followed.

    Attributes:
        observation: The observation acted in.
        command: What was executed and proposed.
        reward: The task's reward for this step, never a shaped one.
        reward_source: Who gave it.
    """

    observation: Observation
    command: Command
    reward: float
    reward_source: RewardSource


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Episode:
    """A finished episode of T steps and T + 1 observations.

    Attributes:
        key: Identity.
        task: The instruction in words.
        steps: The T steps.
        last_observation: The observation after the last step.
        end: Why it ended.
        success: The verdict, None where nobody gave one.
    """

    key: EpisodeKey
    task: str
    steps: tuple[Step, ...]
    last_observation: Observation
    end: EndCause
    success: bool | None

    @property
    def observations(self) -> tuple[Observation, ...]:
        """All T + 1 observations in order."""
        return (*(step.observation for step in self.steps), self.last_observation)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Score:
    """A reward model's answer about one frame.

    Attributes:
        frame_id: Index of the observation judged.
        progress: How far the task has come, in [0, 1].
        raw: The value before any calibration, in the model's own range.
        spread: Standard deviation of the progress, 0 where unknown.
        done: Whether the task is finished; None where the model does not say, or not yet: it looks finished, and has to do so
            for longer.
        stage: Index of the stage, -1 where the model has none.
        valid: False where the answer could not be read: then progress means nothing and is not used.
        version: Hash of model, prompt, view set, calibration and judge settings.
        reply: The raw reply, for people.
        timings_ms: Named durations.
    """

    frame_id: int
    progress: float
    raw: float
    spread: float = 0.0
    done: bool | None = None
    stage: int = -1
    valid: bool = True
    version: str = ""
    reply: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.valid and not 0.0 <= self.progress <= 1.0:
            raise ShapeError(
                "A valid score has a progress outside its range",
                seen=self.progress,
                allowed="[0, 1]",
                remedy="Mark a reply that cannot be read as valid=False",
            )
