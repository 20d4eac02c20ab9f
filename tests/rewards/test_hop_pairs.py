import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roborl.errors import ConfigError, DatasetError
from roborl.rewards.fusion import hop_between
from roborl.rewards.hop_pairs import PairConfig, cut_states, draw_pairs, swap_references

EVEN = cut_states(range(0, 65 * 20, 20))


def rng(seed=0):
    return np.random.default_rng(seed)


def bins_of(hop, bins=25):
    return np.clip(np.floor((hop + 1) / 2 * bins), 0, bins - 1).astype(int)


keyframes = st.lists(st.integers(0, 2000), min_size=2, max_size=20, unique=True).map(sorted)


def test_sixteen_subtasks_in_1255_frames_give_sixty_five_states():
    edges = np.linspace(8, 1263, 17).astype(int)
    states = cut_states(edges.tolist())
    assert states.frames.size == 65
    np.testing.assert_allclose(states.progress, np.arange(65) / 64)
    assert set(edges) <= set(states.frames.tolist())


def test_the_recorded_episode_has_sixty_five_states(table_data):
    spans = json.loads((table_data / "episode_001" / "annotated_keyframes.json").read_text())
    edges = [spans[0]["start_frame_id"], *(span["end_frame_id"] for span in spans)]
    states = cut_states(edges)
    assert (edges[-1] - edges[0], len(spans)) == (1255, 16)
    np.testing.assert_allclose(states.progress, np.arange(65) / 64)


def test_every_subtask_is_the_same_share_whatever_its_duration():
    states = cut_states([0, 1000, 1010, 1400], interval_frames=20)
    progress = dict(zip(states.frames.tolist(), states.progress.tolist(), strict=True))
    assert [progress[frame] for frame in (0, 1000, 1010, 1400)] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert 5 <= np.count_nonzero((states.frames > 1000) & (states.frames < 1010)) < 23


@given(keyframes, st.integers(1, 50))
def test_states_increase_from_nothing_to_everything(edges, interval):
    states = cut_states(edges, interval)
    assert (np.diff(states.frames) > 0).all()
    assert (np.diff(states.progress) > 0).all()
    assert (states.frames[0], states.frames[-1]) == (edges[0], edges[-1])
    assert (states.progress[0], states.progress[-1]) == (0.0, 1.0)
    at = np.searchsorted(states.frames, edges)
    np.testing.assert_allclose(states.progress[at], np.arange(len(edges)) / (len(edges) - 1))


@pytest.mark.parametrize("edges", [[], [3], [3, 3], [5, 2], [-1, 4], [[0, 1], [2, 3]]])
def test_keyframes_that_do_not_increase_are_refused(edges):
    with pytest.raises(DatasetError, match="keyframes"):
        cut_states(edges)


def test_all_hops_of_sixty_five_states_are_almost_uniform():
    i, j = np.nonzero(~np.eye(65, dtype=bool))
    hop = hop_between(EVEN.progress[i], EVEN.progress[j])
    counts = np.bincount(bins_of(hop), minlength=25)
    assert counts.sum() == 65 * 64
    assert counts[12] == 108
    assert 160 <= np.delete(counts, 12).min() <= np.delete(counts, 12).max() <= 200


def test_hops_and_distances_are_met_equally_often():
    pairs = draw_pairs(EVEN, PairConfig(), rng())
    moving = pairs.hop != 0
    assert len(pairs) == 1000
    assert np.count_nonzero(~moving) == 50
    assert np.bincount(bins_of(pairs.hop[moving]), minlength=25).tolist() == [38] * 25

    def cells(before, after, hop):
        gap = np.clip((np.abs(after - before) - 1) * 4 // 63, 0, 3)
        table = np.zeros((25, 4), int)
        np.add.at(table, (bins_of(hop), gap), 1)
        return table

    i, j = np.nonzero(~np.eye(65, dtype=bool))
    there = cells(i, j, hop_between(EVEN.progress[i], EVEN.progress[j]))
    drawn = cells(pairs.before[moving] // 20, pairs.after[moving] // 20, pairs.hop[moving])
    quota = np.array([10, 10, 9, 9])
    assert (drawn >= np.minimum(there, quota)).all()
    full = (there >= quota).all(axis=1)
    assert full.sum() == 6
    assert (drawn[full] == quota).all()


def test_a_remainder_goes_to_the_hops_around_zero():
    pairs = draw_pairs(EVEN, PairConfig(pairs=28, zero_share=0.0), rng())
    counts = np.bincount(bins_of(pairs.hop), minlength=25)
    assert counts.tolist() == [1] * 11 + [2, 2, 2] + [1] * 11


@given(edges=keyframes, pairs=st.integers(1, 300), seed=st.integers(0, 100))
def test_pairs_are_true_distinct_and_of_this_demonstration(edges, pairs, seed):
    states = cut_states(edges)
    drawn = draw_pairs(states, PairConfig(pairs=pairs, zero_share=0.1), rng(seed))
    progress = dict(zip(states.frames.tolist(), states.progress.tolist(), strict=True))
    assert len(drawn) <= pairs
    assert len(
        set(zip(drawn.before.tolist(), drawn.after.tolist(), (drawn.hop == 0).tolist(), strict=True))
    ) == len(drawn)
    for before, after, hop in zip(
        drawn.before.tolist(), drawn.after.tolist(), drawn.hop.tolist(), strict=True
    ):
        assert edges[0] <= after <= edges[-1]
        if hop:
            assert hop == pytest.approx(float(hop_between(progress[before], progress[after])))
            assert (hop > 0) == (after > before)
        else:
            assert before != after


def test_a_short_demonstration_gives_what_it_has():
    pairs = draw_pairs(cut_states([0, 60]), PairConfig(), rng())
    assert np.count_nonzero(pairs.hop) == 4 * 3


def test_a_zero_pair_is_a_small_part_of_its_window_apart():
    pairs = draw_pairs(EVEN, PairConfig(), rng())
    still = pairs.hop == 0
    distance = np.abs(pairs.after - pairs.before)[still]
    assert set(distance.tolist()) <= {1, 3}  # 0.075 of 40 frames inside, of 20 at both ends
    assert {bool(sign) for sign in (pairs.after > pairs.before)[still]} == {True, False}


def test_a_long_demonstration_is_thinned():
    states = cut_states([0, 40_000])
    pairs = draw_pairs(states, PairConfig(pairs=500, most_candidates=5000), rng())
    assert len(pairs) == 500
    assert np.bincount(bins_of(pairs.hop[pairs.hop != 0]), minlength=25).tolist() == [19] * 25


def test_the_same_seed_draws_the_same():
    one, two, other = (draw_pairs(EVEN, PairConfig(pairs=50), rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.before, two.before)
    assert (one.before != other.before).any()


def test_references_come_from_the_same_task_three_times_in_four():
    episodes = np.repeat([0, 1, 2, 3, 4], 4000)
    tasks = np.repeat(["fold", "fold", "fold", "stack", "zip"], 4000).tolist()
    references = swap_references(episodes.tolist(), tasks, PairConfig(), rng())
    task_of = np.array(["fold", "fold", "fold", "stack", "zip"])
    assert (task_of[references] == np.array(tasks)).all()
    foreign = (references != episodes)[:12000].mean()
    assert foreign == pytest.approx(0.75 * 2 / 3, abs=0.02)
    assert (references[12000:] == episodes[12000:]).all()  # a single demonstration keeps its own
    assert swap_references([], [], PairConfig(), rng()).size == 0
    with pytest.raises(DatasetError):
        swap_references([0, 1], ["fold"], PairConfig(), rng())


@pytest.mark.parametrize(
    "settings",
    [{"pairs": 0}, {"zero_share": 1.0}, {"hop_bins": 0}, {"zero_reach": 0.0}, {"swap_share": 1.5}],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ConfigError):
        PairConfig(**settings)
