"""What relabelling has come to: counts, figures and the bars they are held against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import draccus

from roborl.data.relabel_rows import SPLITS, RelabelRow
from roborl.data.relabel_sources import RelabelSource
from roborl.loops.relabelling.asking import Tally
from roborl.loops.relabelling.config import FAKE, FIGURES, RelabelConfig
from roborl.loops.relabelling.sources import identity
from roborl.loops.requirements import Requirement
from roborl.rewards.grades import HIGHEST, LOWEST
from roborl.rewards.relabelling.probes import Features, ProbeResult, video_probe, words_probe
from roborl.rewards.relabelling.proposals import Kind, Relabelled
from roborl.rewards.relabelling.questions import Stage

LEVELS = range(LOWEST, HIGHEST + 1)
_CUT = (Kind.CLIP, Kind.REWIND)


@dataclass(frozen=True, eq=False, kw_only=True)
class RelabelledEpisode:
    """An episode and what came of it.

    Attributes:
        source: The episode.
        split: Where its rows are.
        found: What was kept and what was not.
        rows: Its rows.
    """

    source: RelabelSource
    split: str
    found: Relabelled
    rows: tuple[RelabelRow, ...]

    @property
    def ladder(self) -> str:
        """Id of its rows."""
        return identity(self.source)


@dataclass(frozen=True, eq=False, kw_only=True)
class RelabelResult:
    """What was made.

    Attributes:
        config: What was asked.
        episodes: All of them, in the order of their sources.
        left_out: How many were left out, by reason.
        names: Who was asked, by role; empty where nobody was.
        tally: What asking came to.
        looks: What each video looks like at a glance, by the hash of its file.
    """

    config: RelabelConfig
    episodes: tuple[RelabelledEpisode, ...]
    left_out: Mapping[str, int]
    names: Mapping[str, str]
    tally: Tally
    looks: Mapping[str, Features]

    @property
    def rows(self) -> list[RelabelRow]:
        """All rows."""
        return [row for episode in self.episodes for row in episode.rows]

    @cached_property
    def by_words(self) -> ProbeResult:
        """How far scores can be told from the words: of the rows that show a whole video."""
        rows = [row for row in self.rows if row.kind not in _CUT]
        return words_probe([r.task for r in rows], [r.reward for r in rows], [r.ladder for r in rows])

    @cached_property
    def by_video(self) -> ProbeResult:
        """How far scores can be told from the video: of all rows."""
        rows = self.rows
        looks = [self.looks[row.video_sha256] for row in rows]
        return video_probe(looks, [r.reward for r in rows], [r.ladder for r in rows])

    @cached_property
    def figures(self) -> dict[str, float]:
        """The figures by the names of :data:`~.config.FIGURES`; NaN where there is none."""
        kept = sum(row.verified != "none" for row in self.rows)
        turned_down = self.rejected_by(Stage.VERIFY, "unreadable").total()
        replies = (self.tally.calls + self.tally.known - self.tally.unanswered).total()
        unreadable = sum(r.rule == "unreadable" for e in self.episodes for r in e.found.rejects)
        words, video = self.by_words, self.by_video
        found = {
            "rows": float(len(self.rows)),
            "accepted": kept / (kept + turned_down) if kept + turned_down else math.nan,
            "text_only": words.accuracy,
            "text_only_chance": words.chance,
            "text_only_high": words.high,
            "video_only": video.accuracy,
            "video_only_chance": video.chance,
            "video_only_high": video.high,
            "unreadable": unreadable / replies if replies else math.nan,
            "unfinished": float(sum(e.found.unanswered > 0 for e in self.episodes)),
        }
        assert set(found) == set(FIGURES), "every figure has a name"
        return found

    def rejected_by(self, stage: Stage, *but: str) -> Counter[tuple[str, int]]:
        """Return how many proposals of each kind and score a stage rejected, but for some rules."""
        return Counter(
            (str(reject.kind), reject.level)
            for episode in self.episodes
            for reject in episode.found.rejects
            if reject.stage is stage and reject.rule not in but and reject.kind and reject.level
        )

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Reasons of rejection by stage, the commonest first."""
        counted = Counter(
            f"{reject.stage}: {reject.rule}" for episode in self.episodes for reject in episode.found.rejects
        )
        return counted.most_common()

    @property
    def counts(self) -> dict[str, dict[int, int]]:
        """Rows of each kind by score."""
        counted = Counter((row.kind, row.reward) for row in self.rows)
        return {str(kind): {level: counted[str(kind), level] for level in LEVELS} for kind in Kind}

    @property
    def shared(self) -> int:
        """How many videos stand in more than one split, since the source holds copies of an episode."""
        splits: dict[str, set[str]] = {}
        for episode in self.episodes:
            for row in episode.rows:
                splits.setdefault(row.video_sha256, set()).add(episode.split)
        return sum(len(found) > 1 for found in splits.values())

    @property
    def missed(self) -> list[str]:
        """The bars that are not met."""
        return [t for t in self.config.require if not Requirement.parse(t, FIGURES).holds(self.figures)]

    @property
    def verification(self) -> str:
        """How rows were verified, in words."""
        if not self.names:
            return "Nothing was verified: every score below 5 is a proposal, and every original is taken for a success"
        if not any(episode.rows for episode in self.episodes):
            return "Nothing was verified: there are no rows"
        if any(name.startswith(f"{FAKE} ") for name in self.names.values()):
            return "Replies were made up, to try what happens: no row says anything about its video"
        how = (
            "without being shown the proposed score"
            if self.config.verify == "blind"
            else "being shown the proposed score, which invites agreement"
        )
        own = ", by the network that wrote them" if self.names["writer"] == self.names["verifier"] else ""
        return f"Every row was verified by {self.names['verifier']} {how}{own}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; JSON knows no NaN, so a figure that is not there is null."""
        tally = self.tally
        return {
            "figures": {name: None if math.isnan(v) else v for name, v in self.figures.items()},
            "counts": self.counts,
            "splits": {s: sum(len(e.rows) for e in self.episodes if e.split == s) for s in SPLITS},
            "episodes": len(self.episodes),
            "left_out": dict(self.left_out),
            "cleaned": sum(e.found.cleaned for e in self.episodes),
            "videos_in_two_splits": self.shared,
            "reasons": dict(self.reasons),
            "models": dict(self.names),
            "verification": self.verification,
            "calls": {str(s): tally.calls[s] for s in Stage},
            "answered_before": {str(s): tally.known[s] for s in Stage},
            "unanswered": {str(s): tally.unanswered[s] for s in Stage},
            "left_for_another_run": {str(s): tally.unasked[s] for s in Stage},
            "pictures": tally.pictures,
            "require": list(self.config.require),
            "met": not self.missed,
            "settings": draccus.encode(self.config),
        }
