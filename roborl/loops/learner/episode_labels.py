"""The labels of one episode as they come in: which frames to send, what the replies say, which rows are complete."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roborl.errors import ConfigError
from roborl.types import Score

VerdictRule = Literal["done", "terminal01"]


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How the store's frames become progress columns."""

    # distance in frames between scored observations of an episode; the last one is always scored, and every one of an
    # episode whose verdict is to be the model's word "done", which many say only after so many readings in a row
    stride: int = 1
    # the stride never grows beyond this when labels fall behind
    max_stride: int = 8
    # unlabelled online frames at which the next episode's stride doubles; below a quarter of it the stride halves. Episodes
    # that had ended before this version came do not count: they are labelled in between, all at --labels.stride
    behind_frames: int = 600
    # frames of one episode that may be on their way to the reward server
    window: int = 32
    # episodes that are labelled side by side
    sessions: int = 8
    # seconds that a label may be missing before its episode is trained on with its potential held. A recorded episode waits
    # for its labels, and one whose outcome is left to a reward model for that, until the model has been away for so long
    deadline_s: float = 30.0
    # seconds between losing a session and opening another
    retry_s: float = 0.2
    # how the reward model judges an episode where the bench leaves the outcome to it. done: 1 at the first frame that it
    # calls done. terminal01: its last score is the grade of the whole episode, 1 to 5, which pays (grade - 1) / 4
    verdict: VerdictRule = "done"

    def __post_init__(self) -> None:
        strides = 1 <= self.stride <= self.max_stride <= self.window
        waits = 0 <= self.retry_s < math.inf and self.deadline_s >= 0
        if not strides or not waits or self.sessions < 1 or self.behind_frames < 0:
            raise ConfigError(
                "Labels cannot be made with these settings",
                seen=f"stride={self.stride} max_stride={self.max_stride} window={self.window} sessions={self.sessions} "
                f"behind_frames={self.behind_frames} retry_s={self.retry_s:g} deadline_s={self.deadline_s:g}",
                allowed="1 <= stride <= max_stride <= window, sessions >= 1, behind_frames and deadline_s >= 0, "
                "retry_s >= 0 and finite",
                remedy="Leave those of --labels at their defaults; a larger stride needs a window as large",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledRows:
    """A run of rows that are complete.

    Attributes:
        start: Index of the first observation.
        progress: Progress of each, held between scored ones, float32 (n,).
        spread: Its standard deviation, float32 (n,).
        missing: Rows that were to be scored and whose reply could not be read, bool (n,).
    """

    start: int
    progress: NDArray[np.float32]
    spread: NDArray[np.float32]
    missing: NDArray[np.bool_]

    def first(self, count: int) -> LabelledRows:
        """Return the first ``count`` rows, or all where there are fewer."""
        return LabelledRows(
            start=self.start,
            progress=self.progress[:count],
            spread=self.spread[:count],
            missing=self.missing[:count],
        )

    def after(self, count: int) -> LabelledRows:
        """Return the rows behind the first ``count``."""
        return LabelledRows(
            start=self.start + count,
            progress=self.progress[count:],
            spread=self.spread[count:],
            missing=self.missing[count:],
        )


class EpisodeLabels:
    """Follows one episode through one reward session.

    Frames go out by increasing index, each once; every ``stride``-th and the last one are scored, the others only
    seen. An observation that is not scored, or whose reply could not be read, holds the last valid progress before
    it, and 0 before the first: nothing later than a frame ever enters its label. So the labels of an episode depend
    on its frames, the model and the stride, and not on when anything arrived.

    Args:
        stride: Distance between scored observations; fixed for the life of the episode.

    Attributes:
        unfinished: Whether a labelled observation has a score that says that the task is not done.
        done_at: Index of the first labelled observation after such a one whose score says so; None before there is one.
            A scene that was finished before the arm moved says nothing of the arm.
        first_read: Whether the score of the first observation could be read.
        last: Score of the last labelled observation that was asked about.
    """

    def __init__(self, stride: int) -> None:
        self.stride = stride
        self.missing = 0
        self.restart()

    def restart(self) -> None:
        """Begin again from frame 0, for a session that was lost."""
        self.sent = 0
        self.done = 0
        self.missing = 0
        self._replies: dict[int, Score] = {}
        self._asked: set[int] = set()
        self._progress, self._spread = 0.0, 0.0
        self.unfinished = self.first_read = False
        self.done_at: int | None = None
        self.last: Score | None = None

    @property
    def unanswered(self) -> int:
        """Frames that were sent to be scored and have no reply yet."""
        return len(self._asked)

    def due(self, observations: int, ended: bool, window: int) -> range:
        """Return the frames that may be sent now.

        Args:
            observations: How many the store has.
            ended: Whether these are all.
            window: Most frames ahead of the labels.
        """
        known = decided(observations, ended, self.stride)
        return range(self.sent, max(self.sent, min(known, self.done + window)))

    def scored(self, index: int, observations: int, ended: bool) -> bool:
        """Return whether the observation at ``index`` is one that gets a score of its own."""
        return _regular(index, self.stride) or (ended and index == observations - 1)

    def send(self, index: int, *, score: bool) -> None:
        """Note that ``index``, the next frame in order, has gone out."""
        assert index == self.sent, (index, self.sent)
        self.sent += 1
        if score:
            self._asked.add(index)

    def receive(self, score: Score) -> bool:
        """Take a reply; return False for one that nobody waits for."""
        if score.frame_id not in self._asked:
            return False
        self._asked.remove(score.frame_id)
        self._replies[score.frame_id] = score
        return True

    def complete(self) -> LabelledRows | None:
        """Return the rows that have become complete since the last call, or None."""
        start, rows, missing = self.done, [], []
        while self.done < self.sent and self.done not in self._asked:
            reply = self._replies.pop(self.done, None)
            if reply is not None:
                self.last = reply
            if reply is not None and reply.valid:
                self._progress, self._spread = reply.progress, reply.spread
                self.first_read |= self.done == 0
                if reply.done is False:
                    self.unfinished = True
                elif reply.done and self.unfinished and self.done_at is None:
                    self.done_at = self.done
            elif reply is not None:
                self.missing += 1
            rows.append((self._progress, self._spread))
            missing.append(reply is not None and not reply.valid)
            self.done += 1
        if not rows:
            return None
        columns = np.asarray(rows, np.float32)
        return LabelledRows(
            start=start, progress=columns[:, 0], spread=columns[:, 1], missing=np.array(missing, np.bool_)
        )


def decided(observations: int, ended: bool, stride: int) -> int:
    """Return of how many observations it is known whether they are scored.

    Whether the newest one is the last, which always is, is not known before the episode's end.

    Args:
        observations: How many the store has.
        ended: Whether these are all.
        stride: Distance between scored observations.
    """
    if ended or not observations or _regular(observations - 1, stride):
        return observations
    return observations - 1


def _regular(index: int, stride: int) -> bool:
    return index % stride == 0


class StrideControl:
    """Chooses the stride of the next episode from how far labels are behind.

    Example:
        >>> control = StrideControl(LabelConfig(stride=1, max_stride=4, behind_frames=100))
        >>> [control.next_stride(backlog) for backlog in (0, 150, 150, 150, 60, 20, 0, 0)]
        [1, 2, 4, 4, 4, 2, 1, 1]
    """

    def __init__(self, config: LabelConfig) -> None:
        self._config = config
        self.stride = config.stride

    def next_stride(self, backlog_frames: int) -> int:
        """Return the stride for an episode that starts to be labelled now."""
        config = self._config
        if backlog_frames > config.behind_frames:
            self.stride = min(self.stride * 2, config.max_stride)
        elif backlog_frames < config.behind_frames / 4:
            self.stride = max(self.stride // 2, config.stride)
        return self.stride
