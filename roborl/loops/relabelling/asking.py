"""Who is asked what stages of relabelling want to know: networks by role, every reply logged, a budget kept.

Many episodes are under way at once, each as far as the replies it has. A reply is written down before anything is made of
it, and what is written down is never asked for again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from roborl.data.relabel_sources import DamagedEpisode
from roborl.data.stage_log import StageLog
from roborl.errors import DatasetError
from roborl.loops.relabelling.respondents import Respondent
from roborl.rewards.judges.queries import Refused, VlmReply
from roborl.rewards.model import JudgeDown
from roborl.rewards.relabelling.ladder import Asking
from roborl.rewards.relabelling.proposals import Relabelled
from roborl.rewards.relabelling.questions import Question, Role, Stage
from roborl.rewards.relabelling.replies import UnreadableReply
from roborl.types import Image

log = logging.getLogger(__name__)

_IN_VAIN = 8  # questions in a row without a reply, after which going on is no use


@dataclass(slots=True, eq=False)
class _Episode:
    """An episode under way."""

    name: str
    place: int
    asking: Asking[Relabelled]
    questions: list[Question] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    replies: dict[int, VlmReply | None] = field(default_factory=dict)
    damaged: bool = False


@dataclass(slots=True, kw_only=True)
class Tally:
    """What asking has come to.

    Attributes:
        calls: Questions asked, by stage.
        known: Questions whose replies stood in the log, or that another episode asked, by stage.
        unanswered: Questions that nobody answered, by stage.
        unasked: Questions that the budget left out, by stage.
        pictures: Pictures sent.
    """

    calls: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    unasked: Counter[str] = field(default_factory=Counter)
    pictures: int = 0


class Asker:
    """Has the questions of episodes answered.

    Args:
        respondents: Who plays each role.
        logs: The log of each stage.
        look: Returns the pictures of some observations of an episode by its place among them.
        max_calls: Most questions to ask; 0 for no limit.
        max_tokens: Most tokens of a reply.
        temperature: Of sampling.

    Attributes:
        tally: What it has come to so far.
    """

    def __init__(
        self,
        respondents: Mapping[Role, Respondent],
        logs: Mapping[Stage, StageLog],
        look: Callable[[int, Sequence[int]], Mapping[int, Image]],
        *,
        max_calls: int,
        max_tokens: int,
        temperature: float,
    ) -> None:
        self._respondents, self._logs, self._look = respondents, logs, look
        self._max_calls, self._sampling = max_calls, (max_tokens, temperature)
        self.tally = Tally()
        self._waiting: deque[tuple[_Episode, int]] = deque()
        self._under_way: dict[Future[VlmReply | None], tuple[_Episode, int]] = {}
        self._busy: Counter[str] = Counter()
        self._ready: dict[int, _Episode] = {}
        self._twins: dict[str, list[tuple[_Episode, int]]] = {}
        self._in_vain = 0
        self._answering: set[str] = set()

    def run(
        self, episodes: Iterable[tuple[str, Asking[Relabelled]]], *, at_once: int
    ) -> Iterator[tuple[int, Relabelled | None]]:
        """Yield the place of each episode with what came of it, as they are done; None where its pictures cannot be read.

        Args:
            episodes: Identity and questions of each.
            at_once: How many are under way at most.

        Raises:
            JudgeDown: If a network can no longer be reached, or answers nothing.
            DatasetError: If the log cannot be written.
        """
        source = enumerate(episodes)
        active = 0
        while True:
            while active < at_once and (new := next(source, None)) is not None:
                place, (name, asking) = new
                episode = _Episode(name=name, place=place, asking=asking)
                active += 1
                done = self._advance(episode, first=True)
                if done is not None:
                    active -= 1
                    yield place, done
            if not active:
                self.finish()
                return
            for damaged in self._submit():
                active -= 1
                yield damaged.place, None
            for episode in self._settle():
                done = self._advance(episode)
                if done is not None:
                    active -= 1
                    yield episode.place, done

    def finish(self) -> None:
        """Wait for what is under way and write it down, as far as that can be: it is paid for."""
        with contextlib.suppress(DatasetError):
            self._collect(ALL_COMPLETED)

    def _advance(self, episode: _Episode, *, first: bool = False) -> Relabelled | None:
        """Give an episode its replies as long as all of them are there; return what came of it once it is done."""
        while first or len(episode.replies) == len(episode.questions):
            try:
                if first:
                    episode.questions = next(episode.asking)
                else:
                    ordered = [episode.replies[at] for at in range(len(episode.questions))]
                    episode.questions = episode.asking.send(ordered)
            except StopIteration as ended:
                found: Relabelled = ended.value
                return found
            first = False
            episode.replies = {}
            episode.keys = [self._key(episode, question) for question in episode.questions]
            for at, question in enumerate(episode.questions):
                line = self._logs[question.stage].get(episode.keys[at])
                if line is None:
                    self._wait(episode, at)
                else:
                    self._answering.add(self._respondents[question.role].identity)
                    self.tally.known[question.stage] += 1
                    episode.replies[at] = VlmReply(text=str(line["reply"]), ended=bool(line["ended"]))
        return None

    def _wait(self, episode: _Episode, at: int) -> None:
        """Have a question asked, unless another episode has asked the same and waits for the reply."""
        key = episode.keys[at]
        if key in self._twins:
            self._twins[key].append((episode, at))
        else:
            self._twins[key] = []
            self._waiting.append((episode, at))

    def _submit(self) -> list[_Episode]:
        """Ask what waits, as far as there are seats and budget; return the episodes whose pictures cannot be read."""
        damaged = []
        for _ in range(len(self._waiting)):
            episode, at = self._waiting.popleft()
            if episode.damaged:
                continue
            question = episode.questions[at]
            if 0 < self._max_calls <= self.tally.calls.total():
                self.tally.unasked[question.stage] += 1
                self._take(episode, at, None)
                continue
            respondent = self._respondents[question.role]
            if self._busy[respondent.identity] >= respondent.seats:
                self._waiting.append((episode, at))
                continue
            shown, _ = question.moments
            try:
                pictures = self._look(episode.place, sorted(set(shown))) if shown else {}
            except DamagedEpisode as error:
                log.warning("an episode is left out: %s", error)
                episode.damaged = True
                damaged.append(episode)
                continue
            query = question.query(
                [pictures[index] for index in shown],
                max_tokens=self._sampling[0],
                temperature=self._sampling[1],
            )
            self.tally.calls[question.stage] += 1
            self.tally.pictures += len(shown)
            self._busy[respondent.identity] += 1
            self._under_way[respondent.submit(query)] = (episode, at)
        return damaged

    def _settle(self) -> list[_Episode]:
        """Wait until a reply is in, write down all that are, and return the episodes whose questions all have one."""
        fault = self._collect(FIRST_COMPLETED)
        if self._in_vain >= _IN_VAIN:
            self._collect(ALL_COMPLETED)
            raise JudgeDown(
                "A network answers nothing",
                seen=f"{self._in_vain} questions in a row without a reply" + (f"; {fault}" if fault else ""),
                remedy="See the log above for what it says; against a field of the request, set judge.extensions false."
                " What was answered is kept: run the same again",
            )
        ready, self._ready = self._ready, {}
        return [episode for episode in ready.values() if len(episode.replies) == len(episode.questions)]

    def _collect(self, until: str) -> JudgeDown | None:
        """Wait for replies and write them down; return why a network could not be reached, where one could not."""
        fault = None
        if not self._under_way:
            return fault
        done, _ = wait(self._under_way, return_when=until)
        for future in done:
            episode, at = self._under_way.pop(future)
            respondent = self._respondents[episode.questions[at].role]
            self._busy[respondent.identity] -= 1
            known = respondent.identity in self._answering
            try:
                reply, in_vain = future.result(), True
            except JudgeDown as error:
                fault, reply, in_vain = error, None, True
            except Refused:
                # One that answers others refuses this one for what it is: too many such must not end each run anew.
                reply, in_vain = None, not known
            if reply is None:
                self._in_vain += in_vain * (1 + len(self._twins[episode.keys[at]]))
                self.tally.unanswered[episode.questions[at].stage] += 1
            else:
                self._in_vain = 0
                self._answering.add(respondent.identity)
                self._note(episode, at, respondent, reply)
            self._take(episode, at, reply)
        return fault

    def _take(self, episode: _Episode, at: int, reply: VlmReply | None) -> None:
        twins = self._twins.pop(episode.keys[at])
        for one, place in [(episode, at), *twins]:
            one.replies[place] = reply
            self._ready[one.place] = one
        if reply is not None:
            self.tally.known[episode.questions[at].stage] += len(twins)

    def _note(self, episode: _Episode, at: int, respondent: Respondent, reply: VlmReply) -> None:
        question = episode.questions[at]
        try:
            question.read(reply.text)
            unreadable = ""
        except UnreadableReply as error:
            unreadable = str(error)
        self._logs[question.stage].append(
            episode.keys[at],
            {
                "episode": episode.name,
                "about": question.about,
                "attempt": question.attempt,
                "input": question.input_sha256(*self._sampling),
                "prompt": question.wording.sha256,
                "model": respondent.identity,
                "moments": list(question.moments[0]),
                "reply": reply.text,
                "ended": reply.ended,
                "unreadable": unreadable,
            },
        )

    def _key(self, episode: _Episode, question: Question) -> str:
        stated = [
            # An instruction is put right once, however many episodes have it, or have it for a wrong one.
            "" if question.stage is Stage.CLEAN else episode.name,
            question.input_sha256(*self._sampling),
            question.wording.sha256,
            self._respondents[question.role].identity,
        ]
        return hashlib.sha256(json.dumps(stated).encode()).hexdigest()[:32]
