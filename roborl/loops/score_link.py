"""The reward server as labeller and live process see it: who judges there, and the line to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from roborl.rewards.model_info import ModelInfo
from roborl.types import Observation, Score


@dataclass(frozen=True, kw_only=True)
class ServedJudge:
    """Who is judging, as the reward server says.

    Attributes:
        info: What the model says of itself; the version is that of its scores on this line, with what sessions bring.
        reply_limit_s: Longest that its server lets a session with frames under way go without a reply, s.
    """

    info: ModelInfo
    reply_limit_s: float = field(default=600.0, compare=False)


class ScoreLink(Protocol):
    """A line to the reward server, in one lane. No call blocks, and none raises while the server is away."""

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        ...

    def judge(self) -> ServedJudge | None:
        """Return who is judging, None while the server is away."""
        ...

    def open(self, task: str, first: Observation | None = None) -> str | None:
        """Start a session and return its name; None while the server is away.

        Args:
            task: The instruction in words.
            first: In the live lane, how an episode began that is under way: a model takes what it sees first for the beginning.
        """
        ...

    def push(self, session: str, observation: Observation, *, score: bool) -> bool:
        """Send the next observation of a session; False where it was not taken.

        In the label lane it must be sent again. In the live lane a newer one may be sent instead, and takes the place of
        one that could not be sent yet.
        """
        ...

    def close(self, session: str) -> None:
        """Forget a session."""
        ...

    def poll(self, timeout_s: float) -> tuple[Sequence[tuple[str, Score]], Mapping[str, str | None]]:
        """Return the (session, score) pairs that came in, and the sessions that are over.

        Each of these with the reason why it was refused, which it would be again; None where it was lost, or there was no
        room: another may be opened in its place.
        """
        ...
