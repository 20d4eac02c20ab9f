"""What relabelling proposes, keeps and rejects."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from roborl.errors import ConfigError
from roborl.rewards.benchmark import CLIPS
from roborl.rewards.grades import HIGHEST, LOWEST
from roborl.rewards.relabelling.cuts import Places
from roborl.rewards.relabelling.questions import Stage, Verify


class Kind(StrEnum):
    """What a row is."""

    ORIGINAL = "original"
    """The whole video and its own instruction."""
    COUNTERFACTUAL = "counterfactual"
    """The whole video and a written instruction that it fulfils only in part."""
    PARAPHRASE = "paraphrase"
    """The whole video and its own instruction in other words."""
    CLIP = "clip"
    """The beginning of the video and its own instruction."""
    REWIND = "rewind"
    """The video, part of the way back, and its own instruction."""
    WRONG_TASK = "wrong_task"
    """The whole video and the instruction of another episode."""


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """How an episode is relabelled."""

    # what the verifier is told: blind (not the proposed score) or shown (to confirm it, as in the paper)
    verify: Verify = Verify.BLIND
    # how far a blind verifier's score may lie from the proposed one, levels; the proposed one is kept
    tolerance: int = 0
    # most attempts at each reply: what cannot be read, breaks a rule or is not verified is asked for again
    attempts: int = 3
    # whether commands are written for the scores 1 to 4
    counterfactuals: bool = True
    # instructions in other words, as long as the commands of the lower scores
    paraphrases: int = 2
    # moments per second of a video that networks are shown, beside the true last one, Hz
    frame_hz: float = 1.0

    # share of the way to success that a clip of each score 1 to 4 shows
    clips: dict[int, float] = field(default_factory=lambda: dict(CLIPS))
    # rewound videos for each episode: all of it, then back to where a clip of one of the scores would end
    rewinds: int = 1
    # instructions of other episodes for each episode
    wrong_tasks: int = 1

    def __post_init__(self) -> None:
        counts = (self.tolerance, self.paraphrases, self.rewinds, self.wrong_tasks)
        order = [share for _, share in sorted(self.clips.items())]
        if (
            self.attempts < 1
            or min(counts) < 0
            or not 0.0 < self.frame_hz < math.inf
            or not set(self.clips) <= set(range(LOWEST, HIGHEST))
            or not all(0.0 < share < 1.0 for share in order)
            or order != sorted(set(order))
        ):
            raise ConfigError(
                "Episodes cannot be relabelled in this way",
                seen=f"attempts {self.attempts}, tolerance {self.tolerance}, paraphrases {self.paraphrases},"
                f" frame_hz {self.frame_hz}, clips {dict(self.clips)}, rewinds {self.rewinds},"
                f" wrong_tasks {self.wrong_tasks}",
                allowed="attempts ≥ 1, frame_hz > 0, clips of the scores 1 to 4 with shares in (0, 1) that rise with the"
                " score, the others ≥ 0",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A row that may be kept.

    Attributes:
        kind: What it is.
        task: Its instruction.
        level: The score it is proposed for, 1 to 5.
        places: What its video shows.
        share: Of the way to success, at the end of a clip or rewind; None for others.
        given: The score that the verifier gave; None where nobody verified it, or it was not asked for one.
        said: The verifier's reason.
        verified: How it was verified: ``blind``, ``shown`` or ``none``.
        rejections: How many replies were rejected on the way to it.
    """

    kind: Kind
    task: str
    level: int
    places: Places
    share: float | None = None
    given: int | None = None
    said: str = ""
    verified: str = "none"
    rejections: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Something that is not kept.

    Attributes:
        stage: Where it was rejected.
        rule: Short name of the reason, by which rejects are counted.
        kind: What it would have been; None for a reply that is no row.
        level: The score it was proposed for; None likewise.
        text: The instruction, or the reply that cannot be read.
        reason: Why, in full.
    """

    stage: Stage
    rule: str
    kind: Kind | None = None
    level: int | None = None
    text: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Relabelled:
    """What came of an episode.

    Attributes:
        task: Its instruction, put right where there is somebody to do so.
        cleaned: Whether it was put right, or found right.
        rows: What is kept.
        rejects: What is not.
        unanswered: Questions that nobody answered, because of a fault or for want of budget.
    """

    task: str
    cleaned: bool = False
    rows: list[Proposal] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    unanswered: int = 0
