from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roborl.clock import FakeClock
from roborl.data.arena import ArenaLayout, ArenaReader
from roborl.data.arena_writer import ArenaWriter
from roborl.data.columns import ProgressColumns, switch
from roborl.data.episodes import EpisodeInfo
from roborl.errors import ConfigError, DatasetError
from roborl.learning.sampling import Sampler, SamplingConfig
from roborl.records import Verdict
from roborl.rewards.shaping import potential
from roborl.testing.experience import ACTION_DIM, CAMERAS, STATE_DIM, arrival, check_instants
from roborl.types import EndCause, EpisodeKey, RewardSource, Source

LAYOUT = ArenaLayout(
    cameras=tuple(CAMERAS), image_px=8, state_dim=STATE_DIM, action_dim=ACTION_DIM, rows=400, episodes=32
)


def key(episode: int) -> EpisodeKey:
    # Of an incarnation by which all of its actions are motions.
    return EpisodeKey(actor="arm", incarnation=300, episode=episode)


class World:
    """A replay memory written without a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.writer = ArenaWriter(root / "arena", LAYOUT)
        self.writer.mark_complete()
        self.infos: dict[int, EpisodeInfo] = {}

    def begin(self, episode: int, *, rows: int = 21, kind: Any = "online") -> None:
        info = EpisodeInfo(key=key(episode), ordinal=episode + 1, task="t", kind=kind)
        self.infos[episode] = info
        assert self.writer.place(info, rows)

    def arrive(self, episode: int, *, still: bool = False, **details: Any) -> None:
        info = self.infos[episode]
        record = arrival(info.key, info.observations, **details)
        if still and record.command:
            action = record.command.action * np.float32([0.1, 1, 0])
            record = replace(record, command=replace(record.command, action=action))
        assert self.writer.write(record)
        self.infos[episode] = replace(info, observations=info.observations + 1)

    def change(self, episode: int, **changes: Any) -> None:
        self.infos[episode] = replace(self.infos[episode], **changes)
        self.writer.update(self.infos[episode])

    def episode(
        self, episode: int, steps: int, end: EndCause | None = EndCause.TIME_LIMIT, kind: Any = "online"
    ) -> None:
        self.begin(episode, kind=kind)
        for _ in range(steps + 1):
            self.arrive(episode)
        self.change(episode, end=end)

    def label(self, version: str, labels: dict[int, list[float]], spread: float = 0.0) -> ProgressColumns:
        columns = ProgressColumns(ArenaReader(self.root), version, write=True)
        for episode, values in labels.items():
            progress = np.array(values, np.float32)
            assert columns.write(key(episode), 0, progress, np.full_like(progress, spread))
        return columns

    def sampler(self, clock: FakeClock | None = None, **config: Any) -> Sampler:
        config = {"shift_px": 0, **config}
        return Sampler(ArenaReader(self.root), SamplingConfig(**config), seed=1, clock=clock)


@st.composite
def episodes(draw: st.DrawFn) -> list[dict[str, Any]]:
    made = []
    for _ in range(draw(st.integers(1, 4))):
        steps = draw(st.integers(0, 9))
        made.append(
            {
                "steps": steps,
                "end": draw(
                    st.sampled_from([None, EndCause.SUCCESS, EndCause.TIME_LIMIT, EndCause.WATCHDOG])
                ),
                "verdict": draw(st.none() | st.integers(0, 10)),
                "success": draw(st.booleans()),
                "labelled": draw(st.integers(0, steps + 1)),
                "deadline": draw(st.booleans()),
                "kind": draw(st.sampled_from(["online", "demo", "evaluation"])),
                "discarded": draw(st.integers(0, 4)) == 0,
                "sources": draw(st.lists(st.sampled_from(list(Source)), min_size=steps, max_size=steps)),
                "still": draw(st.lists(st.booleans(), min_size=steps, max_size=steps)),
                "versions": draw(st.lists(st.integers(1, 2), min_size=steps, max_size=steps)),
                "rewards": draw(st.lists(st.sampled_from([0.0, 0.5, -1.0]), min_size=steps, max_size=steps)),
            }
        )
    return made


def persons(episode: dict[str, Any], length: int) -> tuple[set[int], set[int]]:
    """The definition: which of the first steps are a person's, and which of those stand before or after all their motions."""
    his, idle = {t for t in range(length) if episode["sources"][t] is Source.PERSON}, set()
    for t in his:
        before, after = t, t
        while before in his and episode["still"][before]:
            before -= 1
        while after in his and episode["still"][after]:
            after += 1
        if episode["kind"] == "online" and not {before, after} <= his:
            idle.add(t)
    return his, idle


def expected(episode: dict[str, Any], config: SamplingConfig) -> dict[int, tuple[int, bool, float]]:
    """The definition, step by step: which steps can be drawn, and their horizon, termination and reward."""
    steps, verdict = episode["steps"], episode["verdict"]
    judged = verdict is not None and 0 < verdict <= steps
    ended = judged or episode["end"] is not None
    last = verdict if judged else steps
    terminal = judged or (episode["end"] is EndCause.SUCCESS and steps > 0)
    out: dict[int, tuple[int, bool, float]] = {}
    if episode["discarded"] or episode["kind"] == "evaluation":
        return out
    windows = {}
    for t in range(last):
        if not ended and t + config.n_step > last:
            continue
        windows[t] = window = min(config.n_step, last - t)
        # The column must have reached the end of the window; a terminal observation's label is no matter to potential shaping.
        waived = terminal and not config.every_potential
        needed = min(t + window, last - 1 if waived else last)
        if config.need_labels and not episode["deadline"] and needed >= episode["labelled"]:
            del windows[t]
    _, idle = persons(episode, len(windows))
    for t, window in windows.items():
        horizon = 1
        while horizon < window:
            taken_over = episode["sources"][t + horizon] != episode["sources"][t]
            swapped = episode["versions"][t + horizon] != episode["versions"][t]
            acted_on = episode["sources"][t] is Source.POLICY
            stops = (t + horizon in idle) != (t in idle)
            if taken_over or (config.chunked and (stops or (swapped and acted_on))):
                break
            horizon += 1
        terminated = terminal and t + horizon == last
        rewards = list(episode["rewards"][t : t + horizon])
        if judged and terminated:
            rewards[-1] = float(episode["success"])
        out[t] = horizon, terminated, sum(config.discount**i * r for i, r in enumerate(rewards))
    return out


@settings(max_examples=60)
@given(
    made=episodes(),
    n_step=st.integers(1, 4),
    chunked=st.booleans(),
    need_labels=st.booleans(),
    every_potential=st.booleans(),
)
def test_draws_what_the_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[dict[str, Any]],
    n_step: int,
    chunked: bool,
    need_labels: bool,
    every_potential: bool,
) -> None:
    world = World(tmp_path_factory.mktemp("world"))
    for n, episode in enumerate(made):
        world.begin(n, kind=episode["kind"])
        for t in range(episode["steps"] + 1):
            step = t - 1
            details = (
                {}
                if t == 0
                else {
                    "reward": episode["rewards"][step],
                    "source": episode["sources"][step],
                    "still": episode["still"][step],
                    "policy_version": episode["versions"][step],
                }
            )
            world.arrive(n, **details)
        changes: dict[str, Any] = {"end": episode["end"], "discarded": episode["discarded"]}
        if episode["verdict"] is not None:
            changes["verdict"] = Verdict(
                key=key(n), index=episode["verdict"], success=episode["success"], source=RewardSource.OPERATOR
            )
        world.change(n, **changes)
    labels = {n: [((7 * n + 3 * t) % 20) / 20 for t in range(e["labelled"])] for n, e in enumerate(made)}
    columns = world.label("v1", labels, spread=0.1)
    for n, episode in enumerate(made):
        if episode["deadline"]:
            columns.mark_deadline(key(n))
    switch(world.root, "v1")
    config = SamplingConfig(
        n_step=n_step,
        discount=0.5,
        chunked=chunked,
        need_labels=need_labels,
        shift_px=0,
        potential_scale=2.0,
        potential_doubt=0.2,
        every_potential=every_potential,
    )
    draws = Sampler(ArenaReader(world.root), config, seed=3)
    wanted = {(n, t): value for n, e in enumerate(made) for t, value in expected(e, config).items()}
    assert draws.counts()["all"] == len(wanted)
    for name, kind in (("demo", "demo"), ("online", "online")):
        assert draws.count(name) == sum(made[n]["kind"] == kind for n, _ in wanted)
    meant: set[tuple[int, int]] = set()
    for n, episode in enumerate(made):
        his, idle = persons(episode, sum(number == n for number, _ in wanted))
        failed = episode["kind"] == "online" and episode["verdict"] is not None and not episode["success"]
        meant |= set() if failed else {(n, t) for t in his - idle}
    assert draws.count("person") == sum(made[n]["kind"] == "online" for n, _ in meant)
    if not wanted:
        with pytest.raises(DatasetError, match="nothing to sample"):
            draws.sample(1)
        return
    batch = draws.sample(700)
    check_instants(batch.images, batch.state)
    np.testing.assert_allclose(batch.action[:, 1], batch.state[:, 2] / 1000, atol=1e-6)
    check_instants(batch.next_images, batch.next_state)
    seen = set()
    for i in range(len(batch)):
        n, t = int(batch.state[i, 1]), int(batch.state[i, 2])
        seen.add((n, t))
        horizon, terminated, reward = wanted[n, t]
        assert (batch.horizon[i], batch.terminated[i]) == (horizon, terminated)
        assert batch.reward[i] == pytest.approx(reward)
        assert batch.next_state[i, 1] == n
        assert batch.next_state[i, 2] == t + horizon
        assert batch.person[i] == ((n, t) in meant)
        assert batch.demo[i] == (made[n]["kind"] == "demo")
        inside = () if batch.potentials is None else enumerate(batch.potentials[i, : horizon + 1], start=t)
        ends = ((t, batch.potential[i]), (t + horizon, batch.next_potential[i]))
        for index, value in (*ends, *inside):
            held = labels[n][: index + 1]
            phi = (
                0.0 if not held else float(potential(np.array(held[-1]), np.array(0.1), scale=2.0, doubt=0.2))
            )
            assert value == pytest.approx(phi)
        if chunked:
            assert batch.chunk is not None
            np.testing.assert_allclose(
                batch.chunk[i, :horizon, 1], (t + np.arange(horizon)) / 1000, atol=1e-6
            )
            assert not batch.chunk[i, horizon:].any()
    assert seen == set(wanted), "every one of them is drawn"
    assert (batch.potentials is not None) == every_potential


def test_a_persons_segments_keep_their_own_pictures(tmp_path: Path) -> None:
    """Two interventions in one episode: no step of the second may show the end of the first."""
    world = World(tmp_path)
    world.begin(0)
    for t in range(13):
        person = t - 1 in (2, 3, 7, 8, 9)
        world.arrive(0, source=Source.PERSON if person else Source.POLICY)
    world.change(0, end=EndCause.TIME_LIMIT)
    batch = world.sampler(need_labels=False).sample(300, "person")
    assert set(batch.state[:, 2].astype(int)) == {2, 3, 7, 8, 9}
    assert batch.person.all()
    check_instants(batch.images, batch.state, batch.action)
    check_instants(batch.next_images, batch.next_state)
    np.testing.assert_array_equal(batch.next_state[:, 2], batch.state[:, 2] + 1)


def test_a_correction_is_cloned_from_its_first_motion_to_its_last(tmp_path: Path) -> None:
    """A person who takes over by a button reaches for the device first, and lets go of it before giving back."""
    world = World(tmp_path)
    world.begin(0)
    for t in range(20):
        moves = t - 1 in (5, 6, 8)  # with a rest between
        world.arrive(0, source=Source.PERSON if 2 <= t - 1 < 12 else Source.POLICY, still=not moves)
    draws = world.sampler(need_labels=False)
    assert draws.counts()["person"] == 4, "while the episode runs, too"
    world.change(0, end=EndCause.TIME_LIMIT)
    draws.refresh()
    assert set(draws.sample(200, "person").state[:, 2].astype(int)) == {5, 6, 7, 8}
    batch = draws.sample(400)
    assert set(batch.state[:, 2].astype(int)) == set(range(19)), "the rest is practice like any other"
    assert set(batch.state[batch.person][:, 2].astype(int)) == {5, 6, 7, 8}
    chunks = world.sampler(need_labels=False, n_step=8, chunked=True).sample(400)
    starts = dict(zip(chunks.state[:, 2].astype(int), chunks.horizon, strict=True))
    assert [starts[t] for t in (2, 5, 8, 9)] == [3, 4, 1, 3], "and no chunk of the correction goes on into it"


def test_what_a_person_did_in_an_episode_that_failed_is_learnt_from_and_not_cloned(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.begin(0)
    for t in range(11):
        world.arrive(0, source=Source.PERSON if t - 1 in (4, 5) else Source.POLICY)
    draws = world.sampler(need_labels=False)

    def cloned() -> int:
        draws.refresh()
        batch = draws.sample(200)
        assert set(batch.state[:, 2].astype(int)) == set(range(10)), "critics learn from all of it"
        steps = set(batch.state[batch.person][:, 2].astype(int))
        assert steps in (set(), {4, 5})
        assert draws.count("person") == len(steps)
        return len(steps)

    world.change(0, end=EndCause.TIME_LIMIT)
    assert cloned() == 2, "nobody said how it came out"
    for success in (False, True, False):
        verdict = Verdict(key=key(0), index=10, success=success, source=RewardSource.OPERATOR)
        world.change(0, verdict=verdict)
        assert (cloned() > 0) is success
    world.change(0, verdict=None, end=EndCause.FAILURE)
    assert cloned() == 0


def test_rows_that_pass_from_a_person_to_somebody_else_are_not_theirs_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.begin(0, rows=21)
    for _ in range(11):
        world.arrive(0, source=Source.PERSON, still=True)
    world.change(0, end=EndCause.TIME_LIMIT)
    draws = world.sampler(need_labels=False)
    assert draws._index.idle(np.arange(400)).sum() == 10
    world.change(0, discarded=True)
    draws.refresh()
    assert not draws._index.idle(np.arange(400)).any()


def test_a_time_limit_bootstraps_from_the_stored_last_observation(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 5)
    world.episode(1, 5)
    batch = world.sampler(need_labels=False, n_step=3).sample(300)
    assert not batch.terminated.any()
    np.testing.assert_array_equal(batch.next_state[:, 1], batch.state[:, 1])
    ends = batch.state[:, 2] == 4
    assert ends.any()
    np.testing.assert_array_equal(batch.horizon[ends], 1)
    np.testing.assert_array_equal(batch.next_state[ends][:, 2], 5)


def test_labels_that_are_late_hold_back_their_steps_until_the_deadline(tmp_path: Path) -> None:
    world, clock = World(tmp_path), FakeClock()
    world.episode(0, 10)
    columns = world.label("v1", {0: [0.1, 0.2, 0.3]})
    draws = world.sampler(clock, label_deadline_s=5.0)
    assert draws.counts()["all"] == 0, "no version is active"
    switch(world.root, "v1")
    draws.refresh()
    assert draws.counts() == {
        "all": 2,
        "online": 2,
        "demo": 0,
        "failure": 0,
        "person": 0,
        "success": 0,
        "held": 0,
        "held_draws": 0,
    }
    clock.advance(6.0)
    draws.refresh()
    assert draws.counts()["all"] == 10
    assert draws.counts()["held"] == 8
    batch = draws.sample(200)
    np.testing.assert_allclose(
        batch.potential, np.array([0.1, 0.2] + [0.3] * 9, np.float32)[batch.state[:, 2].astype(int)]
    )
    columns.write(key(0), 3, np.linspace(0.4, 1.0, 8, dtype=np.float32), np.zeros(8, np.float32))
    draws.refresh()
    assert draws.counts()["held"] == 0
    assert draws.sample(200).next_potential.max() == 1.0
    late = int((batch.state[:, 2] >= 2).sum())
    assert draws.counts()["held_draws"] == late > 100, "labels that catch up make no draw undone"
    resumed = world.sampler(clock)
    resumed.load_state_dict(draws.state_dict())
    assert resumed.counts()["held_draws"] == late


def test_a_reward_that_pays_for_where_the_task_ended_waits_for_that_label(tmp_path: Path) -> None:
    world, clock = World(tmp_path), FakeClock()
    world.episode(0, 4, EndCause.SUCCESS)
    columns = world.label("v1", {0: [0.1, 0.2, 0.3, 0.4]})
    switch(world.root, "v1")
    shaping, paying = (
        world.sampler(clock, every_potential=every, label_deadline_s=5.0) for every in (False, True)
    )
    assert (shaping.count("all"), paying.count("all")) == (4, 3)
    assert not paying.sample(100).terminated.any()
    clock.advance(6.0)
    paying.refresh()
    assert (paying.count("all"), paying.counts()["held"]) == (4, 1), "held after the deadline, and counted"
    columns.write(key(0), 4, np.ones(1, np.float32), np.zeros(1, np.float32))
    paying.refresh()
    assert paying.counts()["held"] == 0
    drawn = paying.sample(100)
    assert drawn.potentials is not None
    assert set(drawn.potentials[drawn.terminated, 1]) == {1.0}


def test_recorded_episodes_are_not_drawn_without_labels_once_there_are_some(tmp_path: Path) -> None:
    world, clock = World(tmp_path), FakeClock()
    world.episode(0, 10, kind="demo")
    draws = world.sampler(clock, label_deadline_s=5.0)
    clock.advance(6.0)
    draws.refresh()
    assert draws.counts()["demo"] == 10, "no judge was ever there"
    columns = world.label("v1", {0: [0.1, 0.2, 0.3]})
    switch(world.root, "v1")
    draws.refresh()
    assert draws.counts()["demo"] == 2
    columns.mark_deadline(key(0))
    draws.refresh()
    assert draws.counts()["demo"] == 10


def test_a_verdict_is_waited_for_until_the_episode_is_over_and_its_judge_is_given_up_on(
    tmp_path: Path,
) -> None:
    world, clock = World(tmp_path), FakeClock()
    world.begin(0)
    for _ in range(11):
        world.arrive(0)
    world.change(0, meta={"outcome": "judge"})
    columns = world.label("v1", {0: [0.1, 0.2, 0.3]})
    switch(world.root, "v1")
    draws = world.sampler(clock, label_deadline_s=5.0)

    def drawn() -> int:
        clock.advance(6.0)
        draws.refresh()
        return draws.counts()["all"]

    columns.mark_deadline(key(0), verdict=True)
    assert not drawn(), "it is open"
    columns.mark_deadline(key(0))
    world.change(0, end=EndCause.TIME_LIMIT)
    assert not drawn(), "only its labels are late"
    columns.mark_deadline(key(0), verdict=True)
    assert drawn() == 10


def test_labels_that_are_worth_nothing_change_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 9)
    world.label("v1", {0: [0.5] * 10})
    switch(world.root, "v1")
    drawn = world.sampler(potential_scale=0.0, need_labels=False).sample(50)
    assert not drawn.potential.any()
    assert not drawn.next_potential.any()


def test_shuffled_labels_are_those_of_the_episode_in_another_order_at_every_draw(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 9)
    world.label("v1", {0: [index / 10 for index in range(10)]})
    switch(world.root, "v1")
    draws = world.sampler(shuffled=True)
    first, second = (draws.sample(300) for _ in range(2))
    seen = dict(zip(first.state[:, 2].astype(int), first.potential.tolist(), strict=True))
    assert all(seen[int(t)] == value for t, value in zip(second.state[:, 2], second.potential, strict=True))
    after = dict(zip(first.state[:, 2].astype(int) + 1, first.next_potential.tolist(), strict=True))
    assert all(seen[t] == value for t, value in after.items() if t in seen), "one potential per observation"
    values = {**after, **seen}
    assert sorted(values.values()) == pytest.approx([index / 10 for index in range(10)])
    assert [values[t] for t in range(10)] != sorted(values.values())


def test_a_version_is_switched_as_a_whole(tmp_path: Path) -> None:
    world = World(tmp_path)
    for episode in range(3):
        world.episode(episode, 4)
    world.label("low", {n: [0.25] * 5 for n in range(3)})
    switch(world.root, "low")
    draws = world.sampler()
    world.label("high", {n: [0.75] * 5 for n in range(3)})
    assert set(draws.sample(100).potential) == {np.float32(0.25)}
    switch(world.root, "high")
    before = draws.sample(100)
    assert (before.version, set(before.potential)) == ("low", {np.float32(0.25)})
    draws.refresh()
    after = draws.sample(100)
    assert (after.version, set(after.potential)) == ("high", {np.float32(0.75)})
    with pytest.raises(DatasetError, match="no labels of this version"):
        switch(world.root, "unheard-of")


def test_labels_of_an_evicted_episode_are_not_those_of_its_successor(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 5)
    world.label("v1", {0: [1.0] * 6})
    switch(world.root, "v1")
    draws = world.sampler(FakeClock(), n_step=1)
    assert draws.count("all") == 5
    for episode in range(1, 40):
        world.begin(episode, rows=200)
        for _ in range(6):
            world.arrive(episode)
        world.change(episode, end=EndCause.TIME_LIMIT)
    assert key(0) not in world.writer
    draws.refresh()
    assert draws.count("all") == 0


def test_rows_taken_back_in_the_middle_of_a_draw_are_drawn_anew(tmp_path: Path) -> None:
    world = World(tmp_path)
    for episode in range(3):
        world.begin(episode, rows=130)
        for _ in range(100):
            world.arrive(episode)
        world.change(episode, end=EndCause.TIME_LIMIT)
    draws = world.sampler(need_labels=False)
    real, met = draws._gather, []

    def overtaken(drawn: Any, *, images: bool) -> Any:
        if not met:
            met.append(1)
            for episode in range(3, 6):
                world.episode(episode, 15)
                world.begin(episode + 10, rows=200)
                for _ in range(15):
                    world.arrive(episode + 10)
                world.change(episode + 10, end=EndCause.TIME_LIMIT)
        return real(drawn, images=images)

    draws._gather = overtaken  # type: ignore[method-assign]
    batch = draws.sample(500)
    assert met
    check_instants(batch.images, batch.state, batch.action)
    check_instants(batch.next_images, batch.next_state)
    np.testing.assert_array_equal(batch.next_state[:, 1], batch.state[:, 1])


@pytest.mark.parametrize("shift", [0, 2, 4])
def test_the_shift_moves_the_padded_picture_by_at_most_its_size(tmp_path: Path, shift: int) -> None:
    world = World(tmp_path)
    world.episode(0, 1)
    rng = np.random.default_rng(0)
    frames = world.writer.columns.frames["front"]
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    frames[:] = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="edge")
    batch = world.sampler(need_labels=False, shift_px=shift).sample(2000)
    padded = np.pad(image, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
    possible = {
        padded[dy : dy + 8, dx : dx + 8].tobytes()
        for dy in range(2 * shift + 1)
        for dx in range(2 * shift + 1)
    }
    for images in (batch.images, batch.next_images):
        assert {picture.tobytes() for picture in images["front"]} == possible
    if shift:
        same = [
            a.tobytes() == b.tobytes()
            for a, b in zip(batch.images["front"], batch.next_images["front"], strict=True)
        ]
        assert np.mean(same) < 0.2, "both observations are shifted on their own"


def test_arrays_are_given_out_again_only_where_asked(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 5)
    draws = world.sampler(need_labels=False)
    one, other = draws.sample(8), draws.sample(8)
    assert not np.may_share_memory(one.images["front"], other.images["front"])
    reusing = world.sampler(need_labels=False, reuse_arrays=True)
    first, second = reusing.sample(8), reusing.sample(8)
    assert np.may_share_memory(first.images["front"], second.images["front"])
    assert not np.may_share_memory(first.images["front"], second.next_images["front"])
    check_instants(second.images, second.state, second.action)


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 15)
    one, two = world.sampler(need_labels=False, shift_px=4), world.sampler(need_labels=False, shift_px=4)
    for _ in range(3):
        a, b = one.sample(16), two.sample(16)
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.images["wrist"], b.images["wrist"])


def test_sets_are_joined_without_counting_a_step_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 6, kind="demo")
    world.episode(1, 5, EndCause.SUCCESS)
    world.begin(2)
    for t in range(9):
        world.arrive(2, source=Source.PERSON if t in (3, 4) else Source.POLICY)
    world.change(2, end=EndCause.TIME_LIMIT)
    draws = world.sampler(need_labels=False)
    assert draws.counts() == {
        "all": 19,
        "online": 13,
        "demo": 6,
        "failure": 0,
        "person": 2,
        "success": 5,
        "held": 0,
        "held_draws": 0,
    }
    assert draws.count("demo+success+person") == 13
    assert draws.count("person+online") == 13
    batch = draws.sample(2000, "demo+success+person")
    where = {(int(e), int(t)) for e, t in batch.state[:, 1:3]}
    assert where == {(0, t) for t in range(6)} | {(1, t) for t in range(5)} | {(2, 2), (2, 3)}
    share = np.mean(batch.state[:, 1] == 2)
    assert math.isclose(share, 2 / 13, abs_tol=0.04), "uniform over steps"
    with pytest.raises(ConfigError, match="no such index set"):
        draws.sample(1, "everything")


def test_parts_of_a_batch_come_in_the_order_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 6, kind="demo")
    world.episode(1, 5)
    batch = world.sampler(need_labels=False).sample_parts({"online": 5, "demo": 3}, images=False)
    assert batch.demo.tolist() == [False] * 5 + [True] * 3
    assert batch.images == {}


def test_bad_settings_are_refused() -> None:
    for wrong in ({"n_step": 0}, {"discount": 0.0}, {"discount": 1.5}):
        with pytest.raises(ConfigError):
            SamplingConfig(**wrong)  # type: ignore[arg-type]


def test_a_shift_beyond_the_padding_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.episode(0, 2)
    with pytest.raises(ConfigError, match="random shift"):
        world.sampler(shift_px=5)


@pytest.mark.parametrize("side", ["writer", "reader"])
def test_steps_behind_a_verdicts_end_are_never_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    world = World(tmp_path)
    world.episode(0, 8)
    world.change(0, meta={"outcome": "judge"})
    sampler = world.sampler(need_labels=False)
    assert sampler.count("all") == 0
    verdict = Verdict(key=key(0), index=3, success=True, source=RewardSource.JUDGE)
    if side == "writer":  # A look in the middle of the change.
        reward, counts = world.writer._verdict_reward, []

        def look(*args: Any) -> float:
            sampler.refresh()
            counts.append(sampler.count("all"))
            return reward(*args)

        monkeypatch.setattr(world.writer, "_verdict_reward", look)
        world.change(0, verdict=verdict)
        assert counts == [0]
    else:  # The change in the middle of a look, which has read where the task ended and not yet the rest.

        class Table(np.ndarray[Any, Any]):
            def copy(self, order: Any = "C") -> Any:
                copied = np.array(self)
                if self.dtype.names:
                    world.change(0, verdict=verdict)
                    copied["awaits_verdict"] = world.writer.columns.table["awaits_verdict"]
                return copied

        columns = sampler.reader.columns
        monkeypatch.setattr(columns, "table", columns.table.view(Table))
        sampler.refresh()
        assert sampler.count("all") == 0
        monkeypatch.undo()
    sampler.refresh()
    assert sampler.count("all") == 3
