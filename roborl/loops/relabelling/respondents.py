"""The networks that are asked, by role: endpoints, a network in this process, or a fake one."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from roborl.errors import ConfigError
from roborl.loops.relabelling.config import FAKE, NONE, RelabelConfig
from roborl.rewards.judges.config import JudgeConfig, JudgeKind
from roborl.rewards.judges.opening import open_judge
from roborl.rewards.judges.queries import VlmJudge, VlmQuery, VlmReply
from roborl.rewards.relabelling.fake import FakeRelabeller, made_up
from roborl.rewards.relabelling.questions import Role

if TYPE_CHECKING:
    from roborl.rewards.judges.openai_judge import OpenAiJudge


class Respondent(Protocol):
    """A network that answers one question at a time, several of them at once."""

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def identity(self) -> str:
        """Hash of all that bears on its replies."""
        ...

    @property
    def seats(self) -> int:
        """How many questions it may have at once."""
        ...

    def submit(self, query: VlmQuery) -> Future[VlmReply | None]:
        """Ask; the reply is None where it gives none."""
        ...

    def close(self) -> None:
        """Drop what is under way."""
        ...


def open_respondents(config: RelabelConfig) -> dict[Role, Respondent]:
    """Open who plays each role; none where there is no model.

    Raises:
        ConfigError: If a place is none, or its key is missing.
        ModelLoadError: If a checkpoint cannot be used.
        JudgeDown: If an endpoint does not tell what it serves.
    """
    if config.model == NONE:
        return {}
    asked = {
        Role.MODEL: (config.model, config.judge),
        Role.WRITER: (config.writer or config.model, config.writer_judge if config.writer else config.judge),
        Role.VERIFIER: (
            config.verifier or config.model,
            config.verifier_judge if config.verifier else config.judge,
        ),
    }
    opened: dict[tuple[str, str], Respondent] = {}
    found: dict[Role, Respondent] = {}
    for role, (place, judge) in asked.items():
        key = (place, repr(judge))
        opened[key] = opened.get(key) or _open(place, judge, config.max_pixels)
        found[role] = opened[key]
    return found


def told_names(respondents: Mapping[Role, Respondent]) -> dict[str, str]:
    """Return who plays each role, by name and identity."""
    return {str(role): f"{who.name} ({who.identity})" for role, who in respondents.items()}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dry:
    """Stands in for a network that is not to be asked, and says what is of use at once.

    Attributes:
        who: The network.
        seats: How many questions it takes at once.
    """

    who: Respondent
    seats: int = 64

    @property
    def name(self) -> str:
        """As of the network."""
        return self.who.name

    @property
    def identity(self) -> str:
        """As of the network, by which its replies are found."""
        return self.who.identity

    def submit(self, query: VlmQuery) -> Future[VlmReply | None]:
        """Answer at once."""
        words = "".join(part for part in query.parts if isinstance(part, str))
        reply: Future[VlmReply | None] = Future()
        reply.set_result(VlmReply(text=made_up(words)))
        return reply

    def close(self) -> None:
        """As of the network."""
        self.who.close()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Endpoints:
    """Endpoints, which answer many questions at once."""

    judge: OpenAiJudge
    seats: int

    @property
    def name(self) -> str:
        return self.judge.model

    @property
    def identity(self) -> str:
        return self.judge.identity

    def submit(self, query: VlmQuery) -> Future[VlmReply | None]:
        return self.judge.submit(query)

    def close(self) -> None:
        self.judge.close()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Here:
    """A judge in this process, which answers one question after the other."""

    name: str
    judge: VlmJudge
    thread: ThreadPoolExecutor
    seats: int = 1

    @property
    def identity(self) -> str:
        return self.judge.identity

    def submit(self, query: VlmQuery) -> Future[VlmReply | None]:
        return self.thread.submit(lambda: self.judge.answer([query])[0])

    def close(self) -> None:
        self.thread.shutdown(wait=False, cancel_futures=True)


def _open(place: str, config: JudgeConfig, max_pixels: int) -> Respondent:
    if place == FAKE:
        return _Here(name=FAKE, judge=FakeRelabeller(), thread=ThreadPoolExecutor(1))
    name, at, urls = place.rpartition("@")
    if "://" in urls:
        from roborl.rewards.judges.openai_judge import OpenAiJudge

        endpoints = tuple(url.strip() for url in urls.split(","))
        asked = replace(config, kind=JudgeKind.OPENAI, endpoints=endpoints, served_model=name)
        judge = OpenAiJudge(asked, max_pixels=max_pixels)
        return _Endpoints(judge=judge, seats=config.concurrency * len(endpoints))
    if at and not name:
        raise ConfigError(
            "A place is no network", seen=place, allowed="NAME@URL, URL, a folder, fake or none"
        )
    here = replace(config, kind=JudgeKind.TRANSFORMERS)
    network = open_judge(here, place, max_pixels=max_pixels)
    return _Here(name=place, judge=network, thread=ThreadPoolExecutor(1))
