"""Finished episodes scored by a reward server, several side by side, so that its batches fill."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from roborl.clock import Clock, Deadline, MonotonicClock
from roborl.errors import ConfigError, DeadlineExceeded
from roborl.loops.score_link import ScoreLink
from roborl.types import Observation, Score

_POLL_S = 0.05
_WINDOW = 32  # observations of an episode that a server may hold, or one stride of them


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ShownEpisode:
    """An episode to score.

    Attributes:
        index: What its caller knows it by.
        task: The instruction in words.
        observations: All T + 1 of them, in order.
        stride: How far apart those that get a score are. The last always gets one, and all are seen.
    """

    index: int
    task: str
    observations: Sequence[Observation]
    stride: int = 1

    def scored(self, index: int) -> bool:
        """Return whether the observation at ``index`` gets a score of its own."""
        return index % self.stride == 0 or index == len(self.observations) - 1


@dataclass(slots=True, eq=False)
class _Watching:
    """An episode that is being scored, and its session while it has one."""

    episode: ShownEpisode
    session: str | None = None
    pushed: int = 0
    most: int = 0
    scores: list[Score] = field(default_factory=list)
    nbytes: int = field(init=False)
    asked: int = field(init=False)

    def __post_init__(self) -> None:
        shown = self.episode.observations
        self.asked = sum(self.episode.scored(index) for index in range(len(shown)))
        self.nbytes = sum(frame.rgb.nbytes for o in shown for frame in o.frames.values())

    def advance(self, line: ScoreLink) -> None:
        if self.session is None:
            self.session, self.pushed, self.scores = line.open(self.episode.task), 0, []
        shown = self.episode.observations
        # While the server has room, those that get no score hold no credit: further ones would fill it for nothing.
        scored = self.scores[-1].frame_id + 1 if self.scores else 0
        most = min(len(shown), scored + max(_WINDOW, self.episode.stride + 1))
        while (
            self.session is not None
            and self.pushed < most
            and line.push(self.session, shown[self.pushed], score=self.episode.scored(self.pushed))
        ):
            self.pushed += 1


@contextmanager
def read_ahead[T](items: Iterable[T]) -> Iterator[Iterator[T | None]]:
    """Give out what an iterable makes in a thread, one item ahead: None where the next is not ready yet.

    Whoever talks to a server goes on doing so while videos are decoded. What the iterable raises is raised here.
    """
    ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(maxsize=1)
    left = threading.Event()

    def hand(item: T | None, end: BaseException | None) -> bool:
        while not left.is_set():
            try:
                ready.put((item, end), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not hand(item, None):
                    return
        except BaseException as error:
            hand(None, error)
        else:
            hand(None, StopIteration())

    def taken() -> Iterator[T | None]:
        while True:
            try:
                item, end = ready.get_nowait()
            except queue.Empty:
                yield None
                continue
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item

    thread = threading.Thread(target=work, name="read ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        left.set()
        thread.join()


def score_episodes(
    line: ScoreLink,
    episodes: Iterator[ShownEpisode | None],
    *,
    deadline_s: float,
    at_once: int = 8,
    max_bytes: int = 1 << 30,
    clock: Clock | None = None,
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, list[Score]]]:
    """Have episodes scored, each in a session of its own, as :func:`roborl.rewards.model.score_episode` scores one here.

    A session that is lost is opened again and shown its episode from the start. Blocks between what it yields.

    Args:
        line: The line to the server.
        episodes: What to score; None where the next one is not ready yet.
        deadline_s: How long no further score may come from the server while episodes wait for some.
        at_once: Most episodes side by side.
        max_bytes: No further episode is begun while the pictures of those under way take more; one always is.
        clock: The clock.
        stopping: Ends it early; what is under way is let go.

    Yields:
        An episode's index and one score per observation that gets one, as soon as all are there.

    Raises:
        ConfigError: If the server has no such model, it wants a view that is not there, or it refuses an episode's task.
        DeadlineExceeded: If the server is away until the deadline.
    """
    clock = clock or MonotonicClock()
    deadline = Deadline(deadline_s, clock)
    under_way: list[_Watching] = []
    over = False
    try:
        while not stopping():
            held = sum(one.nbytes for one in under_way)
            if not over and len(under_way) < at_once and (not under_way or held < max_bytes):
                try:
                    following = next(episodes)
                except StopIteration:
                    over = True
                else:
                    if following is not None:
                        under_way.append(_Watching(following))
            if not under_way:
                if over:
                    return
                deadline = Deadline(deadline_s, clock)
            elif deadline.passed:
                raise _silent(line, under_way, deadline_s)
            if line.judge() is not None:
                for one in under_way:
                    one.advance(line)
            came, lost = line.poll(_POLL_S)
            for one in under_way:
                one.scores += [score for name, score in came if name == one.session]
                if len(one.scores) > one.most:  # not at every score: a session may be lost again and again
                    one.most, deadline = len(one.scores), Deadline(deadline_s, clock)
                if one.session is not None and one.session in lost:
                    if (reason := lost[one.session]) is not None:
                        raise _refused(one.episode, reason)
                    one.session = None
            for one in [w for w in under_way if len(w.scores) == w.asked]:
                if one.session is not None:
                    line.close(one.session)
                under_way.remove(one)
                yield one.episode.index, one.scores
    finally:
        for one in under_way:
            if one.session is not None:
                line.close(one.session)


def score_over(
    line: ScoreLink,
    task: str,
    observations: Sequence[Observation],
    *,
    deadline_s: float,
    clock: Clock | None = None,
) -> list[Score]:
    """Have one finished episode scored; see :func:`score_episodes`.

    Args:
        line: The line to the server.
        task: The instruction in words.
        observations: All T + 1 observations, in order.
        deadline_s: How long no further score may come from the server.
        clock: The clock.

    Returns:
        One score per observation, in order.
    """
    one = ShownEpisode(index=0, task=task, observations=observations)
    ((_, scores),) = score_episodes(line, iter([one]), deadline_s=deadline_s, clock=clock)
    return scores


def _refused(episode: ShownEpisode, reason: str) -> ConfigError:
    return ConfigError(
        f"The reward server refuses to judge the task of episode {episode.index}, {episode.task!r}",
        seen=reason.rstrip("."),
        remedy="Do what it says, and start again",
    )


def _silent(line: ScoreLink, under_way: Sequence[_Watching], deadline_s: float) -> DeadlineExceeded:
    scored = sum(one.most for one in under_way)
    of = sum(one.asked for one in under_way)
    return DeadlineExceeded(
        "The reward server does not score an episode",
        seen=f"{scored} of {of} scores from {line.endpoint}, then no further one",
        allowed=f"{deadline_s:g} s between two scores",
        remedy="See what roborl serve says there; a slow model needs a larger deadline_s, or a smaller --pool.max_batch of"
        " that server, which is --max_batch where the model is one of this process",
    )
