"""From an episode to rows: what is asked of whom in which order, what is kept, and why the rest is not.

An episode is a generator of questions, so that it knows neither networks nor files: it yields lists of questions that do
not depend on each other, and is sent a reply for each, None where nobody gave one. What waits for a missing reply is
left for another run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from roborl.rewards.grades import HIGHEST, LOWEST
from roborl.rewards.instructions import much_alike
from roborl.rewards.judges.queries import VlmReply
from roborl.rewards.relabelling import questions as ask
from roborl.rewards.relabelling.cuts import Places, Timeline, glimpses
from roborl.rewards.relabelling.proposals import Kind, LadderConfig, Proposal, Reject, Relabelled
from roborl.rewards.relabelling.questions import Order, Question, Stage, Verify
from roborl.rewards.relabelling.replies import Analysis, FailurePlan, UnreadableReply, VerifierReply
from roborl.rewards.relabelling.rules import Brief, RuleBreach, cleaning_fault, first_fault
from roborl.rewards.relabelling.wording import MOST_WORDS

_SHORTEST = 0.8  # of the words of an instruction, that it can still be said in

type Asking[T] = Generator[list[Question], list[VlmReply | None], T]


class _Unanswered(Exception):
    """Nobody answered a question on which others depend."""


class Ladder:
    """Relabels one episode.

    Args:
        task: Its instruction as recorded.
        timeline: When its observations were made.
        cheap: Rows that need nobody to write them, the original among them.
        config: How.
    """

    def __init__(
        self, task: str, timeline: Timeline, cheap: Sequence[Proposal], config: LadderConfig
    ) -> None:
        self._recorded, self._timeline, self._cheap, self._config = task, timeline, cheap, config
        self._found = Relabelled(task=task)
        self._wrong: list[str] = []

    def unasked(self) -> Relabelled:
        """Return the rows that need nobody to write them, unverified."""
        self._found.rows += self._cheap
        return self._found

    def run(self) -> Asking[Relabelled]:
        """Ask for everything; return what came of it."""
        found, wrong = self._found, [p.task for p in self._cheap if p.kind is Kind.WRONG_TASK]
        own, *others = yield from _side_by_side([self._clean(task) for task in (self._recorded, *wrong)])
        if own is None:
            return found
        found.task, found.cleaned = own
        yield from self._verify_together(self._named(dict(zip(wrong, others, strict=True))))
        if self._config.counterfactuals or self._config.paraphrases:
            with suppress(_Unanswered):
                yield from self._write_all()
        return found

    def _clean(self, recorded: str) -> Asking[tuple[str, bool] | None]:
        """Return an instruction and whether it was put right; as recorded where it cannot be, None where nobody answered."""
        make = partial(ask.ask_clean, recorded)
        try:
            cleaned = yield from self._attempts(make, lambda text: cleaning_fault(text, recorded))
        except _Unanswered:
            return None
        return (recorded, False) if cleaned is None else (cleaned, True)

    def _named(self, wrong: Mapping[str, tuple[str, bool] | None]) -> list[Proposal]:
        """Return the cheap rows with instructions put right, those of other episodes too: else spelling would give a 1 away."""
        named = []
        for proposal in self._cheap:
            if proposal.kind is not Kind.WRONG_TASK:
                named.append(replace(proposal, task=self._found.task))
            elif (other := wrong[proposal.task]) is not None:
                if much_alike(other[0], self._found.task):
                    self._reject(Stage.CLEAN, RuleBreach(rule="copy", detail="it says the same"), proposal)
                    continue
                named.append(replace(proposal, task=other[0]))
        self._wrong = [proposal.task for proposal in named if proposal.kind is Kind.WRONG_TASK]
        return named

    def _write_all(self) -> Asking[None]:
        found, moments = self._found, self._moments(self._timeline.whole())

        analysis = yield from self._attempts(partial(ask.ask_analysis, found.task, moments))
        if analysis is None:
            return
        plan = yield from self._attempts(partial(ask.ask_plan, found.task, analysis))
        if plan is not None:
            yield from self._write(analysis, plan)

    def _write(self, analysis: Analysis, plan: FailurePlan) -> Asking[None]:
        written: list[str] = []
        own = list(dict.fromkeys([self._found.task, self._recorded]))
        length = len(self._found.task.split())
        for level, failure in enumerate(plan.failures if self._config.counterfactuals else (), start=LOWEST):
            main = plan.main_object if level >= HIGHEST - 2 else ""
            order = Order(
                task=self._found.task,
                analysis=analysis,
                level=level,
                failure=failure,
                earlier=tuple(written),
                words=min(length + 2, MOST_WORDS),
                main_object=main,
            )
            brief = Brief(
                analysis=analysis, known=own, unlike=[*own, *written, *self._wrong], main_object=main
            )
            row = yield from self._one(
                Proposal(kind=Kind.COUNTERFACTUAL, task="", level=level, places=self._timeline.whole()),
                partial(ask.ask_command, order),
                brief,
            )
            written += [row.task] if row is not None else []
        yield from self._paraphrase(analysis, plan.main_object, own, [*written, *self._wrong])

    def _paraphrase(self, analysis: Analysis, main: str, own: list[str], others: list[str]) -> Asking[None]:
        said = list(own)
        lengths = _spread(
            [len(row.task.split()) for row in self._found.rows if row.kind is Kind.COUNTERFACTUAL]
            or [len(own[0].split())],
            self._config.paraphrases,
        )
        for number, length in enumerate(lengths, start=1):
            order = Order(
                task=own[0],
                analysis=analysis,
                level=HIGHEST,
                earlier=tuple(said),
                # An instruction can be drawn out at will, but not said in a word or two.
                words=min(max(length, math.ceil(_SHORTEST * len(own[0].split()))), MOST_WORDS),
                main_object=main,
            )
            brief = Brief(
                analysis=analysis,
                known=own,
                unlike=others,
                apart_from=said,
                main_object=main,
                length=order.words,
            )
            row = yield from self._one(
                Proposal(kind=Kind.PARAPHRASE, task="", level=HIGHEST, places=self._timeline.whole()),
                partial(ask.ask_paraphrase, order, number),
                brief,
            )
            said += [row.task] if row is not None else []

    def _one(
        self, proposal: Proposal, make: Callable[[int, list[str]], Question], brief: Brief
    ) -> Asking[Proposal | None]:
        """Have a command written until one keeps the rules and is verified, or the attempts are used up."""
        rejected: list[str] = []
        tried: set[str] = set()
        for attempt in range(self._config.attempts):
            question = make(attempt, rejected)
            text, fault = self._read(question, (yield from self._reply(question)), proposal)
            if fault is not None:
                rejected.append(f"a reply that cannot be read: {fault.detail}")
                continue
            candidate = replace(proposal, task=text, rejections=len(rejected))
            fault = first_fault(text, brief)
            if text in tried:
                fault = RuleBreach(rule="copy", detail="it was rejected before")
            tried.add(text)
            if fault is None:
                verdict = yield from self._verify(candidate, question.about)
                if verdict is None:
                    raise _Unanswered
                fault = self._weigh(verdict, candidate)
                if fault is None:
                    return self._found.rows[-1]
            else:
                self._reject(question.stage, fault, candidate)
            rejected.append(f"{text!r}: {fault.detail}")
        return None

    def _verify(self, candidate: Proposal, about: str) -> Asking[VerifierReply | RuleBreach | None]:
        """Return the verdict on one proposal, a fault where none can be read, None where nobody answered."""
        rejected: list[str] = []
        for attempt in range(self._config.attempts):
            question = self._ask_verdict(candidate, about, attempt, rejected)
            (reply,) = yield [question]
            if reply is None:
                self._found.unanswered += 1
                return None
            verdict, fault = self._read(question, reply, candidate)
            if fault is None:
                assert isinstance(verdict, VerifierReply), "it was read by the verifier's reader"
                return verdict
            rejected.append(f"a reply that cannot be read: {fault.detail}")
        return RuleBreach(rule="no verdict", detail="no reply of the verifier could be read")

    def _verify_together(self, proposals: Sequence[Proposal]) -> Asking[None]:
        """Verify proposals that do not depend on each other, side by side."""
        names = [f"{p.kind} {number}" for number, p in enumerate(proposals)]
        judged = yield from _side_by_side(
            [self._verify(p, name) for p, name in zip(proposals, names, strict=True)]
        )
        for verdict, proposal in zip(judged, proposals, strict=True):
            if verdict is not None:
                self._weigh(verdict, proposal)

    def _weigh(self, judged: VerifierReply | RuleBreach, candidate: Proposal) -> RuleBreach | None:
        """Keep a proposal that its verdict allows; return why not otherwise."""
        if isinstance(judged, RuleBreach):
            self._reject(Stage.VERIFY, judged, candidate)
            return judged
        blind = self._config.verify is Verify.BLIND
        if blind and judged.level is None:
            fault = RuleBreach(rule="cannot be judged", detail=judged.reason)
        elif judged.level is not None and abs(judged.level - candidate.level) > self._config.tolerance:
            fault = RuleBreach(
                rule="another score",
                detail=f"it earns a {judged.level} and not a {candidate.level}: {judged.reason}",
            )
        elif judged.agrees is False:
            fault = RuleBreach(rule="not confirmed", detail=judged.reason)
        else:
            kept = replace(
                candidate, given=judged.level, said=judged.reason, verified=str(self._config.verify)
            )
            self._found.rows.append(kept)
            return None
        self._reject(Stage.VERIFY, fault, candidate)
        return fault

    def _ask_verdict(self, candidate: Proposal, about: str, attempt: int, rejected: list[str]) -> Question:
        moments = self._moments(candidate.places)
        return ask.ask_verdict(
            self._config.verify, candidate.task, candidate.level, moments, about, attempt, rejected
        )

    def _attempts(
        self,
        make: Callable[[int, list[str]], Question],
        check: Callable[[Any], RuleBreach | None] = lambda value: None,
    ) -> Asking[Any]:
        """Ask until a reply can be read and is in order, and return what it says; None if none is."""
        rejected: list[str] = []
        for attempt in range(self._config.attempts):
            question = make(attempt, rejected)
            value, fault = self._read(question, (yield from self._reply(question)))
            if fault is None:
                fault = check(value)
                if fault is None:
                    return value
                self._found.rejects.append(
                    Reject(stage=question.stage, rule=fault.rule, text=str(value), reason=fault.detail)
                )
            rejected.append(fault.detail)
        return None

    def _reply(self, question: Question) -> Asking[VlmReply]:
        (reply,) = yield [question]
        if reply is None:
            self._found.unanswered += 1
            raise _Unanswered
        return reply

    def _read(
        self, question: Question, reply: VlmReply, proposal: Proposal | None = None
    ) -> tuple[Any, RuleBreach | None]:
        """Return what a reply says, or why it cannot be read, which is then noted."""
        try:
            if not reply.ended:
                raise UnreadableReply("it was cut short; more tokens may help: max_tokens")
            return question.read(reply.text), None
        except UnreadableReply as error:
            self._found.rejects.append(
                Reject(
                    stage=question.stage,
                    rule="unreadable",
                    kind=proposal.kind if proposal else None,
                    level=proposal.level if proposal else None,
                    text=reply.text[:400],
                    reason=str(error),
                )
            )
            return None, RuleBreach(rule="unreadable", detail=str(error))

    def _reject(self, stage: Stage, fault: RuleBreach, candidate: Proposal) -> None:
        self._found.rejects.append(
            Reject(
                stage=stage,
                rule=fault.rule,
                kind=candidate.kind,
                level=candidate.level,
                text=candidate.task,
                reason=fault.detail,
            )
        )

    def _moments(self, places: Places) -> ask.Moments:
        return glimpses(places, self._timeline.video_hz, self._config.frame_hz)


def _side_by_side[T](asked: Sequence[Asking[T]]) -> Asking[list[T]]:
    """Ask what several ask, one question each at a time, side by side; return what comes of each."""
    found: dict[int, T] = {}
    waiting: dict[int, list[Question]] = {place: next(each) for place, each in enumerate(asked)}
    while waiting:
        replies = yield [question for listed in waiting.values() for question in listed]
        on = {}
        for place, reply in zip(waiting, replies, strict=True):
            try:
                on[place] = asked[place].send([reply])
            except StopIteration as ended:
                found[place] = ended.value
        waiting = on
    return [found[place] for place in range(len(asked))]


def _spread(lengths: Sequence[int], count: int) -> list[int]:
    """Return so many of some lengths, from the longest on, evenly over them.

    Example:
        >>> _spread([8, 12, 9, 10], 2), _spread([7], 2)
        ([12, 8], [7, 7])
    """
    order = sorted(lengths, reverse=True)
    last = len(order) - 1
    return [order[round(place * last / max(1, count - 1))] for place in range(count)]
