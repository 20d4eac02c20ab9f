"""The replay memory as the trainer sees it: batches in the algorithm's mix, and what has happened since the last look."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roborl.data.arena import DEMO, FAILURE, ONLINE
from roborl.data.episodes import EpisodeInfo
from roborl.data.sealed import SOURCES
from roborl.errors import ConfigError, DatasetError
from roborl.learning.batch import Batch
from roborl.learning.mixing import Mixer, Schedule, Share
from roborl.learning.sampling import Sampler
from roborl.loops.learner.experience import EpisodeResult, Experience
from roborl.types import EpisodeKey, Source

log = logging.getLogger(__name__)

_UNAIDED, _HELPED = 1, 2
_NO_SUCCESS, _SUCCESS = 1, 2


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """How the share of demonstrations in a batch goes on from the algorithm's ``demo_fraction``."""

    # fixed; linear: to `final` over `over_updates`; proportional: by what there is of them, at least demo_fraction
    kind: Schedule = "fixed"
    # where a linear share ends
    final: float = 0.25
    # updates that a linear share takes to get there, without those of a head start
    over_updates: int = 20_000
    # whether successful online episodes, and a person's steps in all but failed ones, count as demonstrations
    with_successes: bool = True
    # the share of recorded failures in a batch, where there are any
    failure_share: float = 0.25

    def __post_init__(self) -> None:
        if not (
            0.0 <= self.final < 1.0 - self.failure_share
            and self.failure_share >= 0.0
            and self.over_updates >= 1
        ):
            raise ConfigError(
                "Demonstrations cannot be mixed like this",
                seen=f"final={self.final:g} failure_share={self.failure_share:g} over_updates={self.over_updates}",
                allowed="final and failure_share in [0, 1) and below 1 in all, over_updates >= 1",
                remedy="Correct it with --mix.FIELD",
            )

    def shares(self, demo_fraction: float, *, failures: bool = False) -> dict[str, Share]:
        """Return the share of each index set of the sampler.

        Args:
            demo_fraction: Share of the demonstrations, to begin with.
            failures: Whether there are recorded failures; they take their share from that of online experience.

        Raises:
            ConfigError: If demonstrations and failures leave nothing for online experience.
        """
        failed = self.failure_share if failures else 0.0
        if demo_fraction + failed >= 1.0:
            raise ConfigError(
                "There is no place in a batch for what happens online",
                seen=f"{demo_fraction:g} of demonstrations and {failed:g} of recorded failures",
                allowed="less than 1 in all",
                remedy="Lower demo_fraction" + (" or --mix.failure_share" if failures else ""),
            )
        demos = "demo+success+person" if self.with_successes else "demo"
        shares = {
            "online": Share(
                kind="rest" if self.kind == "proportional" else self.kind,
                share=1.0 - demo_fraction - failed,
                final=1.0 - self.final - failed,
                over_updates=self.over_updates,
            )
        }
        if demo_fraction or self.kind != "fixed":
            shares[demos] = Share(
                kind=self.kind,
                share=demo_fraction,
                final=self.final,
                over_updates=self.over_updates,
            )
        if failed:
            shares["failure"] = Share(share=failed)
        return shares


def recorded(mix: Mapping[str, Share]) -> dict[str, Share]:
    """Return the part of a mix that is drawn from recorded episodes, by index set."""
    return {"demo" if "demo" in name else name: mix[name] for name in mix if name != "online"}


class ReplaySource:
    """Implements :class:`roborl.loops.learner.experience.BatchSource`.

    Args:
        sampler: The replay memory.
        mix: Share by index set.
        batch_size: Transitions per batch.
        images: Whether the algorithm wants pictures.
        look_up: Looks up by row what the algorithm wants besides, see :class:`roborl.learning.algorithm.LooksUp`.
        info: Finds what the store knows of an episode.
        reported: By key, as text, of each episode that an earlier process of this run has reported, whether it succeeded.
        updates: How many updates the algorithm has made without its head start; schedules follow it.
        imported: Whether all recorded episodes have come in.
        ahead: Whether the learner has its head start: then nothing that happened online is drawn, else the few online
            steps so far would be drawn over and over.
    """

    def __init__(
        self,
        sampler: Sampler,
        mix: dict[str, Share],
        batch_size: int,
        *,
        images: bool,
        look_up: Callable[[Batch], None] | None = None,
        info: Callable[[EpisodeKey], EpisodeInfo],
        reported: Mapping[str, bool] | None = None,
        updates: Callable[[], int] = lambda: 0,
        imported: Callable[[], bool] = lambda: True,
        ahead: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sampler, self._mixer = sampler, Mixer(sampler, mix)
        self._recorded_mixer = Mixer(sampler, recorded(mix))
        self._batch_size, self._images, self._look_up = batch_size, images, look_up
        self._info, self._updates = info, updates
        self._imported, self._ahead = imported, ahead
        self._told_of_labels = False
        self._reported = set(reported or ())
        self._succeeded = {key for key, success in (reported or {}).items() if success}
        # By ordinal of the episode, whether its end has been looked at.
        self._closed: NDArray[np.bool_] = np.zeros(0, np.bool_)
        # By ordinal of the episode, the most transitions of it that could be sampled at any time. It never falls: what is
        # evicted, or waits for the labels of another version, has been counted.
        self._counted: NDArray[np.int32] = np.zeros(0, np.int32)
        # By ordinal of the episode, how it succeeded: not, without a person's help, or with it.
        self._won: NDArray[np.int8] = np.zeros(0, np.int8)
        # By ordinal of the episode, how it had come out when this process last looked; 0 before.
        self._seen: NDArray[np.int8] = np.zeros(0, np.int8)

    def state_dict(self) -> dict[str, Any]:
        """Return, by ordinal of the episode, how many transitions were counted and how it succeeded, and how far draws have come."""
        return {
            "counted": self._counted,
            "won": self._won,
            "sampler": self._sampler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Count and draw on from a checkpoint."""
        self._counted = np.array(state["counted"], np.int32)
        # Checkpoints of earlier releases lack these parts.
        self._won = np.array(state.get("won", ()), np.int8)
        self._sampler.load_state_dict(state.get("sampler", {}))

    def sample(self) -> Batch | None:
        """Draw the next batch; None while all that it is made of waits for its labels, or has still to come."""
        mixer = self._recorded_mixer if self._ahead() else self._mixer
        if mixer.empty(self._updates()):
            return None
        return mixer.sample(self._batch_size, self._updates(), images=self._images, look_up=self._look_up)

    def refresh(self) -> Experience:
        """Take in what is new."""
        sampler = self._sampler
        sampler.refresh()
        counts, table = sampler.counts(), sampler.reader.table
        sampled = self._count()
        online = (table["ordinal"] > 0) & (table["kind"] == ONLINE)
        self._closed = _reaching(self._closed, int(table["ordinal"].max(initial=-1)))
        ended = online & (table["ended"] == 1)
        # What is sampled before a judge has spoken was given up on, and what was discarded is not waited for.
        settled = (table["awaits_verdict"] == 0) | (table["discarded"] == 1) | sampled
        over = np.flatnonzero(ended & settled)
        finished = over[~self._closed[table["ordinal"][over]]]
        finished = finished[np.argsort(table["ordinal"][finished])]
        results = [self._result(int(slot)) for slot in finished]
        self._see_successes(np.flatnonzero(ended))
        whole = self._recorded_whole(counts) and self._imported()
        if whole and self._lacks_labels and not self._told_of_labels:
            self._told_of_labels = True
            log.info("The head start waits for a reward model that scores what is recorded")
        return Experience(
            committed=int(table["ordinal"].max(initial=0)) + int(table["observations"][online].sum()),
            sampleable=int(self._counted.sum()),
            finished=[result for result in results if result is not None],
            successes=len(self._succeeded),
            policy_version=self._newest_version(online),
            held=counts["held"],
            held_draws=counts["held_draws"],
            label_version=sampler.version,
            recorded=whole and not self._lacks_labels,
            unaided=int((self._won == _UNAIDED).sum()),
        )

    @property
    def _lacks_labels(self) -> bool:
        # After a while steps are drawn without labels, whoever is late; a head start comes once only, and is not spent on such.
        return self._sampler.config.need_labels and not self._sampler.version

    def _count(self) -> NDArray[np.bool_]:
        """Count the transitions that can be sampled; return, by slot of the table, whether there are any, (episodes,)."""
        ordinals, lengths = self._sampler.online()
        self._counted = _reaching(self._counted, int(ordinals.max(initial=-1)))
        self._counted[ordinals] = np.maximum(self._counted[ordinals], lengths)
        return np.isin(self._sampler.reader.table["ordinal"], ordinals)

    def _see_successes(self, slots: NDArray[np.int64]) -> None:
        """Note which of some episodes succeeded, and unaided; a verdict may come, or change, long after the end."""
        table, columns = self._sampler.reader.table, self._sampler.reader.columns
        won = (table["success"][slots] == 1) & (table["discarded"][slots] == 0)
        ordinals = table["ordinal"][slots]
        self._won = _reaching(self._won, int(ordinals.max(initial=-1)))
        self._seen = _reaching(self._seen, int(ordinals.max(initial=-1)))
        seen = np.where(won, _SUCCESS, _NO_SUCCESS)
        changed = seen != self._seen[ordinals]
        self._seen[ordinals] = seen
        for slot, ordinal, succeeded in zip(slots[changed], ordinals[changed], won[changed], strict=True):
            entry = table[slot]
            steps = slice(int(entry["start"]), int(entry["start"] + max(entry["observations"] - 1, 0)))
            helped = (columns.source[steps] == SOURCES.index(Source.PERSON)).any()
            self._won[ordinal] = (_HELPED if helped else _UNAIDED) if succeeded else 0
            change = self._succeeded.add if succeeded else self._succeeded.discard
            change(columns.keys[slot].decode())

    def _recorded_whole(self, counts: dict[str, int]) -> bool:
        """Return whether every recorded step can be sampled."""
        table = self._sampler.reader.table
        recorded = (
            (table["ordinal"] > 0) & np.isin(table["kind"], (DEMO, FAILURE)) & (table["discarded"] == 0)
        )
        steps = int((table["observations"][recorded] - 1).clip(0).sum())
        return 0 < steps <= counts["demo"] + counts["failure"]

    def _newest_version(self, online: NDArray[np.bool_]) -> int:
        table, columns = self._sampler.reader.table, self._sampler.reader.columns
        slots = np.flatnonzero(online & (table["observations"] > 1))
        if not slots.size:
            return 0
        slot = slots[np.argmax(table["ordinal"][slots])]
        return int(columns.policy_version[table["start"][slot] + table["observations"][slot] - 2])

    def _result(self, slot: int) -> EpisodeResult | None:
        reader = self._sampler.reader
        entry = reader.table[slot]
        self._closed[entry["ordinal"]] = True
        key = reader.columns.keys[slot].decode()
        if key in self._reported:
            return None
        self._reported.add(key)
        try:
            info = self._info(EpisodeKey.parse(key))
        except DatasetError:
            return None  # Evicted or deleted between the look at the table and this one.
        steps = slice(int(entry["start"]), int(entry["start"] + max(entry["observations"] - 1, 0)))
        total = float(reader.columns.reward[steps].sum())
        if not np.isnan(entry["verdict_reward"]) and entry["terminal"] > 0:
            last = int(entry["start"] + entry["terminal"]) - 1
            total += float(entry["verdict_reward"] - reader.columns.reward[last])
        versions = reader.columns.policy_version[steps]
        return EpisodeResult(
            key=key,
            steps=info.steps,
            person=int((reader.columns.source[steps] == SOURCES.index(Source.PERSON)).sum()),
            reward=total,
            success=info.success,
            end=info.end.value if info.end is not None else "",
            policy_version=int(versions[-1]) if versions.size else 0,
        )


def _reaching[T: np.generic](array: NDArray[T], index: int) -> NDArray[T]:
    """Return the array, with zeros behind it where it does not reach that far."""
    missing = index + 1 - array.size
    return np.pad(array, (0, missing + array.size)) if missing > 0 else array
