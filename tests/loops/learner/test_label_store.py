from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roborl.clock import FakeClock
from roborl.codec import join
from roborl.data import columns
from roborl.data.arena import mark_filled
from roborl.data.columns import (
    NO_VERDICT,
    active_version,
    load_labels,
    save_labels,
    saved_missing,
    saved_stride,
)
from roborl.data.episodes import EpisodeInfo
from roborl.data.export import export_store
from roborl.data.progress import read_progress
from roborl.data.rabc import RabcSettings, on_lines, weigh
from roborl.data.reader import StoreReader
from roborl.data.store import Store, StoreSpec
from roborl.errors import DatasetError
from roborl.loops.learner import label_store
from roborl.loops.learner.episode_labels import LabelConfig, LabelledRows
from roborl.loops.learner.label_store import StoredEpisodes
from roborl.loops.learner.labeller import Labeller
from roborl.loops.score_link import ServedJudge
from roborl.records import pack_record
from roborl.rewards.model_info import ModelInfo
from roborl.testing.experience import ACTION_DIM, STATE_DIM, arrival, episode_records, store_spec
from roborl.types import EndCause, EpisodeKey, Observation, Score

SPEC = store_spec(max_steps=20)


class StepCounter:
    """A reward server whose progress is the index that the state shows, so a wrong frame shows."""

    def __init__(self) -> None:
        self._out: list[tuple[str, Score]] = []
        self._opened = 0

    def judge(self) -> ServedJudge:
        return ServedJudge(info=ModelInfo(version="steps"))

    def open(self, task: str) -> str:
        self._opened += 1
        return f"s{self._opened}"

    def push(self, session: str, observation: Observation, *, score: bool) -> bool:
        index = int(observation.state[2])
        if score:
            progress = index / 100
            self._out.append(
                (session, Score(frame_id=index, progress=progress, raw=progress, version="steps"))
            )
        return True

    def close(self, session: str) -> None:
        return

    def poll(self, timeout_s: float) -> tuple[list[tuple[str, Score]], dict[str, str | None]]:
        out, self._out = self._out, []
        return out, {}


class Unreadable(StepCounter):
    """Such a server whose replies on some frames cannot be read."""

    def __init__(self, *frames: int) -> None:
        super().__init__()
        self._frames = frames

    def poll(self, timeout_s: float) -> tuple[list[tuple[str, Score]], dict[str, str | None]]:
        out, lost = super().poll(timeout_s)
        return [(name, replace(s, valid=s.frame_id not in self._frames)) for name, s in out], lost


class Rig:
    """A real store, written to by hand, and a labeller on its folder."""

    def __init__(self, root: Path, spec: StoreSpec = SPEC) -> None:
        self.root = root
        self.store = Store(root, spec)
        self.clock = FakeClock()
        self._sequence = 0

    def begin(self, number: int, steps: int, *, mode: str = "train", end: bool = True) -> EpisodeKey:
        key = EpisodeKey(actor="left", incarnation=1, episode=number)
        records = list(episode_records(key, steps, EndCause.TIME_LIMIT, mode=mode))
        for record in records if end else records[:-1]:
            self._sequence += 1
            self.store.ingest("ring", self._sequence, join(pack_record(record)))
        return key

    def labeller(self, stride: int = 1, link: StepCounter | None = None) -> tuple[Labeller, StoredEpisodes]:
        episodes = StoredEpisodes(self.root, clock=self.clock)
        config, link = LabelConfig(stride=stride), link or StepCounter()
        return Labeller(episodes, link, config, events=lambda _: None, clock=self.clock), episodes

    def close(self) -> None:
        self.store.close()

    def turns(self, labeller: Labeller, count: int = 20) -> None:
        for _ in range(count):
            self.clock.advance(0.1)
            labeller.turn(0)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.close()


def labels(episodes: StoredEpisodes, key: EpisodeKey) -> list[float]:
    column = episodes.column("steps")
    slot = episodes.arena.slot(key)
    assert slot is not None
    first, count = int(episodes.arena.table["start"][slot]), column.labelled(key)
    return [round(float(value), 4) for value in column.columns.progress[first : first + count]]


@pytest.mark.parametrize("stride", [1, 3])
def test_labels_reach_the_column_and_the_sealed_episode(rig: Rig, stride: int) -> None:
    key, still_open = rig.begin(0, 10), rig.begin(1, 4, end=False)
    assert rig.store.wait_sealed(10)
    labeller, episodes = rig.labeller(stride)
    rig.turns(labeller)
    wanted = [index // stride * stride / 100 for index in range(10)] + [0.1]
    assert labels(episodes, key) == wanted
    assert labels(episodes, still_open) == wanted[: 5 if stride == 1 else 4]
    assert active_version(rig.root) == "steps"
    saved = load_labels(rig.root, key, "steps")
    assert saved is not None
    np.testing.assert_allclose(saved[0], wanted, atol=1e-6)


def test_the_version_that_is_active_is_known_to_another_labeller(rig: Rig) -> None:
    labeller, episodes = rig.labeller()
    assert episodes.active() is None
    rig.turns(labeller, 1)
    assert rig.labeller()[1].active() == "steps"


def test_an_open_episode_is_labelled_as_it_grows(rig: Rig) -> None:
    key = rig.begin(0, 4, end=False)
    labeller, episodes = rig.labeller()
    rig.turns(labeller, 3)
    assert len(labels(episodes, key)) == 5
    rig.store.ingest("ring", 7, join(pack_record(arrival(key, 5))))
    rig.turns(labeller, 3)
    assert labels(episodes, key) == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]


def test_evaluation_episodes_are_left_alone(rig: Rig) -> None:
    key = rig.begin(0, 4, mode="evaluate")
    labeller, episodes = rig.labeller()
    rig.turns(labeller)
    assert episodes.column("steps").labelled(key) == 0


def test_a_new_labeller_keeps_labels_and_strides(rig: Rig) -> None:
    key = rig.begin(0, 9, end=False)
    first, _ = rig.labeller(stride=4)
    rig.turns(first, 3)
    second, episodes = rig.labeller(stride=1)
    rig.turns(second, 3)
    assert labels(episodes, key) == [0.0] * 4 + [0.04] * 4 + [0.08]
    assert episodes.column("steps").stride(key) == 4
    assert second.counters["changed"] == 0


def test_a_column_that_the_memory_held_in_part_is_completed_at_its_stride(tmp_path: Path) -> None:
    """Its strides go with the memory when that is built anew: what is saved with the episode says them."""
    short = replace(SPEC, max_steps=4)
    with closing(Rig(tmp_path, short)) as rig:
        key = rig.begin(0, 8)
        assert rig.store.wait_sealed(10)
        labeller, _ = rig.labeller(stride=4)
        rig.turns(labeller)
        assert saved_stride(tmp_path, key, "steps") == 4
    (tmp_path / "arena" / "boot").unlink()
    with closing(Rig(tmp_path, short)) as rig:
        labeller, episodes = rig.labeller(stride=1)
        assert episodes.column("steps").stride(key) == 4
        rig.turns(labeller)
        assert labels(episodes, key) == [0.0] * 4 + [0.04] * 4 + [0.08]
    assert saved_stride(tmp_path, key, "steps") == 4
    progress, _ = load_labels(tmp_path, key, "steps") or ([], [])
    np.testing.assert_allclose(progress, [0.0] * 4 + [0.04] * 4 + [0.08], atol=1e-6)


@pytest.mark.parametrize("restarted", [False, True])
def test_replies_that_could_not_be_read_go_out_of_a_run_as_no_score(rig: Rig, restarted: bool) -> None:
    """For the learner their rows hold the last score, which out there would say that the arm stood still and then jumped."""
    key = rig.begin(0, 6, end=not restarted)
    labeller, episodes = rig.labeller(link=Unreadable(0, 1, 3, 4))
    rig.turns(labeller)
    if restarted:  # When all was labelled, and before the episode had ended.
        rig.store.ingest("ring", 9, join(pack_record(list(episode_records(key, 6))[-1])))
        labeller, episodes = rig.labeller()
    assert rig.store.wait_sealed(10)
    rig.turns(labeller)
    assert labels(episodes, key) == [0.0, 0.0, 0.02, 0.02, 0.02, 0.05, 0.06]
    out = rig.root / "dataset"
    names = [[f"{kind}{n}" for n in range(size)] for kind, size in (("s", STATE_DIM), ("a", ACTION_DIM))]
    export_store(rig.root, out, fps=10, state_names=names[0], action_names=names[1], version="steps")
    (found,) = read_progress(out, "steps").values()
    np.testing.assert_allclose(found.values, [np.nan, np.nan, 0.02, np.nan, np.nan, 0.05, 0.06], atol=1e-6)
    np.testing.assert_array_equal(np.isnan(found.spread), np.isnan(found.values))
    assert found.scored.all()
    curve = on_lines(found.values, found.scored)
    assert weigh({0: (curve, found.spread)}, {0: 7}, RabcSettings(chunk=1)).unknown == 4


def test_what_could_not_be_read_of_a_part_of_an_episode_is_known_when_the_rest_has_come(
    tmp_path: Path,
) -> None:
    short = replace(SPEC, max_steps=4)
    for missing in ((1, 2), (3, 6)):
        with closing(Rig(tmp_path, short)) as rig:
            key = rig.begin(0, 8)
            assert rig.store.wait_sealed(10)
            labeller, _ = rig.labeller(link=Unreadable(*missing))
            rig.turns(labeller)
        (tmp_path / "arena" / "boot").unlink()
    assert np.flatnonzero(saved_missing(tmp_path, key, "steps", 9)).tolist() == [1, 2, 6]


def test_saved_labels_of_an_episode_that_comes_into_memory_later_are_taken_in(rig: Rig) -> None:
    rig.begin(0, 4)
    _, episodes = rig.labeller()
    column = episodes.column("steps")
    later = rig.begin(1, 3)
    assert rig.store.wait_sealed(10)
    progress = np.array([0.0, 0.1, 0.2, 0.3], np.float32)
    save_labels(rig.root, later, "steps", progress, np.zeros(4, np.float32))
    assert column.labelled(later) == 0
    rig.clock.advance(1.0)
    episodes.episodes()
    assert column.labelled(later) == 4
    assert labels(episodes, later) == [0.0, 0.1, 0.2, 0.3]


def test_a_held_episode_is_marked_once(rig: Rig) -> None:
    key = rig.begin(0, 4)
    _, episodes = rig.labeller()
    rig.clock.advance(1.0)
    episodes.episodes()
    column = episodes.column("steps")
    assert column.hold(key)
    assert not column.hold(key)
    assert not column.hold(key, verdict=True), "its labels were given up on before"
    assert column.columns.table["deadline"].max() == NO_VERDICT
    assert not column.hold(key)
    assert column.columns.table["deadline"].max() == NO_VERDICT
    assert not column.hold(EpisodeKey(actor="nobody", incarnation=1, episode=0))


def test_a_full_disk_delays_labels_and_ends_no_labeller(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    first, second = rig.begin(0, 4), rig.begin(1, 4)
    assert rig.store.wait_sealed(10)
    labeller, episodes = rig.labeller()
    with monkeypatch.context() as disk:
        disk.setattr(label_store, "append_line", full)
        rig.turns(labeller)
        assert labels(episodes, first) == [], "its stride was not recorded"
    with monkeypatch.context() as disk:
        disk.setattr(columns, "save_labels", full)
        rig.turns(labeller, 30)
        assert len(labels(episodes, first)) == len(labels(episodes, second)) == 5
    assert load_labels(rig.root, first, "steps") is None
    assert episodes.faults > 2
    assert caplog.text.count("No space left") == 1, "it is told once"
    rig.turns(labeller)
    for key in (first, second):
        assert load_labels(rig.root, key, "steps") is not None


def test_labels_made_anew_are_compared_with_those_kept(rig: Rig) -> None:
    key = rig.begin(0, 4)
    labeller, episodes = rig.labeller()
    rig.turns(labeller)
    column = episodes.column("steps")

    def rows(*values: float) -> LabelledRows:
        return LabelledRows(
            start=1,
            progress=np.array(values, np.float32),
            spread=np.zeros(len(values), np.float32),
            missing=np.zeros(len(values), np.bool_),
        )

    assert column.agrees(key, rows(0.01, 0.02))
    assert not column.agrees(key, rows(0.01, 0.09))


def test_a_replay_memory_made_anew_ends_the_labeller(rig: Rig, tmp_path: Path) -> None:
    rig.begin(0, 4)
    labeller, _ = rig.labeller()
    rig.turns(labeller)
    mark_filled(tmp_path / "arena")
    with pytest.raises(DatasetError, match="made anew"):
        rig.turns(labeller, 2)


def test_an_episode_longer_than_its_place_in_memory_is_finished_and_blocks_no_session(rig: Rig) -> None:
    too_long = [rig.begin(number, SPEC.max_steps + 3) for number in range(2)]
    labeller, episodes = rig.labeller(stride=2)
    rig.turns(labeller)
    assert [len(labels(episodes, key)) for key in too_long] == [SPEC.max_steps + 1] * 2
    assert not labeller._sessions


@pytest.mark.parametrize("part", ["zarr.json", "state/zarr.json"])
def test_a_torn_recording_ends_the_labels_of_its_episode_alone(rig: Rig, part: str) -> None:
    torn, whole = rig.begin(0, 4), rig.begin(1, 4)
    assert rig.store.wait_sealed(10)
    (rig.root / "store.zarr" / str(torn) / part).write_bytes(b"")
    labeller, episodes = rig.labeller()
    rig.turns(labeller)
    assert (labels(episodes, torn), len(labels(episodes, whole))) == ([], 5)
    assert labeller.backlog == 0
    if part != "zarr.json":
        assert labeller.counters["unreadable"] == 1
        slot = episodes.arena.slot(torn)
        assert episodes.column("steps").columns.table["deadline"][slot] == NO_VERDICT, "it is not waited for"


def test_a_labeller_gives_signs_of_life_while_saved_labels_are_taken_in(rig: Rig) -> None:
    for number in range(3):
        rig.begin(number, 4)
    signs: list[int] = []
    StoredEpisodes(rig.root, clock=rig.clock, alive=lambda: signs.append(1)).column("steps")
    assert len(signs) == 3


def test_looks_that_take_long_are_made_less_often(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, found = [0], StoreReader.episodes

    def slowly(reader: StoreReader) -> list[EpisodeInfo]:
        looks[0] += 1
        rig.clock.advance(0.1)
        return found(reader)

    monkeypatch.setattr(StoreReader, "episodes", slowly)
    _, episodes = rig.labeller()
    for _ in range(100):
        rig.clock.advance(0.05)
        episodes.episodes()
    assert looks == [6], "one in a second"
