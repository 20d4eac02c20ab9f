"""Demonstrations fit the bench or are refused with both sizes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roborl.data.dataset_episode import DatasetEpisode, Subtask
from roborl.data.demos import DemoSpec, load_demos, thin_out
from roborl.data.lerobot_info import DatasetInfo
from roborl.errors import DatasetError
from roborl.testing.episodes import CAMERAS, lerobot_recording, random_episode, write_episodes
from roborl.types import EndCause, Source

OURS = DemoSpec(cameras=CAMERAS, state_dim=6, action_dim=4, policy_hz=10)
THEIRS = DemoSpec(cameras={"front": (24, 32), "wrist": (24, 32)}, state_dim=6, action_dim=6, policy_hz=10)


def test_our_own_demonstrations_come_back_with_discarded_ones_left_out(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0), random_episode(1, discarded=True), random_episode(2))
    demos = load_demos(tmp_path / "d", OURS)
    assert [str(demo.key) for demo in demos] == ["demo-0001-000000", "demo-0001-000002"]
    np.testing.assert_array_equal(demos[1].steps[3].command.action, random_episode(2).action[3])
    assert demos[0].success is True
    assert len(load_demos(tmp_path / "d", OURS, limit=1)) == 1


def test_states_are_picked_by_name(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    spec = replace(OURS, state_dim=2, state_names=("joint_4.pos", "joint_1.pos"))
    (demo,) = load_demos(tmp_path / "d", spec)
    np.testing.assert_array_equal(demo.steps[0].observation.state, random_episode(0).state[0, [4, 1]])


@pytest.mark.parametrize(
    ("cameras", "camera_map", "stamps"),
    [
        (["front", "wrist"], None, {"front": 100, "wrist": 200}),
        (["wrist", "front"], None, {"wrist": 200, "front": 100}),
        (["wrist"], None, {"wrist": 200}),
        (["hand"], {"hand": "wrist"}, {"hand": 200}),
    ],
)
def test_each_camera_has_its_own_stamps_whichever_the_bench_has_in_whichever_order(
    tmp_path: Path, cameras: list[str], camera_map: dict[str, str] | None, stamps: dict[str, int]
) -> None:
    episode = random_episode(0)
    assert episode.provenance is not None
    known = replace(episode.provenance, stamp_ns=np.tile(np.array([1, 100, 200]), (7, 1)))
    write_episodes(tmp_path / "d", replace(episode, provenance=known))
    spec = replace(OURS, cameras=dict.fromkeys(cameras, (12, 12)))
    (demo,) = load_demos(tmp_path / "d", spec, camera_map=camera_map)
    assert {name: f.stamp_ns for name, f in demo.observations[3].frames.items()} == stamps
    assert demo.observations[3].stamp_ns == 1


def test_sizes_that_differ_are_refused_with_both(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0))
    with pytest.raises(DatasetError, match=r"actions.*Found: 4 .*gripper.*Allowed: 6.*actions targets"):
        load_demos(tmp_path / "d", replace(OURS, action_dim=6))
    with pytest.raises(DatasetError, match=r"state.*Found: 6 .*joint_0.*Allowed: 9"):
        load_demos(tmp_path / "d", replace(OURS, state_dim=9))
    with pytest.raises(DatasetError, match=r"rate.*Found: 10 Hz.*Allowed: 5 Hz"):
        load_demos(tmp_path / "d", replace(OURS, policy_hz=5))


def test_absolute_targets_are_not_taken_for_deltas(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [5], fps=10)
    with pytest.raises(
        DatasetError, match=r"episode 0.*up to 40.*pan\.pos.*Allowed.*\[-1, 1\].*actions targets"
    ):
        load_demos(tmp_path / "f", THEIRS)


def test_a_recording_is_converted_at_the_policys_rate(tmp_path: Path) -> None:
    # Targets rise by 10 per frame at 30 Hz: by 30 per policy step.
    lerobot_recording(tmp_path / "f", [7], fps=30)

    def shrink(episode: DatasetEpisode, info: DatasetInfo) -> DatasetEpisode:
        assert info.fps == 30
        return replace(episode, action=episode.action / 100, state=episode.state[:, :2])

    (demo,) = load_demos(tmp_path / "f", replace(THEIRS, state_dim=2), convert=shrink)
    states = [float(o.state[0]) for o in demo.observations]
    # Seven rows and the repeated last one, thinned from the end: rows 1, 4 and 7.
    assert states == [5, 35, 55]
    # The target that stood when the next kept row was seen.
    assert [float(s.command.action[0]) for s in demo.steps] == pytest.approx([0.3, 0.6])
    assert [s.reward for s in demo.steps] == [0, 1]
    assert demo.end is EndCause.SUCCESS
    assert demo.steps[0].command.source is Source.PERSON
    with pytest.raises(DatasetError, match=r"state.*Found: 2 .*Allowed: 6"):
        load_demos(tmp_path / "f", THEIRS, convert=shrink)


def test_an_episode_that_is_over_within_a_step_of_the_policy_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lerobot_recording(tmp_path / "f", [7, 2, 7], fps=30)

    def shrink(episode: DatasetEpisode, _: DatasetInfo) -> DatasetEpisode:
        return replace(episode, action=np.stack([row / 100 for row in episode.action]))

    demos = load_demos(tmp_path / "f", THEIRS, convert=shrink)
    assert [(demo.key.episode, len(demo.steps)) for demo in demos] == [(0, 2), (2, 2)]
    assert [said.split(" of ")[0] for said in caplog.messages if "skipped" in said] == ["episode 1"]


def test_a_recording_slower_than_the_policy_is_refused_converted_or_not(tmp_path: Path) -> None:
    lerobot_recording(tmp_path / "f", [7], fps=5)
    for convert in (None, lambda episode, _: replace(episode, action=episode.action / 100)):
        with pytest.raises(DatasetError, match=r"lower rate.*Found: 5 Hz.*Allowed: 10 Hz.*policy_hz"):
            load_demos(tmp_path / "f", THEIRS, convert=convert)


def test_thinning_keeps_the_last_observation_and_all_reward() -> None:
    whole = random_episode(0, 11, subtasks=(), reward=np.arange(11, dtype=np.float32))
    thin = thin_out(whole, 3.0)
    np.testing.assert_array_equal(thin.state, whole.state[[2, 5, 8, 11]])
    np.testing.assert_array_equal(thin.action, whole.action[[4, 7, 10]])
    np.testing.assert_array_equal(thin.reward, [2 + 3 + 4, 5 + 6 + 7, 8 + 9 + 10])
    assert thin_out(whole, 1.0) is whole


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # Of LeRobot, which takes their mean.
@pytest.mark.parametrize(("of", "number"), [("state", np.nan), ("action", -np.inf), ("reward", np.inf)])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, of: str, number: float) -> None:
    bad = random_episode(0)
    getattr(bad, of)[2] = number
    write_episodes(tmp_path / "d", bad)
    with pytest.raises(DatasetError, match=r"Episode 0.*not finite"):
        load_demos(tmp_path / "d", OURS)


def test_an_empty_choice_is_refused(tmp_path: Path) -> None:
    write_episodes(tmp_path / "d", random_episode(0, discarded=True))
    with pytest.raises(DatasetError, match="no demonstration"):
        load_demos(tmp_path / "d", OURS)


def test_thinning_keeps_sub_tasks_where_they_are() -> None:
    marks = (
        *(
            Subtask(name=name, start=start, end=end)
            for name, start, end in (("reach", 0, 5), ("grasp", 5, 6), ("blink", 6, 7), ("lift", 7, 11))
        ),
    )
    thin = thin_out(random_episode(0, 11, subtasks=marks), 3.0)
    # Observations 2, 5, 8 and 11 are kept.
    assert [(part.name, part.start, part.end) for part in thin.subtasks] == [
        ("reach", 0, 1),
        ("grasp", 1, 2),
        ("lift", 2, 3),
    ]
