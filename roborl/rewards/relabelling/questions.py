"""The questions of every stage: which role is asked, with which words, about which moments of the video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from roborl.rewards.judges.queries import Clip, Part, VlmQuery
from roborl.rewards.relabelling import replies
from roborl.rewards.relabelling.replies import Analysis
from roborl.rewards.relabelling.wording import (
    ANALYSE,
    CLEAN,
    KEEP_MAIN,
    PARAPHRASE,
    PLAN,
    VERIFY_BLIND,
    VERIFY_SHOWN,
    WRITE,
    Wording,
    again,
    listed,
)
from roborl.types import Image


class Stage(StrEnum):
    """A step of relabelling that asks a network."""

    CLEAN = "clean"
    ANALYSE = "analyse"
    PLAN = "plan"
    WRITE = "write"
    VERIFY = "verify"


class Role(StrEnum):
    """Who is asked."""

    MODEL = "model"
    """Sees the video: analyses, and plans."""
    WRITER = "writer"
    """Sees no picture: puts right, and writes."""
    VERIFIER = "verifier"
    """Sees the video: scores."""


class Verify(StrEnum):
    """What the verifier is told."""

    BLIND = "blind"
    """Not the proposed score: it gives one of its own."""
    SHOWN = "shown"
    """The proposed score, to confirm or not, as in the paper."""


type Moments = tuple[tuple[int, ...], tuple[float, ...]]
"""Observations that are shown, in order, and their instants in s."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Question:
    """One call of a network.

    Attributes:
        stage: The step.
        role: Who is asked.
        about: What the reply is for, such as ``command 3``.
        attempt: Which attempt at it, from 0.
        wording: The words, without what stands in their slots.
        words: The words in full.
        moments: What is shown of the video; nothing to a writer.
        read: Reads a reply; raises :class:`~.replies.UnreadableReply`.
    """

    stage: Stage
    role: Role
    about: str
    attempt: int
    wording: Wording
    words: str
    moments: Moments = ((), ())
    read: Callable[[str], object] = field(repr=False)

    def query(self, pictures: Sequence[Image], *, max_tokens: int, temperature: float) -> VlmQuery:
        """Return what a judge is asked.

        Args:
            pictures: Those of the moments, in their order.
            max_tokens: Most tokens of the reply.
            temperature: Of sampling.
        """
        _, stamps_s = self.moments
        shown: tuple[Part, ...] = (Clip(frames=tuple(pictures), stamps_s=stamps_s),) if stamps_s else ()
        return VlmQuery(
            parts=(self.words, *shown), max_tokens=max_tokens, temperature=temperature, seed=self.attempt
        )

    def input_sha256(self, *settings: object) -> str:
        """Return the hash of what is asked, beside the words' own: slots, moments, attempt and settings of sampling."""
        stated = json.dumps([self.stage, self.about, self.attempt, self.words, self.moments, settings])
        return hashlib.sha256(stated.encode()).hexdigest()


def ask_clean(task: str, attempt: int, rejected: list[str]) -> Question:
    """Ask for the instruction put right."""
    return Question(
        stage=Stage.CLEAN,
        role=Role.WRITER,
        about="task",
        attempt=attempt,
        wording=CLEAN,
        words=CLEAN.fill(task=task, again=again(rejected)),
        read=replies.read_task,
    )


def ask_analysis(task: str, moments: Moments, attempt: int, rejected: list[str]) -> Question:
    """Ask what the video shows."""
    return Question(
        stage=Stage.ANALYSE,
        role=Role.MODEL,
        about="video",
        attempt=attempt,
        wording=ANALYSE,
        words=ANALYSE.fill(task=task, again=again(rejected)),
        moments=moments,
        read=replies.read_analysis,
    )


def ask_plan(task: str, analysis: Analysis, attempt: int, rejected: list[str]) -> Question:
    """Ask for a way of failing for each of the levels 1 to 4."""
    return Question(
        stage=Stage.PLAN,
        role=Role.MODEL,
        about="failures",
        attempt=attempt,
        wording=PLAN,
        words=PLAN.fill(task=task, analysis=analysis.spelt(), again=again(rejected)),
        read=replies.plan_reader(analysis),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A command that is to be written.

    Attributes:
        task: The instruction that the robot had.
        analysis: What the video shows.
        level: The score it is for.
        failure: The plan for it; empty for a paraphrase.
        earlier: Commands that are there already.
        words: Words that it shall have.
        main_object: What the instruction is about; empty where the command may be about another thing.
    """

    task: str
    analysis: Analysis
    level: int
    failure: str = ""
    earlier: tuple[str, ...]
    words: int
    main_object: str = ""


def ask_command(order: Order, attempt: int, rejected: list[str]) -> Question:
    """Ask for a command that the video fulfils to some degree."""
    main = KEEP_MAIN.format(main_object=order.main_object) if order.main_object else ""
    words = WRITE.fill(
        task=order.task,
        analysis=order.analysis.spelt(),
        level=str(order.level),
        failure=order.failure,
        earlier=listed(list(order.earlier)),
        words=str(order.words),
        main=main,
        again=again(rejected),
    )
    return Question(
        stage=Stage.WRITE,
        role=Role.WRITER,
        about=f"command {order.level}",
        attempt=attempt,
        wording=WRITE,
        words=words,
        read=replies.read_command,
    )


def ask_paraphrase(order: Order, number: int, attempt: int, rejected: list[str]) -> Question:
    """Ask for the real instruction in other words."""
    words = PARAPHRASE.fill(
        task=order.task,
        analysis=order.analysis.spelt(),
        earlier=listed(list(order.earlier)),
        words=str(order.words),
        main_object=order.main_object,
        again=again(rejected),
    )
    return Question(
        stage=Stage.WRITE,
        role=Role.WRITER,
        about=f"paraphrase {number}",
        attempt=attempt,
        wording=PARAPHRASE,
        words=words,
        read=replies.read_command,
    )


def ask_verdict(
    verify: Verify, task: str, level: int, moments: Moments, about: str, attempt: int, rejected: list[str]
) -> Question:
    """Ask how far a video fulfils an instruction; a blind verifier gets no trace of the proposed score."""
    slots = {"task": task, "again": again(rejected)}
    if verify is Verify.BLIND:
        wording, words, read = VERIFY_BLIND, VERIFY_BLIND.fill(**slots), replies.read_blind
    else:
        wording, words = VERIFY_SHOWN, VERIFY_SHOWN.fill(**slots, level=str(level))
        read = replies.read_shown
    return Question(
        stage=Stage.VERIFY,
        role=Role.VERIFIER,
        about=about,
        attempt=attempt,
        wording=wording,
        words=words,
        moments=moments,
        read=read,
    )
