"""A reward model as the judge of how episodes came out: from the labels of an episode to the verdict on it."""

from __future__ import annotations

from typing import Protocol

from roborl.data.episodes import EpisodeInfo
from roborl.errors import ConfigError
from roborl.loops.learner.episode_labels import EpisodeLabels, VerdictRule
from roborl.loops.score_link import ServedJudge
from roborl.records import Verdict
from roborl.rewards.grades import HIGHEST, LOWEST, level_of
from roborl.rewards.transforms import RewardTransform
from roborl.types import EndCause, EpisodeKey, RewardSource

_AS_PLANNED = (EndCause.SUCCESS, EndCause.FAILURE, EndCause.TIME_LIMIT, EndCause.JUDGE_STOP)


class VerdictBook(Protocol):
    """Where verdicts are given once and for all."""

    def given(self, key: EpisodeKey) -> bool:
        """Return whether there is a verdict on an episode, also from an earlier process."""
        ...

    def give(self, verdict: Verdict) -> None:
        """Give a verdict, durably; one on an episode that has one is dropped."""
        ...


def require_rule(version: str, rule: VerdictRule, *, says_done: bool) -> None:
    """See whether a reward model can judge episodes by a rule.

    Args:
        version: The model's.
        rule: The rule.
        says_done: Whether the model ever says that a task is done.

    Raises:
        ConfigError: If no episode could ever succeed.
    """
    if rule == "done" and not says_done:
        raise ConfigError(
            "The reward model is to judge episodes by saying done, and never says it",
            seen=f"{version}, outcome judge, labels.verdict done",
            allowed="a model that says when a task is done, or another verdict",
            remedy="Set --labels.verdict terminal01, which grades an episode by its last score; or, for RoboReward, done_score"
            " in its file of settings",
        )


class Verdicts:
    """Judges the episodes whose outcome is left to a judge, each once.

    *done*: the task is done at the first frame whose score says so, as each model's own done rule has it, after one whose
    score did not; where that never came, the verdict is that it was not, which ends nothing: a time-out stays one. A
    scene that is called done in every frame was not made ready, and leaves its episode without a verdict. *terminal01*: the score of the
    last frame is the grade E of the whole episode, 1 to 5 for progress 0 to 1, and its last step is paid (E − 1) / 4
    and ends it; grade 5 is a success. An episode that was cut short, by a stop or a fault, is not paid for less.

    A last frame whose score cannot be read leaves an episode without a verdict. Such an episode is trained on as one that was
    given up on while the judge was away, and told without an outcome.

    Args:
        book: Where they are given.
        rule: How an episode is judged.
    """

    def __init__(self, book: VerdictBook, rule: VerdictRule = "done") -> None:
        self._book, self._rule = book, rule
        self._settled: set[EpisodeKey] = set()

    def begin(self) -> None:
        """Begin with another judge: what allowed the one before no verdict may allow this one one."""
        self._settled.clear()

    def awaited(self, info: EpisodeInfo) -> bool:
        """Return whether an episode still waits for its verdict."""
        return info.awaits_verdict and info.key not in self._settled and not self._book.given(info.key)

    def needs_every_frame(self, info: EpisodeInfo) -> bool:
        """Return whether every frame of an episode is to be scored.

        Many a model calls a task done after so many readings in a row, and the arm stops at the last of them.
        """
        return self._rule == "done" and self.awaited(info)

    def look(self, info: EpisodeInfo, labels: EpisodeLabels, by: ServedJudge) -> Verdict | None:
        """Give the verdict on an episode once its labels allow one; return it where that is now.

        Args:
            info: The episode.
            labels: Its labels.
            by: Whose labels those are.

        Raises:
            ConfigError: If it cannot judge by this rule.
        """
        if not self.awaited(info):
            return None
        require_rule(by.info.version, self._rule, says_done=by.info.says_done)
        whole = info.end is not None and labels.done == info.observations
        judge = self._done if self._rule == "done" else self._graded
        verdict = judge(info, labels, whole)
        if verdict is not None:
            self._book.give(verdict)
        if verdict is not None or whole:
            self._settled.add(info.key)
        return verdict

    def _done(self, info: EpisodeInfo, labels: EpisodeLabels, whole: bool) -> Verdict | None:
        if labels.done_at is not None:
            return _verdict(info, labels.done_at, success=True)
        readable = whole and labels.last is not None and labels.last.valid
        return _verdict(info, info.steps, success=False) if readable and labels.unfinished else None

    def _graded(self, info: EpisodeInfo, labels: EpisodeLabels, whole: bool) -> Verdict | None:
        last = labels.last
        if not whole or last is None or not last.valid:
            return None
        success = level_of(last.progress) == HIGHEST
        paid = RewardTransform.TERMINAL01.verdict(LOWEST + (HIGHEST - LOWEST) * last.progress)
        reward = paid if success or info.end in _AS_PLANNED else None
        return _verdict(info, info.steps, success=success, reward=reward)


def why_unjudged(labels: EpisodeLabels) -> str:
    """Say why the labels of a whole episode allow no verdict on it."""
    if labels.last is not None and labels.last.valid:
        if not labels.first_read:
            return "no frame before the first done one could be read"
        return "it looks done from the first picture on: was the scene made ready?"
    return "the score of its last frame cannot be read"


def _verdict(info: EpisodeInfo, index: int, *, success: bool, reward: float | None = None) -> Verdict:
    return Verdict(key=info.key, index=index, success=success, source=RewardSource.JUDGE, reward=reward)
